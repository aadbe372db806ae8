"""Features of one event, computed from the states that its admission returned.

`entries` says what the event puts into each log; `compute` reads the windows. Both are derived once from the feature
set. An aggregate of an entity that the event does not name is absent from the row, so it is UNKNOWN to rules.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress, pairwise
from operator import and_, mul
from typing import Any, NamedTuple

from engine.eventlog import ATTEMPT, DISPOSITION, FIXED, ID, TIME, Filter, LogLayout, LogView, hash64, shape_of
from engine.features.spec import HEADS, MICRO, Aggregate, FeatureSet, scale_of, value_column
from engine.schema import DISPOSITIONS, DISPUTES, ENTITIES, FIELDS
from engine.values import EntityEvent, EntityState, Event, Row

PENDING, ABANDONED = DISPOSITIONS.index("pending"), DISPOSITIONS.index("abandoned")
ABANDONED_AFTER_US = 30 * 60_000_000
DAY_US = 86_400_000_000
CREATED = "user.account_created"
_NOTHING: Mapping[str, Any] = {}
KeyOf = Callable[[str, str], bytes]
"""(entity, value) → profile key."""


class Current(NamedTuple):
    """The current event as a window sees it: its own entry and the time as of which it is decided."""

    entry: EntityEvent
    as_of_us: int
    head: Mapping[str, Any]


Finish = Callable[[list[int], Current], float | int | None]
"""What the chosen rows hold in one column, oldest first → the aggregate's value; None when it can't be known."""


class OnlineFeatures:
    """A feature set, ready to be computed event by event."""

    def __init__(
        self, features: FeatureSet, layouts: Mapping[str, LogLayout], steps: Mapping[str, Filter] | None = None
    ) -> None:
        """`steps`: the filters behind flag columns that belong to patterns, by column name."""
        self._features = features
        self.layouts = layouts
        self.shape = shape_of({entity: layout.digest for entity, layout in layouts.items()})
        self._filters = {a.filter.name: a.filter for a in features.aggregates} | dict(steps or {})
        self._cells = {column: cell_of(column) for layout in layouts.values() for column in layout.values}
        self._plans = {entity: _Plan(layout, features.aggregates) for entity, layout in layouts.items()}
        self._by_kind: dict[str, tuple[frozenset[str], tuple[tuple[str, Filter], ...]]] = {}

    def entries(self, event: Event, row: Row, key_of: KeyOf, *, late: bool = False) -> tuple[EntityEvent, ...]:
        """What the event puts into the logs of its entities; a late one is kept but sets no flag and is no attempt."""
        event_id = hash64(event.id)
        attempt = 0 if late else _attempt(event, row)
        passed = frozenset() if late or attempt < 0 else self._passed(event.kind, row)
        cells = {column: cell(row) for column, cell in self._cells.items()}
        found = []
        for entity, layout in self.layouts.items():
            value = row.get(ENTITIES[entity])
            if value is not None:
                flags = bytes([name in passed for name in layout.flags])
                values = tuple([cells[column] for column in layout.values])
                said = told_by(layout, event.kind, event.time_us, row)
                key = key_of(entity, value)
                found.append(EntityEvent(entity, key, event_id, event.time_us, max(attempt, 0), flags, values, said))
        return tuple(found)

    def _passed(self, kind: str, row: Row) -> frozenset[str]:
        """Names of the flag columns that the event sets, whichever log they belong to."""
        known = self._by_kind.get(kind)
        if known is None:
            mine = {name: f for name, f in self._filters.items() if not f.on or kind in f.on}
            always = frozenset(name for name, f in mine.items() if not f.of and f.test is None)
            known = self._by_kind[kind] = always, tuple(item for item in mine.items() if item[0] not in always)
        return known[0].union([name for name, f in known[1] if f.passes(kind, row)])

    def compute(
        self, row: Row, entries: Sequence[EntityEvent], states: Mapping[str, EntityState], as_of_us: int
    ) -> list[str]:
        """Put every feature into the row; returns the names of those that reach past a log's oldest kept event."""
        truncated: list[str] = []
        for entry in entries:
            state = states.get(entry.entity)
            if state is not None:
                self._plans[entry.entity].compute(row, Current(entry, as_of_us, state.head), state.log, truncated)
        self.derive(row)
        return truncated

    def look(self, current: Current, log: bytes) -> Row:
        """The windows of one entity alone, over a log in order of admission."""
        row: Row = {}
        self._plans[current.entry.entity].compute(row, current, log, [])
        return row

    def derive(self, row: Row) -> None:
        """Put the derived features into the row, as far as what they need is known."""
        for derived in self._features.derived:
            value = derived.value(row)
            if value is not None:
                row[derived.name] = value


def told_by(layout: LogLayout, kind: str, time_us: int, row: Row) -> Mapping[str, Any]:
    """What an event tells about an entity itself."""
    said = {name: row[name] for name in layout.told if name in row} if layout.told else _NOTHING
    return {**said, CREATED: time_us} if layout.entity == "user" and kind == "account_created" else said


def _attempt(event: Event, row: Row) -> int:
    """64-bit key of (payment, card), so that a retry counts once; 0 = counts by itself, -1 = a declared retry."""
    if event.kind != "payment":
        return 0
    if "payment.retry_of" in row:
        return -1
    payment = row.get("payment.id")
    return abs(hash64(f"{payment}\0{row.get('card.token', '')}")) if payment else 0


class _Choice:
    """Some rows of a window, and all the aggregates over just these: they are chosen once."""

    def __init__(self, flag: int, dispositions: tuple[int, ...]) -> None:
        self._flag = flag
        wanted = [code in dispositions or not dispositions for code in range(len(DISPOSITIONS))]
        overdue = [wanted[ABANDONED] if code == PENDING else is_wanted for code, is_wanted in enumerate(wanted)]
        # Disposition code → whether it is chosen; a payment that is pending for too long counts as abandoned.
        self._recent, self._older = (bytes(codes).ljust(256, b"\0") for codes in (wanted, overdue))
        self._by_disposition = bool(dispositions)
        self._counts: list[tuple[str, bool]] = []
        self._columns: dict[int, list[tuple[str, Finish]]] = {}

    def add(self, aggregate: Aggregate, layout: LogLayout) -> None:
        """One more aggregate over these rows."""
        if aggregate.measure == "count":
            self._counts.append((aggregate.name, aggregate.include_current))
        else:
            column, finish = _finish(aggregate, self._flag, layout)
            self._columns.setdefault(column, []).append((aggregate.name, finish))

    def fold(self, row: Row, view: LogView, first: int, last: int, now: Current) -> None:
        """Put the aggregates that can be known into the row; `first` and `last` (excluded) bound the window."""
        mask = self._mask(view, first, last, now) if self._by_disposition else view.flag(self._flag, first, last)
        hits = mask.count(1)
        for name, own in self._counts:
            row[name] = hits + (own and now.entry.flags[self._flag])
        for index, wanted in self._columns.items():
            column = view.column(index, first, last)
            chosen = column if hits == last - first else list(compress(column, mask))
            for name, finish in wanted:
                value = finish(chosen, now)
                if value is not None:
                    row[name] = value

    def _mask(self, view: LogView, first: int, last: int, now: Current) -> bytes:
        """One byte 0|1 a row of the window: the filter let it through, and what became of its payment is wanted."""
        codes = view.flag(DISPOSITION, first, last)
        done = bisect_left(view.times, now.as_of_us - ABANDONED_AFTER_US, first, last) - first
        wanted = codes[:done].translate(self._older) + codes[done:].translate(self._recent)
        return bytes(map(and_, view.flag(self._flag, first, last), wanted))


class _Tiled:
    """One tiled aggregate: the totals of the tiles from the window's first on, less the rows newer than the event."""

    def __init__(self, aggregate: Aggregate, layout: LogLayout) -> None:
        self.aggregate, self._tile, self._keep = aggregate, aggregate.tile, layout.keep
        self._flag = layout.flags.index(aggregate.filter.name)
        self._value = layout.values.index(self._tile.value) if self._tile.value else -1
        self._scale = scale_of(FIELDS[aggregate.of].type) if aggregate.of else 1

    def value(self, view: LogView, now: Current) -> float | int | None:
        """None too for an event that is older than the newest by more than the window, or than all rows kept."""
        times, last = view.times, bisect_right(view.times, now.as_of_us)
        newer = len(times) - last
        if newer and (newer >= self._keep or times[-1] - now.as_of_us > self._tile.window_us):
            return None
        first = (now.as_of_us - self._tile.window_us) // self._tile.size_us
        count = total = squares = 0
        for at, cell in now.head.get("tiles", {}).get(self._tile.name, {}).items():
            if int(at) >= first:
                count, total, squares = count + cell[0], total + int(cell[1]), squares + int(cell[2])
        for value in self._newer(view, last):
            count, total, squares = count - 1, total - value, squares - value * value
        if self.aggregate.include_current and now.entry.flags[self._flag]:
            own = now.entry.values[self._value] if self._tile.value else 0
            count, total, squares = count + 1, total + own, squares + own * own
        return self._of(count, total, squares)

    def _newer(self, view: LogView, first: int) -> Iterator[int]:
        """Values of the rows from a place on that the filter let through."""
        values = view.column(FIXED + self._value if self._tile.value else TIME, first)
        chosen = compress(values, view.flag(self._flag, first))
        return chosen if self._tile.value else (0 for _ in chosen)

    def _of(self, count: int, total: int, squares: int) -> float | int | None:
        if self.aggregate.measure == "count":
            return count
        if self.aggregate.measure == "sum":
            return total / self._scale if self._scale > 1 else total
        if self.aggregate.measure == "mean":
            return total / (count * self._scale) if count else None
        return _spread(count, total, squares, self._scale) if count else None


class _Plan:
    """The windows over one entity's log, grouped so that bounds are found and rows are chosen once."""

    def __init__(self, layout: LogLayout, aggregates: Sequence[Aggregate]) -> None:
        self.layout = layout
        mine = [a for a in aggregates if a.entity == layout.entity]
        self._ages = [(a.name, a.of) for a in mine if a.measure == "age"]
        self._told = [(a.name, a.of, a.include_current) for a in mine if a.measure == "told"]
        self._counts_own = any(a.include_current for a in mine)
        self._windows: dict[tuple[int, int], dict[tuple[int, tuple[int, ...]], _Choice]] = {}
        self._names: dict[tuple[int, int], list[str]] = {}
        self._tiled = [_Tiled(a, layout) for a in mine if a.tile_us]
        for aggregate in mine:
            if aggregate.measure not in HEADS and not aggregate.tile_us:
                window = (aggregate.window_us, aggregate.offset_us)
                dispositions = () if aggregate.outcomes else aggregate.dispositions
                rows = (layout.flags.index(aggregate.filter.name), dispositions)
                self._windows.setdefault(window, {}).setdefault(rows, _Choice(*rows)).add(aggregate, layout)
                self._names.setdefault(window, []).append(aggregate.name)

    def compute(self, row: Row, current: Current, log: bytes, truncated: list[str]) -> None:
        """Put this entity's aggregates into the row."""
        entry = current.entry
        if self._counts_own and entry.attempt and self.layout.position(log, ATTEMPT, entry.attempt) >= 0:
            # a further try of an attempt that is counted already
            current = current._replace(entry=entry._replace(flags=bytes(len(entry.flags))))
        view = LogView(self.layout, log, current.head.get("dropped", 0))
        times = view.times
        count, newest = len(times), times[-1] if times else 0
        for window, choices in self._windows.items():
            end = current.as_of_us - window[1]
            start = end - window[0]
            last = count if newest <= end else bisect_right(times, end)
            first = bisect_right(times, start, 0, last)
            for choice in choices.values():
                choice.fold(row, view, first, last, current)
            if view.cut_us > start:
                truncated += self._names[window]
        for tiled in self._tiled:
            if (known := tiled.value(view, current)) is not None:
                row[tiled.aggregate.name] = known
        for name, of in self._ages:
            told = row.get(of) or current.head.get("attr", {}).get(of, (0,))[0] if of else 0
            row[name] = age_days(told, current.head.get("first"), current.as_of_us)
        for name, of, own in self._told:
            value = row[of] if own and of in row else current.head.get("attr", {}).get(of, (None,))[0]
            if value is not None:
                row[name] = value


def age_days(told_us: int, first_us: int | None, as_of_us: int) -> float:
    """Age of an entity: since the date that was told (0 = none), else since it was first seen, else 0."""
    born_us = told_us or (as_of_us if first_us is None else first_us)
    return (as_of_us - min(born_us, as_of_us)) / DAY_US


def cell_of(column: str) -> Callable[[Row], int]:
    """What an event puts into a value column."""
    how, _, field = column.partition(":")
    if how == "hash":
        return lambda row: hash64(str(value)) if (value := row.get(field)) is not None else 0
    scale = scale_of(FIELDS[field].type)
    if scale == 1:
        return lambda row: int(row.get(field, 0))
    return lambda row: round(row.get(field, 0.0) * scale)


def _finish(aggregate: Aggregate, flag: int, layout: LogLayout) -> tuple[int, Finish]:
    """The column of a log that an aggregate reads, and how the chosen rows become its value."""
    if aggregate.measure == "since_last":
        return TIME, lambda times, now: (now.as_of_us - times[-1]) / MICRO if times else None
    if aggregate.measure in {"rate", "count_received"}:
        return ID, _rate(aggregate) if aggregate.measure == "rate" else _received(aggregate)
    if aggregate.measure in {"gap_mean", "gap_stddev"}:
        return TIME, _gaps(aggregate, flag)
    value = layout.values.index(value_column(aggregate))
    index = FIXED + value
    if aggregate.measure == "repeats":
        return index, lambda values, now: values.count(own) if (own := now.entry.values[value]) else None
    if aggregate.measure == "ratio":
        return index, lambda values, now: _ratio(now.entry.values[value], values)
    fold = _MEASURES[aggregate.measure](scale_of(FIELDS[aggregate.of].type))
    if not aggregate.include_current:
        return index, lambda values, now: fold(values)
    return index, lambda values, now: fold([*values, now.entry.values[value]] if now.entry.flags[flag] else values)


def _ratio(own: int, values: list[int]) -> float | None:
    """A value against the mean of others, by one division."""
    total = sum(values)
    return own * len(values) / total if own and total else None


def _gaps(aggregate: Aggregate, flag: int) -> Finish:
    """Over the seconds between one event and the next; `include_current`: and from the last one until now."""
    fold = (_mean if aggregate.measure == "gap_mean" else _stddev)(MICRO)

    def gaps(times: list[int], now: Current) -> float | int | None:
        if aggregate.include_current and now.entry.flags[flag]:
            times = [*times, now.as_of_us]
        return fold([later - earlier for earlier, later in pairwise(times)])

    return gaps


def _rate(aggregate: Aggregate) -> Finish:
    wanted = frozenset(aggregate.outcomes)

    def rate(ids: list[int], now: Current) -> float | None:
        if not ids:
            return aggregate.default
        known = bad_events(now.head.get("out", ()), wanted, now.as_of_us)
        return sum(1 for event_id in ids if event_id in known) / len(ids)

    return rate


def _received(aggregate: Aggregate) -> Finish:
    wanted = frozenset(aggregate.outcomes)

    def received(_: list[int], now: Current) -> int:
        end = now.as_of_us - aggregate.offset_us
        start = end - aggregate.window_us
        told = now.head.get("out", ())
        won = won_by(told, now.as_of_us)
        return sum(
            kind in wanted and start < known_us <= end and not (event_id in won and kind in DISPUTES)
            for event_id, kind, _, known_us in told
        )

    return received


def bad_events(outcomes: Sequence[Sequence[Any]], wanted: frozenset[str], as_of_us: int) -> set[int]:
    """Ids of events with a wanted outcome known by a time; a dispute won since takes its event out again."""
    known = {event_id for event_id, kind, _, known_us in outcomes if kind in wanted and known_us <= as_of_us}
    return known - won_by(outcomes, as_of_us)


def won_by(outcomes: Sequence[Sequence[Any]], as_of_us: int) -> set[int]:
    """Ids of events whose dispute was won by a time."""
    return {event_id for event_id, kind, _, known_us in outcomes if kind == "dispute_won" and known_us <= as_of_us}


Measure = Callable[[list[int]], float | int | None]
"""Values in the log's units → the aggregate's value."""


def _mean(scale: int) -> Measure:
    return lambda values: sum(values) / (len(values) * scale) if values else None


def _stddev(scale: int) -> Measure:
    """Population standard deviation from integer moments: exact until the one root and the one division."""

    def fold(values: list[int]) -> float | None:
        count = len(values)
        if not count:
            return None
        total = sum(values)
        return _spread(count, total, sum(map(mul, values, values)), scale)

    return fold


def _spread(count: int, total: int, squares: int, scale: int) -> float:
    return math.sqrt(count * squares - total * total) / (count * scale)


def _median(scale: int) -> Measure:
    """The middle value, or the mean of the two."""

    def fold(values: list[int]) -> float | None:
        ordered, count = sorted(values), len(values)
        return (ordered[(count - 1) // 2] + ordered[count // 2]) / (2 * scale) if count else None

    return fold


_MEASURES: dict[str, Callable[[int], Measure]] = {
    "distinct": lambda _: lambda values: len(set(values)),
    "sum": lambda scale: (lambda values: sum(values) / scale) if scale > 1 else sum,
    "mean": _mean,
    "stddev": _stddev,
    "median": _median,
    "min": lambda scale: lambda values: (min(values) / scale if scale > 1 else min(values)) if values else None,
    "max": lambda scale: lambda values: (max(values) / scale if scale > 1 else max(values)) if values else None,
    "first": lambda scale: lambda values: (values[0] / scale if scale > 1 else values[0]) if values else None,
    "last": lambda scale: lambda values: (values[-1] / scale if scale > 1 else values[-1]) if values else None,
}
