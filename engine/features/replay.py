"""Answers for the rows of histories: in columns where those are exact, else by `online.py` over rebuilt logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from engine.eventlog import LogLayout
from engine.features.folds import FOLDS, NEED_ONLINE
from engine.features.online import Current, OnlineFeatures
from engine.features.spec import Aggregate, scale_of, value_column
from engine.features.windows import LARGEST, Answers, Histories, Ints, Mask, plain
from engine.schema import FIELDS
from engine.values import EntityEvent, Row


class IdsOf(Protocol):
    """Tells the 64-bit event ids of some rows of histories; asked only for those that columns can't answer."""

    def __call__(self, rows: Ints, /) -> Ints:
        """In the order of `rows`."""


def answer(
    aggregates: Sequence[Aggregate], histories: Histories, table_rows: Ints, as_of_us: Ints, ids_of: IdsOf,
    online: OnlineFeatures, layout: LogLayout, found: Mapping[str, Answers],
) -> None:  # fmt: skip
    """Fill `found` for one kind of entity.

    `table_rows` and `as_of_us` belong to the rows of `histories`: where the answer goes (-1 = not asked), and as of
    when it is decided.
    """
    in_columns = histories.rows.asked & _exact(histories, as_of_us, layout)
    columnar = [a for a in aggregates if not (a.dispositions and a.measure in NEED_ONLINE)]
    for part, place in histories.asking(in_columns).parts():
        targets = table_rows[place[part.asked]]
        for aggregate in columnar:
            answers = _fold(part, aggregate, layout)
            column = found[aggregate.name]
            column.numbers[targets], column.known[targets] = answers.numbers, answers.known
    rest = {a.name for a in aggregates} - {a.name for a in columnar}
    wanted = histories.rows.asked if rest else histories.rows.asked & ~in_columns
    for at, row in _replay(histories, wanted, as_of_us, ids_of, online, layout):
        for name in rest if in_columns[at] else [a.name for a in aggregates]:
            value, column = row.get(name), found[name]
            column.numbers[table_rows[at]], column.known[table_rows[at]] = value or 0, value is not None


def _exact(histories: Histories, as_of_us: Ints, layout: LogLayout) -> Mask:
    """Rows whose windows the columns give: in order, decided as of their own time, and with ordinary amounts."""
    rows = histories.rows
    sums = [index for index, name in enumerate(layout.values) if name.startswith("sum:")]
    huge = np.unique(rows.group[(np.abs(rows.values[:, sums]) > LARGEST).any(axis=1)])
    in_order = plain(rows.group, rows.time_us, rows.seq, rows.rank, histories.keep)
    exact: Mask = in_order & (as_of_us == rows.time_us) & ~np.isin(rows.group, huge)
    return exact


def _fold(histories: Histories, aggregate: Aggregate, layout: LogLayout) -> Answers:
    column = value_column(aggregate)
    value = layout.values.index(column) if column else -1
    scale = scale_of(FIELDS[aggregate.of].type) if aggregate.of else 1
    found = FOLDS[aggregate.measure](histories, aggregate, layout.flags.index(aggregate.filter.name), value, scale)
    return Answers(found.numbers, found.known & histories.tellable(aggregate)) if aggregate.tile_us else found


def _replay(
    histories: Histories, wanted: Mask, as_of_us: Ints, ids_of: IdsOf, online: OnlineFeatures, layout: LogLayout
) -> Iterator[tuple[int, Row]]:
    """(row, its features) of the wanted rows: each log as it was at that admission, read by the online code."""
    rows = histories.rows
    for group in np.unique(rows.group[wanted]):
        start, end = np.searchsorted(rows.group, [group, group + 1]).tolist()
        ids = dict(zip(range(start, end), ids_of(np.arange(start, end)).tolist(), strict=True))
        steps = [(int(rows.seq[at]), 0, at, 0, "", 0) for at in range(start, end)]
        steps += _news(histories, start, end)
        log: dict[int, bytes] = {}
        outcomes: dict[tuple[int, str], list[Any]] = {}
        for seq, is_news, at, code, kind, known_us in sorted(steps):
            if kind:
                outcomes[ids[at], kind] = [ids[at], kind, 0, known_us]
            elif is_news:
                log[at] = layout.with_byte(log[at], 0, layout.disposition_at, code)
            else:
                entry = EntityEvent(
                    layout.entity, b"", ids[at], int(rows.time_us[at]), 0, rows.flags[at].tobytes(),
                    tuple(rows.values[at].tolist()),
                )  # fmt: skip
                if wanted[at]:
                    head = {"out": outcomes.values(), "tiles": layout.tiled({}, list(log.values()))}
                    current = Current(entry, int(as_of_us[at]), head)
                    yield at, online.look(current, b"".join(log.values()))
                log[at] = layout.encode(entry, seq)


def _news(histories: Histories, start: int, end: int) -> Iterator[tuple[int, int, int, int, str, int]]:
    """(place in the order of arrival, 1, row, disposition, outcome kind, known at) of what rows start..end became."""
    for kind, later in [("", histories.settled), *histories.outcomes.items()]:
        mine = (later.row >= start) & (later.row < end)
        columns = (later.seq[mine], later.row[mine], later.what[mine], later.known_us[mine])
        for seq, row, code, known_us in zip(*(column.tolist() for column in columns), strict=True):
            yield seq, 1, row, code, kind, known_us
