"""One policy, compiled: the rules of each event kind as one row function, and what their results mean.

A rule outside its schedule does not run; one outside its rollout share is observed. UNKNOWN and ERROR take the road
that `when_unknown` names, and stay visible either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from engine.language import Checked, RowProgram, RowResult, compile_rows
from engine.policy.combine import Source
from engine.policy.lists import AnyList
from engine.policy.lowering import Lowering, share_of
from engine.policy.reasons import Translations
from engine.policy.rules import Rule, Settings
from engine.policy.scorecards import Adder, Scorecard, adder
from engine.policy.steps import PatternPlan
from engine.values import Result, Row, RuleHit

Tell = Callable[[RowResult], None]
SHARE_BY = ("user.id", "card.token", "device.id", "payment.id")
"""By the first of these that an event names its share in a rollout is drawn."""


@dataclass(frozen=True)
class RuleSet:
    """The rules that one kind of event meets, and their conditions as one function."""

    rules: tuple[Rule, ...]
    conditions: tuple[Checked, ...]
    program: RowProgram
    secret: bytes
    """Keys the draws of rollouts."""
    always: tuple[bool | None, ...]
    """Whether each rule is enforced; None where that depends on the time or the person."""
    adders: tuple[Adder, ...] = ()
    """Scorecards, whose sums are put into the row first."""
    _made: dict[tuple[int, int, bool], tuple[RuleHit, Source | None]] = field(default_factory=dict, compare=False)
    """What (rule, code of its result, enforced) gives: values are frozen, so each is made once."""

    def evaluate(self, row: Row, at_us: int, tell: Tell | None = None) -> tuple[list[RuleHit], list[Source]]:
        """Every result that is not a plain miss, and what the enforced hits say; `tell` hears of every rule."""
        hits = [hit for card in self.adders for hit in card.add_up(row)]
        found = self.program.evaluate(row)
        if tell is not None:
            tell(found)
        codes, made, always = found.codes, self._made, self.always
        sources: list[Source] = []
        for index in found.notable:
            enforced = always[index]
            if enforced is None:
                rule = self.rules[index]
                state = rule.state_at(at_us)
                if state == "off":
                    continue
                enforced = state == "enforce" and (rule.rollout >= 1.0 or self.share(rule, row) < rule.rollout)
            key = index, codes[index], enforced
            hit, source = made.get(key) or self._make(*key)
            hits.append(hit)
            if source is not None:
                sources.append(source)
        return first_only(hits, sources, self.firsts) if self.firsts else (hits, sources)

    def share(self, rule: Rule, row: Row) -> float:
        """A stable number in [0, 1) for a rule and a person: raising a rollout keeps those who were in."""
        who = next((f"{name}|{row[name]}" for name in SHARE_BY if name in row), "")
        return share_of(f"rollout|{rule.id.partition('#')[0]}|{who}", self.secret)

    @cached_property
    def firsts(self) -> Mapping[str, Rule]:
        """Rules by their id that are rows of a table of which only the first that hits counts."""
        return {rule.id: rule for rule in self.rules if rule.first}

    def _make(self, index: int, code: int, enforced: bool) -> tuple[RuleHit, Source | None]:
        rule, result = self.rules[index], Result(code & 3)
        hit = RuleHit(rule.id, result, -1 if result is Result.HIT else code >> 2, enforced)
        says = enforced and (result is Result.HIT or rule.unknown_hits)
        made = self._made[index, code, enforced] = hit, Source(rule.outcome, rule.reason) if says else None
        return made


def first_only(
    hits: list[RuleHit], sources: list[Source], firsts: Mapping[str, Rule]
) -> tuple[list[RuleHit], list[Source]]:
    """Without what hits in a table after its first hit; a row that can't be known hits if it says so."""
    reached: set[str] = set()
    late: set[str] = set()
    for hit in hits:
        rule = firsts.get(hit.rule)
        if rule and (hit.result is Result.HIT or rule.unknown_hits):
            if rule.first in reached:
                late.add(rule.id)
            reached.add(rule.first)
    if not late:
        return hits, sources
    return [h for h in hits if h.rule not in late], [s for s in sources if s.reason.source[5:] not in late]


@dataclass(frozen=True)
class Policy:
    """Everything that an analyst edits, checked, compiled and digested."""

    settings: Settings
    rules: tuple[Rule, ...]
    by_kind: Mapping[str, RuleSet]
    """Event kind → its rules; `user` → those of the standing risk."""
    lists: Mapping[str, AnyList]
    plan: PatternPlan
    digest: str
    translations: Translations
    lowering: Lowering | None
    """None where nothing lowers a decision."""


def rule_sets(
    rules: Sequence[tuple[Rule, Checked]], lists: Mapping[str, AnyList], secret: bytes, cards: Sequence[Scorecard]
) -> dict[str, RuleSet]:
    """Group live rules by the kinds they run on and compile each group; `secret` keys the draws of rollouts."""
    groups: dict[str, list[tuple[Rule, Checked]]] = {}
    for rule, condition in rules:
        if rule.status != "off":
            for kind in rule.on:
                groups.setdefault(kind, []).append((rule, condition))
    sets = {}
    for kind, group in groups.items():
        conditions = tuple(condition for _, condition in group)
        live = tuple(rule for rule, _ in group)
        adders = tuple(adder(card, lists) for card in cards if kind in card.on)
        program, always = compile_rows(conditions, lists), tuple(map(_always, live))
        sets[kind] = RuleSet(live, conditions, program, secret, always, adders)
    return sets


def _always(rule: Rule) -> bool | None:
    """Whether a rule is enforced at any time and for anybody; None if it depends."""
    scheduled = rule.from_us > 0 or rule.until_us > 0
    return None if scheduled or rule.rollout < 1.0 else rule.status == "enforce"
