"""Windows over many histories at once: the twin of `online.py` in columns, equal to it bit for bit.

Rows of some entities stand in order of (entity, event time, admission). Some of them are asked: those whose features
are wanted. A row is seen by a run of asked rows of its entity, from the first that comes late enough to see it to the
last whose window still reaches back to it. So every count or sum is: add at the start of each run, take away at its
end, and cumulate. Sums are int64 and exact; the one division at the end is `online.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.features.online import ABANDONED, ABANDONED_AFTER_US, PENDING
from engine.features.spec import Aggregate

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Runs = tuple[Ints, Ints, Ints]
"""Rows, and for each the run of asked rows that see it: first, and one past the last."""
LARGEST = 2**40
"""Summed values up to this size (1.1 million of a currency, in millionths) can't overflow here."""
_SPAN_MAX = 2**62


@dataclass(frozen=True)
class Rows:
    """Columns of log rows in order of (group, time, admission)."""

    group: Ints
    time_us: Ints
    seq: Ints
    """Place in the order of admission of all that arrived."""
    rank: Ints
    """Position within the whole log of its entity, by time; it stays when rows are grouped more finely."""
    flags: npt.NDArray[np.uint8]
    """(rows, flag columns)."""
    values: Ints
    """(rows, value columns)."""
    asked: Mask

    def __len__(self) -> int:
        return len(self.group)

    def take(self, chosen: Ints, group: Ints) -> Rows:
        """Some rows in another order, under other groups."""
        return Rows(
            group, self.time_us[chosen], self.seq[chosen], self.rank[chosen], self.flags[chosen],
            self.values[chosen], self.asked[chosen],
        )  # fmt: skip


@dataclass(frozen=True)
class Later:
    """What became known of rows after them: dispositions, or outcomes of one kind; in order of arrival."""

    row: Ints
    what: Ints
    """Disposition code; 0 for outcomes."""
    seq: Ints
    known_us: Ints

    def among(self, place: Ints) -> Later:
        """The same for rows that stand elsewhere: old row → new row, -1 where it isn't."""
        row = place[self.row]
        kept = row >= 0
        return Later(row[kept], self.what[kept], self.seq[kept], self.known_us[kept])


NOTHING = Later(*(np.zeros(0, np.int64) for _ in range(4)))


@dataclass(frozen=True)
class Answers:
    """One feature of the asked rows: the numbers, and where they are known."""

    numbers: Any
    known: Mask


def unanswered(aggregate: Aggregate, count: int) -> Answers:
    """An answer for nobody yet."""
    kinds: dict[str, Any] = {"int": np.int64, "double": np.float64}
    return Answers(np.zeros(count, kinds.get(aggregate.type, object)), np.zeros(count, np.bool_))


@dataclass(frozen=True)
class Histories:
    """Whole groups of rows, and what became known of them."""

    rows: Rows
    settled: Later
    outcomes: dict[str, Later]
    keep: int
    _windows: dict[tuple[int, int, int], tuple[Ints, Ints]] = field(default_factory=dict)

    def parts(self) -> Iterator[tuple[Histories, Ints]]:
        """Itself, or cut between groups so that moments fit into 64 bits; each with its rows' numbers here."""
        rows = self.rows
        if not len(rows):
            return
        starts = _starts(rows.group)
        ends = np.append(starts[1:], len(rows))
        total = np.cumsum((rows.time_us[ends - 1] - rows.time_us[starts]).astype(np.float64) + 3)
        cuts = np.searchsorted(total, np.arange(0, total[-1], _SPAN_MAX / 2)[1:])
        edges = np.unique(np.concatenate(([0], starts[np.minimum(cuts, len(starts) - 1)], [len(rows)])))
        for start, end in pairwise(edges):
            chosen = np.arange(start, end)
            yield (self if len(chosen) == len(rows) else self.take(chosen, rows.group[chosen])), chosen

    def take(self, chosen: Ints, group: Ints) -> Histories:
        """Some rows with what became known of them."""
        place = np.full(len(self.rows), -1)
        place[chosen] = np.arange(len(chosen))
        outcomes = {kind: later.among(place) for kind, later in self.outcomes.items()}
        return Histories(self.rows.take(chosen, group), self.settled.among(place), outcomes, self.keep)

    def asking(self, asked: Mask) -> Histories:
        """The same with other rows asked."""
        rows = self.rows
        chosen = Rows(rows.group, rows.time_us, rows.seq, rows.rank, rows.flags, rows.values, asked)
        return Histories(chosen, self.settled, self.outcomes, self.keep)

    @cached_property
    def asked(self) -> Ints:
        """Numbers of the rows that are asked."""
        return np.flatnonzero(self.rows.asked)

    @cached_property
    def _bounds(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Dense group of each row; and of each group its first time, its length and where its moments begin."""
        rows, starts = self.rows, _starts(self.rows.group)
        dense = np.zeros(len(rows), np.int64)
        dense[starts] = 1
        first = rows.time_us[starts]
        span = rows.time_us[np.append(starts[1:], len(rows)) - 1] - first
        base = np.concatenate(([0], np.cumsum(span + 3)[:-1]))
        return np.cumsum(dense) - 1, first, span, base

    def moment(self, row: Ints, time_us: Ints) -> Ints:
        """Times on one line for all groups; a time outside its group's is just before or after the group."""
        dense, first, span, base = self._bounds
        group = dense[row]
        moment: Ints = base[group] + 1 + np.clip(time_us - first[group], -1, span[group] + 1)
        return moment

    @cached_property
    def _moments(self) -> Ints:
        return self.moment(np.arange(len(self.rows)), self.rows.time_us)

    @cached_property
    def _asked_moments(self) -> Ints:
        return self._moments[self.asked]

    @cached_property
    def _asked_ranks(self) -> Ints:
        return self._in_group(self.asked, self.rows.rank[self.asked], int(self.rows.rank.max(initial=0)))

    @cached_property
    def _asked_seqs(self) -> Ints:
        return self._in_group(self.asked, self.rows.seq[self.asked], int(self.rows.seq.max(initial=0)))

    def _in_group(self, row: Ints, number: Ints, largest: int) -> Ints:
        """Small numbers on one line for all groups."""
        line: Ints = self._bounds[0][row] * (largest + 2) + np.minimum(number, largest + 1)
        return line

    def not_before(self, row: Ints, time_us: Ints) -> Ints:
        """The first asked row of the row's group that comes at or after a time."""
        found: Ints = np.searchsorted(self._asked_moments, self.moment(row, time_us))
        return found

    def after_rank(self, row: Ints, rank: Ints) -> Ints:
        """The first asked row of the group beyond a position."""
        line = self._in_group(row, rank, int(self.rows.rank.max(initial=0)))
        found: Ints = np.searchsorted(self._asked_ranks, line, "right")
        return found

    def after_seq(self, row: Ints, seq: Ints) -> Ints:
        """The first asked row of the group that was admitted after something."""
        line = self._in_group(row, seq, int(self.rows.seq.max(initial=0)))
        found: Ints = np.searchsorted(self._asked_seqs, line, "right")
        return found

    def reach(self, aggregate: Aggregate, row: Ints) -> tuple[Ints, Ints]:
        """For some rows the run of asked rows whose window holds it and whose log still keeps it."""
        start_us, rank = self.rows.time_us[row] + aggregate.offset_us, self.rows.rank[row]
        first = np.maximum(self.not_before(row, start_us), self.after_rank(row, rank))
        last = self.not_before(row, start_us + aggregate.window_us)
        last = np.minimum(last, self.after_rank(row, rank + self.keep))
        return first, np.maximum(first, last)

    def seen(self, aggregate: Aggregate, flag: int) -> Runs:
        """Runs of the rows that the filter lets through, cut to the time in which their disposition is wanted."""
        if not aggregate.dispositions:
            row = np.flatnonzero(self.rows.flags[:, flag])
            return row, *self.reach(aggregate, row)
        row, code, since, until = self._standing(flag)
        wanted = np.isin(code, aggregate.dispositions)
        row, since, until = row[wanted], since[wanted], until[wanted]
        first, last = self.reach(aggregate, row)
        begin = np.maximum(first, since)
        return row, begin, np.maximum(begin, np.minimum(last, until))

    def _standing(self, flag: int) -> tuple[Ints, Ints, Ints, Ints]:
        """Rows of a flag, each disposition that they had, and the asked rows to which they had it."""
        flagged, settled = np.flatnonzero(self.rows.flags[:, flag]), self.settled
        row = np.concatenate((flagged, settled.row))
        code = np.concatenate((np.full(len(flagged), PENDING), settled.what))
        since = np.concatenate((np.zeros(len(flagged), np.int64), self.after_seq(settled.row, settled.seq)))
        order = np.argsort(row, kind="stable")
        row, code, since = row[order], code[order], since[order]
        until = np.append(since[1:], len(self.asked))
        until[np.append(row[1:] != row[:-1], True)] = len(self.asked)
        mine = self.rows.flags[row, flag] == 1
        row, code, since, until = row[mine], code[mine], since[mine], until[mine]
        # pending for half an hour, then abandoned
        gives_up = self.not_before(row, self.rows.time_us[row] + ABANDONED_AFTER_US + 1)
        lost = code == PENDING
        return (
            np.concatenate((row, row[lost])),
            np.concatenate((code, np.full(int(lost.sum()), ABANDONED))),
            np.concatenate((since, np.maximum(since, gives_up)[lost])),
            np.concatenate((np.where(lost, np.minimum(until, gives_up), until), until[lost])),
        )

    def total(self, runs: Runs, weight: Ints | None = None) -> Ints:
        """For every asked row the sum of weights (or the number) of the rows that it sees."""
        _, first, last = runs
        change = np.zeros(len(self.asked) + 1, np.int64)
        np.add.at(change, first, 1 if weight is None else weight)
        np.subtract.at(change, np.maximum(first, last), 1 if weight is None else weight)
        total: Ints = np.cumsum(change)[:-1]
        return total

    def bounds(self, aggregate: Aggregate) -> tuple[Ints, Ints]:
        """For every asked row the rows first..last (end excluded) of its window."""
        window = (aggregate.window_us, aggregate.offset_us, aggregate.tile_us)
        if window not in self._windows:
            self._windows[window] = self._window(aggregate)
        return self._windows[window]

    def _window(self, aggregate: Aggregate) -> tuple[Ints, Ints]:
        asked, time_us = self.asked, self.rows.time_us[self.asked]
        end_us = time_us - aggregate.offset_us
        start_us = end_us - aggregate.window_us
        if aggregate.tile_us:  # all of the tile in which it begins, and however many rows
            start_us = start_us // aggregate.tile_us * aggregate.tile_us - 1
        first = np.searchsorted(self._moments, self.moment(asked, start_us), "right")
        if not aggregate.tile_us:
            first = np.maximum(first, asked - self.keep)
        last = asked
        if aggregate.offset_us:
            last = np.minimum(np.searchsorted(self._moments, self.moment(asked, end_us), "right"), asked)
        return np.minimum(first, last), last

    def tellable(self, aggregate: Aggregate) -> Mask:
        """Asked rows that are not older than the newest admitted before them by more than a tiled window."""
        rows = self.rows
        order = np.lexsort((rows.seq, rows.group))
        newest = np.empty(len(rows), np.int64)
        newest[order] = np.maximum.accumulate(self._moments[order])
        told: Mask = (newest - self._moments)[self.asked] <= aggregate.window_us
        return told


def _starts(group: Ints) -> Ints:
    return np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1]))) if len(group) else np.zeros(0, np.int64)


def plain(group: Ints, time_us: Ints, seq: Ints, rank: Ints, keep: int) -> Mask:
    """Rows that saw exactly what lies before them here: none before was admitted later, and truncation cut cleanly."""
    starts = _starts(group)
    size = np.diff(np.append(starts, len(group)))
    dense = np.repeat(np.arange(len(starts)), size)
    line = dense * (int(seq.max(initial=0)) + 2) + seq
    before = np.concatenate(([-1], np.maximum.accumulate(line)))[:-1]
    after = np.append(np.minimum.accumulate(line[::-1])[::-1], np.iinfo(np.int64).max)[1:]
    oldest = np.maximum(np.arange(len(rank)) - keep, 0)
    torn = (rank > keep) & (time_us[oldest] == time_us[oldest - 1])
    in_order: Mask = (line > before) & ((size[dense] <= keep) | (line < after)) & ~torn
    return in_order
