"""Money of decisions: micro-units of the policy's base currency, losses, and how sure a sum is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.history.labels import Floats, Ints

MICRO = 1_000_000
DRAWS = 1_000
MANY = 20_000
"""So many groups make the sums of a bootstrap normal; then their covariance, which is known, is drawn from."""
_CHUNK = 4_000_000


class Interval(NamedTuple):
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def loss_micro(amount_micro: int, claims: Mapping[str, Sequence[int | None]]) -> int:
    """What a fraud cost: parts of one kind add up, a warning and a chargeback of it are one loss, never above the
    payment. A claim without an amount (None) is about all of it."""
    sums = [amount_micro if None in parts else sum(part or 0 for part in parts) for parts in claims.values()]
    return min(amount_micro, max(sums, default=amount_micro)) if amount_micro > 0 else max(sums, default=0)


def resampled(group: Ints, columns: Sequence[Ints | Floats], seed: int = 7) -> Floats:
    """Totals of columns in `DRAWS` histories that could have been as well: draw × column.

    Whole groups (a card, a person) are drawn, since their payments stand and fall together; a group comes as often as
    Poisson(1) says, which is the bootstrap of groups. Same numbers, same answer.
    """
    _, place = np.unique(group, return_inverse=True)
    sums = np.stack([np.bincount(place, column) for column in columns], axis=1) if len(place) else np.zeros((0, 1))
    sums = sums[(sums != 0).any(axis=1)]
    random = np.random.default_rng(seed)
    if not len(sums):
        return np.zeros((DRAWS, len(columns)))
    if len(sums) > MANY:
        drawn: Floats = random.multivariate_normal(sums.sum(axis=0), sums.T @ sums, DRAWS, method="eigh")
        return drawn
    step = max(1, _CHUNK // len(sums))
    parts = [random.poisson(1, (min(step, DRAWS - at), len(sums))) @ sums for at in range(0, DRAWS, step)]
    return np.concatenate(parts)


def interval(
    group: Ints, columns: Sequence[Ints | Floats], of: Callable[[Floats], Floats] = lambda totals: totals[..., 0]
) -> Interval:
    """What `of` makes of the totals of columns, with its interval; `of` gets (…, column) and gives (…)."""
    value = float(of(np.array([[float(column.sum()) for column in columns]]))[0])
    low, high = np.quantile(of(resampled(group, columns)), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def ratio(totals: Floats) -> Floats:
    """First column by second, 0 where the second is."""
    below = totals[..., 1]
    found: Floats = np.divide(totals[..., 0], below, out=np.zeros_like(below), where=below != 0)
    return found


def money_text(micro: float, currency: str, signed: bool = False) -> str:
    """Micro-units as a text with two decimals: `1,234.50 EUR`."""
    return f"{micro / MICRO:{'+' if signed else ''},.2f} {currency}"
