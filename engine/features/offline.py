"""Features of a whole history in one go: for every payment the very numbers that the service saw, bit for bit.

    table = build(program.feature_set, program.features, items)

`items` are what happened, in the order in which it was admitted: `Arrival` an event, `Heard` an outcome, `Settled` what
became of a payment. Fields, filters and log entries come from the same code as online; the windows are computed in
columns (`windows.py`). Rows that came late or out of order, and what columns can't do, go through `online.py` itself.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from engine.eventlog import LogLayout, hash64
from engine.features.online import OnlineFeatures, age_days
from engine.features.replay import answer
from engine.features.spec import HEADS, Aggregate, FeatureSet
from engine.features.windows import NOTHING, Answers, Histories, Ints, Later, Rows, unanswered
from engine.schema import FIELDS, HOW_FAR
from engine.values import EntityEvent, Event, Row

_CHUNK = 20_000
"""Rows of the table whose derived features are computed at once."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that was admitted, with its own fields derived and its log entries made."""

    event: Event
    row: Row
    entries: tuple[EntityEvent, ...]
    as_of_us: int


@dataclass(frozen=True, slots=True)
class Heard:
    """An outcome of an event arrived; it counts for those that are decided at `known_us` or later."""

    event_id: str
    kind: str
    known_us: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A payment's event has another disposition from here on, as its code."""

    event_id: str
    code: int


Item = Arrival | Heard | Settled


def build(
    features: FeatureSet, online: OnlineFeatures, items: Iterable[Item], *, kind: str = "payment",
    fields: Sequence[str] = (),
) -> pa.Table:  # fmt: skip
    """A row for each event of `kind` ("" = any): `event_id`, `event_time`, the event fields asked for, every feature.

    What is not known is null. An event id that comes again is left out, as it is online. Memory: about 100 bytes for
    each event and entity, and the table.
    """
    builder = Builder(features, online, kind, fields)
    for item in items:
        builder.add(item)
    return builder.table()


class Builder:
    """The same for items that come one by one; `table` is asked for once."""

    def __init__(self, features: FeatureSet, online: OnlineFeatures, kind: str, fields: Sequence[str]) -> None:
        self._features, self._online, self._fields = features, online, fields
        self._gathered, self._seq = _Gathered(features, online.layouts, kind, fields), 0

    def add(self, item: Item) -> None:
        """Take in the next item."""
        self._gathered.add(self._seq, item)
        self._seq += 1

    def table(self) -> pa.Table:
        """A row for each event of the wanted kind."""
        return _built(self._features, self._online, self._gathered, self._fields)


def _built(features: FeatureSet, online: OnlineFeatures, gathered: _Gathered, fields: Sequence[str]) -> pa.Table:
    answers: dict[str, Answers] = {a.name: unanswered(a, len(gathered.ids)) for a in features.aggregates}
    for entity in list(gathered.logs):
        log = gathered.logs.pop(entity)
        answers |= log.heads.answers()
        mine = [a for a in features.aggregates if a.entity == entity and a.measure not in HEADS]
        if log.group and mine:
            frozen = log.freeze(gathered.outcomes, gathered.settled)
            asked, as_of_us = log.table_rows(frozen.order)
            answer(mine, frozen.histories, asked, as_of_us, frozen.ids.take, online, log.layout, answers)
    carried = {name: pa.array(gathered.carried[name], arrow_of(name)) for name in fields}
    derived = {
        name: pa.array(column, ARROW[features.types[name]])
        for name, column in _derive(features, online, answers, gathered).items()
    }
    ids, times = pa.array(gathered.ids, pa.string()), np.frombuffer(gathered.times, np.int64)
    return table_of(ids, times, carried, answers, features, derived)


class _Gathered:
    """What came, as columns for each entity."""

    def __init__(
        self, features: FeatureSet, layouts: Mapping[str, LogLayout], kind: str, fields: Sequence[str]
    ) -> None:
        self._kind = kind
        self.ids: list[str] = []
        self.times = array("q")
        needed: frozenset[str] = frozenset().union(*(d.needs for d in features.derived))
        needed &= FIELDS.keys() | {"event.kind"}
        self.carried: dict[str, list[Any]] = {name: [] for name in sorted(needed | set(fields))}
        """Event fields of the table's rows."""
        self.logs = {
            entity: _Log(layout, Heads([a for a in features.aggregates if a.entity == entity and a.measure in HEADS]))
            for entity, layout in layouts.items()
        }
        self.outcomes: dict[str, dict[int, list[tuple[int, int]]]] = {}
        """Kind → event id → (place in the order of arrival, known at), each known earlier than those before it."""
        self.settled: list[tuple[int, int, int]] = []
        """(event id, code, place in the order of arrival), each farther on a payment's way than those before it."""
        self._standing: dict[int, int] = {}
        self._seen: set[int] = set()

    def add(self, seq: int, item: Item) -> None:
        """Take in the next item."""
        if isinstance(item, Heard):
            told = self.outcomes.setdefault(item.kind, {}).setdefault(hash64(item.event_id), [])
            if not told or item.known_us < told[-1][1]:
                told.append((seq, item.known_us))
        elif isinstance(item, Settled):
            event_id = hash64(item.event_id)
            if HOW_FAR[item.code] > HOW_FAR[self._standing.get(event_id, 0)]:
                self._standing[event_id] = item.code
                self.settled.append((event_id, item.code, seq))
        else:
            event_id = hash64(item.event.id)
            if event_id not in self._seen:
                self._seen.add(event_id)
                self._arrive(seq, item)

    def _arrive(self, seq: int, item: Arrival) -> None:
        table_row = -1
        if self._kind in ("", item.event.kind):
            table_row = len(self.ids)
            self.ids.append(item.event.id)
            self.times.append(item.event.time_us)
            for name, column in self.carried.items():
                column.append(item.row.get(name))
            for log in self.logs.values():
                log.heads.next_row()
        for entry in item.entries:
            self.logs[entry.entity].add(seq, table_row, entry, item)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """The rows of one kind of entity in order of (entity, time, admission)."""

    histories: Histories
    ids: Ints
    order: Ints
    """Their numbers in the order of arrival."""


class Heads:
    """What an entity is known by beside its log, event by event: ages and told values, which need no window."""

    def __init__(self, aggregates: Sequence[Aggregate]) -> None:
        self.aggregates = aggregates
        self._days = {a.name: array("d") for a in aggregates if a.measure == "age"}
        self._words: dict[str, list[Any]] = {a.name: [] for a in aggregates if a.measure == "told"}
        self._first: dict[int, int] = {}
        self._told: dict[tuple[int, str], tuple[int, int, Any]] = {}
        """(group, attribute) → (time, event id, value) of the newest that an event told."""

    def next_row(self) -> None:
        """The table has one row more."""
        for days in self._days.values():
            days.append(np.nan)
        for words in self._words.values():
            words.append(None)

    def answer(self, group: int, table_row: int, row: Row, as_of_us: int) -> None:
        """An event is asked for, before it is learnt from."""
        for head in self.aggregates:
            told = self._told.get((group, head.of), (0, 0, None))[2]
            if head.measure == "age":
                born_us = (row.get(head.of) or told or 0) if head.of else 0
                self._days[head.name][table_row] = age_days(born_us, self._first.get(group), as_of_us)
            else:
                self._words[head.name][table_row] = row.get(head.of, told) if head.include_current else told

    def learn(self, group: int, time_us: int, event_id: int, attributes: Mapping[str, Any]) -> None:
        """An event came, and told something or nothing."""
        self._first[group] = min(self._first.get(group, time_us), time_us)
        for name, value in attributes.items():
            said = (time_us, event_id, value)
            self._told[group, name] = max(self._told.get((group, name), said), said, key=lambda one: one[:2])

    def answers(self) -> dict[str, Answers]:
        """By feature."""
        days = {name: np.frombuffer(column, np.float64) for name, column in self._days.items()}
        found = {name: Answers(column, ~np.isnan(column)) for name, column in days.items()}
        for name, column in self._words.items():
            words = np.array([*column, None], object)[:-1]  # never a matrix of equal lists
            found[name] = Answers(words, words != None)  # noqa: E711 - item by item
        return found


@dataclass(slots=True)
class _Log:
    """The log rows of one kind of entity, in order of admission."""

    layout: LogLayout
    heads: Heads
    keys: dict[bytes, int] = field(default_factory=dict)
    group: array[int] = field(default_factory=lambda: array("q"))
    fixed: array[int] = field(default_factory=lambda: array("q"))
    """Six numbers a row: time, id, attempt, place in the order of arrival, as-of time, row of the table or -1."""
    values: array[int] = field(default_factory=lambda: array("q"))
    flags: bytearray = field(default_factory=bytearray)

    def add(self, seq: int, table_row: int, entry: EntityEvent, item: Arrival) -> None:
        """One row; what needs no window is told at once."""
        group = self.keys.setdefault(entry.key, len(self.keys))
        self.group.append(group)
        self.fixed.extend((entry.time_us, entry.id, entry.attempt, seq, item.as_of_us, table_row))
        self.values.extend(entry.values)
        self.flags.extend(entry.flags)
        if table_row >= 0:
            self.heads.answer(group, table_row, item.row, item.as_of_us)
        self.heads.learn(group, entry.time_us, entry.id, entry.attributes)

    def table_rows(self, order: Ints) -> tuple[Ints, Ints]:
        """Row of the table (or -1) and as-of time of each row."""
        fixed = np.frombuffer(self.fixed, np.int64).reshape(-1, 6)[order]
        return fixed[:, 5], fixed[:, 4]

    def freeze(
        self, outcomes: Mapping[str, Mapping[int, Sequence[tuple[int, int]]]], settled: Sequence[tuple[int, int, int]]
    ) -> _Frozen:
        """Sort the rows, let an attempt count once, and find the rows that outcomes and dispositions speak of."""
        count = len(self.group)
        group = np.frombuffer(self.group, np.int64)
        time_us, ids, attempt, seq, _, table_row = np.frombuffer(self.fixed, np.int64).reshape(count, 6).T
        flags = np.frombuffer(self.flags, np.uint8).reshape(count, len(self.layout.flags)).copy()
        flags[again(group, attempt)] = 0
        values = np.frombuffer(self.values, np.int64).reshape(count, len(self.layout.values))
        order = np.lexsort((seq, time_us, group))
        group = group[order]
        rank = np.arange(count) - np.searchsorted(group, group)
        rows = Rows(
            group, time_us[order], seq[order], rank, flags[order], values[order], table_row[order] >= 0
        )  # fmt: skip
        finder = _Finder.of(ids[order], seq[order])
        heard = {
            kind: finder.later([(event, 0, *when) for event, whens in told.items() for when in whens])
            for kind, told in outcomes.items()
        }
        became = finder.later([(event, code, at, 0) for event, code, at in settled])
        return _Frozen(Histories(rows, became, heard, self.layout.keep), ids[order], order)


def again(group: Ints, attempt: Ints) -> Ints:
    """Rows that repeat an attempt of their entity: all but the first of each."""
    tried = np.flatnonzero(attempt)
    ordered = np.sort(attempt[tried])
    if (ordered[1:] != ordered[:-1]).all():
        return tried[:0]
    order = tried[np.lexsort((tried, attempt[tried], group[tried]))]
    same = (group[order[1:]] == group[order[:-1]]) & (attempt[order[1:]] == attempt[order[:-1]])
    repeated: Ints = order[1:][same]
    return repeated


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds the rows that something speaks of, by event id."""

    ids: Ints
    rows: Ints
    seq: Ints

    @staticmethod
    def of(ids: Ints, seq: Ints) -> _Finder:
        """Over rows with these event ids and places in the order of arrival."""
        by_id = np.argsort(ids, kind="stable")
        return _Finder(ids[by_id], by_id, seq[by_id])

    def later(self, told: Sequence[tuple[int, int, int, int]]) -> Later:
        """(event id, code, place in the order of arrival, known at) of what concerns these rows, in that order.

        What came before its event is known with it.
        """
        if not told:
            return NOTHING
        event, what, seq, known_us = np.array(sorted(told, key=lambda item: item[2]), np.int64).T
        at = np.minimum(np.searchsorted(self.ids, event), len(self.ids) - 1)
        here = self.ids[at] == event
        return Later(self.rows[at[here]], what[here], np.maximum(seq, self.seq[at])[here], known_us[here])


def _derive(
    features: FeatureSet, online: OnlineFeatures, answers: Mapping[str, Answers], gathered: _Gathered
) -> dict[str, list[Any]]:
    """Derived features, row by row, by the compiled expressions that the service uses."""
    needed = frozenset().union(*(d.needs for d in features.derived))
    found: dict[str, list[Any]] = {d.name: [] for d in features.derived}
    if not found:
        return found
    for start in range(0, len(gathered.ids), _CHUNK):
        part = slice(start, start + _CHUNK)
        columns = {"event.id": gathered.ids[part]}
        columns |= {name: column[part] for name, column in gathered.carried.items() if name in needed}
        columns |= {name: _listed(answer, part) for name, answer in answers.items() if name in needed}
        for values in zip(*columns.values(), strict=True):
            row = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
            online.derive(row)
            for name, column in found.items():
                column.append(row.get(name))
    return found


def _listed(answer: Answers, part: slice) -> list[Any]:
    listed: list[Any] = answer.numbers[part].tolist()
    for index in np.flatnonzero(~answer.known[part]):
        listed[index] = None
    return listed


ARROW: Mapping[str, Any] = {
    "int": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "timestamp": pa.int64(),
}  # fmt: skip


def arrow_of(name: str) -> Any:
    """Arrow's type for an event field; None leaves it to the values."""
    return pa.string() if name == "event.kind" else ARROW.get(FIELDS[name].type)


def table_of(
    ids: pa.Array, times_us: Ints, carried: Mapping[str, pa.Array], answers: Mapping[str, Answers],
    features: FeatureSet, derived: Mapping[str, pa.Array],
) -> pa.Table:  # fmt: skip
    """Ids, times, event fields and every feature, in the order of the feature set."""
    columns = {"event_id": ids, "event_time": pa.array(times_us, pa.timestamp("us", "UTC")), **carried}
    for name, kind in features.types.items():
        found = answers.get(name)
        columns[name] = (
            derived[name] if found is None else pa.array(found.numbers, ARROW[kind], mask=~found.known)
        )  # fmt: skip
    return pa.table(columns)
