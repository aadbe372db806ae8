"""One entity's stored state and the ways it may change; pure, so every store applies the same rules.

A head is never changed in place: `first` (µs of its first event), `attr` {name: [value, time_us, id]}, `out`
[[id, kind, time_us, known_us]] and `dropped` (newest time among rows no longer kept). A change makes a new head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.eventlog import ATTEMPT, ID, LogLayout, droppable
from engine.profiles.store import Change, Merge
from engine.schema import HOW_FAR
from engine.values import EntityEvent, EntityState

CHUNK_BYTES = 3_840
"""Most bytes of a chunk: a full one is never rewritten, and one fits in a page of SQLite's (docs/adr/0002)."""


@dataclass(slots=True)
class Entity:
    """An entity in the middle of a transaction; `dirty` names the parts to write, `gone` those to delete."""

    layout: LogLayout
    key: bytes
    head: Mapping[str, Any] = field(default_factory=dict)
    chunks: dict[int, bytes] = field(default_factory=dict)
    """Chunk number (from 1) → rows."""
    safe: int = 2**62
    """A log with tiles drops only rows admitted before this number: those that the journal can't offer again."""
    stored: dict[int, int] = field(default_factory=dict)
    """Number of each part that the store holds → where the store holds it."""
    dirty: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    @property
    def chunk_rows(self) -> int:
        """Rows of a full chunk."""
        return max(CHUNK_BYTES // self.layout.size, 1)

    @property
    def log(self) -> bytes:
        """All rows in admission order."""
        return b"".join(self.chunks.values())

    def append(self, entry: EntityEvent, number: int) -> tuple[EntityState, int]:
        """Put the event in unless it is there; returns the state before it and its number."""
        log = self.log
        at = self.layout.position(log, ID, entry.id)
        if at >= 0:
            row = log[at * self.layout.size : (at + 1) * self.layout.size]
            return EntityState(self.head, log[: at * self.layout.size]), self.layout.number_of(row)
        before = EntityState(self.head, log)
        counted = not entry.attempt or self.layout.position(log, ATTEMPT, entry.attempt) < 0
        row = self.layout.encode(entry, number, counted=counted)
        self._tile([], [row])
        self._add_row(row)
        if entry.time_us < self.head.get("first", entry.time_us + 1):
            self._set_head({**self.head, "first": entry.time_us})
        for name, value in entry.attributes.items():
            self._set_attribute(name, value, entry.time_us, entry.id)
        return before, number

    def apply(self, change: Change) -> None:
        """Apply one change; a repetition or an older value changes nothing."""
        if change.kind == "attribute":
            self._set_attribute(change.name, change.value, change.time_us, change.id)
        elif change.kind == "outcome":
            self._add_outcome([change.id, change.name, change.time_us, change.value])
        elif change.kind == "disposition":
            self._set_disposition(change.id, change.value)
        elif change.kind == "flag" and change.name in self.layout.flags and self._counts(change.id):
            self._set_byte(change.id, self.layout.disposition_at + 1 + self.layout.flags.index(change.name), 1)

    def merge(self, part: Merge) -> None:
        """Take in rows from the journal: those already here stay, the rest go in by admission number."""
        size, present = self.layout.size, {event_id for _, event_id in self.layout.keys(self.log)}
        offered = zip(self.layout.keys(part.rows), self.layout.rows(part.rows), strict=True)
        fresh = b"".join({event_id: row for (_, event_id), row in offered if event_id not in present}.values())
        if fresh:
            before, rows = self.layout.rows(self.log), self.layout.rows(self.log + fresh)
            rows = self._counted_once(sorted(rows, key=self.layout.number_of))
            self._tile(before, rows)
            log = b"".join(rows)
            width = self.chunk_rows * size
            self.gone |= self.chunks.keys()
            self.chunks = {1 + at // width: log[at : at + width] for at in range(0, len(log), width)}
            self.dirty |= self.chunks.keys()
            self.gone -= self.chunks.keys()
            self._drop_outdated()
        if part.first_us and part.first_us < self.head.get("first", part.first_us + 1):
            self._set_head({**self.head, "first": part.first_us})
        for change in part.changes:
            self.apply(change)

    def _counted_once(self, rows: list[bytes]) -> list[bytes]:
        """Rows by admission number; of those with one attempt only the first keeps its flags."""
        seen: set[bytes] = set()
        counted = []
        at, end = self.layout.disposition_at + 1, self.layout.disposition_at + 1 + len(self.layout.flags)
        for row in rows:
            attempt = row[8 * ATTEMPT : 8 * ATTEMPT + 8]
            counted.append(row[:at] + bytes(end - at) + row[end:] if attempt in seen else row)
            if any(attempt):
                seen.add(attempt)
        return counted

    def writes(self) -> Iterable[tuple[bytes, int, bytes]]:
        """(key, part number, body) of every part to write; part 0 is the head."""
        for number in self.dirty:
            yield self.key, number, self.chunks[number] if number else orjson.dumps(self.head)

    def _tile(self, before: Sequence[bytes], after: Sequence[bytes]) -> None:
        """Let totals count other rows than before."""
        if self.layout.tiles:
            cells = self.layout.tiled(self.head.get("tiles", {}), before, -1)
            self._set_head({**self.head, "tiles": self.layout.tiled(cells, after)})

    def _add_row(self, row: bytes) -> None:
        last = max(self.chunks, default=0)
        if last and len(self.chunks[last]) < self.chunk_rows * self.layout.size:
            self.chunks[last] += row
        else:
            last += 1
            self.chunks[last] = row
            if last > self.layout.keep // self.chunk_rows:
                self._drop_outdated()
        self.dirty.add(last)

    def _drop_outdated(self) -> None:
        numbers = list(self.chunks)
        outdated = numbers[: droppable(self.layout, [self.chunks[n] for n in numbers])]
        if self.layout.tiles:
            may_go = [max(map(self.layout.number_of, self.layout.rows(self.chunks[n]))) < self.safe for n in outdated]
            outdated = outdated[: [*may_go, False].index(False)]
        if not outdated:
            return
        newest = max(time_us for n in outdated for time_us, _ in self.layout.keys(self.chunks[n]))
        for number in outdated:
            del self.chunks[number]
        self.gone |= set(outdated)
        self.dirty -= set(outdated)
        self._set_head({**self.head, "dropped": max(newest, self.head.get("dropped", 0))})

    def _set_head(self, head: Mapping[str, Any]) -> None:
        self.head = head
        self.dirty.add(0)

    def _set_attribute(self, name: str, value: Any, time_us: int, event_id: int) -> None:
        attributes = self.head.get("attr", {})
        old = attributes.get(name)
        if old is None or [time_us, event_id] > old[1:]:
            self._set_head({**self.head, "attr": {**attributes, name: [value, time_us, event_id]}})

    def _add_outcome(self, outcome: list[Any]) -> None:
        """Keep of what was told of one event and kind that which was known first, in whatever order it is told."""
        told = self.head.get("out", [])
        same = [known for known in told if known[:2] == outcome[:2]]
        if all(outcome[:1:-1] < known[:1:-1] for known in same):
            others = [known for known in told if known[:2] != outcome[:2]]
            self._set_head({**self.head, "out": sorted([*others, outcome])})

    def _set_disposition(self, event_id: int, code: int) -> None:
        at, log = self.layout.position(self.log, ID, event_id), self.log
        if at >= 0 and HOW_FAR[code] > HOW_FAR[log[at * self.layout.size + self.layout.disposition_at]]:
            self._set_byte(event_id, self.layout.disposition_at, code)

    def _counts(self, event_id: int) -> bool:
        """Whether a row is the first of its attempt; one that is not sets no flags, whenever they are told."""
        log, size = self.log, self.layout.size
        at = self.layout.position(log, ID, event_id)
        attempt = int.from_bytes(log[at * size + 8 * ATTEMPT :][:8], "little", signed=True) if at >= 0 else 0
        return at >= 0 and (not attempt or self.layout.position(log, ATTEMPT, attempt) == at)

    def _set_byte(self, event_id: int, offset: int, value: int) -> None:
        for number, chunk in self.chunks.items():
            at = self.layout.position(chunk, ID, event_id)
            if at >= 0 and chunk[at * self.layout.size + offset] != value:
                self.chunks[number] = self.layout.with_byte(chunk, at, offset, value)
                self.dirty.add(number)
