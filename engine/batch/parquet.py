"""Arrow batches of a Parquet file, turned into rows of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.batch.declared import FileFormat
from engine.batch.files import BROKEN, CHUNK_ROWS, Chunk, SourceFile
from engine.errors import MappingError


class Parquet:
    """Arrow batches turned into rows; times become µs, decimals text, NaN the text NaN."""

    def __init__(self, file: SourceFile, form: FileFormat) -> None:
        self.name, self.size_bytes, self.digest = file.name, file.size_bytes, file.digest
        self._file = file
        try:
            self._path = file.seekable()
            with pq.ParquetFile(self._path) as parquet:
                self.rows_total: int | None = parquet.metadata.num_rows
                self.schema: Mapping[str, str] | None = {
                    column.name: _kind(column.type) for column in parquet.schema_arrow
                }
        except (*BROKEN, ValueError) as error:
            raise MappingError(f"{file.name}: not a readable Parquet file: {error}") from None

    def column(self, name: str) -> pa.Array:
        """A whole column; times in µs."""
        try:
            found = pq.read_table(self._path, columns=[name]).column(0).combine_chunks()
        except BROKEN as error:
            raise self._file.broken(0, error) from None
        moment = pa.types.is_timestamp(found.type) or pa.types.is_date(found.type)
        return found.cast(pa.timestamp("us")).cast(pa.int64()) if moment else found

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """All rows; a row's line is its number."""
        row = 0
        with pq.ParquetFile(self._path) as parquet:
            try:
                for batch in _batches(parquet, columns):
                    numbers = range(row + 1, row + 1 + batch.num_rows)
                    values = [values_of(batch.column(name)) for name in columns]
                    row += batch.num_rows
                    done = self.size_bytes * row // max(1, self.rows_total or 1)
                    yield Chunk(list(zip(numbers, numbers, *values, strict=True)), [], done)
            except BROKEN as error:
                raise self._file.broken(row, error) from None


def _batches(parquet: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Row group by row group: one call for all of them keeps the bytes of each until the last."""
    for group in range(parquet.num_row_groups):
        yield from parquet.iter_batches(CHUNK_ROWS, row_groups=[group], columns=list(columns))


def _kind(kind: pa.DataType) -> str:
    """The schema word of an Arrow type; "nested" for what no field can take."""
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_timestamp(kind):
        return "instant" if kind.tz else "timestamp"
    words = {
        "timestamp": pa.types.is_date, "int": pa.types.is_integer, "float": pa.types.is_floating,
        "bool": pa.types.is_boolean,
    }  # fmt: skip
    for word, matches in words.items():
        if matches(kind):
            return word
    plain = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_decimal, pa.types.is_null
    return "text" if any(matches(kind) for matches in plain) else "nested"


def values_of(column: pa.Array) -> list[Any]:
    """The values as rows have them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        zone = getattr(column.type, "tz", None)
        return column.cast(pa.timestamp("us", tz=zone)).cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    values: list[Any] = column.to_pylist()
    if pa.types.is_decimal(column.type):
        return [None if value is None else str(value) for value in values]
    if pa.types.is_floating(column.type):
        return ["NaN" if value != value else value for value in values]  # noqa: PLR0124 - only NaN differs from itself
    return values
