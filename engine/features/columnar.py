"""The features of a `Frame`: what `offline.build` gives for the same events in the same order, without opening each.

Groups of rows are answered in blocks, so that what is needed on the way stays small however many rows there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.eventlog import LogLayout, hash64
from engine.features.frame import Column, Frame, Texts, apply
from engine.features.offline import ARROW, Heads, again, arrow_of, table_of
from engine.features.online import KeyOf, OnlineFeatures, cell_of, told_by
from engine.features.replay import answer
from engine.features.spec import HEADS, Aggregate, FeatureSet
from engine.features.windows import NOTHING, Answers, Histories, Ints, Later, Mask, Rows, unanswered
from engine.schema import ENTITIES
from engine.values import Row

_BLOCK = 400_000
"""Rows that are answered together; a longer history is answered in one piece."""
_CHUNK = 200_000
"""Rows whose derived features are computed together."""
KIND = "event.kind"


def build_frame(
    features: FeatureSet, online: OnlineFeatures, frame: Frame, key_of: KeyOf, *, kind: str = "payment",
    fields: Sequence[str] = (),
) -> pa.Table:  # fmt: skip
    """A row for each event of `kind`, as `offline.build` has it. Memory: some 250 bytes a row, and a block."""
    asked = apply(lambda row: kind in ("", row[KIND]), frame.columns([KIND]), len(frame)).numbers(np.bool_)
    answers = {a.name: unanswered(a, int(asked.sum())) for a in features.aggregates}
    table_rows = np.where(asked, np.cumsum(asked) - 1, -1)
    uncounted, attempts = _attempts(frame)
    for entity, layout in online.layouts.items():
        mine = [a for a in features.aggregates if a.entity == entity]
        groups = _groups(frame, entity, key_of)
        answers |= _heads(frame, layout, groups, table_rows, [a for a in mine if a.measure in HEADS])
        windowed = [a for a in mine if a.measure not in HEADS]
        if windowed and (groups >= 0).any():
            logs = _Logs(frame, layout, groups, windowed, uncounted, attempts)
            for rows, histories in logs.blocks(asked):
                targets, ids_of = table_rows[rows], logs.ids_of(rows)
                answer(windowed, histories, targets, frame.times_us[rows], ids_of, online, layout, answers)
    everyone = bool(asked.all())
    ids, times = (frame.ids, frame.times_us) if everyone else (frame.ids.filter(pa.array(asked)), frame.times_us[asked])
    carried = {name: _arrow(frame.column(name).take(asked), arrow_of(name)) for name in fields}
    return table_of(ids, times, carried, answers, features, _derived(features, frame, asked, answers))


def _arrow(column: Column, kind: Any) -> pa.Array:
    """The values row by row."""
    values = column.values.array if isinstance(column.values, Texts) else pa.array(column.values, kind)
    return values.take(pa.array(column.codes, mask=column.codes < 0))


def _attempts(frame: Frame) -> tuple[Mask, Ints]:
    """Rows that count nowhere, being declared retries; and of the others the number of their attempt, or 0."""
    payment = apply(lambda row: row[KIND] == "payment", frame.columns([KIND]), len(frame)).numbers(np.bool_)
    retried = frame.column("payment.retry_of").codes >= 0
    ids, cards = frame.column("payment.id").distinct(), frame.column("card.token").distinct()
    numbers = ids.codes.astype(np.int64) * (len(cards.values) + 1) + cards.codes + 2
    return payment & retried, np.where(payment & ~retried & (ids.codes >= 0), numbers, 0)


def _groups(frame: Frame, entity: str, key_of: KeyOf) -> Ints:
    """Number of the entity that each row names, or -1."""
    column, known = frame.column(ENTITIES[entity]), dict[bytes, int]()
    numbers = [known.setdefault(key_of(entity, value), len(known)) for value in column.values]
    groups: Ints = np.array([*numbers, -1], np.int64)[column.codes]
    return groups


def _heads(
    frame: Frame, layout: LogLayout, groups: Ints, table_rows: Ints, mine: Sequence[Aggregate]
) -> dict[str, Answers]:
    """Ages and told values, event by event."""
    heads = Heads(mine)
    if not mine:
        return {}
    for _ in range(int(table_rows.max(initial=-1)) + 1):
        heads.next_row()
    read = frame.columns({KIND, *layout.told, *(a.of for a in mine if a.of)})
    codes = zip(*(column.codes.tolist() for column in read.values()), strict=True)
    steps = zip(groups.tolist(), frame.times_us.tolist(), table_rows.tolist(), codes, frame.ids, strict=True)
    for group, time_us, table_row, places, event_id in steps:
        if group < 0:
            continue
        row: Row = {
            name: column.values[at] for (name, column), at in zip(read.items(), places, strict=True) if at >= 0
        }  # fmt: skip
        if table_row >= 0:
            heads.answer(group, table_row, row, time_us)
        told = told_by(layout, row[KIND], time_us, row)
        heads.learn(group, time_us, hash64(event_id.as_py()) if told else 0, told)
    return heads.answers()


class _Logs:
    """The logs of one kind of entity as blocks of whole histories."""

    def __init__(
        self, frame: Frame, layout: LogLayout, groups: Ints, aggregates: Sequence[Aggregate], uncounted: Mask,
        attempts: Ints,
    ) -> None:  # fmt: skip
        self._frame, self._layout, self._groups = frame, layout, groups
        named = np.flatnonzero(groups >= 0)
        self._order = named[np.argsort(groups[named], kind="stable")]
        counted = ~uncounted
        counted[named[again(groups[named], attempts[named])]] = False
        filters = {a.filter.name: a.filter for a in aggregates}
        self._flags: dict[int, Mask] = {}
        for at, name in enumerate(layout.flags):
            if name in filters:
                wanted = filters[name]
                read = frame.columns(wanted.names | {KIND} | ({wanted.of} if wanted.of else frozenset()))
                passed = apply(lambda row, wanted=wanted: wanted.passes(row[KIND], row), read, len(frame))  # type: ignore[misc]
                self._flags[at] = passed.numbers(np.bool_) & counted
        self._values = [self._cells(column) for column in layout.values]

    def _cells(self, column: str) -> Column:
        """One value column of the log."""
        cell, name = cell_of(column), column.partition(":")[2]
        return apply(cell, self._frame.columns([name]), len(self._frame))

    def blocks(self, asked: Mask) -> Iterator[tuple[Ints, Histories]]:
        """Rows of the frame in order of (entity, time, row), and their histories."""
        groups = self._groups[self._order]
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        cuts = starts[np.unique(np.searchsorted(starts, np.arange(0, len(groups), _BLOCK)).clip(max=len(starts) - 1))]
        place = np.full(len(self._frame), -1, np.int64)
        for begin, end in zip(cuts, np.append(cuts[1:], len(groups)), strict=True):
            rows = self._order[begin:end]
            place[rows] = np.arange(len(rows))
            heard = {kind: self._later(place, *told) for kind, told in self._frame.outcomes.items()}
            yield rows, Histories(self._rows(rows, groups[begin:end], asked), NOTHING, heard, self._layout.keep)
            place[rows] = -1

    def _rows(self, rows: Ints, groups: Ints, asked: Mask) -> Rows:
        flags = np.zeros((len(rows), len(self._layout.flags)), np.uint8, order="F")
        for at, passed in self._flags.items():
            flags[:, at] = passed[rows]
        values = np.zeros((len(rows), len(self._layout.values)), np.int64, order="F")
        for at, column in enumerate(self._values):
            values[:, at] = column.take(rows).numbers()
        rank = np.arange(len(rows)) - np.searchsorted(groups, groups)
        return Rows(groups, self._frame.times_us[rows], rows, rank, flags, values, asked[rows])

    def _later(self, place: Ints, rows: Ints, known_us: Ints) -> Later:
        here = place[rows] >= 0
        found = place[rows[here]]
        return Later(found, np.zeros(len(found), np.int64), rows[here], known_us[here])

    def ids_of(self, rows: Ints) -> Callable[[Ints], Ints]:
        """Tells 64-bit event ids of a block."""
        return lambda some: np.array([hash64(self._frame.ids[at].as_py()) for at in rows[some].tolist()], np.int64)


def _derived(features: FeatureSet, frame: Frame, asked: Mask, answers: Mapping[str, Answers]) -> dict[str, pa.Array]:
    """Derived features by the expressions that the service uses, chunk by chunk."""
    rows, kinds = np.flatnonzero(asked), features.types
    found: dict[str, list[pa.Array]] = {d.name: [] for d in features.derived}
    for begin in range(0, len(rows), _CHUNK):
        part, read = rows[begin : begin + _CHUNK], dict[str, Column]()
        for derived in features.derived:
            for name in sorted(derived.needs - read.keys()):
                if name in answers:
                    read[name] = _encoded(answers[name], slice(begin, begin + _CHUNK))
                else:
                    read[name] = frame.column(name).take(part)
            needed = {name: read[name] for name in sorted(derived.needs)}
            read[derived.name] = apply(derived.value, needed, len(part))
            found[derived.name].append(_arrow(read[derived.name], ARROW[kinds[derived.name]]))
    return {
        name: pa.concat_arrays(parts) if parts else pa.array([], ARROW[kinds[name]]) for name, parts in found.items()
    }


def _encoded(answers: Answers, part: slice) -> Column:
    """Answers as a column; doubles are told apart by their bits, so that 0.0 and -0.0 stay two."""
    numbers, known = answers.numbers[part], answers.known[part]
    if numbers.dtype != np.float64:
        return Column.of(pa.array(numbers, mask=~known))
    bits = Column.of(pa.array(numbers.view(np.int64), mask=~known))
    return Column(bits.codes, np.array(bits.values, np.int64).view(np.float64).tolist())
