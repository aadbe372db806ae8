"""The measures over `Histories`: each gives one aggregate of every asked row, as `online.py` would."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.features.spec import MICRO, Aggregate
from engine.features.windows import Answers, Floats, Histories, Ints
from engine.schema import DISPUTES

Measure = Callable[[Histories, Aggregate, int, int, int], Answers]
"""(histories, aggregate, flag column, value column or -1, scale) → the aggregate of every asked row."""


Found = tuple[Ints, Ints, Ints]
"""Rows that a flag lets through, and for every asked row the first of them in its window and one past the last."""


def _found(histories: Histories, aggregate: Aggregate, flag: int) -> Found:
    flagged = histories.rows.flags[:, flag] == 1
    before = np.concatenate(([0], np.cumsum(flagged)))
    first, last = (before[bound] for bound in histories.bounds(aggregate))
    return np.flatnonzero(flagged), first, last


def _own(histories: Histories, aggregate: Aggregate, flag: int) -> Ints:
    """1 where the asked row itself counts."""
    own: Ints = histories.rows.flags[histories.asked, flag].astype(np.int64) * int(aggregate.include_current)
    return own


def count(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """How many."""
    found = _totals(histories, aggregate, flag)() + _own(histories, aggregate, flag)
    return Answers(found, np.ones(len(found), np.bool_))


def _totals(histories: Histories, aggregate: Aggregate, flag: int) -> Callable[..., Ints]:
    """Tells for every asked row the number of rows that it sees, or the sum of a weight that each row has.

    Without dispositions these are rows that stand together. Sums over all rows may wrap; those of a window fit.
    """
    if aggregate.dispositions:
        runs = histories.seen(aggregate, flag)
        return lambda weight=None: histories.total(runs, None if weight is None else weight[runs[0]])
    row, first, last = _found(histories, aggregate, flag)

    def totals(weight: Ints | None = None) -> Ints:
        if weight is None:
            return last - first
        sums = np.concatenate(([0], np.cumsum(weight[row])))
        return sums[last] - sums[first]

    return totals


def moments(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """Sum, mean and standard deviation, from integer moments."""
    totals, own = _totals(histories, aggregate, flag), _own(histories, aggregate, flag)
    values, mine = histories.rows.values[:, value], histories.rows.values[histories.asked, value] * own
    number, total = totals() + own, totals(values) + mine
    if aggregate.measure == "sum":
        return Answers(_divide(total, np.full(len(total), scale)) if scale > 1 else total, np.ones(len(own), np.bool_))
    known = number > 0
    count_scaled = np.maximum(number, 1) * scale
    if aggregate.measure == "mean":
        return Answers(_divide(total, count_scaled), known)
    squares = [totals(weight) + weight[histories.asked] * own for weight in _square(values)]
    return Answers(_spread(number, total, squares) / count_scaled, known)


def _square(values: Ints) -> tuple[Ints, Ints, Ints]:
    """Squares in three parts whose sums fit into 64 bits: × 2^40, × 2^20 and × 1."""
    high, low = np.abs(values) >> 20, np.abs(values) & 0xFFFFF
    return high * high, 2 * high * low, low * low


def _spread(number: Ints, total: Ints, squares: Sequence[Ints]) -> Floats:
    """Count times standard deviation, from whole numbers of any size."""
    high, middle, low = (part.astype(object) for part in squares)
    spread = number.astype(object) * (high * 2**40 + middle * 2**20 + low) - total.astype(object) ** 2
    return np.array([math.sqrt(item) for item in spread], np.float64)


def _divide(total: Ints, by: Ints) -> Floats:
    """Correctly rounded quotients, as Python's own division of whole numbers gives them."""
    quotient: Floats = total / by
    for index in np.flatnonzero((np.abs(total) >= 2**53) | (np.abs(by) >= 2**53)):
        quotient[index] = int(total[index]) / int(by[index])
    return quotient


def extreme(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """Smallest or largest value, from a table of the extremes of 1, 2, 4 … rows."""
    better: Any = np.minimum if aggregate.measure == "min" else np.maximum
    flagged, first, last = _found(histories, aggregate, flag)
    table, length = histories.rows.values[flagged, value], last - first
    found, known = np.zeros(len(first), np.int64), length > 0
    level = np.zeros(len(first), np.int64)
    level[known] = np.log2(length[known]).astype(np.int64)
    for power in range(int(level.max(initial=0)) + 1):
        here = known & (level == power)
        found[here] = better(table[first[here]], table[last[here] - 2**power])
        table = better(table[: -(2**power)], table[2**power :])
    own = _own(histories, aggregate, flag) == 1
    mine = histories.rows.values[histories.asked, value]
    found = np.where(own, np.where(known, better(found, mine), mine), found)
    return Answers(found / scale if scale > 1 else found, known | own)


def latest(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """The last value, or the seconds since the last event."""
    first, last = histories.bounds(aggregate)
    flagged = np.where(histories.rows.flags[:, flag] == 1, np.arange(len(histories.rows)), -1)
    newest = np.concatenate(([-1], np.maximum.accumulate(flagged)))[last]
    known = newest >= first
    newest = np.where(known, newest, 0)
    if aggregate.measure == "since_last":
        passed = histories.rows.time_us[histories.asked] - histories.rows.time_us[newest]
        return Answers(passed / 1_000_000, known)
    own = _own(histories, aggregate, flag) == 1
    number = np.where(own, histories.rows.values[histories.asked, value], histories.rows.values[newest, value])
    return Answers(number / scale if scale > 1 else number, known | own)


def earliest(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """The first value of the window, which is the asked row's own where there is none before."""
    flagged, first, last = _found(histories, aggregate, flag)
    known, own, asked = last > first, _own(histories, aggregate, flag) == 1, histories.asked
    number = histories.rows.values[np.where(known, np.append(flagged, 0)[first], asked), value]
    return Answers(number / scale if scale > 1 else number, known | own)


def median(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """The middle value, row by row: sorting is what columns can't share."""
    flagged, first, last = _found(histories, aggregate, flag)
    own = _own(histories, aggregate, flag)
    values, mine = histories.rows.values[flagged, value].tolist(), histories.rows.values[histories.asked, value]
    twice = np.zeros(len(first), np.int64)
    columns = (first.tolist(), last.tolist(), own.tolist(), mine.tolist())
    for at, (start, end, counts, one) in enumerate(zip(*columns, strict=True)):
        ordered = sorted(values[start:end] + [one] * counts)
        if ordered:
            twice[at] = ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]
    return Answers(_divide(twice, np.full(len(first), 2 * scale)), last - first + own > 0)


def ratio(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """The asked row's value against the mean of the window."""
    totals, mine = _totals(histories, aggregate, flag), histories.rows.values[histories.asked, value]
    number, total = totals(), totals(histories.rows.values[:, value])
    known = (total != 0) & (mine != 0)
    return Answers(_divide(mine * number, np.where(known, total, 1)), known)


def gaps(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """Mean or standard deviation of the seconds between one row of the window and the next."""
    flagged, first, last = _found(histories, aggregate, flag)
    times = histories.rows.time_us[flagged]
    some = last > first
    now = (_own(histories, aggregate, flag) == 1) & some
    until = np.where(now, histories.rows.time_us[histories.asked] - np.append(times, 0)[last - 1], 0)
    number = np.where(some, last - first - 1, 0) + now
    steps = np.diff(times, prepend=times[:1])

    def total(weight: Ints, own: Ints) -> Ints:
        """Sums may wrap on the way: only gaps within one window remain, and those fit."""
        sums = np.concatenate(([0], np.cumsum(weight)))
        return sums[last] - sums[np.minimum(first + 1, last)] + own

    length = total(steps, until)
    divisor = np.maximum(number, 1) * MICRO
    if aggregate.measure == "gap_mean":
        return Answers(_divide(length, divisor), number > 0)
    squares = [total(part, own) for part, own in zip(_square(steps), _square(until), strict=True)]
    return Answers(_spread(number, length, squares) / divisor, number > 0)


def distinct(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """How many different values: each is counted at its newest row, until a newer one is seen."""
    row, first, last = histories.seen(aggregate, flag)
    rows = histories.rows
    order = np.lexsort((row, rows.values[row, value], rows.group[row]))
    row, first, last = row[order], first[order], last[order]
    again = (rows.values[row[1:], value] == rows.values[row[:-1], value]) & (
        rows.group[row[1:]] == rows.group[row[:-1]]
    )
    last[:-1] = np.where(again, np.minimum(last[:-1], first[1:]), last[:-1])
    found = histories.total((row, first, last))
    if aggregate.include_current:
        own, seen = _own(histories, aggregate, flag), repeats(histories, aggregate, flag, value, scale)
        found += own * ~(seen.known & (seen.numbers > 0))
    return Answers(found, np.ones(len(found), np.bool_))


def repeats(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """How many with the asked row's own value: a count among the rows of that value."""
    rows = histories.rows
    chosen = np.flatnonzero(rows.values[:, value])
    chosen = chosen[np.lexsort((chosen, rows.values[chosen, value], rows.group[chosen]))]
    group, own = rows.group[chosen], rows.values[chosen, value]
    finer = np.cumsum(np.concatenate(([0], (group[1:] != group[:-1]) | (own[1:] != own[:-1])))[: len(chosen)])
    found, known = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    for part, place in histories.take(chosen, finer).parts():
        asked = chosen[place[part.asked]]
        found[asked], known[asked] = part.total(part.seen(aggregate, flag)), True
    return Answers(found[histories.asked], known[histories.asked])


def rate(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """Share of a window's rows with a wanted outcome known by then and no dispute won since."""
    total, end = _totals(histories, aggregate, flag)(), len(histories.asked)
    since = _known_from(histories, aggregate.outcomes)
    until = _known_from(histories, ("dispute_won",))
    row = np.flatnonzero((since < end) & (histories.rows.flags[:, flag] == 1))
    first, last = histories.reach(aggregate, row)
    first = np.maximum(first, since[row])
    bad = histories.total((row, np.minimum(first, end), np.minimum(last, until[row])))
    known = total > 0
    share = bad / np.maximum(total, 1)
    if aggregate.default is None:
        return Answers(share, known)
    return Answers(np.where(known, share, aggregate.default), np.ones(len(total), np.bool_))


def _known_from(histories: Histories, kinds: Sequence[str]) -> Ints:
    """For every row the first asked row to which one of these outcomes is known."""
    since = np.full(len(histories.rows), len(histories.asked))
    for later in (histories.outcomes[kind] for kind in kinds if kind in histories.outcomes):
        known = np.maximum(histories.not_before(later.row, later.known_us), histories.after_seq(later.row, later.seq))
        np.minimum.at(since, later.row, known)
    return since


def received(histories: Histories, aggregate: Aggregate, flag: int, value: int, scale: int) -> Answers:
    """How many outcomes became known within the window; a dispute won since takes those of its event out again."""
    found = np.zeros(len(histories.asked), np.int64)
    won = _known_from(histories, ("dispute_won",))
    for kind in (kind for kind in aggregate.outcomes if kind in histories.outcomes):
        later = histories.outcomes[kind]
        start_us = later.known_us + aggregate.offset_us
        told = histories.after_seq(later.row, later.seq)
        last = histories.not_before(later.row, start_us + aggregate.window_us)
        # Told again as known earlier, it counts from then on as that alone.
        order = np.lexsort((later.seq, later.row))
        again = later.row[order[1:]] == later.row[order[:-1]]
        before, after = order[:-1][again], order[1:][again]
        last[before] = np.minimum(last[before], told[after])
        if kind in DISPUTES:
            last = np.minimum(last, won[later.row])
        found += histories.total((later.row, np.maximum(histories.not_before(later.row, start_us), told), last))
    return Answers(found, np.ones(len(found), np.bool_))


FOLDS: dict[str, Measure] = {
    "count": count, "sum": moments, "mean": moments, "stddev": moments, "min": extreme, "max": extreme,
    "median": median, "ratio": ratio, "first": earliest, "last": latest, "since_last": latest, "gap_mean": gaps,
    "gap_stddev": gaps, "distinct": distinct, "repeats": repeats, "rate": rate, "count_received": received,
}  # fmt: skip
NEED_ONLINE = frozenset(
    {"min", "max", "median", "first", "last", "since_last", "gap_mean", "gap_stddev", "distinct"}
)  # fmt: skip
"""Measures whose rows can't be cut by disposition in columns; with `disposition:` they go the way of `online.py`."""
