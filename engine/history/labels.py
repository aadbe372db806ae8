"""What is known of payments at a time, how fast frauds become known, and which weeks can be judged yet.

A payment that was let through is fraud, good, of another class, or immature: too young to say. One that was stopped has
a label only where an outcome tells it; the others stay UNSEEN and are never counted as good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.batch.training import label_at
from engine.scoring.codec import DAY_US

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_TELLING = frozenset({"confirmed_good", "dispute_won"})
"""What tells of a payment that was stopped, beside fraud."""
Told = Sequence[tuple[str, int]]
"""(kind of outcome, known at µs)."""


class Label(IntEnum):
    """What a payment is known to be."""

    GOOD = 0
    FRAUD = 1
    OTHER = 2
    """A service dispute, friendly fraud, abuse: neither fraud nor good."""
    IMMATURE = 3
    UNSEEN = 4
    """Stopped, and nobody will ever tell."""


@dataclass(frozen=True, slots=True)
class Labels:
    """One label for each payment, as known at `as_of_us`."""

    codes: Codes
    known_us: Ints
    """When it was known; 0 where it is not."""
    as_of_us: int
    mature_after_us: int


def labels_of(
    time_us: Ints, let_through: Mask, outcomes: Mapping[int, Told], as_of_us: int, fraud: frozenset[str], mature_us: int
) -> Labels:
    """Labels of payments; `outcomes`: row → what was told of it, known at any time."""
    mature = time_us + mature_us <= as_of_us
    codes = np.where(let_through, np.where(mature, Label.GOOD, Label.IMMATURE), Label.UNSEEN).astype(np.int8)
    known = np.where(let_through & mature, time_us + mature_us, 0)
    for row, told in outcomes.items():
        heard = told if let_through[row] else [(kind, at) for kind, at in told if kind in fraud or kind in _TELLING]
        if heard and (let_through[row] or min(at for _, at in heard) <= as_of_us):
            found = label_at(int(time_us[row]), heard, as_of_us, fraud, mature_us)
            if found is not None:
                codes[row] = Label.OTHER if found.fraud is None else int(found.fraud)
                known[row] = found.known_us
    return Labels(codes, known, as_of_us, mature_us)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Share of all frauds that is known so many days after the payment, 0..1, from what arrived so far."""

    share: Floats
    """By whole days, from 0 on."""
    frauds: int
    """So many labels it was learnt from."""

    def at(self, age_us: Ints) -> Floats:
        """The share that is expected to be known of payments of an age; 1 beyond the slowest label that was seen."""
        days = np.clip(age_us // DAY_US, 0, len(self.share) - 1)
        found: Floats = self.share[days]
        return found


def arrival(time_us: Ints, labels: Labels) -> Arrival:
    """The arrival curve. Young payments have only their fast labels, so each step is counted among those old enough.

    Going back from the slowest label: of the frauds old enough that a delay of d days can be seen, the share that took
    exactly d did not have theirs before (the estimator for right-truncated times; actuaries call it chain ladder).
    """
    chosen = labels.codes == Label.FRAUD
    delay = np.maximum(labels.known_us - time_us, 0)[chosen] // DAY_US
    age = (labels.as_of_us - time_us[chosen]) // DAY_US
    share = np.ones(int(delay.max(initial=0)) + 1)
    for day in range(len(share) - 1, 0, -1):
        told_by_then = int(((delay <= day) & (age >= day)).sum())
        share[day - 1] = share[day] * (1 - int((delay == day).sum()) / told_by_then if told_by_then else 1)
    return Arrival(share, int(chosen.sum()))


def weeks(time_us: Ints, labels: Labels, curve: Arrival) -> list[dict[str, Any]]:
    """Every week, oldest first: its Monday, payments, frauds known so far, and how far it can be judged.

    `decided`: share of what was let through whose label is known; `arrived`: share of its frauds that is expected to be
    known by now; `unseen`: stopped, without a label; `mature`: all of it is old enough.
    """
    monday, age = monday_of(time_us), labels.as_of_us - time_us
    expected, found = curve.at(age), []
    for day in np.unique(monday):
        codes = labels.codes[here := monday == day]
        through = codes[codes != Label.UNSEEN]
        found.append({
            "week": day_of(int(day)).isoformat(), "payments": len(codes), "fraud": int((codes == Label.FRAUD).sum()),
            "decided": float((through != Label.IMMATURE).mean()) if len(through) else 1.0,
            "arrived": float(expected[here].mean()), "unseen": len(codes) - len(through),
            "mature": bool((age[here] >= labels.mature_after_us).all()),
        })  # fmt: skip
    return found


def monday_of(time_us: Ints) -> Ints:
    """The Monday of each time's week, in days since 1970 (which began on a Thursday), UTC."""
    day = time_us // DAY_US
    monday: Ints = day - (day + 3) % 7
    return monday


def day_of(day: int) -> date:
    """The date of a number of days since 1970."""
    return datetime.fromtimestamp(day * 86_400, UTC).date()
