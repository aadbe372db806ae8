"""Profiles from journal records in bulk: a rebuild, a reconciliation after a crash, and the end of an import.

Rows are spilled to files by profile key, then each file is merged by itself, so memory is bounded by the largest of
256 parts. Merging is idempotent: rows that a profile already has change nothing.
"""

from __future__ import annotations

import gc
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import orjson

from engine.errors import ProfilesUnavailable
from engine.journal.sqlite import SqliteJournal
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Change, Merge, Pending
from engine.program import Program
from engine.projection import changes_about, stored_changes
from engine.records import attempt_record, event_of
from engine.values import EntityEvent, Stored

PARTS = 256
CATCH_UPS, FEW = 20, 200
"""So often at most a backfill reads on while the server runs, until no more records than these came meanwhile."""
_ROW, _CHANGE = 0, 1
_HEAD = struct.Struct("<BB17sI")
"""What follows (a log row or a change), entity number, profile key, bytes that follow."""


@contextmanager
def rare_collections() -> Generator[None]:
    """Let the garbage collector look for cycles a hundred times less often: rows make none, and its search for them
    is a fifth of an import's time. A mass of bad rows, whose errors may make some, is still swept."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(70_000, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def scratch_in(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for temporary files, named after this process; those of processes that were killed go now."""
    for old in folder.glob(".import-*-*"):
        if not _alive(int(old.name.split("-")[1])):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f".import-{os.getpid()}-", dir=folder)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Spill:
    """Rows and changes on their way to profiles, in files by the first byte of their key's hash."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._layouts = program.layouts
        self._entities = sorted(program.layouts)
        self._numbers = {entity: number for number, entity in enumerate(self._entities)}
        self._folder = scratch_in(folder)
        self._files: dict[int, IO[bytes]] = {}
        self.last_number = 0

    def add(self, entries: Iterable[EntityEvent], changes: Iterable[Change], number: int) -> None:
        """What one record puts into profiles."""
        self.last_number = max(self.last_number, number)
        for entry in entries:
            row = self._layouts[entry.entity].encode(entry, number)
            self._write(_ROW, entry.entity, entry.key, row)
            for name, value in entry.attributes.items():
                self._change(Change(entry.entity, entry.key, "attribute", entry.id, name, value, entry.time_us))
        for change in changes:
            self._change(change)

    def merge_into(self, profiles: SqliteProfiles) -> None:
        """Merge every file, and delete them."""
        for _, file in sorted(self._files.items()):
            file.seek(0)
            profiles.merge(self._parts(file.read()), self.last_number + 1)
        self.close()

    def close(self) -> None:
        """Delete the files; what was not merged is in the journal still."""
        for file in self._files.values():
            file.close()
        self._folder.cleanup()

    def _change(self, change: Change) -> None:
        if change.entity in self._numbers:
            body = orjson.dumps([change.kind, change.id, change.name, change.value, change.time_us])
            self._write(_CHANGE, change.entity, change.key, body)

    def _write(self, what: int, entity: str, key: bytes, body: bytes) -> None:
        file = self._files.get(key[1])
        if file is None:
            file = self._files[key[1]] = (Path(self._folder.name) / f"{key[1]:03}").open("w+b")
        file.write(_HEAD.pack(what, self._numbers[entity], key, len(body)) + body)

    def _parts(self, data: bytes) -> Iterator[Merge]:
        rows: dict[tuple[bytes, str], list[bytes]] = {}
        changes: dict[tuple[bytes, str], list[Change]] = {}
        at = 0
        while at < len(data):
            what, number, key, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            entity, body = self._entities[number], data[at : at + size]
            at += size
            if what == _ROW:
                rows.setdefault((key, entity), []).append(body)
            else:
                changes.setdefault((key, entity), []).append(Change(entity, key, *orjson.loads(body)))
        for key, entity in sorted(rows.keys() | changes.keys()):
            own = rows.get((key, entity), [])
            first_us = min((struct.unpack_from("<q", row)[0] for row in own), default=0)
            yield Merge(entity, key, b"".join(own), tuple(changes.get((key, entity), ())), first_us)


def entries_of(program: Program, stored: Stored) -> tuple[EntityEvent, ...]:
    """What the event of a record put into each log; the record holds the verdict whether it came too late to count."""
    event = event_of(stored.record)
    case = program.open(event, event.time_us)
    if orjson.loads(stored.record.public).get("late"):
        return program.features.entries(event, case.row, program.identity.key, late=True)
    return case.entries


def spill_record(spill: Spill, program: Program, stored: Stored) -> None:
    """What a journal record puts into profiles; a number of 0 means that its event has not been admitted yet."""
    record = stored.record
    admitted = record.kind in {"decision", "event", "undecided"} and record.number
    spill.add(entries_of(program, stored) if admitted else (), stored_changes(record.public), record.number)


def _spill_admitted(spill: Spill, program: Program, journal: SqliteJournal, stored: Stored) -> None:
    """A late admission: the event of an earlier record, which may have been told more about meanwhile."""
    told = journal.find_now(stored.record.id)
    assert told is not None, f"{stored.record.id} was admitted but never recorded"
    about = changes_about(told, journal.of_payment_now(told.record.payment_id))
    spill.add(entries_of(program, told), about, stored.record.number)


def backfill(
    old: SqliteProfiles, journal: SqliteJournal, program: Program, folder: Path, still: Callable[[], bool]
) -> int:
    """Make profiles for a program's layouts from the journal while a server runs, then put them in the old ones' place.

    Returns how many records were read. Raises ProfilesUnavailable while an import is under way, and when the program is
    not wanted any more. Whatever goes wrong before the end, SIGKILL too, leaves the old profiles as they are.
    """
    if not old.begin_bulk():
        raise ProfilesUnavailable("an import is under way; profiles get other columns when it is done")
    fresh = old.successor(program.layouts)
    try:
        count = more = replay(journal, fresh, program, 0, folder)
        for _ in range(CATCH_UPS):
            if more > FEW:
                count += (more := replay(journal, fresh, program, fresh.reconciled(), folder))
        fresh.checkpoint(0)
        if not still():
            raise ProfilesUnavailable("something else went live meanwhile; the profiles stay as they are")
        old.hand_over(fresh, lambda pending: _rest(pending, journal, fresh, program, folder))
    except BaseException:
        old.end_bulk(old.reconciled())
        fresh.discard()
        raise
    old.leave_bulk()
    return count


def _rest(
    pending: Sequence[Pending], journal: SqliteJournal, fresh: SqliteProfiles, program: Program, folder: Path
) -> None:
    """What was journaled or admitted since, while nothing is admitted."""
    replay(journal, fresh, program, fresh.reconciled(), folder)
    spill = Spill(program, folder)
    for admission in pending:  # those journaled while this reads as well: a row that is there already stays
        attempt = attempt_record(admission.body, admission.number)
        spill_record(spill, program, Stored(0, attempt, admission.since_us, ""))
    spill.merge_into(fresh)


@rare_collections()
def replay(
    journal: SqliteJournal, profiles: SqliteProfiles, program: Program, after_seq: int, folder: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> int:  # fmt: skip
    """Merge all records after a sequence number into profiles; returns how many there were."""
    spill, count, last, alone = Spill(program, folder), 0, after_seq, profiles.begin_bulk()
    for stored in journal.read(after_seq):
        if stored.record.kind == "admitted":
            _spill_admitted(spill, program, journal, stored)
        else:
            spill_record(spill, program, stored)
        count, last = count + 1, stored.seq
        if count % 10_000 == 0:
            progress(count)
    spill.merge_into(profiles)
    if alone:
        profiles.end_bulk(last)
    return count
