"""The three things that lower a decision, and nothing else does: allow entries, snoozes and the control group.

They cancel the band and ordinary hits, never a final rule; what is missing, what failed and limits in force keep their
say. Each that took something away is recorded with what the decision would have been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine.language import (
    Diagnostics,
    Fields,
    Reader,
    RowProgram,
    Schema,
    check,
    compile_rows,
    load_yaml,
)
from engine.policy.combine import Source, Verdict
from engine.policy.lists import DAY_US, FIELD_OF, Allowance, AnyList, Normalise, Types, ValueList, form_of
from engine.policy.rules import ControlGroup, Rule
from engine.values import Action, Lowered, Row, Tier

ENTITIES = tuple(FIELD_OF)
MOST_SNOOZED_US = 30 * DAY_US
_WEEK_US, _MONDAY_US = 7 * DAY_US, 3 * DAY_US
"""Weeks begin on Mondays; 1970 began on a Thursday."""


@dataclass(frozen=True, slots=True)
class Snooze:
    """One rule that says nothing about one entity for a while."""

    id: str
    field: str
    """The event field that names the entity."""
    value: str
    author: str
    from_us: int
    until_us: int
    normalise: Normalise

    def holds(self, row: Row, at_us: int) -> bool:
        """Whether it concerns this event."""
        return self.from_us <= at_us < self.until_us and form_of(self.normalise, row.get(self.field)) == self.value


@dataclass(frozen=True, slots=True)
class AllowList:
    """A list whose entries lower, and under which condition they do."""

    field: str
    list: ValueList
    when: RowProgram | None

    def allowance(self, row: Row, at_us: int) -> Allowance | None:
        """The entry that holds for this event: not ended, amount known and within, condition true."""
        found, amount = self.list.allowances.get(self.list.form(row.get(self.field))), row.get("txn.amount_base")
        if found is None or amount is None or at_us >= found.until_us or amount > found.max_base:
            return None
        return found if self.when is None or self.when.evaluate(row).results[0] == 1 else None


@dataclass(frozen=True, slots=True)
class Lowering:
    """What may lower decisions of one policy."""

    rules: Mapping[str, Rule]
    """`rule:ID` → rule."""
    sets_of: Mapping[str, frozenset[str]]
    """Event kind → rule sets that run on it."""
    allow: tuple[AllowList, ...]
    snoozes: Mapping[str, tuple[Snooze, ...]]
    """`rule:ID` → its snoozes."""
    control: ControlGroup | None
    secret: bytes

    def lower(
        self, sources: Sequence[Source], row: Row, at_us: int, verdict: Verdict, control: bool
    ) -> tuple[list[Source], list[Lowered], float]:
        """The sources that are left, what took the others away, and the chance of the control group to do so.

        `control` False: its budget of the day is spent, so it does nothing.
        """
        left, lowered = list(sources), list[Lowered]()

        def cancel(kind: str, by: Allowance | Snooze | ControlGroup, concerns: Callable[[Source], bool]) -> None:
            gone = tuple(source.reason.source for source in left if concerns(source))
            if gone:
                left[:] = [source for source in left if not concerns(source)]
                lowered.append(Lowered(kind, by.id, by.author, by.until_us, gone, verdict.tier, verdict.action))

        for source in sources:
            for snooze in self.snoozes.get(source.reason.source, ()):
                if snooze.holds(row, at_us) and self.ordinary(None, source):
                    cancel("snooze", snooze, source.__eq__)
        for allow in self.allow:
            entry = allow.allowance(row, at_us)
            if entry is not None and entry.rulesets & self.sets_of.get(row["event.kind"], frozenset()):
                cancel("allow", entry, partial(self.ordinary, entry.rulesets))
        share = self._chance(left, row, at_us) if control else 0.0
        if self.control is not None and share and self.draw(row, at_us) < share:
            cancel("control", self.control, partial(self.ordinary, None))
        return left, lowered, share

    def ordinary(self, rulesets: frozenset[str] | None, source: Source) -> bool:
        """The band, or a hit of one of the rule sets (None: of any) that is not final."""
        rule = self.rules.get(source.reason.source)
        if rule is None:
            return source.reason.source.startswith("band:")
        return not rule.final and (rulesets is None or rule.ruleset in rulesets)

    def _chance(self, left: Sequence[Source], row: Row, at_us: int) -> float:
        """The share of the control group, where it may let this event through; else 0."""
        group, amount = self.control, row.get("txn.amount_base")
        rules = [self.rules.get(source.reason.source) for source in left]
        if group is None or amount is None or row["event.kind"] != "payment":
            return 0.0
        if at_us >= group.until_us or amount > group.max_base:
            return 0.0
        severe = any(
            (s.outcome.tier or 0) > Tier.LOW or (s.outcome.action or 0) > Action.ALLOW
            for s in left if self.ordinary(None, s)
        )  # fmt: skip
        return group.share if severe and not any(rule and rule.final for rule in rules) and drawn_by(row) else 0.0

    def draw(self, row: Row, at_us: int) -> float:
        """A stable number in [0, 1) for a device, else a card, in one week."""
        text = f"control|{drawn_by(row)}|{(at_us + _MONDAY_US) // _WEEK_US}"
        return share_of(text, self.secret)


def share_of(text: str, secret: bytes) -> float:
    """A number in [0, 1) that only who holds the secret can tell."""
    return int.from_bytes(hashlib.blake2b(text.encode(), key=secret, digest_size=8).digest(), "little") / 2**64


def drawn_by(row: Row) -> str:
    """Whose draw it is in the control group; "" = nobody's, and then it does nothing."""
    return next((f"{name}|{row[name]}" for name in ("device.id", "card.token") if name in row), "")


# --- reading


def load_lowering(
    folder: Path, rules: Sequence[Rule], lists: Mapping[str, AnyList], control: ControlGroup | None, types: Types,
    schema: Schema, secret: bytes, diagnostics: Diagnostics,
) -> Lowering | None:  # fmt: skip
    """What lowers decisions in a policy folder; None where nothing does."""
    sources = {f"rule:{rule.id}": rule for rule in rules}
    allow = _allow_lists(lists, {rule.ruleset for rule in rules}, schema, diagnostics)
    snoozes = _snoozes(folder / "snoozes.yaml", sources, types, diagnostics)
    if not (allow or snoozes or control):
        return None
    kinds = {kind for rule in rules for kind in rule.on}
    sets_of = {kind: frozenset(rule.ruleset for rule in rules if kind in rule.on) for kind in kinds}
    return Lowering(sources, sets_of, allow, snoozes, control, secret)


def _allow_lists(
    lists: Mapping[str, AnyList], rulesets: set[str], schema: Schema, diagnostics: Diagnostics
) -> tuple[AllowList, ...]:
    found = []
    for one in lists.values():
        if not isinstance(one, ValueList) or one.kind != "allow" or one.type not in FIELD_OF:
            continue
        for entry in one.allowances.values():
            for name in sorted(entry.rulesets - rulesets):
                hint = diagnostics.did_you_mean(name, rulesets)
                diagnostics.error("E521", f"there is no rule set `{name}`", entry.place, hint=hint)
        checked = check(one.when, schema, diagnostics) if one.when is not None else None
        found.append(AllowList(FIELD_OF[one.type], one, compile_rows([checked], lists) if checked else None))
    return tuple(found)


def _snoozes(
    path: Path, rules: Mapping[str, Rule], types: Types, diagnostics: Diagnostics
) -> dict[str, tuple[Snooze, ...]]:
    """`rule:ID` → its snoozes."""
    found: dict[str, tuple[Snooze, ...]] = {}
    if not path.exists():
        return found
    reader = Reader(diagnostics)
    top = reader.fields(load_yaml(path, diagnostics, path.name), {"snoozes"})
    for item in top.fields_list("snoozes", {"id", "rule", "reason", "author", "from", "until"}, ENTITIES):
        source = f"rule:{item.text('rule')}"
        rule = rules.get(source)
        if rule is None or rule.final or "user" in rule.on:
            hint = diagnostics.did_you_mean(item.text("rule"), [name[5:] for name in rules]) if rule is None else ""
            why = "is not known" if rule is None else "is final" if rule.final else "is about persons, not decisions"
            item.mistake("E522", f"the rule `{item.text('rule')}` {why}", "rule", hint)
        snooze = _snooze(item, types)
        if snooze is not None:
            found[source] = (*found.get(source, ()), snooze)
    return found


def _snooze(item: Fields, types: Types) -> Snooze | None:
    named = [entity for entity in ENTITIES if entity in item]
    start, end = item.timestamp_us("from"), item.timestamp_us("until")
    if not 0 < end - start <= MOST_SNOOZED_US:
        item.mistake("E522", "a snooze ends, at most 30 days after it began", "until")
    if len(named) != 1:
        item.mistake("E522", f"a snooze names one entity: {', '.join(ENTITIES)}", "id")
        return None
    entity = named[0]
    try:
        value = types[entity](item.text(entity))
    except ValueError as problem:
        item.mistake("E522", f"the value {problem}", entity)
        return None
    return Snooze(item.text("id"), FIELD_OF[entity], value, item.text("author"), start, end, types[entity])
