"""Offline: what a model is worth on labelled rows, in ranking, in alerts a day, and as a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import poisson
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from engine.errors import ModelError
from engine.scoring.codec import DAY_US
from engine.scoring.config import Money
from engine.scoring.manifest import Threshold

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
REPEATS = 200
"""Times that cards are drawn for an interval."""
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
        **ranked(scores, fraud, time_us, group, alerts_per_day),
        "brier": float(brier_score_loss(fraud, scores)),
        "log_loss": float(log_loss(fraud, scores)),
    }


def ranked(margins: Floats, fraud: Mask, time_us: Ints, group: Ints, alerts_per_day: int) -> dict[str, float]:
    """The metrics that need an order only: `auc`, `average_precision`, `card_precision_K`."""
    return {
        "auc": float(roc_auc_score(fraud, margins)),
        "average_precision": float(average_precision_score(fraud, margins)),
        f"card_precision_{alerts_per_day}": card_precision(margins, fraud, time_us, group, alerts_per_day),
    }


def called(scores: Floats, fraud: Mask, from_score: float) -> dict[str, float]:
    """`accuracy`, `precision`, `recall` and `f1` (0..1) when everything at or above `from_score` is called fraud."""
    precision, recall = at_threshold(scores, fraud, from_score)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    accuracy = float(np.mean((scores >= from_score) == fraud))
    return {"threshold": from_score, "accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


@dataclass(frozen=True, slots=True)
class Curve:
    """What calling everything from a score on fraud gives, from the highest distinct score to the lowest."""

    from_score: Floats
    alerts: Floats
    precision: Floats
    recall: Floats
    saved: Floats | None
    """Money, in the units of the amount; None when no amounts are known."""

    @property
    def f1(self) -> Floats:
        """The harmonic mean of precision and recall."""
        f1: Floats = 2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12)
        return f1


def curve(scores: Floats, fraud: Mask, amount: Floats | None = None, money: Money = Money()) -> Curve:  # noqa: B008 - frozen
    """All thresholds at once.

    Money saved is the frauds' amounts that are stopped, less `per_alert` for each alert, less `good_share` of the good
    amounts that are stopped. An amount that is NaN counts as 0.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # a threshold takes all rows of an equal score
    alerts, hits = np.arange(1.0, len(scores) + 1), np.cumsum(fraud[order]).astype(np.float64)
    gained: Floats | None = None
    if amount is not None:
        value = np.nan_to_num(amount[order])
        gained = np.cumsum(np.where(fraud[order], 1.0, -money.good_share) * value - money.per_alert)[last]
    return Curve(scores[order][last], alerts[last], (hits / alerts)[last], (hits / max(1, fraud.sum()))[last], gained)


def saved(scores: Floats, fraud: Mask, amount: Floats, from_score: float, money: Money) -> float:
    """Money saved, as `curve` says it, when everything at or above `from_score` is stopped."""
    stopped, value = scores >= from_score, np.nan_to_num(amount)
    return float(
        value[stopped & fraud].sum()
        - money.per_alert * stopped.sum()
        - money.good_share * value[stopped & ~fraud].sum()
    )


def best_threshold(scores: Floats, fraud: Mask) -> float:
    """The score from which on F1 is highest."""
    found = curve(scores, fraud)
    return float(found.from_score[found.f1.argmax()])


def intervals(
    scores: Floats, fraud: Mask, time_us: Ints, group: Ints, alerts_per_day: int, from_score: float, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """95 % bootstrap interval of each metric: cards are drawn, not rows, because those of one card fall together."""
    random, (cards, card) = np.random.default_rng(seed), np.unique(group, return_inverse=True)
    order = np.argsort(-scores, kind="stable")
    ranked_scores, hit, whose = scores[order], fraud[order].astype(np.float64), card[order]
    last = np.flatnonzero(np.append(np.diff(ranked_scores) != 0, True))
    at = int(np.searchsorted(-ranked_scores[last], -from_score, side="right")) - 1
    sure = np.clip(ranked_scores, 1e-15, 1 - 1e-15)
    losses = np.stack([(ranked_scores - hit) ** 2, -np.log(np.where(hit > 0, sure, 1 - sure))])
    days = _days(scores, fraud, time_us, card)
    found: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        drawn = np.bincount(random.integers(0, len(cards), len(cards)), minlength=len(cards)).astype(np.float64)
        weight = drawn[whose]
        true, false = (np.cumsum(weight * part)[last] for part in (hit, 1 - hit))
        if not true[-1] or not false[-1]:
            continue
        gained, precision = np.diff(true, prepend=0.0), true / np.maximum(true + false, 1e-12)
        tp, fp = (true[at], false[at]) if at >= 0 else (0.0, 0.0)
        for name, value in {
            "auc": (np.diff(false, prepend=0.0) * (true - gained / 2)).sum() / (true[-1] * false[-1]),
            "average_precision": (gained * precision).sum() / true[-1],
            f"card_precision_{alerts_per_day}": _drawn_card_precision(days, drawn, alerts_per_day),
            "accuracy": (tp + false[-1] - fp) / (true[-1] + false[-1]),
            "precision": tp / (tp + fp) if tp + fp else 0.0, "recall": tp / true[-1],
            "f1": 2 * tp / (tp + fp + true[-1]),
            **dict(zip(("brier", "log_loss"), (losses * weight).sum(axis=1) / weight.sum(), strict=True)),
        }.items():  # fmt: skip
            found.setdefault(name, []).append(float(value))
    return {name: tuple(np.quantile(values, (0.025, 0.975)).tolist()) for name, values in found.items()}


def _days(scores: Floats, fraud: Mask, time_us: Ints, card: Ints) -> list[tuple[Ints, Mask]]:
    """For each UTC day its cards from the highest score to the lowest, and which of them had a fraud."""
    found = []
    for today in np.unique(time_us // DAY_US):
        here = time_us // DAY_US == today
        cards, place = np.unique(card[here], return_inverse=True)
        best, caught = np.full(len(cards), -np.inf), np.zeros(len(cards), np.bool_)
        np.maximum.at(best, place, scores[here])
        np.logical_or.at(caught, place, fraud[here])
        down = np.argsort(-best, kind="stable")
        found.append((cards[down], caught[down]))
    return found


def _drawn_card_precision(days: Sequence[tuple[Ints, Mask]], drawn: Floats, k: int) -> float:
    """Card precision@k when each card stands there as often as it was drawn."""
    left, shares = drawn.copy(), []
    for cards, caught in days:
        often = left[cards]
        checked = np.clip(k - (np.cumsum(often) - often), 0, often)
        shares.append((checked * caught).sum() / k)
        left[cards[caught & (checked > 0)]] = 0.0
    return float(np.mean(shares))


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
    cards, card = np.unique(group, return_inverse=True)
    return _drawn_card_precision(_days(scores, fraud, time_us, card), np.ones(len(cards)), k)


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
