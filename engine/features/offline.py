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
from engine.schema import FIELDS
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
    """A row for each event of `kind`: `event_id`, `event_time`, the event fields asked for, and every feature.

    What is not known is null. An event id that comes again is left out, as it is online. Memory: about 100 bytes for
    each event and entity, and the table.
    """
    gathered = _Gathered(features, online.layouts, kind, fields)
    for seq, item in enumerate(items):
        gathered.add(seq, item)
    answers: dict[str, Answers] = {a.name: unanswered(a, len(gathered.ids)) for a in features.aggregates}
    for entity in list(gathered.logs):
        log = gathered.logs.pop(entity)
        answers |= log.heads()
        mine = [a for a in features.aggregates if a.entity == entity and a.measure not in HEADS]
        if log.group and mine:
            frozen = log.freeze(gathered.outcomes, gathered.settled)
            asked, as_of_us = log.table_rows(frozen.order)
            answer(mine, frozen.histories, asked, as_of_us, frozen.ids, online, log.layout, answers)
    return _table(gathered, answers, features, _derive(features, online, answers, gathered), fields)


class _Gathered:
    """What came, as columns for each entity."""

    def __init__(
        self, features: FeatureSet, layouts: Mapping[str, LogLayout], kind: str, fields: Sequence[str]
    ) -> None:
        self._kind = kind
        self.ids: list[str] = []
        self.times = array("q")
        needed: frozenset[str] = frozenset().union(*(d.needs for d in features.derived)) & FIELDS.keys()
        self.carried: dict[str, list[Any]] = {name: [] for name in sorted(needed | set(fields))}
        """Event fields of the table's rows."""
        self.logs = {
            entity: _Log(layout, [a for a in features.aggregates if a.entity == entity and a.measure in HEADS])
            for entity, layout in layouts.items()
        }
        self.outcomes: dict[str, dict[int, tuple[int, int]]] = {}
        """Kind → event id → (place in the order of arrival, known at) of the first that came."""
        self.settled: list[tuple[int, int, int]] = []
        """(event id, code, place in the order of arrival)."""
        self._seen: set[int] = set()

    def add(self, seq: int, item: Item) -> None:
        """Take in the next item."""
        if isinstance(item, Heard):
            self.outcomes.setdefault(item.kind, {}).setdefault(hash64(item.event_id), (seq, item.known_us))
        elif isinstance(item, Settled):
            self.settled.append((hash64(item.event_id), item.code, seq))
        else:
            event_id = hash64(item.event.id)
            if event_id not in self._seen:
                self._seen.add(event_id)
                self._arrive(seq, item)

    def _arrive(self, seq: int, item: Arrival) -> None:
        table_row = -1
        if item.event.kind == self._kind:
            table_row = len(self.ids)
            self.ids.append(item.event.id)
            self.times.append(item.event.time_us)
            for name, column in self.carried.items():
                column.append(item.row.get(name))
            for log in self.logs.values():
                log.next_row()
        for entry in item.entries:
            self.logs[entry.entity].add(seq, table_row, entry, item)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """The rows of one kind of entity in order of (entity, time, admission)."""

    histories: Histories
    ids: Ints
    order: Ints
    """Their numbers in the order of arrival."""


@dataclass(slots=True)
class _Log:
    """The log rows of one kind of entity, in order of admission."""

    layout: LogLayout
    of_head: Sequence[Aggregate]
    """Ages and told values, which need no window."""
    keys: dict[bytes, int] = field(default_factory=dict)
    group: array[int] = field(default_factory=lambda: array("q"))
    fixed: array[int] = field(default_factory=lambda: array("q"))
    """Six numbers a row: time, id, attempt, place in the order of arrival, as-of time, row of the table or -1."""
    values: array[int] = field(default_factory=lambda: array("q"))
    flags: bytearray = field(default_factory=bytearray)
    first: dict[int, int] = field(default_factory=dict)
    told: dict[tuple[int, str], tuple[int, int, Any]] = field(default_factory=dict)
    """(group, attribute) → (time, event id, value) of the newest that an event told."""
    days: dict[str, array[float]] = field(default_factory=dict)
    words: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.days = {a.name: array("d") for a in self.of_head if a.measure == "age"}
        self.words = {a.name: [] for a in self.of_head if a.measure == "told"}

    def next_row(self) -> None:
        """The table has one row more."""
        for days in self.days.values():
            days.append(np.nan)
        for words in self.words.values():
            words.append(None)

    def add(self, seq: int, table_row: int, entry: EntityEvent, item: Arrival) -> None:
        """One row; what needs no window is told at once."""
        group = self.keys.setdefault(entry.key, len(self.keys))
        self.group.append(group)
        self.fixed.extend((entry.time_us, entry.id, entry.attempt, seq, item.as_of_us, table_row))
        self.values.extend(entry.values)
        self.flags.extend(entry.flags)
        if table_row >= 0:
            for head in self.of_head:
                told = self.told.get((group, head.of), (0, 0, None))[2]
                if head.measure == "age":
                    born_us = (item.row.get(head.of) or told or 0) if head.of else 0
                    self.days[head.name][table_row] = age_days(born_us, self.first.get(group), item.as_of_us)
                else:
                    self.words[head.name][table_row] = item.row.get(head.of, told) if head.include_current else told
        self.first[group] = min(self.first.get(group, entry.time_us), entry.time_us)
        for name, value in entry.attributes.items():
            said = (entry.time_us, entry.id, value)
            self.told[group, name] = max(self.told.get((group, name), said), said, key=lambda one: one[:2])

    def heads(self) -> dict[str, Answers]:
        """What needs no window, by feature."""
        days = {name: np.frombuffer(column, np.float64) for name, column in self.days.items()}
        found = {name: Answers(column, ~np.isnan(column)) for name, column in days.items()}
        for name, column in self.words.items():
            words = np.array([*column, None], object)[:-1]  # never a matrix of equal lists
            found[name] = Answers(words, words != None)  # noqa: E711 - item by item
        return found

    def table_rows(self, order: Ints) -> tuple[Ints, Ints]:
        """Row of the table (or -1) and as-of time of each row."""
        fixed = np.frombuffer(self.fixed, np.int64).reshape(-1, 6)[order]
        return fixed[:, 5], fixed[:, 4]

    def freeze(
        self, outcomes: Mapping[str, Mapping[int, tuple[int, int]]], settled: Sequence[tuple[int, int, int]]
    ) -> _Frozen:
        """Sort the rows, let an attempt count once, and find the rows that outcomes and dispositions speak of."""
        count = len(self.group)
        group = np.frombuffer(self.group, np.int64)
        time_us, ids, attempt, seq, _, table_row = np.frombuffer(self.fixed, np.int64).reshape(count, 6).T
        flags = np.frombuffer(self.flags, np.uint8).reshape(count, len(self.layout.flags)).copy()
        flags[_again(group, attempt)] = 0
        values = np.frombuffer(self.values, np.int64).reshape(count, len(self.layout.values))
        order = np.lexsort((seq, time_us, group))
        group = group[order]
        rank = np.arange(count) - np.searchsorted(group, group)
        rows = Rows(
            group, time_us[order], seq[order], rank, flags[order], values[order], table_row[order] >= 0
        )  # fmt: skip
        finder = _Finder.of(ids[order], seq[order])
        heard = {
            kind: finder.later([(event, 0, *when) for event, when in told.items()]) for kind, told in outcomes.items()
        }
        became = finder.later([(event, code, at, 0) for event, code, at in settled])
        return _Frozen(Histories(rows, became, heard, self.layout.keep), ids[order], order)


def _again(group: Ints, attempt: Ints) -> Ints:
    """Rows that repeat an attempt of their entity: all but the first of each."""
    tried = np.flatnonzero(attempt)
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


_ARROW: Mapping[str, Any] = {
    "int": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "string": pa.string(), "timestamp": pa.int64(),
}  # fmt: skip


def _table(
    gathered: _Gathered, answers: Mapping[str, Answers], features: FeatureSet, derived: Mapping[str, Sequence[Any]],
    fields: Sequence[str],
) -> pa.Table:  # fmt: skip
    times = pa.array(np.frombuffer(gathered.times, np.int64), pa.timestamp("us", "UTC"))
    columns: dict[str, Any] = {"event_id": pa.array(gathered.ids, pa.string()), "event_time": times}
    columns |= {name: pa.array(gathered.carried[name], _ARROW.get(FIELDS[name].type)) for name in fields}
    for name, kind in features.types.items():
        if name in derived:
            columns[name] = pa.array(derived[name], _ARROW[kind])
        else:
            columns[name] = pa.array(answers[name].numbers, _ARROW[kind], mask=~answers[name].known)
    return pa.table(columns)
