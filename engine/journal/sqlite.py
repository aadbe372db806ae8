"""The journal in one SQLite file: WAL, synchronous=FULL, one commit for all that arrives within about 2 ms.

Commits run in a thread of their own, so that the event loop never waits for a disk; readers use a connection of
their own. Several processes may share the file: `flock` keeps their commits in turn.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from engine.errors import BodyConflict, JournalUnavailable
from engine.journal.chain import Chain
from engine.journal.journal import Notice
from engine.journal.sqlite_programs import SCHEMA as PROGRAMS_SCHEMA
from engine.journal.sqlite_programs import SqlitePrograms
from engine.journal.sqlite_reviews import SCHEMA as REVIEWS_SCHEMA
from engine.journal.sqlite_reviews import SqliteReviews
from engine.values import Record, Stored

_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, digest BLOB NOT NULL, event_us INTEGER NOT NULL,
    known_us INTEGER NOT NULL, number INTEGER NOT NULL, payment TEXT NOT NULL, public BLOB NOT NULL,
    personal BLOB NOT NULL, writer TEXT NOT NULL, position INTEGER NOT NULL, salt BLOB NOT NULL,
    personal_digest BLOB NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS record_payment ON record (payment) WHERE payment <> '';
CREATE INDEX IF NOT EXISTS record_unadmitted ON record (seq) WHERE number = 0 AND kind IN ('decision', 'event');
CREATE INDEX IF NOT EXISTS record_admitted ON record (id) WHERE kind = 'admitted';
CREATE INDEX IF NOT EXISTS record_explanation ON record (id) WHERE kind = 'explanation';
CREATE TABLE IF NOT EXISTS claim (id TEXT PRIMARY KEY, digest BLOB NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, due_us INTEGER NOT NULL, attempts INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (due_us);
CREATE TABLE IF NOT EXISTS source (digest TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
    + PROGRAMS_SCHEMA
    + REVIEWS_SCHEMA
)
_COLUMNS = 16
_SELECT = "SELECT seq, kind, id, digest, event_us, payment, public, personal, number, known_us, writer FROM record "
_ROWS_PER_INSERT = 64
_PAYMENTS_PER_READ = 1_000
GATHER_MAX = 512
PAGE_BYTES = 4_096
BULK_WAL_BYTES = 64 * 1024 * 1024
"""A bulk moves its write-ahead log into the file whenever it is this long: no keeper may be there to do it."""


@dataclass(slots=True)
class _Item:
    record: Record
    done: asyncio.Future[Stored]


class SqliteJournal:
    """The embedded journal. One instance a process; `gather_s` is how long the first record waits for company."""

    def __init__(self, path: Path, gather_s: float = 0.002) -> None:
        self._path, self._gather_s = path, gather_s
        self._gathered: list[_Item] = []
        self._queue: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        """Batches on their way to the committing thread; None ends it."""
        self._chain = Chain()
        self._failed = False
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        """Keeps this process's threads apart; the file lock keeps processes apart."""
        self.programs = SqlitePrograms(
            self._rows, self._locked, lambda records, if_so: self._commit(records, if_so=if_so)
        )

        self._desk_mutex = threading.Lock()
        self.reviews = SqliteReviews(
            self._fresh, self._step, lambda: self.read(0, ("decision", "review")), lambda: self._write
        )

    async def start(self) -> None:
        """Open the file and start the committing thread."""
        self.open()
        self._thread = threading.Thread(target=self._commit_forever, name="journal", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Open the file for reading and for `load`, without the thread."""
        with self._translated():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                self._write = _connect(self._path)
                self._write.executescript(_SCHEMA)
                self._read, self._desk = _connect(self._path), _connect(self._path)
                self._file = os.open(self._path, os.O_RDONLY)  # closed after SQLite's: it would take its locks along
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            for folder in (self._path.parent, self._path.parent.parent):
                _sync_folder(folder)  # SQLite syncs a new file's entry, but not that of a new folder.

    async def append(self, record: Record) -> Stored:
        """Durable when it returns; see the protocol."""
        loop = asyncio.get_running_loop()
        item = _Item(record, loop.create_future())
        self._gathered.append(item)
        if len(self._gathered) == 1:
            loop.call_later(self._gather_s, self._hand_over)
        elif len(self._gathered) == GATHER_MAX:
            self._hand_over()
        return await item.done

    def _hand_over(self) -> None:
        """Give what was gathered to the thread: one wake-up for all of it, since each costs both threads a switch."""
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def load(self, records: Sequence[Record], source: str = "", position: int = 0) -> list[Stored | BodyConflict]:
        """Commit a bulk at once, with the position of its source; known ids answer as in `append`."""
        answers = self._commit(records, (source, position) if source else None)
        self._failed = False
        if self._wal_bytes() > BULK_WAL_BYTES:
            self._locked("PRAGMA wal_checkpoint(TRUNCATE)", ())
        return answers

    async def find(self, record_id: str) -> Stored | None:
        """The record that claimed an id."""
        return self.find_now(record_id)

    def find_now(self, record_id: str) -> Stored | None:
        """The same, without a loop."""
        rows = self._rows(_SELECT + "WHERE seq = (SELECT seq FROM claim WHERE id = ?)", (record_id,))
        return _stored(rows[0]) if rows else None

    def explanation_of(self, record_id: str) -> Stored | None:
        """The newest explanation of a decision's score."""
        rows = self._rows(_SELECT + "WHERE kind = 'explanation' AND id = ? ORDER BY seq DESC LIMIT 1", (record_id,))
        return _stored(rows[0]) if rows else None

    async def of_payment(self, payment_id: str) -> Sequence[Stored]:
        """All records of one payment, oldest first."""
        return self.of_payment_now(payment_id)

    def of_payment_now(self, payment_id: str) -> list[Stored]:
        """The same, without a loop."""
        return self.of_payments_now((payment_id,))

    def of_payments_now(self, payment_ids: Sequence[str]) -> list[Stored]:
        """All records of some payments, oldest first."""
        found = []
        for at in range(0, len(payment_ids), _PAYMENTS_PER_READ):
            some = payment_ids[at : at + _PAYMENTS_PER_READ]
            chosen = f"WHERE payment IN ({','.join('?' * len(some))}) AND payment <> '' ORDER BY seq"
            found += [_stored(row) for row in self._rows(_SELECT + chosen, some)]
        return found

    def read(self, after_seq: int, kinds: Sequence[str] = ()) -> Iterator[Stored]:
        """Records in order, 5,000 at a time."""
        chosen = f"AND kind IN ({','.join('?' * len(kinds))}) " if kinds else ""
        while rows := self._rows(_SELECT + f"WHERE seq > ? {chosen}ORDER BY seq LIMIT 5000", (after_seq, *kinds)):
            yield from map(_stored, rows)
            after_seq = rows[-1][0]

    def last_seq(self) -> int:
        """Sequence number of the newest record, 0 for none."""
        return int(self._rows("SELECT coalesce(max(seq), 0) FROM record")[0][0])

    def unadmitted(self, before_us: int) -> list[Stored]:
        """Decided or recorded without profiles before a time, and not admitted since."""
        rows = self._rows(
            _SELECT + "WHERE number = 0 AND kind IN ('decision', 'event') AND known_us < ? AND NOT EXISTS "
            "(SELECT 1 FROM record AS later WHERE later.kind = 'admitted' AND later.id = record.id) ORDER BY seq",
            (before_us,),
        )
        return [_stored(row) for row in rows]

    def position(self, source: str) -> int:
        """How far a source has been loaded, in its rows."""
        rows = self._rows("SELECT position FROM source WHERE digest = ?", (source,))
        return int(rows[0][0]) if rows else 0

    def writable(self) -> bool:
        """False after a failed commit, until one succeeds."""
        return not self._failed

    def probe(self) -> bool:
        """Try to write now; clears or sets the failure. For the health check after a failed commit."""
        try:
            self._commit((), ("probe", int(time.time())))
            self._failed = False
        except JournalUnavailable:
            self._failed = True
        return not self._failed

    def due(self, now_us: int, limit: int = 100) -> list[Notice]:
        """Notices whose time has come."""
        rows = self._rows(
            "SELECT id, body, attempts FROM outbox WHERE due_us <= ? ORDER BY due_us LIMIT ?", (now_us, limit)
        )
        return [Notice(notice_id, orjson.loads(body), attempts) for notice_id, body, attempts in rows]

    def delivered(self, notice_id: int) -> None:
        """A notice arrived; it will not be sent again."""
        self._locked("DELETE FROM outbox WHERE id = ?", (notice_id,))

    def postpone(self, notice_id: int, due_us: int) -> None:
        """A delivery failed; try again at `due_us`."""
        self._locked("UPDATE outbox SET attempts = attempts + 1, due_us = ? WHERE id = ?", (due_us, notice_id))

    def checkpoint(self, restart_over_bytes: int) -> int:
        """Move the write-ahead log into the file; past a size start the log anew. Returns its length before, bytes."""
        length = self._move_on() * PAGE_BYTES
        if length > restart_over_bytes:
            # Before writers are stopped, bring to the disk and move what takes long, so that little is left for then.
            # The log keeps its size unless it is far too large: one that grows costs more, above all its fsync.
            os.fdatasync(self._file)
            self._move_on()
            how = "TRUNCATE" if self._wal_bytes() > 2 * restart_over_bytes else "RESTART"
            self._locked(f"PRAGMA wal_checkpoint({how})", ())
        return length

    def _move_on(self) -> int:
        """Move what can be moved while others write; returns the length of the log in pages."""
        with self._mutex, self._translated():
            return int(self._write.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])

    def _wal_bytes(self) -> int:
        wal = Path(f"{self._path}-wal")
        return wal.stat().st_size if wal.exists() else 0

    async def close(self) -> None:
        """Commit what is queued, end the thread, release the file."""
        self._hand_over()
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._read.close()
        self._desk.close()
        self._write.close()
        os.close(self._file)
        os.close(self._lock)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes meanwhile: no thread of this process, and no other process."""
        with self._mutex:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours."""
        try:
            yield
        except (sqlite3.Error, OSError) as problem:
            raise JournalUnavailable(f"journal at {self._path}: {problem}") from problem

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read with the connection that only reads."""
        try:
            return self._read.execute(sql, parameters).fetchall()
        except sqlite3.Error as problem:
            raise JournalUnavailable(f"journal at {self._path}: {problem}") from problem

    def _fresh(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Read what is committed now: on a shared connection a statement sees no more than the one still under way."""
        with self._desk_mutex, self._translated():
            return self._desk.execute(sql, parameters).fetchall()

    def _locked(self, sql: str, parameters: Sequence[Any]) -> None:
        with self._alone(), self._translated():
            self._write.execute(sql, parameters)

    def _commit_forever(self) -> None:
        while (items := self._queue.get()) is not None:
            try:
                answers: Sequence[Stored | Exception] = self._commit([i.record for i in items])
                self._failed = False
            except Exception as problem:  # Whatever it is, those who wait must hear of it.
                self._failed = isinstance(problem, JournalUnavailable)
                answers = [problem] * len(items)
            with suppress(RuntimeError):  # The loop is closed: nobody waits any longer.
                items[0].done.get_loop().call_soon_threadsafe(_answer, items, answers)

    def _commit(
        self, records: Sequence[Record], source: tuple[str, int] | None = None, if_so: Callable[[], bool] | None = None
    ) -> list[Stored | BodyConflict]:
        """One transaction; with `if_so` only if that holds when nobody else can write."""
        with self._alone(), self._translated():
            mark = self._chain.mark()
            try:
                self._write.execute("BEGIN IMMEDIATE")
                answers = self._insert(records) if if_so is None or if_so() else []
                if source:
                    self._write.execute(
                        "INSERT INTO source VALUES (?, ?) ON CONFLICT DO UPDATE SET position = excluded.position",
                        source,
                    )
                self._write.execute("COMMIT")
                return answers
            except BaseException:
                self._chain.rewind(mark)
                if self._write.in_transaction:
                    self._write.execute("ROLLBACK")
                raise

    def _step(self, make: Callable[[], Sequence[Record]]) -> Sequence[Stored | BodyConflict]:
        """One transaction over the records that `make` returns when nobody else can write."""
        records: list[Record] = []

        def made() -> bool:
            records.extend(make())
            return bool(records)

        return self._commit(records, if_so=made)

    def _insert(self, records: Sequence[Record]) -> list[Stored | BodyConflict]:
        """Claim the ids, then write every record that won its claim, and the refused attempts."""
        (last,) = self._write.execute("SELECT coalesce(max(seq), 0) FROM record").fetchone()
        now_us = time.time_ns() // 1000
        proposed = list(enumerate(records, last + 1))
        winners = self._claim(proposed)
        answers: list[Stored | BodyConflict] = []
        fresh: dict[int, Stored] = {}
        for seq, record in proposed:
            owner, digest = winners.get(record.id, (seq, record.digest)) if record.digest else (seq, b"")
            if owner == seq:
                fresh[seq] = Stored(seq, record, record.known_us or now_us, self._chain.writer)
                answers.append(fresh[seq])
            elif digest == record.digest:
                answers.append(self._repeat(seq, record, self._winner(owner, fresh), now_us, fresh))
            else:
                answers.append(BodyConflict(record.id, digest, record.digest))
                fresh[seq] = Stored(seq, _refused(record), now_us, self._chain.writer)
        self._write_rows(list(fresh.values()))
        return answers

    def _claim(self, proposed: Sequence[tuple[int, Record]]) -> dict[str, tuple[int, bytes]]:
        """Claim every id at once; who holds those that could not be had: id → (seq, digest)."""
        claims = [(record.id, record.digest, seq) for seq, record in proposed if record.digest]
        won = 0
        for at in range(0, len(claims), _ROWS_PER_INSERT):
            some = claims[at : at + _ROWS_PER_INSERT]
            marks = ",".join(["(?,?,?)"] * len(some))
            sql = f"INSERT OR IGNORE INTO claim VALUES {marks}"
            won += self._write.execute(sql, [value for claim in some for value in claim]).rowcount
        if won == len(claims):
            return {}
        find = "SELECT seq, digest FROM claim WHERE id = ?"
        return {claim[0]: self._write.execute(find, claim[:1]).fetchone() for claim in claims}

    def _repeat(self, seq: int, record: Record, winner: Stored, now_us: int, fresh: dict[int, Stored]) -> Stored:
        """A known id with the same body answers as before; only an undecided attempt gives way to its decision."""
        if winner.record.kind != "undecided" or record.kind == "undecided":
            return winner
        self._write.execute("UPDATE claim SET seq = ? WHERE id = ?", (seq, record.id))
        fresh[seq] = Stored(seq, record, record.known_us or now_us, self._chain.writer)
        return fresh[seq]

    def _winner(self, seq: int, fresh: Mapping[int, Stored]) -> Stored:
        """The record that holds a claim: in this very commit, or an earlier one."""
        known = fresh.get(seq)
        return known or _stored(self._write.execute(_SELECT + "WHERE seq = ?", (seq,)).fetchone())

    def _write_rows(self, fresh: Sequence[Stored]) -> None:
        for at in range(0, len(fresh), _ROWS_PER_INSERT):
            some = fresh[at : at + _ROWS_PER_INSERT]
            marks = ",".join(["(" + ",".join("?" * _COLUMNS) + ")"] * len(some))
            values = [value for stored in some for value in self._row(stored)]
            self._write.execute(f"INSERT INTO record VALUES {marks}", values)
        notices = [(s.seq, s.known_us, 0, orjson.dumps(notice)) for s in fresh for notice in s.record.notices]
        if notices:
            self._write.executemany("INSERT INTO outbox (seq, due_us, attempts, body) VALUES (?, ?, ?, ?)", notices)
        for stored in fresh:
            if stored.record.opens is not None or stored.record.kind == "review":
                self.reviews.fold(stored, stored.record.opens)

    def _row(self, stored: Stored) -> tuple[Any, ...]:
        record, link = stored.record, self._chain.link(stored.record, stored.known_us)
        return (
            stored.seq, record.kind, record.id, record.digest, record.event_us, stored.known_us, record.number,
            record.payment_id, record.public, record.personal, link.writer, link.position, link.salt,
            link.personal_digest, link.previous, link.hash,
        )  # fmt: skip


def _answer(items: Sequence[_Item], answers: Sequence[Stored | Exception]) -> None:
    """Tell those who wait, on their own loop."""
    for item, answer in zip(items, answers, strict=True):
        if item.done.done():
            continue
        if isinstance(answer, Stored):
            item.done.set_result(answer)
        else:
            item.done.set_exception(answer)


def _refused(record: Record) -> Record:
    """The trace of an attempt that came with another body under a known id: no content, only that it happened."""
    return Record(
        "refused",
        record.id,
        b"",
        record.event_us,
        record.payment_id,
        orjson.dumps({"digest": record.digest.hex()}),
        b"",
        0,
    )


def _stored(row: Sequence[Any]) -> Stored:
    seq, kind, record_id, digest, event_us, payment, public, personal, number, known_us, writer = row
    return Stored(seq, Record(kind, record_id, digest, event_us, payment, public, personal, number), known_us, writer)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, cached_statements=512, check_same_thread=False)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0", "cache_size = -32768"):
        db.execute(f"PRAGMA {pragma}")
    return db
