"""From an Arrow table of features and labels to arrays, and from times to who may learn from what.

A label counts only when it was known at the cut-off; the split is by event time and never random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import ModelError
from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import Columns
from engine.scoring.manifest import Classes, Week

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
NEVER_US = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows as arrays of one length."""

    matrix: npt.NDArray[np.float32]
    """Row × feature; NaN is missing."""
    fraud: Mask
    labelled: Mask
    """False where the label is null: neither fraud nor good."""
    time_us: Ints
    known_us: Ints
    group: Ints
    """A number for each distinct group; a row of nobody has its own, below 0."""
    amount: Floats | None = None
    """What is lost with a fraud; None where the table doesn't tell, NaN where a row doesn't."""

    def __len__(self) -> int:
        return len(self.time_us)

    def __getitem__(self, chosen: Mask | Ints) -> Rows:
        """The chosen rows."""
        amount = None if self.amount is None else self.amount[chosen]
        return Rows(self.matrix[chosen], self.fraud[chosen], self.labelled[chosen], self.time_us[chosen],
                    self.known_us[chosen], self.group[chosen], amount)  # fmt: skip

    def only(self, columns: Sequence[int]) -> Rows:
        """The same rows with some of the features."""
        return replace(self, matrix=np.ascontiguousarray(self.matrix[:, list(columns)]))


def read_rows(table: pa.Table, features: Sequence[str], columns: Columns) -> Rows:
    """Arrays of a table; ModelError names every missing column, or what can't be used as what it should be."""
    wanted = [*features, columns.time, columns.label, columns.label_known, columns.group]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise ModelError(f"the training table lacks {', '.join(missing)}; it has {', '.join(table.column_names)}")
    if not features or len(set(wanted)) != len(wanted):
        raise ModelError("name at least one feature, and each column once; a label or a time is no feature")
    matrix = np.empty((len(table), len(features)), np.float32)
    for index, name in enumerate(features):
        matrix[:, index] = _feature(table, name)
    label = _numbers(table, columns.label)
    if np.any((label != 0) & (label != 1) & ~np.isnan(label)):
        raise ModelError(f"column {columns.label} must hold 0, 1 or null")
    time_us = _times(table, columns.time)
    if np.any(time_us == NEVER_US):
        raise ModelError(f"column {columns.time} has rows without a time")
    known_us = _times(table, columns.label_known)
    early = np.flatnonzero(known_us < time_us)
    if len(early):
        raise ModelError(
            f"column {columns.label_known}: {len(early):,} labels were known before their event, the first in row "
            f"{early[0] + 1}; one of the two times is wrong"
        )
    amount = _numbers(table, columns.amount) if columns.amount in table.column_names else None
    return Rows(matrix, label == 1, ~np.isnan(label), time_us, known_us, _groups(table, columns.group), amount)


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    column = table.column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
            or pa.types.is_null(kind)):  # fmt: skip
        raise ModelError(f"column {name} is {kind}; numbers or booleans are wanted")
    values: npt.NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _feature(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    values = _numbers(table, name)
    if np.any(np.abs(values[~np.isnan(values)]) > np.finfo(np.float32).max):
        raise ModelError(f"feature {name} holds infinite values or values beyond 3.4e38")
    return values


def _times(table: pa.Table, name: str) -> Ints:
    """Microseconds; NEVER_US for null."""
    column = table.column(name)
    if pa.types.is_timestamp(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("us", column.type.tz), safe=False), pa.int64())
    elif not pa.types.is_integer(column.type):
        raise ModelError(f"column {name} is {column.type}; a timestamp or int64 microseconds are wanted")
    times: Ints = pc.fill_null(pc.cast(column, pa.int64()), int(NEVER_US)).to_numpy()
    return times


def _groups(table: pa.Table, name: str) -> Ints:
    """Codes in the order of the groups' own values, so that ties between groups are broken alike everywhere."""
    column = table.column(name).combine_chunks()
    encoded = pc.dictionary_encode(column)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    rank = np.argsort(pc.array_sort_indices(encoded.dictionary).to_numpy(), kind="stable")
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    ranks = rank[codes] if len(rank) else np.zeros(len(codes))
    return np.where(codes >= 0, ranks, -1 - np.arange(len(codes))).astype(np.int64)


def within(rows: Rows, span: Span) -> Mask:
    """Rows whose event lies in the span."""
    return (rows.time_us >= span.start_us) & (rows.time_us < span.end_us)


def mature(rows: Rows, span: Span, cut_off_us: int) -> Mask:
    """Rows of the span that may be learnt from: labelled, and the label known at the cut-off."""
    return within(rows, span) & rows.labelled & (rows.known_us <= cut_off_us)


def thinned(part: Rows, good_share: float, seed: int) -> tuple[Rows, npt.NDArray[np.float32] | None]:
    """All frauds and a share of the good rows, with weights that keep the prevalence; no weights for all rows."""
    if good_share >= 1.0:
        return part, None
    kept = part[part.fraud | (np.random.default_rng(seed).random(len(part)) < good_share)]
    return kept, np.where(kept.fraud, 1.0, 1.0 / good_share).astype(np.float32)


def count_classes(rows: Rows, span: Span, cut_off_us: int) -> Classes:
    """How the rows of the span fall into classes."""
    inside, usable = within(rows, span), mature(rows, span, cut_off_us)
    return Classes(
        fraud=int((usable & rows.fraud).sum()),
        good=int((usable & ~rows.fraud).sum()),
        immature=int((inside & rows.labelled & ~usable).sum()),
        other=int((inside & ~rows.labelled).sum()),
    )


def weekly_maturity(rows: Rows, span: Span, cut_off_us: int) -> tuple[Week, ...]:
    """For each UTC week (from Monday) of the span: rows, labels known at the cut-off, fraud among them."""
    inside = rows[within(rows, span)]
    day = inside.time_us // DAY_US
    monday = day - (day + 3) % 7  # 1970-01-01 was a Thursday
    known = inside.labelled & (inside.known_us <= cut_off_us)
    return tuple(
        Week(_date(week), int(here.sum()), int((here & known).sum()), int((here & known & inside.fraud).sum()))
        for week in np.unique(monday)
        for here in [monday == week]
    )


def known_compromised(rows: Rows, test: Span, since_us: int) -> Mask:
    """Rows of `test` whose group was already known as defrauded when their UTC day began.

    Known means: a fraud of that group, not older than `since_us`, had its label known before that day. This is how the
    Fraud Detection Handbook leaves compromised cards out of its test week (labels there are known after a fixed delay).
    """
    frauds = rows[rows.fraud & (rows.time_us >= since_us)]
    chosen, day_us = np.zeros(len(rows), np.bool_), rows.time_us // DAY_US * DAY_US
    for start_us in np.unique(day_us[within(rows, test)]):
        known = np.unique(frauds.group[frauds.known_us < start_us])
        chosen |= within(rows, test) & (day_us == start_us) & np.isin(rows.group, known)
    return chosen


def _date(day: Any) -> str:
    return datetime.fromtimestamp(int(day) * 86_400, UTC).date().isoformat()
