"""The inputs of columns: Arrow in, columns, distinct values and single rows out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.language.columns_values import DTYPES, TIME_MAX_US, TIME_MIN_US, Column
from engine.language.quantities import ExpressionError, UInt
from engine.language.types import BOOL, DOUBLE, DURATION, INT, STRING, TIMESTAMP, UINT, Type

Table: TypeAlias = pa.Table | pa.RecordBatch | Mapping[str, Any]
"""Arrow, or names with Arrow arrays, NumPy arrays or lists of one length. Null and None are absent; NaN never is."""
_FITS = {
    BOOL: pa.types.is_boolean, INT: pa.types.is_integer, UINT: pa.types.is_integer,
    DOUBLE: lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind),
    TIMESTAMP: lambda kind: kind == pa.int64() or (pa.types.is_timestamp(kind) and kind.tz is not None),
    DURATION: lambda kind: kind == pa.int64() or pa.types.is_duration(kind),
    STRING: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind),
}  # fmt: skip
_SPAN_MAX_US = (2**63 - 1) // 1000


class Inputs:
    """The columns of one table that expressions read; each is converted when it is first asked for."""

    def __init__(self, table: Table, types: Mapping[str, Type]) -> None:
        given = table.column_names if isinstance(table, pa.Table | pa.RecordBatch) else table
        self.sources: dict[str, Any] = {name: table[name] for name in given if name in types}
        self.types = types
        lengths = {len(table[name]) for name in given}
        if len(lengths) > 1:
            raise ExpressionError(f"the columns have different lengths: {', '.join(map(str, sorted(lengths)))}")
        self.size = lengths.pop() if lengths else 0
        self.kept: dict[Any, Any] = {}
        """What was computed once for the whole table."""

    def column(self, name: str) -> Column:
        """The values of an input whose type has columns."""
        if ("column", name) not in self.kept:
            self.kept["column", name] = self._column(name)
        found: Column = self.kept["column", name]
        return found

    def _column(self, name: str) -> Column:
        kind = self.types[name]
        array = self.array(name)
        if array is None or pa.types.is_null(array.type):
            values = np.zeros(self.size, DTYPES[kind])
            return Column(values, np.ones(self.size, np.bool_), None, () if kind == STRING else None)
        if not _FITS[kind](array.type):
            wanted = {TIMESTAMP: "int64 µs or a timestamp with a zone"}.get(kind, str(kind))
            raise ExpressionError(f"column `{name}` is {array.type}, but the rules read it as {kind}; give {wanted}")
        unknown = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        try:
            return _text(array, unknown) if kind == STRING else Column(_numbers(array, kind), unknown)
        except (pa.ArrowInvalid, ValueError) as error:
            raise ExpressionError(f"column `{name}`, which the rules read as {kind}: {error}") from error

    def coded(self, name: str) -> tuple[npt.NDArray[Any], list[Any]]:
        """A code for each row, and the values that the codes stand for; the last, None, is that of absent ones."""
        if ("coded", name) not in self.kept:
            self.kept["coded", name] = self._coded(name)
        found: tuple[npt.NDArray[Any], list[Any]] = self.kept["coded", name]
        return found

    def _coded(self, name: str) -> tuple[npt.NDArray[Any], list[Any]]:
        column, kind = self.column(name), self.types[name]
        if column.texts is not None:
            codes, values = column.values, list(column.texts)
        else:
            bits = column.values.view(np.int64) if kind == DOUBLE else column.values  # -0.0 is another value than 0.0
            distinct, codes = np.unique(bits, return_inverse=True)
            values = [
                _plain(kind, value) for value in (distinct.view(np.float64) if kind == DOUBLE else distinct).tolist()
            ]
        if column.unknown is not None:
            codes = np.where(column.unknown, len(values), codes)
        return codes, [*values, None]

    def rows(self, names: Iterable[str], at: npt.NDArray[Any]) -> list[dict[str, Any]]:
        """Single rows, as the row backend takes them, with these names."""
        columns = {name: self._plain(name, at) for name in names if name in self.sources}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)] or [
            {} for _ in range(len(at))
        ]

    def _plain(self, name: str, at: npt.NDArray[Any]) -> list[Any]:
        kind = self.types[name]
        if kind in DTYPES:
            column = self.column(name).take(at)
            values = [_plain(kind, value) for value in column.values.tolist()]
            if column.texts is not None:
                values = [column.texts[code] if column.texts else None for code in values]
            unknown = column.unknown
            return values if unknown is None else [None if u else v for v, u in zip(values, unknown, strict=True)]
        source = self.sources[name]
        if isinstance(source, list | tuple):
            return [source[index] for index in at]
        array = self.array(name)
        values = [] if array is None else array.take(pa.array(at)).to_pylist()
        if kind.name == "map":
            return [dict(value) if isinstance(value, list) else value for value in values]
        return values

    def array(self, name: str) -> Any:
        """An input as one Arrow array; None if the table lacks it."""
        source = self.sources.get(name)
        if source is None:
            return None
        if isinstance(source, pa.ChunkedArray):
            return source.combine_chunks() if source.num_chunks != 1 else source.chunk(0)
        return source if isinstance(source, pa.Array) else pa.array(source)


def _plain(kind: Type, value: Any) -> Any:
    return UInt(value) if kind == UINT else value


def _text(array: pa.Array, unknown: Any) -> Column:
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    texts = array.dictionary.to_pylist()
    if any(not isinstance(text, str) for text in texts):
        raise ValueError("the dictionary holds something else than texts")
    codes = array.indices.cast(pa.int32()).fill_null(0) if unknown is not None else array.indices.cast(pa.int32())
    return Column(codes.to_numpy(zero_copy_only=False), unknown, None, tuple(texts))


def _numbers(array: pa.Array, kind: Type) -> npt.NDArray[Any]:
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz))
    elif pa.types.is_duration(array.type):
        array = array.cast(pa.duration("us"))
    array = array.cast(pa.from_numpy_dtype(DTYPES[kind]), safe=kind != DOUBLE)
    if array.null_count:
        array = array.fill_null(False if kind == BOOL else 0)
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if kind in (TIMESTAMP, DURATION) and len(values):
        low, high = (TIME_MIN_US, TIME_MAX_US) if kind == TIMESTAMP else (-_SPAN_MAX_US, _SPAN_MAX_US)
        if values.min() < low or values.max() > high:
            raise ValueError("a time is outside its range")
    return values
