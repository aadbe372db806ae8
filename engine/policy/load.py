"""Reads `policy.yaml`, `labels.yaml` and the rule files into frozen values; all mistakes are collected with places."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.codes import COUNTRIES, CURRENCIES
from engine.language import (
    Checked,
    Diagnostics,
    Fields,
    Listing,
    Reader,
    Scalar,
    Schema,
    check,
    load_yaml,
    parse_type,
)
from engine.policy.lists import AnyList, check_asked
from engine.policy.reasons import Reasons
from engine.policy.rules import (
    MEASURES,
    Band,
    ControlGroup,
    Fallback,
    MeasureSpec,
    Outcome,
    Required,
    ReviewDesk,
    Rule,
    Settings,
)
from engine.policy.scorecards import Scorecard, bands_of, read_card, sum_name
from engine.policy.sheets import read_sheet
from engine.policy.tables import GIVEN, HIT_POLICIES, TableReader, read_columns
from engine.schema import FIELDS, KINDS, OUTCOMES
from engine.values import Action, Reason, Tier

MINUTE_US, DAY_US = 60_000_000, 86_400_000_000
_NEEDED = {"name", "base_currency", "bands", "default_actions"}
_SETTINGS = {
    "activation", "markets", "required", "fallbacks", "models", "challengers", "hold", "lateness", "limit_reason",
    "parameters", "control_group", "review",
}  # fmt: skip
_LIMIT = Reason(
    "LIMIT", "a limit in force is exceeded", "This order is above your current limit.", "measure:LIMIT_AMOUNT"
)
_OUTCOME_KEYS = {"tier", "action", "measures"}
_TABLE_KEYS = {"gaps", "then", "reason"}
_RULE_KEYS = {"when_unknown", "final", "status", "from", "until", "rollout", "note"}
MOST_CHALLENGERS = 3
_NO_LISTS: Mapping[str, AnyList] = {}
SOURCES = ("model", "profiles", "patterns")


@dataclass(slots=True)
class PolicyReader:
    """Reads the files of one policy folder into one `Diagnostics`."""

    folder: Path
    diagnostics: Diagnostics
    reasons: Reasons
    cards: list[Scorecard] = field(default_factory=list)
    """Scorecards, once the rules are read."""
    met: list[Rule] = field(default_factory=list)
    """Rules as they are read, also those whose condition is wrong."""

    @classmethod
    def of(cls, folder: Path, diagnostics: Diagnostics) -> PolicyReader:
        """A reader that knows the folder's reasons."""
        reasons = Reasons(diagnostics)
        reasons.load(folder / "reasons.yaml")
        return cls(folder, diagnostics, reasons)

    def settings(self) -> Settings:
        """`policy.yaml` and `labels.yaml`; values after a mistake are neutral and never used."""
        reader = Reader(self.diagnostics)
        top = reader.fields(self._yaml("policy.yaml"), _NEEDED, _SETTINGS)
        labels = reader.fields(self._yaml("labels.yaml"), {"fraud", "mature_after"}, {"note"})
        currency = top.text("base_currency")
        if currency and currency not in CURRENCIES:
            top.mistake("E501", f"{currency} is not an ISO 4217 currency", "base_currency")
        defaults = top.fields("default_actions", {t.name for t in Tier if t})
        models = {kind: reader.text(node) or "" for kind, node in self._kinds(top, "models")}
        challengers = {
            kind: self._challengers(node, models.get(kind, ""), reader)
            for kind, node in self._kinds(top, "challengers")
        }
        return Settings(
            name=top.text("name"),
            base_currency=currency,
            activation=top.choice("activation", ("on_save", "explicit"), "on_save"),
            markets=self._markets(top),
            parameters=self._parameters(top, reader),
            bands={kind: self._bands(kind, node, reader) for kind, node in self._kinds(top, "bands")},
            default_actions={t: _action(defaults.choice(t.name, _ACTIONS)) or Action.ALLOW for t in Tier if t},
            required=tuple(
                self._required(item)
                for item in top.fields_list("required", {"on", "fields", "reason"}, _OUTCOME_KEYS | {"above"})
            ),
            fallbacks=tuple(
                self._fallback(item)
                for item in top.fields_list("fallbacks", {"source", "reason"}, _OUTCOME_KEYS | {"above"})
            ),
            models=models,
            challengers=challengers,
            hold_us=top.duration_us("hold", 30 * DAY_US),
            lateness_us=top.duration_us("lateness", 30 * DAY_US),
            fraud_outcomes=labels.choices("fraud", OUTCOMES),
            mature_after_us=labels.duration_us("mature_after"),
            limit_reason=self.reasons.read(top, _LIMIT.source, "limit_reason") if "limit_reason" in top else _LIMIT,
            control=self._control(
                top.fields("control_group", {"share", "max_amount", "daily_loss", "author", "until"})
            ),
            review=self._review(top.fields("review", (), {"answer_within", "lease", "timeout"})),
        )

    def _control(self, group: Fields) -> ControlGroup | None:
        amounts = group.number("max_amount", 0.0, 0.0), group.number("daily_loss", 0.0, 0.0)
        found = ControlGroup(group.share("share"), *amounts, group.text("author"), group.timestamp_us("until"))
        return None if group.node is None else found

    def _review(self, desk: Fields) -> ReviewDesk:
        timeout, usual = desk.fields("timeout", {"after", "action"}), ReviewDesk()
        found = ReviewDesk(
            desk.duration_us("answer_within", usual.answer_us),
            desk.duration_us("lease", usual.lease_us),
            timeout.duration_us("after"),
            _action(timeout.choice("action", ("ALLOW", "DECLINE"))) or Action.UNSPECIFIED,
        )
        if not (MINUTE_US <= found.lease_us <= DAY_US and found.answer_us > 0):
            desk.mistake("E501", "a lease is from 1m to 1d, and a case is answered within more than nothing")
        if 0 < found.timeout_us < found.answer_us:
            timeout.mistake("E501", "the policy would decide before a person should have", "after")
        return found

    def rules(self, schema: Schema, lists: Mapping[str, AnyList] = _NO_LISTS) -> Iterator[tuple[Rule, Checked]]:
        """Every rule of `risk/*.yaml` with its checked condition, in file and line order."""
        places: dict[str, str] = {}
        reader, files = Reader(self.diagnostics), sorted((self.folder / "risk").glob("*.yaml"))
        parts = {"rules", "tables", "scorecards", "note"}
        tops = [reader.fields(self._yaml(f"risk/{path.name}"), {"ruleset", "on"}, parts) for path in files]
        cards = [top.fields_list("scorecards", {"id", "lines", "bands"}, _RULE_KEYS) for top in tops]
        sums = {sum_name(card.text("id")): parse_type("int") for of_file in cards for card in of_file}
        wider = replace(schema, names={**schema.names, **sums})
        for top, own_cards in zip(tops, cards, strict=True):
            on = self._on(top)
            items = top.fields_list("rules", {"id", "when", "then", "reason"}, _RULE_KEYS)
            tables = top.fields_list("tables", {"id", "file", "hit", "columns"}, _RULE_KEYS | _TABLE_KEYS)
            for item in (*items, *tables, *own_cards):
                rule = self._rule(top.text("ruleset"), on, item)
                if rule.id in places:
                    item.mistake("E503", f"rule id `{rule.id}` is used twice", "id", f"first at {places[rule.id]}")
                places.setdefault(rule.id, rule.place)
                self.met.append(rule)
                if "file" in item:
                    yield from self._table(rule, item, wider)
                elif "lines" in item:
                    self.cards.append(read_card(item, on, schema, self.diagnostics))
                    yield from self._bands_of(rule, item, wider)
                elif (condition := item.scalar("when")) is not None:
                    checked = check(condition, wider, self.diagnostics)
                    if checked is not None:
                        if checked.lists:
                            check_asked(checked.tree, condition, lists, self.diagnostics)
                        yield rule, checked

    def _bands_of(self, rule: Rule, item: Fields, schema: Schema) -> Iterator[tuple[Rule, Checked]]:
        """The bands of a scorecard, as rules."""
        for band, start, condition in bands_of(item, schema, self.diagnostics):
            rule_id, outcome = f"{rule.id}@{start}", self._outcome(band)
            if outcome == Outcome(None, None):
                band.mistake("E505", "a band needs a tier, an action or a measure", "from_points")
            reason, place = self.reasons.read(band, f"rule:{rule_id}"), str(band.position("from_points"))
            yield replace(rule, id=rule_id, outcome=outcome, reason=reason, place=place.rpartition(":")[0]), condition

    def _table(self, rule: Rule, item: Fields, schema: Schema) -> Iterator[tuple[Rule, Checked]]:
        """The rows of a decision table."""
        columns, hit = read_columns(item, schema, self.diagnostics), item.choice("hit", HIT_POLICIES)
        gaps = item.choice("gaps", ("allowed", "forbidden"), "forbidden")
        name, known = item.text("file"), {file.name: file for file in (self.folder / "tables").glob("*.csv")}
        path = known.get(name)
        if path is None:
            hint = self.diagnostics.did_you_mean(name, known)
            item.mistake("E517", f"there is no table tables/{name}", "file", hint)
        elif hit and columns and len(columns) == len(list(item.entries("columns"))):
            names = [column.name for column in columns]
            sheet = read_sheet(path, f"tables/{path.name}", names, self.diagnostics, GIVEN)
            if sheet is not None:
                self.diagnostics.sources[sheet.name] = sheet.text
                reader = TableReader(rule, sheet, columns, hit, schema, self.reasons, self.diagnostics)
                yield from reader.read(gaps == "allowed")

    def _yaml(self, name: str) -> Any:
        return load_yaml(self.folder / name, self.diagnostics, name)

    def _kinds(self, top: Fields, key: str) -> Iterator[tuple[str, Any]]:
        for name, node in top.entries(key):
            if name.value in KINDS:
                yield name.value, node
            else:
                self.diagnostics.error("E507", f"`{name.value}` is not an event kind", name.position(), name.length)

    def _markets(self, top: Fields) -> Mapping[str, str]:
        reader, zones = Reader(self.diagnostics), zoneinfo.available_timezones()
        markets = {}
        for name, node in top.entries("markets"):
            zone = reader.text(node) or ""
            if name.value not in COUNTRIES:
                self.diagnostics.error("E501", f"{name.value} is not an ISO 3166 code", name.position(), name.length)
            if zone not in zones:
                self.diagnostics.error("E501", f"{zone} is not an IANA time zone", node.position(), node.length)
            markets[name.value] = zone
        return markets

    def _parameters(self, top: Fields, reader: Reader) -> Mapping[str, Any]:
        """`param.NAME` → its constant: a number, true or false, a text, or a list of one of these as a tuple."""
        found = {}
        for name, node in top.entries("parameters"):
            if not _PARAMETER.fullmatch(name.value):
                self.diagnostics.error(
                    "E509", f"`{name.value}` can't be a parameter's name", name.position(), name.length,
                    hint="small letters, digits and `_`, such as `young_account_days`",
                )  # fmt: skip
            nodes = reader.items(node) if isinstance(node, Listing) else (node,)
            values = tuple(map(reader.constant, nodes))
            if len({type(value) for value in values}) != 1:
                self.diagnostics.error("E509", "the values of a list must be of one type", node.position(), node.length)
            found[f"param.{name.value}"] = values if isinstance(node, Listing) else values[0]
        return found

    def _challengers(self, node: Any, model: str, reader: Reader) -> tuple[str, ...]:
        """Models that are scored beside the one that decides."""
        names = tuple(reader.text(item) or "" for item in reader.items(node))
        wrong = (
            f"at most {MOST_CHALLENGERS} challengers are scored" if len(names) > MOST_CHALLENGERS
            else "a challenger needs a model that decides, in `models:`" if not model
            else f"`{model}` is the model that decides" if model in names
            else "a challenger is named once" if len(set(names)) < len(names)
            else ""
        )  # fmt: skip
        if wrong:
            self.diagnostics.error("E531", wrong, node.position(), node.length)
        return names

    def _bands(self, kind: str, node: Any, reader: Reader) -> tuple[Band, ...]:
        bands: list[Band] = []
        for item_node in reader.items(node):
            item = reader.fields(item_node, {"from_score", "tier", "action"}, {"reason", "measures"})
            start = item.number("from_score", 0.0, 0.0, 1.0)
            reason = self.reasons.read(item, f"band:{kind}")
            if (not bands and start) or (bands and start <= bands[-1].from_score):
                item.mistake("E502", "bands must start at 0 and rise", "from_score")
            bands.append(Band(start, self._outcome(item), reason))
        return tuple(bands)

    def _on(self, top: Fields) -> tuple[str, ...]:
        nodes = top.items("on") if isinstance(top.get("on"), Listing) else (top.get("on"),)
        kinds = []
        for node in nodes:
            if isinstance(node, Scalar):
                if node.value not in KINDS and node.value != "user":
                    self.diagnostics.error("E507", f"`{node.value}` is not an event kind", node.position(), node.length)
                kinds.append(node.value)
        return tuple(kinds)

    def _rule(self, ruleset: str, on: tuple[str, ...], item: Fields) -> Rule:
        rule_id = item.text("id")
        outcome = self._outcome(item.fields("then", (), _OUTCOME_KEYS))
        if outcome == Outcome(None, None) and "then" in item and "file" not in item:
            item.mistake("E505", "`then` needs a tier, an action or a measure", "then")
        return Rule(
            id=rule_id, ruleset=ruleset, on=on, outcome=outcome,
            reason=self.reasons.read(item, f"rule:{rule_id}"),
            status=item.choice("status", ("enforce", "observe", "off"), "enforce"),
            from_us=item.timestamp_us("from", 0), until_us=item.timestamp_us("until", 0),
            rollout=item.share("rollout", 1.0),
            unknown_hits=item.choice("when_unknown", ("miss", "hit"), "miss") == "hit",
            final=item.boolean("final", False), place=str(item.position("id")).rpartition(":")[0],
        )  # fmt: skip

    def _outcome(self, item: Fields) -> Outcome:
        tier = item.choice("tier", [t.name for t in Tier if t], "")
        return Outcome(
            Tier[tier] if tier else None,
            _action(item.choice("action", _ACTIONS, "")),
            tuple(self._measure(node) for node in item.items("measures")),
        )

    def _measure(self, node: Any) -> MeasureSpec:
        """`MONITOR`, or a mapping `{kind: LIMIT_AMOUNT, max: 100, currency: EUR, per: day, for: 30d}`."""
        reader = Reader(self.diagnostics)
        if isinstance(node, Scalar):
            return MeasureSpec(reader.choice(node, MEASURES) or "", {}, 0)
        every = frozenset().union(*MEASURES.values())
        item = reader.fields(node, {"kind"}, every | {"for", "lift"})
        kind = item.choice("kind", MEASURES)
        parameters: dict[str, Any] = {}
        for name in sorted(every & item.values.keys()):
            if name not in MEASURES.get(kind, every):
                item.mistake("E506", f"{kind} has no parameter `{name}`", name)
            parameters[name] = item.number(name) if name == "max" else item.text(name)
        return MeasureSpec(kind, parameters, item.duration_us("for", 0), item.text("lift", ""))

    def _required(self, item: Fields) -> Required:
        fields = item.choices("fields", FIELDS)
        reason = self.reasons.read(item, "required")
        return Required(item.choice("on", KINDS), fields, item.number("above", 0.0), self._outcome(item), reason)

    def _fallback(self, item: Fields) -> Fallback:
        source = item.choice("source", SOURCES)
        reason = self.reasons.read(item, f"fallback:{source}")
        return Fallback(source, item.number("above", 0.0), self._outcome(item), reason)


_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ACTIONS = tuple(a.name for a in Action if a)


def _action(name: str) -> Action | None:
    return Action[name] if name else None
