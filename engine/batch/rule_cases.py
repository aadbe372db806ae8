"""Reads `rules/tests/*.yaml`: cases and tables of cases, with every mistake at its place.

    cases:
      - name: a fourth payment within the hour
        before: [{ago: 50m}, {ago: 30m}, {ago: 10m, result: declined}]
        event: {txn.amount_minor: 9900}
        expect: {hits: [card-velocity], action: CHALLENGE}
    tables:
      - rule: card-velocity
        columns: [card.payments_1h]
        rows: [[3, hit], [2, miss], [null, unknown]]

`tests/defaults.yaml` and each file's `defaults` say what all cases begin with: `at`, `event`, `set` and `before`.
Earlier events are like the defaults, not like the case's own event. `computed: true` in a file drops what
`defaults.yaml` sets, so that everything comes from earlier events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InvalidInput
from engine.intake import FUTURE_LIMIT_US, read_event
from engine.language import Diagnostics, Fields, Node, Position, Reader, Scalar, Type, load_yaml
from engine.schema import DERIVED, FIELDS, KINDS
from engine.values import Action, Event, Tier

RESULTS = ("hit", "miss", "unknown")
START_US = 1_767_225_600_000_000
"""2026-01-01T00:00Z: when cases happen that don't say when."""
CASE_KEYS = frozenset({"name", "at", "before", "event", "set", "expect"})
EXPECT_KEYS = frozenset({"hits", "misses", "unknown", "tier", "action", "measures", "reasons"})
TABLE_KEYS = frozenset({"name", "at", "event", "set"})
DEFAULT_KEYS = frozenset({"at", "event", "set", "before", "computed"})
_SPECIAL = {"kind": "string", "result": "string"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case says; what it doesn't say may be anything."""

    results: Mapping[str, str] = field(default_factory=dict)
    """Rule → hit, miss or unknown."""
    hits: frozenset[str] | None = None
    """Exactly the rules that hit."""
    tier: str = ""
    action: str = ""
    measures: frozenset[str] | None = None
    reasons: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class RuleCase:
    """One case: earlier events, the event, values of its own, and what must come out."""

    name: str
    place: Position
    time_us: int
    before: tuple[Event, ...]
    event: Event
    given: Mapping[str, Any]
    """Name → value that replaces what was computed; None takes it away."""
    expected: Expected


@dataclass(frozen=True, slots=True)
class _Base:
    """What a case begins with."""

    time_us: int = START_US
    event: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[Node, ...] = ()


def read_cases(
    folder: Path, types: Mapping[str, Type], rules: Collection[str], diagnostics: Diagnostics, only: Path | None = None
) -> Iterator[RuleCase]:
    """All cases below a folder, or those of `only`, in the order of the files."""
    chosen = only or folder
    files = [chosen] if chosen.is_file() else sorted(chosen.rglob("*.yaml"))
    work = _Cases(Reader(diagnostics), types, rules)
    shared = folder / "defaults.yaml"
    base = _Base()
    if shared.exists():
        top = work.reader.fields(load_yaml(shared, diagnostics, "tests/defaults.yaml"), (), DEFAULT_KEYS)
        base = work.base(top, base)
    for path in files:
        if path != shared:
            name = f"tests/{path.relative_to(folder).as_posix()}" if path.is_relative_to(folder) else str(path)
            yield from work.file(load_yaml(path, diagnostics, name), base)


@dataclass(slots=True)
class _Cases:
    reader: Reader
    types: Mapping[str, Type]
    rules: Collection[str]
    count: int = 0

    def file(self, node: Node | None, base: _Base) -> Iterator[RuleCase]:
        """The cases of one file, then those of its tables."""
        top = self.reader.fields(node, (), {"defaults", "cases", "tables", "note"})
        base = self.base(top.fields("defaults", (), DEFAULT_KEYS), base)
        for item in top.fields_list("cases", {"name", "expect"}, CASE_KEYS):
            yield from self.case(item, base)
        for item in top.fields_list("tables", {"rule", "columns", "rows"}, TABLE_KEYS):
            yield from self.table(item, self.base(item, base))

    def base(self, item: Fields, base: _Base) -> _Base:
        """The base with what an item states laid over it."""
        event = {**base.event, **self.values(item, "event", events=True)}
        given = {} if item.boolean("computed") else base.given
        before = (*base.before, *item.items("before"))
        return _Base(item.timestamp_us("at", base.time_us), event, {**given, **self.values(item, "set")}, before)

    def case(self, item: Fields, base: _Base) -> Iterator[RuleCase]:
        """One case; none after a mistake in its events."""
        usual, base, expect = base.event, self.base(item, base), item.fields("expect", (), EXPECT_KEYS)
        results = {
            rule: word for key, word in (("misses", "miss"), ("unknown", "unknown")) for rule in self.named(expect, key)
        }
        tiers, actions = [t.name for t in Tier if t], [a.name for a in Action if a]
        expected = Expected(
            results, frozenset(self.named(expect, "hits")) if "hits" in expect else None,
            expect.choice("tier", tiers), expect.choice("action", actions),
            frozenset(expect.texts("measures")) if "measures" in expect else None,
            frozenset(expect.texts("reasons")) if "reasons" in expect else None,
        )  # fmt: skip
        yield from self.made(item.text("name"), item.position("name"), base, expected, usual)

    def table(self, item: Fields, base: _Base) -> Iterator[RuleCase]:
        """A case for each row: a value for each column, then what the rule gives."""
        rule, columns = item.text("rule"), [node for node in item.items("columns") if isinstance(node, Scalar)]
        self.known(rule, item.get("rule"))
        for number, row in enumerate(item.items("rows"), 1):
            cells = self.reader.items(row)
            if len(cells) != len(columns) + 1:
                message = (
                    f"the row has {len(cells)} cells; wanted one for each of the {len(columns)} columns, and the result"
                )
                self.reader.diagnostics.error(
                    "E704", message, row.position(), row.length, hint=f"end it with {', '.join(RESULTS)}"
                )
                continue
            event, given = dict(base.event), dict(base.given)
            for column, cell in zip(columns, cells[:-1], strict=True):
                is_event = column.value in FIELDS and column.value not in DERIVED
                self.put(event if is_event else given, column, cell, events=is_event)
            word = self.reader.choice(cells[-1], RESULTS) or ""
            name = f"{item.text('name', rule)}, row {number}"
            yield from self.made(name, row.position(), _Base(base.time_us, event, given), Expected({rule: word}), {})

    def named(self, item: Fields, key: str) -> tuple[str, ...]:
        """The rules that a list names, each of which must exist."""
        for node in item.items(key):
            self.known(node.value if isinstance(node, Scalar) else "", node)
        return item.texts(key)

    def known(self, rule: str, node: Node | None) -> None:
        if node is not None and rule and rule not in self.rules:
            hint = self.reader.diagnostics.did_you_mean(rule, self.rules)
            self.reader.diagnostics.error("E701", f"there is no rule `{rule}`", node.position(), node.length, hint=hint)

    # --- values

    def values(self, item: Fields, key: str, *, events: bool = False) -> dict[str, Any]:
        """Names with values, by the types that they have."""
        found: dict[str, Any] = {}
        for name, node in item.entries(key):
            self.put(found, name, node, events=events)
        return found

    def put(self, into: dict[str, Any], name: Scalar, node: Node, *, events: bool) -> None:
        """One value, if its name can be given here; `null` takes it away."""
        sent = name.value in FIELDS and name.value not in DERIVED
        kind = self.types.get(name.value)
        if events and name.value in _SPECIAL:
            into[name.value] = self.reader.choice(node, KINDS if name.value == "kind" else ("approved", "declined"))
        elif kind is None or sent is not events:
            where = "in `set`" if events and kind is not None else "in `event`"
            hint = (
                f"it belongs {where}"
                if kind is not None
                else self.reader.diagnostics.did_you_mean(name.value, self.types)
            )
            message = f"`{name.value}` is no field of an event" if events else f"`{name.value}` can't be set"
            self.reader.diagnostics.error("E703", message, name.position(), name.length, hint=hint)
        else:
            absent = isinstance(node, Scalar) and node.plain and node.value in ("", "~", "null")
            into[name.value] = None if absent else self.typed(node, kind)

    def typed(self, node: Node, kind: Type) -> Any:
        """A value of a type; a mistake gives None."""
        if kind.name == "list":
            return [self.typed(item, kind.args[0]) for item in self.reader.items(node)]
        if kind.name == "map":
            return {name.value: self.reader.text(value) for name, value in self.reader.entries(node)}
        how = {
            "int": self.reader.integer, "double": self.reader.number, "bool": self.reader.boolean,
            "timestamp": self.reader.timestamp_us,
        }  # fmt: skip
        return how.get(kind.name, self.reader.text)(node)

    # --- events

    def made(
        self, name: str, place: Position, base: _Base, expected: Expected, usual: Mapping[str, Any]
    ) -> Iterator[RuleCase]:
        """A case of read parts; `usual`: what its earlier events are like."""
        self.count += 1
        earlier = [event for node in base.before for event in self.earlier(node, usual, base.time_us)]
        (event,) = self.events({**base.event, "result": None}, base.time_us, "event", place)
        if event is not None and None not in earlier:
            past = tuple(sorted((one for one in earlier if one is not None), key=lambda one: one.time_us))
            yield RuleCase(name, place, base.time_us, past, event, base.given, expected)

    def earlier(self, node: Node, usual: Mapping[str, Any], now_us: int) -> list[Event | None]:
        """An earlier event: `ago` or `at`, and what is different about it; with `result`, the issuer's answer too."""
        names = {*FIELDS, *_SPECIAL} - DERIVED
        item = self.reader.fields(node, (), {*names, "ago", "at"})
        time_us = item.timestamp_us("at", now_us - item.duration_us("ago", 0))
        own = dict(usual)
        for key, value in item.values.items():
            if key in names:
                self.put(own, Scalar(value.source, value.start, value.end, key), value, events=True)
        return self.events(own, time_us, f"before-{node.position().line}-{node.position().column}", node.position())

    def events(self, fields: Mapping[str, Any], time_us: int, name: str, place: Position) -> list[Event | None]:
        """The event of some fields; a payment with a result gives two."""
        prefix = f"test{self.count}"
        sent = {key: value for key, value in fields.items() if value is not None and key != "result"}
        sent = {"kind": "payment", **sent, "id": f"{prefix}-{name}", "time_us": time_us}
        if sent["kind"] == "payment":
            sent["payment.id"] = f"{prefix}-{sent.get('payment.id', name)}"
        found = [self.event(sent, place)]
        if fields.get("result") and sent["kind"] == "payment":
            kept = {k: v for k, v in sent.items() if not k.startswith("txn.") and k not in ("event.stage", "id")}
            answer = {"id": f"{prefix}-{name}-result", "kind": "payment_result", "result.status": fields["result"]}
            found.append(self.event({**kept, **answer, "time_us": time_us + 1_000_000}, place))
        return found

    def event(self, document: Mapping[str, Any], place: Position) -> Event | None:
        try:
            return read_event(document, now_us=2**62 - FUTURE_LIMIT_US)
        except InvalidInput as problem:
            for wrong in problem.violations:
                self.reader.diagnostics.error("E702", f"{wrong.field} {wrong.reason}", place)
            return None
