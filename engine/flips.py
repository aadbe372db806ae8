"""What would have led to another action: one value moved just over a threshold, and the whole policy asked again.

A value is moved where an enforced rule hit, or missed by one condition, and at the edges of the score's band. Other
features stay as they were, also those that are derived from the one that is moved.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from engine.language import evaluate
from engine.language.expression import Name
from engine.policy.ranges import HIGH, LOW, Allowed, Cut, atoms, outside
from engine.program import Case
from engine.values import Action, Decision, Tier

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Flip:
    """One change of one value that would have changed the action."""

    action: Action
    tier: Tier
    condition: str
    """`card.payments_1h <= 2`."""
    value: Any
    """What it was."""


@dataclass(frozen=True, slots=True)
class _Move:
    name: str
    condition: str
    value: Any
    """The nearest that meets the condition."""


def flips(decision: Decision, case: Case, rules: Collection[str]) -> tuple[Flip, ...]:
    """The nearest changes of one value that give another action; `rules` are those that are looked at."""
    found: dict[str, tuple[float, Flip]] = {}
    for move in chain(_at_thresholds(case, rules), _at_bands(case)):
        was = case.row[move.name]
        judged = _judged(decision, case, move)
        if judged.action is not decision.action:
            distance = abs(was - move.value) / max(abs(was), abs(move.value), 1e-9)
            found[move.condition] = distance, Flip(judged.action, judged.tier, move.condition, was)
    return tuple(flip for _, flip in sorted(found.values(), key=lambda item: (item[0], item[1].condition))[:SHOWN])


def _judged(decision: Decision, case: Case, move: _Move) -> Decision:
    row = {**case.row, move.name: move.value}
    score = move.value if move.name == "score" else case.score
    other = replace(case, row=row, score=score, found=[], degraded=list(case.degraded))
    return case.program.conclude(other, decision.signals, decision.decided_us, dry_run=True)


def _at_thresholds(case: Case, rules: Collection[str]) -> Iterator[_Move]:
    """Each condition of the rules turned round, where it compares one number or truth value with a constant."""
    policy = case.program.policy
    found = policy.by_kind.get(case.event.kind)
    for rule, checked in zip(found.rules, found.conditions, strict=True) if found else ():
        for node in checked.conjuncts if rule.id in rules else ():
            asked = atoms(node)
            if len(asked) == 1 and isinstance(asked[0].subject, Name):
                name, now = asked[0].subject.path, evaluate(replace(checked, tree=node), case.row, policy.lists)
                if isinstance(now, bool) and isinstance(case.row.get(name), int | float):
                    wanted = outside(asked[0].allowed) if now else asked[0].allowed
                    yield from _nearest(name, case.row[name], wanted)


def _at_bands(case: Case) -> Iterator[_Move]:
    if case.score is not None:
        for band in case.program.policy.settings.bands.get(case.event.kind, ())[1:]:
            edge, below = band.from_score, case.score < band.from_score
            text = f"score {'>=' if below else '<'} {edge:.12g}"
            yield _Move("score", text, edge if below else math.nextafter(edge, 0.0))


def _nearest(name: str, value: Any, wanted: Allowed) -> Iterator[_Move]:
    """The nearest wanted value on either side; a truth value has only the other one."""
    if isinstance(value, bool):
        yield _Move(name, name if not value else f"!{name}", not value)
        return
    for low, high in wanted:
        if high is not HIGH and high[1] <= value:
            below, text = _under(high)
            yield _Move(name, f"{name} {text}", below)
        elif low is not LOW and low[1] >= value:
            whole = low[2] == 0
            over = low[1] if whole else math.nextafter(low[1], math.inf)
            yield _Move(name, f"{name} {'>=' if whole else '>'} {low[1]:.12g}", over)


def _under(high: Cut) -> tuple[Any, str]:
    """The largest value under a cut, and the words for it."""
    edge, just_above = high[1], high[2]
    if just_above:
        return edge, f"<= {edge:.12g}"
    if isinstance(edge, int):
        return edge - 1, f"<= {edge - 1}"
    return math.nextafter(edge, -math.inf), f"< {edge:.12g}"
