"""A history as shards on disk, and the features of each entity computed in its own part, then joined by row.

    events/S.arrow      the events of shard S in the order of admission, every field that rules and models may read
    split/E.S.arrow     what the log of entity E needs of them: batch P holds the rows of the entities of part P
    features/E.P.arrow  the aggregates of E in part P: batch S belongs to the rows of shard S

A file that appears is whole: it is written under another name first. So any process may make any of them, again too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.batch.declared import Mapping as Declared
from engine.batch.frames import features_of, read_frame
from engine.features.columnar import KIND, build_frame
from engine.features.enrich import FROM
from engine.features.frame import Column, Frame, Texts, apply
from engine.features.load import event_types
from engine.features.offline import ARROW, arrow_of
from engine.features.online import OnlineFeatures
from engine.program import Program
from engine.schema import ENTITIES, FIELDS

SLICE_ROWS = 500_000
"""Rows of a file that are read at once; some 300 bytes each."""
_READ = ("event.kind", "payment.id", "card.token", "payment.retry_of")
"""What every log asks of an event."""
OUTCOME, ROW, ID, TIME = "outcome:", "row", "event_id", "event_time"
Told = Callable[[str, int], None]


def write(path: Path, batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch], schema: pa.Schema) -> None:
    """An Arrow file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with pa.OSFile(str(part), "wb") as out, pa.ipc.new_file(out, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    part.replace(path)


def write_table(path: Path, table: pa.Table) -> None:
    """The same for one table, in one batch."""
    write(path, table.combine_chunks().to_batches(), table.schema)


def write_bytes(path: Path, data: bytes) -> None:
    """A small file, likewise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def read_table(path: Path) -> pa.Table:
    """All batches of an Arrow file, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


# --- reading --------------------------------------------------------------------------------------------------------


def read_shards(
    program: Program, path: Path, mapping: Declared, folder: Path, shard_rows: int, now_us: int, quarantine: Path,
    max_bad: float, told: Told,
) -> tuple[int, int, bool, int]:  # fmt: skip
    """Write a file's events as shards: shards, rows, whether their features are still to be computed, bad rows.

    Clean Parquet whose rows are in order is read slice by slice. Everything else goes row by row; its features are
    computed on the way, in this process.
    """
    try:
        tables = _plain(program, path, mapping, folder, now_us)
        return *write_shards(folder, tables, shard_rows), True, 0
    except NotInOrder:
        fields = sorted(FIELDS.keys() | {KIND})
        table, summary = features_of(
            program, path, mapping, workdir=folder, quarantine=quarantine, now_us=now_us, kind="", fields=fields,
            max_bad=max_bad, progress=lambda p: told("reading row by row", p.rows),
        )  # fmt: skip
        table = table.drop([name for name in fields if table[name].null_count == len(table)])
        return *write_shards(folder, [table], shard_rows), False, summary.bad_rows if summary else 0


def write_shards(folder: Path, tables: Iterable[pa.Table], shard_rows: int) -> tuple[int, int]:
    """Write tables as shards: how many, and their rows."""
    count = rows = 0
    for table in tables:
        for start in range(0, len(table), shard_rows):
            write_table(folder / "events" / f"{count}.arrow", table.slice(start, shard_rows))
            count += 1
        rows += len(table)
    return count, rows


class NotInOrder(ValueError):
    """A file whose slices can't be read one after the other."""


def _plain(program: Program, path: Path, mapping: Declared, folder: Path, now_us: int) -> Iterator[pa.Table]:
    ids, latest_us = [np.zeros(0, np.uint64)], -(2**62)
    for slice_ in _slices(path, mapping, folder):
        frame = read_frame(program, slice_, mapping, folder, now_us)
        if slice_ != path:
            slice_.unlink()
        if frame is None or (len(frame) and frame.times_us[0] < latest_us):
            raise NotInOrder
        latest_us = int(frame.times_us[-1]) if len(frame) else latest_us
        if slice_ != path:
            ids.append(pd.util.hash_array(frame.ids.to_numpy(zero_copy_only=False)))
        yield _events(frame)
    if len(np.unique(np.concatenate(ids))) < sum(map(len, ids)):
        raise NotInOrder


def _slices(path: Path, mapping: Declared, folder: Path) -> Iterator[Path]:
    if path.suffix != ".parquet" or pq.ParquetFile(path).metadata.num_rows <= SLICE_ROWS:
        yield path
        return
    with pq.ParquetFile(path) as source:
        for number, batch in enumerate(source.iter_batches(SLICE_ROWS)):
            part = folder / f"slice-{number}.parquet"
            pq.write_table(pa.Table.from_batches([batch]), part)
            yield part


def _events(frame: Frame) -> pa.Table:
    """Fields as sent, those derived from them, and when each outcome was known."""
    told = frame.fields.keys()
    names = sorted(told | {name for name, sources in FROM.items() if not sources or told & {*sources}})
    found: dict[str, Any] = {ID: frame.ids, TIME: pa.array(frame.times_us)}
    found |= {name: _arrow(frame.column(name), arrow_of(name)) for name in names}
    for kind, (rows, known_us) in frame.outcomes.items():
        known, mask = np.zeros(len(frame), np.int64), np.ones(len(frame), np.bool_)
        known[rows], mask[rows] = known_us, False
        found[OUTCOME + kind] = pa.array(known, mask=mask)
    return pa.table({name: column for name, column in found.items() if column is not None})


def _arrow(column: Column, kind: Any) -> Any:
    """A column: texts as a dictionary unless nearly each is its own; None where nobody has a value."""
    values = column.values.array if isinstance(column.values, Texts) else pa.array(column.distinct().values, kind)
    codes = column.codes if isinstance(column.values, Texts) else column.distinct().codes
    if not len(values):
        return None
    at = pa.array(codes.astype(np.int32), mask=codes < 0)
    if pa.types.is_string(values.type) and len(values) < len(codes) / 2:
        return pa.DictionaryArray.from_arrays(at, values)
    return values.take(at)


# --- features of each entity in its own part --------------------------------------------------------------------------


def split(program: Program, folder: Path, shard: int, parts: int) -> None:
    """What the logs need of one shard, by the part of each entity."""
    events = read_table(folder / "events" / f"{shard}.arrow")
    for entity in program.layouts:
        field, wanted = ENTITIES[entity], _needed(program, entity)
        names = [n for n in events.column_names if n in wanted or n in (ID, TIME) or n.startswith(OUTCOME)]
        table = events.select(names).append_column(ROW, pa.array(np.arange(len(events))))
        table = pa.table([c.combine_chunks() for c in table.columns], names=table.column_names)
        part = np.full(len(events), -1)
        if field in events.column_names:
            coded = events[field].combine_chunks()
            coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
            keys = [zlib.crc32(program.identity.key(entity, one)) % parts for one in coded.dictionary.to_pylist()]
            part = np.array([*keys, -1])[coded.indices.fill_null(len(keys)).to_numpy(zero_copy_only=False)]
        order = np.argsort(part, kind="stable")
        cuts = np.searchsorted(part[order], np.arange(parts + 1))
        batches = [table.take(pa.array(order[cuts[p] : cuts[p + 1]])).combine_chunks() for p in range(parts)]
        write(folder / "split" / f"{entity}.{shard}.arrow", [_batch(one) for one in batches], table.schema)


def _batch(table: pa.Table) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    columns = [c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for c in columns]
    return pa.record_batch(columns, schema=table.schema)


def _needed(program: Program, entity: str) -> set[str]:
    """Event fields that the log of an entity is made from."""
    wanted = {*_READ, ENTITIES[entity]}
    for aggregate in program.feature_set.aggregates:
        if aggregate.entity == entity:
            wanted |= {*aggregate.filter.names, aggregate.filter.of, aggregate.of}
    return wanted | {source for name in wanted for source in FROM.get(name, ())}


def features(program: Program, folder: Path, entity: str, part: int, shards: int, kind: str) -> None:
    """The aggregates of the entities of one part, for the events of `kind` ("" = any)."""
    tables = []
    for shard in range(shards):
        with pa.memory_map(str(folder / "split" / f"{entity}.{shard}.arrow")) as held:
            batch = pa.ipc.open_file(held).get_batch(part)
            tables.append(pa.Table.from_batches([batch]).append_column("shard", pa.array(np.full(len(batch), shard))))
    whole = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    mine = tuple(a for a in program.feature_set.aggregates if a.entity == entity)
    chosen = replace(program.feature_set, aggregates=mine, derived=())
    online = OnlineFeatures(chosen, {entity: program.layouts[entity]})
    table = build_frame(chosen, online, _frame(program, whole), program.identity.key, kind=kind)
    asked = np.ones(len(whole), np.bool_) if not kind else pc.equal(whole[KIND].cast(pa.string()), kind).to_numpy()
    table = table.drop([ID, TIME]).append_column(ROW, pa.array(whole[ROW].to_numpy()[asked]))
    cuts = np.searchsorted(whole["shard"].to_numpy()[asked], np.arange(shards + 1))
    batches = [_batch(table.slice(cuts[s], cuts[s + 1] - cuts[s])) for s in range(shards)]
    write(folder / "features" / f"{entity}.{part}.arrow", batches, table.schema)


def _frame(program: Program, table: pa.Table) -> Frame:
    """The events of a table as `build_frame` takes them."""
    told = {name: table[name].combine_chunks() for name in table.column_names}
    fields = {name: Column.of(column) for name, column in told.items() if name in event_types()}
    outcomes = {}
    for name, known in told.items():
        if name.startswith(OUTCOME):
            rows = np.flatnonzero(known.is_valid().to_numpy(zero_copy_only=False))
            outcomes[name[len(OUTCOME) :]] = rows, known.take(pa.array(rows)).to_numpy()
    markets = program.policy.settings.markets
    times = told[TIME].to_numpy()
    return Frame(told[ID], times, fields, outcomes, program.rates, lambda market: markets.get(market, ""))


def seen(program: Program, folder: Path, shard: int, parts: int) -> pa.Table:
    """The events of a shard with every feature."""
    events = read_table(folder / "events" / f"{shard}.arrow")
    events = events.drop([name for name in events.column_names if name.startswith(OUTCOME)])
    size, found = len(events), dict[str, Any]()
    for entity in program.layouts:
        batches = []
        for part in range(parts):
            with pa.memory_map(str(folder / "features" / f"{entity}.{part}.arrow")) as held:
                batches.append(pa.ipc.open_file(held).get_batch(shard))
        table = pa.Table.from_batches(batches)
        place = np.full(size, -1)
        place[table[ROW].to_numpy()] = np.arange(len(table))
        at = pa.array(place, mask=place < 0)
        found |= {name: table[name].combine_chunks().take(at) for name in table.column_names if name != ROW}
    columns = {name: events[name].combine_chunks() for name in events.column_names} | found
    return derived(program, pa.table(columns))


def derived(program: Program, table: pa.Table) -> pa.Table:
    """The table with the derived features that it lacks, by the expressions that the service uses."""
    kinds, size, coded = program.feature_set.types, len(table), dict[str, Column]()
    for one in program.feature_set.derived:
        if one.name in table.column_names:
            continue
        for name in sorted(one.needs - coded.keys()):
            coded[name] = _coded(table[name].combine_chunks() if name in table.column_names else None, size)
        coded[one.name] = apply(one.value, {name: coded[name] for name in sorted(one.needs)}, size)
        values = _arrow(coded[one.name], ARROW[kinds[one.name]])
        table = table.append_column(one.name, pa.nulls(size, ARROW[kinds[one.name]]) if values is None else values)
    return table


def _coded(column: Any, size: int) -> Column:
    """Doubles are told apart by their bits, so that 0.0 and -0.0 stay two."""
    if column is None:
        return Column.same(None, size)
    if not pa.types.is_floating(column.type):
        return Column.of(column)
    bits = Column.of(column.view(pa.int64()))
    return Column(bits.codes, np.array(bits.values, np.int64).view(np.float64).tolist())
