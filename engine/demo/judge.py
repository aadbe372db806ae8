"""Compares what was decided with what was true. Nothing here is known to the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.simulator import ABUSE_SCHEMES, FRAUD_SCHEMES, HELD_OUT_SCHEME
from engine.values import Action, Decision, Tier


@dataclass(frozen=True, slots=True)
class Judged:
    """One payment: the decision, and the truth."""

    tier: Tier
    action: Action
    label: str
    """good, fraud or abuse."""
    scheme: str
    """"" for an honest payment."""
    oddities: tuple[str, ...]
    """What is unusual about an honest payment."""


@dataclass(frozen=True, slots=True)
class TierLine:
    """The payments of one tier, and how good it is to act on that tier and all above."""

    tier: Tier
    fraud: int
    abuse: int
    good: int
    precision: float | None
    """Fraud ÷ (fraud + honest) in this tier and above, 0..1; abuse counts on neither side. None where there is none."""
    recall: float | None
    """Share of all fraud, the held-out scheme included, in this tier and above, 0..1."""


@dataclass(frozen=True, slots=True)
class SchemeLine:
    """What became of the payments of one scheme."""

    scheme: str
    kind: str
    """fraud, held out or abuse."""
    payments: int
    raised: int
    """MEDIUM or HIGH."""
    high: int
    held: int
    """REVIEW or DECLINE: not let through without a person."""


def judged(decisions: Mapping[str, Decision], truth: Mapping[str, Mapping[str, Any]]) -> list[Judged]:
    """Each decided payment with its truth."""
    return [
        Judged(d.tier, d.action, t["label"], t["scheme"] or "", tuple(t["oddities"]))
        for event_id, d in decisions.items()
        for t in (truth[event_id],)
    ]


def tier_lines(payments: Sequence[Judged]) -> list[TierLine]:
    """From the highest tier down."""
    all_fraud = sum(one.label == "fraud" for one in payments)
    lines = []
    for tier in sorted((tier for tier in Tier if tier), reverse=True):
        here = Counter(one.label for one in payments if one.tier is tier)
        above = Counter(one.label for one in payments if one.tier >= tier)
        precision = _share(above["fraud"], above["fraud"] + above["good"])
        recall = _share(above["fraud"], all_fraud)
        lines.append(TierLine(tier, here["fraud"], here["abuse"], here["good"], precision, recall))
    return lines


def scheme_lines(payments: Sequence[Judged]) -> list[SchemeLine]:
    """Every scheme that the simulator knows, those without a payment too; fraud first, abuse last."""
    kinds = [
        *((name, "fraud") for name in FRAUD_SCHEMES), (HELD_OUT_SCHEME, "held out"),
        *((name, "abuse") for name in ABUSE_SCHEMES),
    ]  # fmt: skip
    lines = []
    for name, kind in kinds:
        own = [one for one in payments if one.scheme == name]
        raised, high = (sum(one.tier >= tier for one in own) for tier in (Tier.MEDIUM, Tier.HIGH))
        held = sum(one.action >= Action.REVIEW for one in own)
        lines.append(SchemeLine(name, kind, len(own), raised, high, held))
    return lines


def false_alarms(payments: Sequence[Judged]) -> tuple[int, int, list[tuple[str, int]]]:
    """Honest payments, those raised to MEDIUM or HIGH, and what is odd about the latter, commonest first."""
    honest = [one for one in payments if one.label == "good"]
    raised = [one for one in honest if one.tier >= Tier.MEDIUM]
    return len(honest), len(raised), Counter(name for one in raised for name in one.oddities).most_common()


def actions(payments: Sequence[Judged]) -> dict[Action, Counter[str]]:
    """Action → label → payments, from ALLOW up."""
    return {action: Counter(one.label for one in payments if one.action is action) for action in Action if action}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
