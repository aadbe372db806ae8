"""A re-scoring from beginning to end: shards, features, decisions, one output; a killed one goes on where it was.

Work is done by files of a folder beside the output (`parts.py`), so a step whose file is there is not done again. The
output is written as `OUT.partial` and gets its name when it is complete; then the folder goes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from engine.bootstrap import open_program
from engine.errors import MappingError, PolicyError
from engine.program import Program
from engine.rescore import parts
from engine.rescore.decide import Decider, Judgement, Then
from engine.rescore.decided import packed, schema_of
from engine.settings import Settings
from engine.values import Action, Tier

SHARD_ROWS = 131_072
PART_ROWS = 1_000_000
Told = Callable[[str, int, int], None]
"""Called with the stage, the rows that are done, and how many there are (0 = not known)."""


class Crew(Protocol):
    """Who does the steps."""

    size: int

    def each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results in order; a few are under way at once."""


class Threads:
    """This process."""

    def __init__(self, size: int) -> None:
        self.size = size

    def each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results in order."""
        with ThreadPoolExecutor(self.size) as pool:
            yield from windowed(lambda given: pool.submit(function, *given), arguments, self.size + 1)


def windowed(submit: Callable[[Any], Any], arguments: Iterable[Any], width: int) -> Iterator[Any]:
    """Results of futures in order, no more than `width` of them under way, so that memory stays bounded."""
    under_way: deque[Any] = deque()
    for given in arguments:
        under_way.append(submit(given))
        if len(under_way) >= width:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


@dataclass(frozen=True)
class Plan:
    """What a folder of work belongs to, and how it is cut."""

    source: str
    """Digest of what is read, and how."""
    program: str
    kinds: tuple[str, ...]
    standing: str
    shards: int
    rows: int
    parts: int
    """Of each kind of entity; 0 where features are there already."""
    stored: str = ""
    """A Parquet file with features, one shard a row group."""
    bad_rows: int = 0


@dataclass
class Report:
    """What was done."""

    rows: int = 0
    resumed: int = 0
    """Shards that an earlier run had decided."""
    bad_rows: int = 0
    roads: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    digest: str = ""
    """BLAKE2b of the output's bytes."""


@lru_cache(4)
def _program(settings: Settings, digest: str) -> Program:
    program = open_program(settings, clock=_then)
    if digest and program.digest != digest:
        raise PolicyError(
            f"the policy or its models are not what this job began with ({digest[:12]}); put them back, or start anew: "
            "remove the work folder"
        )
    return program


def _then() -> int:
    return THEN.us


THEN = Then()


def split(settings: Settings, plan: Plan, work: Path, shard: int) -> None:
    """A step: the rows of a shard by the parts of their entities."""
    program = _program(settings, plan.program)
    if not all((work / "split" / f"{entity}.{shard}.arrow").exists() for entity in program.layouts):
        parts.split(program, work, shard, plan.parts)


def count(settings: Settings, plan: Plan, work: Path, entity: str, part: int) -> None:
    """A step: the aggregates of the entities of one part."""
    program = _program(settings, plan.program)
    if not (work / "features" / f"{entity}.{part}.arrow").exists():
        kind = "" if needs_all(program, plan.kinds) else plan.kinds[0]
        parts.features(program, work, entity, part, plan.shards, kind)


def needs_all(program: Program, kinds: Sequence[str]) -> bool:
    """Whether events that are only recorded need features too: rules on the user and patterns hear of them."""
    return len(kinds) > 1 or "user" in program.policy.by_kind or bool(program.policy.plan.patterns.patterns)


def judge(settings: Settings, plan: Plan, work: Path, shard: int) -> list[tuple[pa.Table, Judgement]]:
    """A step: the events of a shard with their features, and what columns say of them."""
    program = _program(settings, plan.program)
    decider = _decider(settings, plan)
    if plan.stored:
        seen = parts.derived(program, stored_shard(Path(plan.stored), shard, plan.kinds[0]))
    elif plan.parts:
        seen = parts.seen(program, work, shard, plan.parts)
    else:
        seen = parts.read_table(work / "events" / f"{shard}.arrow")
    return [(chunk, decider.judge(chunk)) for chunk in decider.chunks([seen])]


@lru_cache(4)
def _decider(settings: Settings, plan: Plan) -> Decider:
    return Decider(_program(settings, plan.program), plan.kinds, THEN, plan.standing)


def stored_shard(path: Path, shard: int, kind: str) -> pa.Table:
    """One row group of a file that holds features."""
    table = pq.ParquetFile(path).read_row_group(shard)
    if "event.kind" not in table.column_names:
        kinds = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int8()), [kind])
        table = table.append_column("event.kind", kinds)
    return table


def run(settings: Settings, plan: Plan, work: Path, out: Path, crew: Crew, told: Told) -> Report:
    """Decide all shards in order and write the output; what was decided before is taken from the folder."""
    program, report = _program(settings, plan.program), Report(bad_rows=plan.bad_rows)
    task = settings, plan, work
    if plan.parts:
        for done, _ in enumerate(crew.each(split, [(*task, shard) for shard in range(plan.shards)]), 1):
            told("splitting", plan.rows * done // plan.shards, plan.rows)
        jobs = [(*task, entity, part) for entity in program.layouts for part in range(plan.parts)]
        for done, _ in enumerate(crew.each(count, jobs), 1):
            told("computing features", plan.rows * done // len(jobs), plan.rows)
    decider = Decider(program, plan.kinds, THEN, plan.standing)
    finished = _finished(work, plan.shards)
    report.resumed = finished
    if finished:
        decider.load((work / "decided" / f"{finished - 1}.people").read_bytes())
    judged = crew.each(judge, [(*task, shard) for shard in range(finished, plan.shards)])
    with _output(out, program, plan) as write:
        for shard in range(plan.shards):
            path = work / "decided" / f"{shard}.arrow"
            if shard < finished:
                table = parts.read_table(path)
            else:
                table = pa.concat_tables([decider.finish(*chunk, pack=True) for chunk in next(judged)])
                parts.write_bytes(path.with_suffix(".people"), decider.dump())
                parts.write_table(path, table)
            report.rows += len(table)
            for words, counts in ((Tier, report.tiers), (Action, report.actions)):
                for found in table[words.__name__.lower()].value_counts().to_pylist():
                    counts[words(found["values"]).name] += found["counts"]
            write(table)
            told("deciding", report.rows, plan.rows)
    decider.signals.close()
    report.roads = decider.counts
    with out.open("rb") as file:
        report.digest = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    shutil.rmtree(work)
    return report


def _finished(work: Path, shards: int) -> int:
    return next((s for s in range(shards) if not (work / "decided" / f"{s}.arrow").exists()), shards)


@contextmanager
def _output(out: Path, program: Program, plan: Plan) -> Iterator[Callable[[pa.Table], None]]:
    """Takes tables; the file gets its name only when all came."""
    partial_ = out.with_name(f"{out.name}.partial")
    schema = packed(schema_of(program, plan.kinds).empty_table()).schema
    if out.suffix == ".csv":
        plain = pa.schema([(f.name, pa.string() if pa.types.is_list(f.type) else f.type) for f in schema])
        with csv.CSVWriter(partial_, plain) as writer:
            yield lambda table: writer.write_table(_flat(table, plain))
    else:
        with pq.ParquetWriter(partial_, schema, use_dictionary=["kind", "user", "tier", "action"]) as parquet:
            yield parquet.write_table
    partial_.replace(out)


def _flat(table: pa.Table, plain: pa.Schema) -> pa.Table:
    """Lists as texts, their parts apart by a space."""
    columns = [pc.binary_join(table[f.name], " ") if f.type != table[f.name].type else table[f.name] for f in plain]
    return pa.table(columns, schema=plain)


def open_work(work: Path, wanted: dict[str, Any]) -> Plan | None:
    """The plan of a folder that an earlier run left; None where there is none yet. MappingError for another job's."""
    path = work / "plan.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        return None
    known = orjson.loads(path.read_bytes())
    known["kinds"] = tuple(known["kinds"])
    other = sorted(name for name, value in wanted.items() if known[name] != value)
    if other:
        raise MappingError(
            f"{work} holds an unfinished job with another {' and '.join(other)}; finish that one, remove the folder, "
            "or name another with --work"
        )
    return Plan(**known)


def plan_stored(program: Program, path: Path, wanted: dict[str, Any]) -> Plan:
    """The plan of a Parquet file that holds features; MappingError names those that it lacks."""
    try:
        held = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as problem:
        raise MappingError(f"{path}: not a readable Parquet file: {problem}") from None
    names, features = set(held.schema_arrow.names), program.feature_set
    lost = [a.name for a in features.aggregates if a.name not in names]
    lost += sorted(
        name for kind in wanted["kinds"] if kind in program.models
        for name in program.models[kind].features if name not in {*names, *features.names}
    )  # fmt: skip
    if lost or not {"event_id", "event_time"} <= names:
        lacks = ", ".join(sorted({"event_id", "event_time"} - names) + lost)
        raise MappingError(
            f"{path} lacks {lacks}, which the policy's features or its model read; compute them from the events: leave "
            "out --stored, or make the file again with `arbiter features build`"
        )
    return Plan(**wanted, shards=held.num_row_groups, rows=held.metadata.num_rows, parts=0, stored=str(path.absolute()))


def keep(work: Path, plan: Plan) -> Plan:
    """From here on the folder belongs to this plan."""
    parts.write_bytes(work / "plan.json", orjson.dumps(asdict(plan)))
    return plan
