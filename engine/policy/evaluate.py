"""One policy, compiled: the rules of each event kind as one row function, and what their results mean.

A rule outside its schedule does not run; one outside its rollout share is observed. UNKNOWN and ERROR take the road
that `when_unknown` names, and stay visible either way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from engine.language import Checked, RowProgram, compile_rows
from engine.policy.combine import Source
from engine.policy.lists import AnyList
from engine.policy.reasons import Translations
from engine.policy.rules import Rule, Settings
from engine.policy.steps import PatternPlan
from engine.values import Result, Row, RuleHit

_SHARE_BY = ("user.id", "card.token", "device.id", "payment.id")


@dataclass(frozen=True)
class RuleSet:
    """The rules that one kind of event meets, and their conditions as one function."""

    rules: tuple[Rule, ...]
    conditions: tuple[Checked, ...]
    program: RowProgram

    def evaluate(self, row: Row, at_us: int) -> tuple[list[RuleHit], list[Source]]:
        """Every result that is not a plain miss, and what the enforced hits say."""
        found = self.program.evaluate(row)
        hits: list[RuleHit] = []
        sources: list[Source] = []
        results, failing = found.results, found.failing
        for index in found.notable:
            rule = self.rules[index]
            state = rule.state_at(at_us) if rule.from_us or rule.until_us else rule.status
            if state == "off":
                continue
            result = results[index]
            enforced = state == "enforce" and (rule.rollout >= 1.0 or share_of(rule.id, row) < rule.rollout)
            hits.append(_hit(rule.id, result, -1 if result == _HIT else failing[index], enforced))
            if enforced and (result == _HIT or rule.unknown_hits):
                sources.append(self._sources[index])
        return first_only(hits, sources, self.firsts) if self.firsts else (hits, sources)

    @cached_property
    def firsts(self) -> Mapping[str, Rule]:
        """Rules by their id that are rows of a table of which only the first that hits counts."""
        return {rule.id: rule for rule in self.rules if rule.first}

    @cached_property
    def _sources(self) -> list[Source]:
        """What each rule says when it hits."""
        return [Source(rule.outcome, rule.reason) for rule in self.rules]


_HIT = Result.HIT.value


@lru_cache(maxsize=65_536)
def _hit(rule_id: str, result: int, failing: int, enforced: bool) -> RuleHit:
    """A frozen value, made once: there are few different ones, and a decision holds dozens."""
    return RuleHit(rule_id, Result(result), failing, enforced)


def first_only(
    hits: Sequence[RuleHit], sources: Sequence[Source], firsts: Mapping[str, Rule]
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


def rule_sets(rules: Sequence[tuple[Rule, Checked]], lists: Mapping[str, AnyList]) -> dict[str, RuleSet]:
    """Group live rules by the kinds they run on and compile each group."""
    groups: dict[str, list[tuple[Rule, Checked]]] = {}
    for rule, condition in rules:
        if rule.status != "off":
            for kind in rule.on:
                groups.setdefault(kind, []).append((rule, condition))
    sets = {}
    for kind, group in groups.items():
        conditions = tuple(condition for _, condition in group)
        sets[kind] = RuleSet(tuple(rule for rule, _ in group), conditions, compile_rows(conditions, lists))
    return sets


def share_of(rule_id: str, row: Row) -> float:
    """A stable number in [0, 1) for a rule and a person: raising a rollout keeps those who were in."""
    who = next((str(row[name]) for name in _SHARE_BY if name in row), "")
    hashed = hashlib.blake2b(who.encode(), key=rule_id.encode()[:64], digest_size=8).digest()
    return int.from_bytes(hashed, "little") / 2**64
