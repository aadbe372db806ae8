"""Events as columns: a column is codes into its distinct values, and what is done to one value is done once for each.

Whatever the service does to an event (a filter, a hash, an exchange, a derived feature) is the same Python function
here, called for each distinct combination of what it reads. So the numbers can't differ, and a million rows cost what
their distinct values cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.features.enrich import FROM, QUARTER_US, TIMED, Rates, enrich
from engine.features.windows import Ints
from engine.values import Event, Row

_TIME = "time"
"""Stands for the event's time among the fields that a function reads."""
_ROOM = 2**62
Codes = npt.NDArray[np.signedinteger[Any]]


class Texts(Sequence[Any]):
    """Texts, each once, that are hardly ever looked at, kept by Arrow."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, at: Any) -> Any:
        return self.array[at].as_py()


@dataclass(frozen=True)
class Column:
    """One value a row."""

    codes: Codes
    """Place of each row's value in `values`; -1 where it has none."""
    values: Sequence[Any]
    """May hold equal values; never None."""

    @staticmethod
    def of(array: Any) -> Column:
        """An Arrow array or NumPy column, told apart by bits."""
        found = pa.array(array).dictionary_encode()
        return Column(found.indices.fill_null(-1).to_numpy(zero_copy_only=False), found.dictionary.to_pylist())

    @staticmethod
    def same(value: Any, rows: int) -> Column:
        """One value for all rows; none at all for None."""
        return Column(np.full(rows, -1 if value is None else 0, np.int32), [] if value is None else [value])

    def numbers(self, dtype: Any = np.int64) -> Any:
        """One number a row, 0 where it has none."""
        return np.array([*self.values, 0], dtype)[self.codes]

    def distinct(self) -> Column:
        """The same with each value once."""
        if isinstance(self.values, Texts):
            return self
        known: dict[Any, int] = {}
        numbers = [known.setdefault(value, len(known)) for value in self.values]
        return Column(np.array([*numbers, -1], np.int64)[self.codes], list(known))

    def take(self, rows: Any) -> Column:
        """Some rows."""
        return Column(self.codes[rows], self.values)


def apply(function: Callable[[Row], Any], columns: Mapping[str, Column], rows: int) -> Column:
    """What a function makes of each row, called once for each distinct combination; None is no value."""
    codes, combinations = _combined(list(columns.values()), rows)
    values: list[Any] = []
    known = np.full(len(combinations) + 1, -1, np.int32)
    for number, combination in enumerate(combinations):
        read = {
            name: column.values[code]
            for (name, column), code in zip(columns.items(), combination, strict=True)
            if code >= 0
        }
        value = function(read)
        if value is not None:
            known[number] = len(values)
            values.append(value)
    return Column(known[codes], values)


def _combined(columns: Sequence[Column], rows: int) -> tuple[Ints, list[tuple[int, ...]]]:
    """Number of each row's combination of codes, and the combinations."""
    codes, room = np.zeros(rows, np.int64), 1
    if not columns:
        return codes, [()] if rows else []
    for column in columns:
        size = len(column.values) + 1
        if room * size > _ROOM:
            codes, _ = _told_apart(codes)
            room = rows + 1
        codes, room = codes * size + (column.codes + 1), room * size
    codes, first = _told_apart(codes)
    return codes, list(zip(*(column.codes[first].tolist() for column in columns), strict=True))


def _told_apart(codes: Ints) -> tuple[Ints, Ints]:
    """Numbers from 0 in order of first appearance, and where each appears first."""
    dense: Ints = pa.array(codes).dictionary_encode().indices.to_numpy()
    count = int(dense.max(initial=-1)) + 1
    first = np.zeros(count, np.int64)
    first[dense[::-1]] = np.arange(len(dense) - 1, -1, -1)
    return dense, first


@dataclass
class Frame:
    """Checked events in order of (event time, row), each id once; what they lack is absent from `fields`."""

    ids: pa.Array
    times_us: Ints
    fields: dict[str, Column]
    """Event fields as sent, and `event.kind`."""
    outcomes: Mapping[str, tuple[Ints, Ints]]
    """Kind → (rows, known at)."""
    rates: Rates
    market_zone: Callable[[str], str]
    _derived: dict[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times_us)

    def column(self, name: str) -> Column:
        """An event field, derived where it has to be."""
        if name in self.fields:
            return self.fields[name]
        if name not in self._derived:
            self._derived[name] = self._derive(name) if name in FROM else Column.same(None, len(self))
        return self._derived[name]

    def columns(self, names: Iterable[str]) -> dict[str, Column]:
        """Several by name."""
        return {name: self.column(name) for name in sorted(names)}

    def _derive(self, name: str) -> Column:
        read = {source: self.fields[source] for source in FROM[name] if source in self.fields}
        if FROM[name] and not read and not name.startswith("event."):
            return Column.same(None, len(self))
        if name in TIMED:
            read[_TIME] = self._times(name, read)

        def derived(row: Row) -> Any:
            time_us = row.pop(_TIME, 0)
            return enrich(Event("", "", time_us, row, b"", b""), self.rates, self.market_zone)[0].get(name)

        return apply(derived, read, len(self))

    def _times(self, name: str, read: Mapping[str, Column]) -> Column:
        """The event's time, no finer than the derived field needs it."""
        if name.startswith("event."):
            return Column.of(self.times_us // QUARTER_US * QUARTER_US)
        foreign = any(currency != self.rates.base for currency in read["txn.currency"].values)
        return Column.of(self.times_us) if foreign else Column.same(0, len(self))
