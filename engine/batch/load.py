"""Imports a file: rows → events in (event time, row) order → batches that a sink makes durable with their position.

    summary = load(Path("orders.csv"), load_mapping(Path("orders.yaml")), sink, workdir=…, quarantine=…, now_us=…)

An interrupted import is simply started again: the same file with the same mapping gives the same order, the sink knows
how far it came, and what it has already is not sent again. Ids make even a lost position harmless.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson

from engine.batch.arrivals import Arrival, Arrivals, Outcome
from engine.batch.bind import bind_time
from engine.batch.declared import Mapping as Declared
from engine.batch.files import Source
from engine.batch.quarantine import Quarantine
from engine.batch.read import open_source
from engine.batch.stage import ExternalSort, row_of, time_key
from engine.bulk import rare_collections, scratch_in
from engine.errors import MappingError, Violation
from engine.values import Event

BATCH_EVENTS = 4_000
"""Events that a sink gets at once: one commit each, so enough to make its cost small, and few enough to lose little."""
_READING = b"1"
"""Raised when a change of code changes which events a file gives, or their order: old positions are void then."""

Item = tuple[Event | None, Sequence[Outcome]]
"""An event with the outcomes that its rows tell; no event where the file holds outcomes alone."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one batch; its outcomes are counted like its events."""

    new: int
    repeated: int
    """Known already with the same body; counted nowhere twice."""
    conflicts: Sequence[str] = ()
    """Ids of the batch's events and outcomes that are known with another body; the known one stays."""
    refused: Mapping[str, Sequence[Violation]] = field(default_factory=dict)
    """Id of an outcome that its event contradicts → how; nothing of it was kept."""
    orphans: int = 0
    """New outcomes of events that are not known yet; they wait for them."""
    joined: int = 0
    """Outcomes that waited and found their event in this batch."""


class EventSink(Protocol):
    """Where events go: journal and profiles."""

    def position(self, source_digest: bytes) -> int:
        """Events of this source that are durable already, from the beginning of its order; 0 for a new one."""

    def write(self, batch: Sequence[Item], position: int) -> BatchResult:
        """Make a batch durable together with its position: the events of the source up to and with this batch."""

    def finish(self) -> None:
        """Called once after the last batch."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an import is."""

    stage: str
    """checking (is the file in order), reading (rows, and writing where it is in order), writing (sorted events)."""
    rows: int
    """Rows read; events written in the stage writing."""
    rows_total: int | None
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What an import did; the counts are of this run, `resumed_at` tells how many events earlier ones had written."""

    source: str
    mapping: str
    rows: int
    events: int
    """Good events that the file holds (outcomes, where it holds those alone)."""
    new: int
    """Events and outcomes that this run made durable."""
    repeated: int
    """Those that were known already, with the same body."""
    conflicts: int
    """Those whose id was known with another body; each is in the quarantine file."""
    outcomes: int
    """Outcomes handed on with the events of this run."""
    skipped: Mapping[str, int]
    """Declared reason → rows left out on purpose."""
    bad_rows: int
    reasons: Mapping[str, int]
    """`field: reason` → bad rows, and conflicts."""
    quarantine: Path | None
    unseen: tuple[str, ...]
    """Columns that the mapping names and no row of a JSON lines file had."""
    resumed_at: int
    runs: int
    """Sorted runs on disk; 0 when the file was in order already or fits in memory."""
    in_order: bool
    cleaned: Mapping[str, int]
    """What cleaning did → rows."""
    orphans: int = 0
    """New outcomes of events that are not known yet; they wait for them."""
    joined: int = 0
    """Outcomes that waited before and found their event in this run."""


def load(
    path: Path | None, mapping: Declared, sink: EventSink, *, workdir: Path, quarantine: Path, now_us: int,
    max_bad: float = 0.05, progress: Callable[[Progress], None] | None = None, stdin: BinaryIO | None = None,
    batch_events: int = BATCH_EVENTS,
) -> Summary:  # fmt: skip
    """Import one file, or `stdin` where there is no path; MappingError when it can't be read or too much is bad.

    `workdir` takes temporary files (up to the size of the events), `max_bad` is the share 0..1 of bad rows that is let
    pass, and `now_us` the clock against which a time in the future is judged.
    """
    with rare_collections(), scratch_in(workdir) as at, open_source(path, mapping.format, Path(at), stdin) as source:
        away = Quarantine(quarantine, source.name, max_bad)
        run = _Run(source, mapping, sink, away, Path(at), now_us, progress or (lambda _: None), batch_events)
        try:
            return run.summary(*run.write())
        except MappingError as error:
            if run.new + run.repeated == 0:
                raise
            done = f"partly imported: {run.new:,} new events and outcomes came before; they stay, and never count twice"
            raise MappingError(f"{error}\n{done}") from None
        finally:
            away.close()


class _Run:
    """One import in its course."""

    def __init__(
        self, source: Source, mapping: Declared, sink: EventSink, away: Quarantine, scratch: Path, now_us: int,
        progress: Callable[[Progress], None], batch_events: int,
    ) -> None:  # fmt: skip
        self.source, self.mapping, self.sink, self.away, self.scratch = source, mapping, sink, away, scratch
        self.progress, self.batch_events = progress, batch_events
        self.events = self.new = self.repeated = self.conflicts = self.outcomes = self.runs = 0
        self.orphans = self.joined = 0
        self.arrivals = Arrivals(source, mapping, away, now_us, scratch, self._tell)

    def write(self) -> tuple[int, bool]:
        """Everything, batch by batch; where it was resumed, and whether the file was in order."""
        digest = hashlib.blake2b(self.source.digest + self.mapping.digest + _READING, digest_size=16).digest()
        resumed_at = self.sink.position(digest)
        if resumed_at:
            self.away.keep_conflicts()
        in_order = self._in_order()
        with closing(self._direct(resumed_at) if in_order else self._sorted(resumed_at)) as arrivals:
            batch: list[Arrival] = []
            for arrival in arrivals:
                batch.append(arrival)
                if len(batch) == self.batch_events:
                    self._send(batch)
                    batch = []
            if batch:
                self._send(batch)
        self.sink.finish()
        self.away.check(self.arrivals.rows, final=True)
        return resumed_at, in_order

    def summary(self, resumed_at: int, in_order: bool) -> Summary:
        """What was done."""
        arrivals, away = self.arrivals, self.away
        return Summary(
            self.source.name, self.mapping.name, arrivals.rows, self.events, self.new, self.repeated, self.conflicts,
            self.outcomes, dict(arrivals.skipped), away.rows, dict(away.reasons.most_common()), away.finish(),
            tuple(sorted(arrivals.unseen)), resumed_at, self.runs, in_order, dict(arrivals.cleaner.counts),
            self.orphans, self.joined,
        )  # fmt: skip

    def _tell(self, stage: str, rows: int, bytes_done: int, total: int | None = None) -> None:
        known = self.source.rows_total if total is None else total
        self.progress(Progress(stage, rows, known, bytes_done, self.source.size_bytes))

    def _send(self, batch: list[Arrival]) -> None:
        result = self.sink.write([(arrival.event, arrival.outcomes) for arrival in batch], self.events)
        self.new, self.repeated = self.new + result.new, self.repeated + result.repeated
        self.conflicts += len(result.conflicts)
        self.orphans, self.joined = self.orphans + result.orphans, self.joined + result.joined
        self.outcomes += sum(len(arrival.outcomes) for arrival in batch)
        if result.conflicts or result.refused:
            # The last of equal ids in a batch is the one that conflicts, unless an earlier import had the id.
            rows = {outcome["id"]: arrival for arrival in batch for outcome in arrival.outcomes}
            rows |= {arrival.event.id: arrival for arrival in batch if arrival.event}
            for known in result.conflicts:
                self.away.conflict(rows[known].row, rows[known].line)
            for refused, violations in result.refused.items():
                self.away.refuse(rows[refused].row, rows[refused].line, violations)
            self.away.check(self.arrivals.rows)

    # --- order -------------------------------------------------------------------------------------------------------

    def _in_order(self) -> bool:
        """Whether a look at the time column alone proves that the file is sorted; unreadable times prove nothing."""
        changed = any(spec.name == self.mapping.time.name for spec in self.mapping.clean.columns)
        if changed or (self.mapping.group and self.mapping.group.scattered):
            return False
        column, time = bind_time(self.mapping, self.source.schema)
        last_us, rows = -(2**63), 0
        for chunk in self.source.chunks((column,)):
            for row in chunk.rows:
                try:
                    time_us = time(row)
                except ValueError:
                    continue
                if time_us < last_us:
                    return False
                last_us = time_us
            rows += len(chunk.rows)
            self._tell("checking", rows, chunk.bytes_done)
        return True

    def _direct(self, skip: int) -> Generator[Arrival]:
        last_us = -(2**63)
        for arrival in self.arrivals:
            if arrival.time_us < last_us:
                raise MappingError(f"{self.source.name}: changed while it was read (row {arrival.row:,}); import again")
            last_us = arrival.time_us
            self.events += 1
            if self.events > skip:
                yield arrival

    def _sorted(self, skip: int) -> Generator[Arrival]:
        with ExternalSort(self.scratch) as sort:
            for arrival in self.arrivals:
                sort.add(time_key(arrival.time_us, arrival.row), _pack(arrival))
            self.runs = sort.spilled
            with closing(sort.sorted()) as records:
                for key, payload in records:
                    self.events += 1
                    if self.events % self.batch_events == 0:
                        self._tell("writing", self.events, self.source.size_bytes, sort.records)
                    if self.events > skip:
                        yield _unpack(key, payload)


def _pack(arrival: Arrival) -> bytes:
    event = arrival.event
    return pickle.dumps((arrival.line, event.body if event else b"", event.digest if event else b"", arrival.outcomes))


def _unpack(key: bytes, payload: bytes) -> Arrival:
    line, body, digest, outcomes = pickle.loads(payload)
    if not body:
        return Arrival(row_of(key), line, outcomes[0]["time_us"], None, outcomes)
    event_id, kind, time_us, fields = orjson.loads(body)
    return Arrival(row_of(key), line, time_us, Event(event_id, kind, time_us, fields, body, digest), outcomes)
