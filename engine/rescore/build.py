"""Features of a file into a file: in one piece where memory allows, else entity part by entity part on disk.

    built = build_features(program, path, mapping, out, workdir=…, now_us=…)        → Built(rows, bad_rows)

Either way the numbers are those of `engine.batch.frames.features_of`, in the same order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.batch.declared import Mapping as Declared
from engine.batch.frames import features_of
from engine.batch.load import Progress
from engine.features.columnar import KIND
from engine.features.offline import ARROW, arrow_of
from engine.program import Program
from engine.rescore import parts

LARGE_ROWS = 10_000_000
"""A Parquet file of more rows goes by parts, in less than half the memory of this many and three times the time."""
PART_ROWS, SHARD_ROWS = 500_000, 500_000
Told = Callable[[str, int, int], None]
"""Called with the stage, what is done and of how much (0 = not known)."""


@dataclass(frozen=True, slots=True)
class Built:
    """What was written."""

    rows: int
    bad_rows: int


def build_features(
    program: Program, path: Path, mapping: Declared, out: Path, *, now_us: int, quarantine: Path, kind: str = "payment",
    fields: Sequence[str] = (), max_bad: float = 0.05, told: Told = lambda *_: None,
) -> Built:  # fmt: skip
    """Write `out`, whole or not at all; bad rows go to `quarantine`. Raises MappingError like an import."""
    part = out.with_name(f".{out.name}.part")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as folder:
            if path.suffix == ".parquet" and pq.ParquetFile(path).metadata.num_rows > LARGE_ROWS:
                shards, rows, split, bad = parts.read_shards(
                    program, path, mapping, Path(folder), SHARD_ROWS, now_us, quarantine, max_bad,
                    lambda stage, done: told(stage, done, 0),
                )  # fmt: skip
                tables = _by_parts(program, Path(folder), shards, rows if split else 0, kind, fields, told)
            else:
                table, summary = features_of(
                    program, path, mapping, workdir=Path(folder), quarantine=quarantine, kind=kind, fields=fields,
                    now_us=now_us, max_bad=max_bad, progress=lambda p: _tell(p, told),
                )  # fmt: skip
                tables, bad = iter([table]), summary.bad_rows if summary else 0
            first = next(tables)
            with pq.ParquetWriter(part, first.schema) as writer:
                writer.write_table(first)
                count = len(first)
                for table in tables:
                    writer.write_table(table)
                    count += len(table)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Built(count, bad)


def _tell(progress: Progress, told: Told) -> None:
    told("computing features", progress.bytes_done, progress.bytes_total)


def _by_parts(
    program: Program, folder: Path, shards: int, rows: int, kind: str, fields: Sequence[str], told: Told
) -> Iterator[pa.Table]:
    """A table a shard; `rows` is 0 where the shards have their features already."""
    count = -(-rows // PART_ROWS)
    for shard in range(shards if count else 0):
        parts.split(program, folder, shard, count)
        told("splitting", shard + 1, shards)
    jobs = [(entity, part) for entity in program.layouts for part in range(count)]
    for done, job in enumerate(jobs, 1):
        parts.features(program, folder, *job, shards, kind)
        told("computing features", done, len(jobs))
    schema = pa.schema([
        ("event_id", pa.string()), ("event_time", pa.timestamp("us", "UTC")),
        *((name, arrow_of(name)) for name in fields),
        *((name, ARROW[of]) for name, of in program.feature_set.types.items()),
    ])  # fmt: skip
    for shard in range(shards):
        path = folder / "events" / f"{shard}.arrow"
        table = parts.seen(program, folder, shard, count) if count else parts.read_table(path)
        if kind:
            table = table.filter(pc.equal(table[KIND].cast(pa.string()), kind))
        yield pa.table([_column(table, field) for field in schema], schema=schema)
        told("writing", shard + 1, shards)


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    return table[field.name].cast(field.type)
