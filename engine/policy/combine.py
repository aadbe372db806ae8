"""From band, hits and what stands against them to one tier, one action and measures (semantics, "how they combine").

Tier is the highest and action the most severe of what each source states; a further hit never lowers either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.policy.rules import Band, MeasureSpec, Outcome
from engine.values import Action, Lowered, Reason, Tier


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that speaks to a decision: a band, an enforced hit, a fallback, a missing field, a limit."""

    outcome: Outcome
    reason: Reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the sources give together."""

    tier: Tier
    action: Action
    measures: tuple[tuple[MeasureSpec, str], ...]
    """Each with the source that gave it, most severe source first; one of a kind and its parameters."""
    reasons: tuple[Reason, ...]
    lowered: tuple[Lowered, ...] = ()
    propensity: float = 0.0


def combine(
    sources: Sequence[Source], default_actions: Mapping[Tier, Action], *, challenge_passed: bool = False
) -> Verdict:
    """Fold the sources; without any: LOW and ALLOW.

    `challenge_passed`: a challenge that the payment has passed meets CHALLENGE, so it counts as ALLOW from here on;
    REVIEW and DECLINE stand.
    """
    stated = [(source, action_of(source.outcome, default_actions)) for source in sources]
    if challenge_passed:
        stated = [(source, Action.ALLOW if action is Action.CHALLENGE else action) for source, action in stated]
    tier = max((s.outcome.tier for s, _ in stated if s.outcome.tier), default=Tier.LOW)
    action = max((a for _, a in stated if a), default=Action.ALLOW)
    stated.sort(key=lambda item: (-(item[1] or 0), -(item[0].outcome.tier or 0), item[0].reason.source))
    measures = {
        (m.kind, repr(m.parameters)): (m, s.reason.source) for s, _ in reversed(stated) for m in s.outcome.measures
    }
    if action is Action.REVIEW and any(a is Action.CHALLENGE for _, a in stated):
        measures.setdefault(("STEP_UP", "{}"), (MeasureSpec("STEP_UP", {}, 0), "combine:challenge"))
    return Verdict(
        tier,
        action,
        tuple(measures[key] for key in sorted(measures)),
        tuple(s.reason for s, _ in stated if s.reason.code),
    )


def band_of(bands: Sequence[Band], score: float) -> Band | None:
    """The last band that the score reaches."""
    reached = [band for band in bands if score >= band.from_score]
    return reached[-1] if reached else None


def action_of(outcome: Outcome, defaults: Mapping[Tier, Action]) -> Action | None:
    """A source with both gives its own action; one with only a tier that tier's default."""
    if outcome.action is not None or outcome.tier is None:
        return outcome.action
    return defaults[outcome.tier]
