"""Offline: what a model is worth on labelled rows, in ranking, in alerts a day, and as a probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from engine.errors import ModelError
from engine.scoring.codec import DAY_US
from engine.scoring.manifest import Threshold

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
GROUPS = 10
GROUPS_WANTED = 8
"""So many groups of scores must have their fraud inside the interval: of ten, one is outside now and then by chance."""


def evaluate(scores: Floats, fraud: Mask, time_us: Ints, group: Ints, alerts_per_day: int = 100) -> dict[str, float]:
    """All metrics of calibrated scores, by name.

    `auc` and `average_precision` (0..1, higher is better), `card_precision_K` (see `card_precision`), `brier` and
    `log_loss` (lower is better), `rows`, `fraud` (observed), `expected` (sum of the scores) with its 95 % Poisson
    interval `expected_low` and `expected_high`, `groups_that_fit` (of the ten of `reliability`).
    """
    if not fraud.any() or fraud.all():
        raise ModelError(f"nothing can be measured on {len(fraud)} rows with {int(fraud.sum())} frauds")
    (total,) = reliability(scores, fraud, 1)
    return {
        "rows": float(len(fraud)),
        "fraud": float(fraud.sum()),
        "expected": total.expected,
        "expected_low": total.low,
        "expected_high": total.high,
        "groups_that_fit": float(sum(group.fits for group in reliability(scores, fraud))),
        "auc": float(roc_auc_score(fraud, scores)),
        "average_precision": float(average_precision_score(fraud, scores)),
        f"card_precision_{alerts_per_day}": card_precision(scores, fraud, time_us, group, alerts_per_day),
        "brier": float(brier_score_loss(fraud, scores)),
        "log_loss": float(log_loss(fraud, scores)),
    }


def calibration_verdict(metrics: Mapping[str, float]) -> tuple[bool, str]:
    """Whether scores of test rows can be read as probabilities, from what `evaluate` gave; and that in words."""
    fraud, groups = metrics["fraud"], metrics["groups_that_fit"]
    total = metrics["expected_low"] <= fraud <= metrics["expected_high"]
    told = (
        f"{fraud:,.0f} frauds where {metrics['expected']:,.0f} were expected (95 %: {metrics['expected_low']:,.0f} to "
        f"{metrics['expected_high']:,.0f}), {groups:.0f} of {GROUPS} score groups fit"
    )
    if total and groups >= GROUPS_WANTED:
        return True, f"calibration holds: {told}"
    return False, f"calibration does not hold: {told}; calibrate on a later window, with `calibrate:`"


def card_precision(scores: Floats, fraud: Mask, time_us: Ints, group: Ints, k: int) -> float:
    """Card precision@k as the Fraud Detection Handbook (chapter 4, "Precision top-k metrics") defines it, 0..1.

    Each UTC day the k cards with the highest score of the day are checked; its value is the share of them with a fraud
    that day, of k. A card found is blocked, and left out of later days. The result is the mean over the days. Ties go
    to the smaller group number.
    """
    day = time_us // DAY_US
    found: Ints = np.empty(0, np.int64)
    shares = []
    for today in np.unique(day):
        here = (day == today) & ~np.isin(group, found)
        cards, card = np.unique(group[here], return_inverse=True)
        best, caught = np.full(len(cards), -np.inf), np.zeros(len(cards), np.bool_)
        np.maximum.at(best, card, scores[here])
        np.logical_or.at(caught, card, fraud[here])
        checked = np.argsort(-best, kind="stable")[:k]
        hits = cards[checked[caught[checked]]]
        found = np.concatenate([found, hits])
        shares.append(len(hits) / k)
    return float(np.mean(shares))


def at_threshold(scores: Floats, fraud: Mask, from_score: float) -> tuple[float, float]:
    """Precision and recall when everything at or above `from_score` is called fraud; precision 0 if nothing is."""
    called = scores >= from_score
    hits = float((called & fraud).sum())
    return (hits / float(called.sum()) if called.any() else 0.0), hits / float(fraud.sum())


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of similar score: how much fraud was expected and how much was there."""

    from_score: float
    rows: int
    expected: float
    observed: int
    low: float
    """Bounds of the 95 % Poisson interval around `expected`."""
    high: float

    @property
    def fits(self) -> bool:
        """Whether the observed fraud lies in the interval."""
        return self.low <= self.observed <= self.high


def reliability(scores: Floats, fraud: Mask, groups: int = GROUPS) -> tuple[Group, ...]:
    """Groups of equal size by score, lowest first."""
    order = np.argsort(scores, kind="stable")
    return tuple(_group(scores[part], fraud[part]) for part in np.array_split(order, groups) if len(part))


def _group(scores: Floats, fraud: Mask) -> Group:
    expected = float(scores.sum())
    low, high = poisson.ppf([0.025, 0.975], expected)
    return Group(float(scores.min()), len(scores), expected, int(fraud.sum()), float(low), float(high))


def propose(scores: Floats, fraud: Mask, targets: dict[str, float]) -> tuple[Threshold, ...]:
    """For each name the lowest score from which on precision reaches its target (0..1); left out where none does."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(fraud[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # a threshold takes all rows of an equal score
    precision = hits / np.arange(1, len(ranked) + 1)
    proposals = []
    for name, target in targets.items():
        reached = np.flatnonzero(last & (precision >= target))
        if len(reached):
            at = reached[-1]
            recall = float(hits[at] / fraud.sum())
            proposals.append(Threshold(name, float(ranked[at]), float(precision[at]), recall))
    return tuple(proposals)
