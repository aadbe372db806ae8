"""Features of one event, computed from the states that its admission returned.

`entries` says what the event puts into each log; `compute` reads the windows. Both are derived once from the feature
set. An aggregate of an entity that the event does not name is absent from the row, so it is UNKNOWN to rules.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from engine.eventlog import ID, Filter, LogLayout, LogView, hash64
from engine.features.spec import Aggregate, FeatureSet, scale_of, value_column
from engine.schema import DISPOSITIONS, ENTITIES, FIELDS
from engine.values import EntityEvent, EntityState, Event, Row

PENDING, ABANDONED = DISPOSITIONS.index("pending"), DISPOSITIONS.index("abandoned")
ABANDONED_AFTER_US = 30 * 60_000_000
DAY_US = 86_400_000_000
CREATED = "user.account_created"
_NOTHING: Mapping[str, Any] = {}
KeyOf = Callable[[str, str], bytes]
"""(entity, value) → profile key."""


@dataclass(frozen=True, slots=True)
class Current:
    """The current event as a window sees it: its own entry and the time as of which it is decided."""

    entry: EntityEvent
    as_of_us: int
    head: Mapping[str, Any]


Fold = Callable[[LogView, int, int, Current], float | int | None]
"""Rows i..j of a log (end excluded) → the aggregate's value, or None when it can't be known."""
Choose = Callable[[LogView, list[int], int, int, Current], list[int]]
"""A column of a log and rows i..j → the values that a filter lets through."""


class OnlineFeatures:
    """A feature set, ready to be computed event by event."""

    def __init__(
        self, features: FeatureSet, layouts: Mapping[str, LogLayout], steps: Mapping[str, Filter] | None = None
    ) -> None:
        """`steps`: the filters behind flag columns that belong to patterns, by column name."""
        self._features = features
        self.layouts = layouts
        filters = {a.filter.name: a.filter for a in features.aggregates} | dict(steps or {})
        self._plans = {entity: _Plan(layout, filters, features.aggregates) for entity, layout in layouts.items()}

    def entries(self, event: Event, row: Row, key_of: KeyOf, *, late: bool = False) -> tuple[EntityEvent, ...]:
        """What the event puts into the logs of its entities; a late one is kept but sets no flag."""
        event_id = hash64(event.id)
        attempt = _attempt(event, row)
        found = []
        for entity, plan in self._plans.items():
            value = row.get(ENTITIES[entity])
            if value is not None:
                flags = bytes(len(plan.layout.flags)) if late or attempt < 0 else plan.flags(event.kind, row)
                key = key_of(entity, value)
                said = {CREATED: event.time_us} if entity == "user" and event.kind == "account_created" else _NOTHING
                found.append(
                    EntityEvent(entity, key, event_id, event.time_us, max(attempt, 0), flags, plan.values(row), said)
                )
        return tuple(found)

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

    def derive(self, row: Row) -> None:
        """Put the derived features into the row, as far as what they need is known."""
        for derived in self._features.derived:
            value = derived.evaluate(row)
            if isinstance(value, (int, float, str)):
                row[derived.name] = value


def _attempt(event: Event, row: Row) -> int:
    """64-bit key of (payment, card), so that a retry counts once; 0 = counts by itself, -1 = a declared retry."""
    if event.kind != "payment":
        return 0
    if "payment.retry_of" in row:
        return -1
    payment = row.get("payment.id")
    return abs(hash64(f"{payment}\0{row.get('card.token', '')}")) if payment else 0


class _Plan:
    """What one entity's log stores of an event, and the windows over it, grouped so that bounds are found once."""

    def __init__(self, layout: LogLayout, filters: Mapping[str, Filter], aggregates: Sequence[Aggregate]) -> None:
        self.layout = layout
        self._filters = tuple(filters.get(name) for name in layout.flags)
        self._values = tuple(_value_of(column) for column in layout.values)
        self._windows: dict[tuple[int, int], list[tuple[str, Fold]]] = {}
        self._ages = [(a.name, a.of) for a in aggregates if a.entity == layout.entity and a.measure == "age"]
        for aggregate in aggregates:
            if aggregate.entity == layout.entity and aggregate.measure != "age":
                window = (aggregate.window_us, aggregate.offset_us)
                self._windows.setdefault(window, []).append((aggregate.name, _fold(aggregate, layout)))
        self._by_kind: dict[str, tuple[tuple[int, Filter], ...]] = {}

    def flags(self, kind: str, row: Row) -> bytes:
        """One byte for each flag column: the filters that this event passes."""
        candidates = self._by_kind.get(kind)
        if candidates is None:
            candidates = self._by_kind[kind] = tuple(
                (index, f) for index, f in enumerate(self._filters) if f and (not f.on or kind in f.on)
            )
        flags = bytearray(len(self._filters))
        for index, wanted in candidates:
            if wanted.passes(kind, row):
                flags[index] = 1
        return bytes(flags)

    def values(self, row: Row) -> tuple[int, ...]:
        """One int64 for each value column."""
        return tuple([value(row) for value in self._values])

    def compute(self, row: Row, current: Current, log: bytes, truncated: list[str]) -> None:
        view = LogView(self.layout, log, current.head.get("dropped", 0))
        times = view.times
        for (window_us, offset_us), folds in self._windows.items():
            end = current.as_of_us - offset_us
            first, last = bisect_right(times, end - window_us), bisect_right(times, end)
            for name, fold in folds:
                value = fold(view, first, last, current)
                if value is not None:
                    row[name] = value
            if view.cut_us > end - window_us:
                truncated += [name for name, _ in folds]
        for name, of in self._ages:
            told = row.get(of) or current.head.get("attr", {}).get(of, (0,))[0] if of else 0
            row[name] = age_days(told, current.head.get("first"), current.as_of_us)


def age_days(told_us: int, first_us: int | None, as_of_us: int) -> float:
    """Age of an entity: since the date that was told (0 = none), else since it was first seen, else 0."""
    born_us = told_us or (as_of_us if first_us is None else first_us)
    return (as_of_us - min(born_us, as_of_us)) / DAY_US


def _value_of(column: str) -> Callable[[Row], int]:
    how, _, field = column.partition(":")
    if how == "hash":
        return lambda row: hash64(str(value)) if (value := row.get(field)) is not None else 0
    scale = scale_of(FIELDS[field].type)
    if scale == 1:
        return lambda row: int(row.get(field, 0))
    return lambda row: round(row.get(field, 0.0) * scale)


def _fold(aggregate: Aggregate, layout: LogLayout) -> Fold:
    """The function that folds a window's rows into the aggregate's value."""
    flag = layout.flags.index(aggregate.filter.name)
    column = value_column(aggregate)
    value = layout.values.index(column) if column else -1
    scale = scale_of(FIELDS[aggregate.of].type) if aggregate.of else 1
    if aggregate.measure in {"rate", "count_received"}:
        return _outcome_fold(aggregate, flag)
    chosen = _chooser(aggregate, flag)
    if aggregate.measure == "count":
        return _count(aggregate, flag, chosen)
    if aggregate.measure == "since_last":
        return lambda view, i, j, now: (
            (now.as_of_us - kept[-1]) / 1_000_000 if (kept := chosen(view, view.times, i, j, now)) else None
        )
    if aggregate.measure == "distinct":
        return _with_own(aggregate, flag, value, chosen, lambda values: len(set(values)))
    if aggregate.measure == "repeats":
        return lambda view, i, j, now: (
            chosen(view, view.value(value), i, j, now).count(now.entry.values[value])
            if now.entry.values[value]
            else None
        )
    return _with_own(aggregate, flag, value, chosen, _NUMERIC[aggregate.measure](scale))


def _chooser(aggregate: Aggregate, flag: int) -> Choose:
    """Pick from a column the rows of a window that the filter and the dispositions let through."""
    wanted = frozenset(aggregate.dispositions)

    def plain(view: LogView, column: list[int], i: int, j: int, now: Current) -> list[int]:
        selected = view.flag(flag)
        hits = selected.count(1, i, j)
        if hits == j - i:
            return column[i:j]
        return list(compress(column[i:j], selected[i:j])) if hits else []

    def by_disposition(view: LogView, column: list[int], i: int, j: int, now: Current) -> list[int]:
        status, flags, times = view.dispositions(), view.flag(flag), view.times
        codes = (
            ABANDONED if code == PENDING and now.as_of_us - time_us > ABANDONED_AFTER_US else code
            for code, time_us in zip(status[i:j], times[i:j], strict=True)
        )
        kept = [f and code in wanted for f, code in zip(flags[i:j], codes, strict=True)]
        return list(compress(column[i:j], kept))

    return by_disposition if wanted else plain


def _count(aggregate: Aggregate, flag: int, chosen: Choose) -> Fold:
    own = aggregate.include_current
    if aggregate.dispositions:
        return lambda view, i, j, now: len(chosen(view, view.times, i, j, now)) + (own and now.entry.flags[flag])
    return lambda view, i, j, now: view.flag(flag).count(1, i, j) + (own and now.entry.flags[flag])


def _with_own(
    aggregate: Aggregate,
    flag: int,
    value: int,
    chosen: Choose,
    finish: Callable[[list[int]], float | int | None],
) -> Fold:
    """Fold the chosen values, the current event's own among them where the definition includes it."""
    if not aggregate.include_current:
        return lambda view, i, j, now: finish(chosen(view, view.value(value), i, j, now))

    def fold(view: LogView, i: int, j: int, now: Current) -> float | int | None:
        values = chosen(view, view.value(value), i, j, now)
        return finish([*values, now.entry.values[value]] if now.entry.flags[flag] else values)

    return fold


def _outcome_fold(aggregate: Aggregate, flag: int) -> Fold:
    wanted = frozenset(aggregate.outcomes)

    def rate(view: LogView, i: int, j: int, now: Current) -> float | None:
        selected = view.flag(flag)
        total = selected.count(1, i, j)
        if not total:
            return aggregate.default
        known = bad_events(now.head.get("out", ()), wanted, now.as_of_us)
        if not known:
            return 0.0
        ids = compress(view.column(ID)[i:j], selected[i:j])
        return sum(1 for event_id in ids if event_id in known) / total

    def received(view: LogView, i: int, j: int, now: Current) -> int:
        start, end = now.as_of_us - aggregate.offset_us - aggregate.window_us, now.as_of_us - aggregate.offset_us
        return sum(1 for _, kind, _, known_us in now.head.get("out", ()) if kind in wanted and start < known_us <= end)

    return rate if aggregate.measure == "rate" else received


def bad_events(outcomes: Sequence[Sequence[Any]], wanted: frozenset[str], as_of_us: int) -> set[int]:
    """Ids of events with a wanted outcome known by a time; a dispute won since takes its event out again."""
    known = {event_id for event_id, kind, _, known_us in outcomes if kind in wanted and known_us <= as_of_us}
    won = {event_id for event_id, kind, _, known_us in outcomes if kind == "dispute_won" and known_us <= as_of_us}
    return known - won


def _mean(scale: int) -> Callable[[list[int]], float | None]:
    return lambda values: sum(values) / (len(values) * scale) if values else None


def _stddev(scale: int) -> Callable[[list[int]], float | None]:
    """Population standard deviation from integer moments: exact until the one root and the one division."""

    def fold(values: list[int]) -> float | None:
        count = len(values)
        if not count:
            return None
        total = sum(values)
        return math.sqrt(count * sum(v * v for v in values) - total * total) / (count * scale)

    return fold


_NUMERIC: dict[str, Callable[[int], Callable[[list[int]], float | int | None]]] = {
    "sum": lambda scale: (lambda values: sum(values) / scale) if scale > 1 else sum,
    "mean": _mean,
    "stddev": _stddev,
    "min": lambda scale: lambda values: (min(values) / scale if scale > 1 else min(values)) if values else None,
    "max": lambda scale: lambda values: (max(values) / scale if scale > 1 else max(values)) if values else None,
    "last": lambda scale: lambda values: (values[-1] / scale if scale > 1 else values[-1]) if values else None,
}
