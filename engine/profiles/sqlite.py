"""Profiles in one SQLite file, shared by the workers of one machine.

Admissions of one turn of the event loop are gathered into one transaction under a file lock: SQLite's own busy
handler starves one of two processes, the lock is only ever tried, never waited for, so the loop stays free.
Checkpoints are the keeper's work (`checkpoint`), never a caller's.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.errors import BodyConflict, PolicyError, ProfilesUnavailable
from engine.eventlog import ID, LogLayout, shape_of
from engine.profiles.store import Admit, Change, LayoutsMoved, Merge, Pending
from engine.profiles.transaction import Transaction, begin, read
from engine.values import Admission, EntityState

_SCHEMA = """
CREATE TABLE IF NOT EXISTS part (key BLOB NOT NULL, n INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (key, n));
CREATE TABLE IF NOT EXISTS pending (
    id TEXT PRIMARY KEY, digest BLOB NOT NULL, number INTEGER NOT NULL, since_us INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('next', '1');
"""
BULK_WAL_BYTES = 64 * 1024 * 1024
"""A bulk merge moves its write-ahead log into the file whenever it is this long."""
_BULK = "bulk"
PAGE_BYTES = 4_096
_RETRY_S = 0.0003
_DELAYS_S = {"some day": 0.1, "later": 0.004}
"""How long work may wait to share the transaction of an admission: ids to forget, and a settlement. An admission is due
"soon", at the next turn of the loop."""
_URGENCY = {"": 0, "some day": 1, "later": 2, "soon": 3}


@contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as problem:
        raise ProfilesUnavailable(f"profiles: {problem}") from problem


@dataclass(slots=True)
class _Waiting:
    """One queued operation and who waits for it."""

    work: Callable[[Transaction], Any]
    keys: dict[bytes, str]
    future: asyncio.Future[Any]
    deadline: float | None


class SqliteProfiles:
    """The embedded profile store. One instance belongs to one event loop; many processes may share the file.

    Logs of other columns are made in a file beside it, `profiles-2.sqlite`, which then takes its place (`hand_over`).
    """

    def __init__(self, path: Path) -> None:
        self._base = self._path = path
        self._bulk = -1
        """Handle of the file that tells one bulk at a time."""
        self._queue: list[_Waiting] = []
        self._settled: list[str] = []
        """Ids that the journal holds, to be forgotten with the next transaction."""
        self._armed = ""
        """When what waits will be done: "" not at all, else a key of `_URGENCY`."""
        self._layouts: Mapping[str, LogLayout] = {}
        self._patient = True

    async def start(self, layouts: Mapping[str, LogLayout]) -> None:
        """Open the file; `PolicyError` when its logs were written with other columns."""
        self.open(layouts)

    def open(self, layouts: Mapping[str, LogLayout]) -> None:
        """The same without a loop, for bulk loading and the keeper."""
        self._open(_in_use(self._base), layouts)

    def _open(self, path: Path, layouts: Mapping[str, LogLayout]) -> None:
        self._path, self._layouts, self.shape = path, layouts, shape_of(_digests(layouts))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            with self._locked():
                self._db = _connect(self._path)
                self._file = os.open(self._path, os.O_RDONLY)  # closed after SQLite's: it would take its locks along
                self._db.executescript(_SCHEMA)
                self._check_layouts()
        except PolicyError:
            self._db.close()
            for handle in (self._file, self._lock):
                os.close(handle)
            raise
        except (sqlite3.Error, OSError) as problem:
            raise ProfilesUnavailable(f"profiles at {self._path}: {problem}") from problem

    def stored_shape(self) -> str:
        """Shape of the logs in the file that is in use now; "" when there are none yet. It need not be open."""
        path = _in_use(self._base)
        return shape_of(_meta(path, "layout:")) if path.exists() else ""

    def moved(self) -> bool:
        """Whether the logs were made anew for other layouts, in another file."""
        with _translated():
            return _has_moved(self._db)

    def adopt(self, layouts: Mapping[str, LogLayout]) -> None:
        """Go on in the file that was made for these layouts; what waits is done there. `PolicyError` if it has others.

        Admissions that were prepared for the layouts before raise `LayoutsMoved`.
        """
        before = self._db, self._file, self._lock, self._layouts, self._path
        try:
            self.open(layouts)
        except BaseException:
            self._db, self._file, self._lock, self._layouts, self._path = before
            self.shape = shape_of(_digests(self._layouts))
            raise
        before[0].close()
        for handle in before[1:3]:
            os.close(handle)

    def successor(self, layouts: Mapping[str, LogLayout]) -> SqliteProfiles:
        """An empty store for other layouts, which `hand_over` may put in this one's place."""
        fresh = SqliteProfiles(self._path.with_stem(f"{self._base.stem}-{_number(self._path) + 1}"))
        _remove(fresh._path)  # what a backfill that was killed left behind
        fresh._open(fresh._path, layouts)
        return fresh

    def forget_older(self) -> None:
        """Delete the files whose place this one took; those who still have one open find this one by themselves."""
        for path in _family(self._base):
            if _number(path) < _number(self._path):
                _remove(path)

    def give_up(self) -> None:
        """Wait no longer for `adopt`: what comes after the logs were made anew elsewhere fails."""
        self._patient = False

    def discard(self) -> None:
        """Close and delete the file; nobody else may have it open."""
        self._db.close()
        self.leave_bulk()
        for handle in (self._file, self._lock):
            os.close(handle)
        _remove(self._path)

    @_translated()
    def hand_over(self, fresh: SqliteProfiles, rest: Callable[[Sequence[Pending]], object]) -> None:
        """Put another store in this one's place, for every process at once; `rest` brings it what came last.

        Admissions wait meanwhile. What is pending here is pending there.
        """
        with self._locked():
            pending = self._db.execute("SELECT id, digest, number, since_us, body FROM pending").fetchall()
            rest([Pending(*row) for row in pending])
            (number,) = self._db.execute("SELECT value FROM meta WHERE name = 'next'").fetchone()
            with fresh._locked():
                fresh._db.execute("BEGIN IMMEDIATE")
                fresh._db.executemany("INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?, ?)", pending)
                sql = "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE name = 'next'"
                fresh._db.execute(sql, (int(number),))
                fresh._db.execute("COMMIT")
                fresh._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # on the disk before anybody is sent there
            self._db.execute("INSERT INTO meta VALUES ('moved', ?)", (fresh._path.name,))
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _check_layouts(self) -> None:
        stored, wanted = _said(self._db, "layout:"), _digests(self._layouts)
        if not stored:
            rows = [(f"layout:{entity}", digest) for entity, digest in wanted.items()]
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        elif stored != wanted:
            others = sorted(e for e in stored.keys() | wanted.keys() if stored.get(e) != wanted.get(e))
            raise PolicyError(
                f"the stored logs of {', '.join(others)} have other columns than the features ask for; a server that "
                "runs derives them from the journal and then takes the features; without one, run: arbiter rebuild"
            )

    async def admit(self, request: Admit, deadline: float | None) -> Admission:
        """Append where absent, apply the changes, remember it as pending; see the protocol."""
        keys = {e.key: e.entity for e in request.entries}
        keys.update({c.key: c.entity for c in request.changes})
        result = await self._put(lambda t: self._admitted(t, request), keys, deadline)
        assert isinstance(result, Admission)
        return result

    def _admitted(self, transaction: Transaction, request: Admit) -> Admission:
        if request.shape not in {"", self.shape}:
            raise LayoutsMoved
        return transaction.admit(request)

    async def settle(self, changes: Sequence[Change], settled: Sequence[str] = ()) -> int:
        """Apply changes and forget settled ids; shares the transaction of the next admission."""
        keys = {c.key: c.entity for c in changes}
        return int(await self._put(lambda t: t.settle(changes, settled), keys, None, lazy=True))

    def settle_soon(self, settled: Sequence[str]) -> None:
        """Forget pending ids with the next transaction; if it fails, the reconciler finds them settled."""
        self._settled += settled
        self._arm(asyncio.get_running_loop(), "some day")

    async def peek(self, keys: Mapping[str, bytes]) -> Mapping[str, EntityState]:
        """Read without writing."""
        return self.peek_now(keys)

    def peek_now(self, keys: Mapping[str, bytes]) -> Mapping[str, EntityState]:
        """The same, without a loop."""
        with _translated():
            found = read(self._db, {key: entity for entity, key in keys.items()}, self._layouts)
        return {entity: EntityState(found[key].head, found[key].log) for entity, key in keys.items()}

    async def first(self, event_id: int, keys: Mapping[str, bytes]) -> Mapping[str, EntityState]:
        """The states that the first admission of this event returned."""
        states = dict(await self.peek(keys))
        for entity, state in states.items():
            layout = self._layouts[entity]
            at = layout.position(state.log, ID, event_id)
            if at >= 0:
                states[entity] = EntityState(state.head, state.log[: at * layout.size])
        return states

    async def pending(self, before_us: int) -> Sequence[Pending]:
        """Admissions older than a time that are not settled."""
        sql = "SELECT id, digest, number, since_us, body FROM pending WHERE since_us < ? ORDER BY number"
        with _translated():
            return [Pending(*row) for row in self._db.execute(sql, (before_us,))]

    def merge(self, parts: Iterable[Merge], next_number: int) -> None:
        """Bulk merge, 250 entities a transaction, for which a server beside it waits; parts come sorted by key."""
        batch: list[Merge] = []
        for _, same in groupby(parts, key=lambda part: part.key):
            batch += same
            if len(batch) >= 250:
                self._merge_batch(batch, next_number)
                batch = []
        self._merge_batch(batch, next_number)

    @_translated()
    def _merge_batch(self, batch: Sequence[Merge], next_number: int) -> None:
        with self._locked(), begin(self._db, self._layouts, {p.key: p.entity for p in batch}) as transaction:
            for part in batch:
                transaction.entities[part.key].merge(part)
            transaction.number = max(transaction.number, next_number)
        if self._wal_bytes() > BULK_WAL_BYTES:
            with self._locked():
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def reset(self, layouts: Mapping[str, LogLayout]) -> None:
        """Open the file without its profiles and layouts, to be rebuilt from the journal."""
        path = _in_use(self._base)
        if path.exists():
            with sqlite3.connect(path) as db:
                db.executescript(_SCHEMA)
                db.executescript("DELETE FROM part; DELETE FROM pending; DELETE FROM meta WHERE name <> 'next';")
        self.open(layouts)

    @_translated()
    def reserve(self, count: int) -> int:
        """Take `count` admission numbers for a bulk; returns the first."""
        with self._locked():
            (first,) = self._db.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'next'").fetchone()
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'next'", (str(first + count),))
        return int(first)

    @_translated()
    def reconciled(self) -> int:
        """Sequence number of the journal up to which every record is surely in this file."""
        row = self._db.execute("SELECT value FROM meta WHERE name = 'reconciled'").fetchone()
        return int(row[0]) if row else 0

    @_translated()
    def mark_reconciled(self, seq: int, below: int = 0) -> None:
        """Remember that every record up to `seq` is in this file; not while a bulk holds some back (`begin_bulk`).

        `below`: what `unsettled_from` said before `seq` was read. Records after `seq` hold no smaller number.
        """
        sql = "INSERT OR REPLACE INTO meta SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM meta WHERE name = ?)"
        with self._locked():
            self._db.execute(sql, ("reconciled", str(seq), _BULK))
            if below:
                self._db.execute(sql, ("safe", str(below), _BULK))

    @_translated()
    def unsettled_from(self) -> int:
        """Smallest admission number that the journal may not hold yet."""
        next_one = "SELECT CAST(value AS INTEGER) AS n FROM meta WHERE name = 'next'"
        sql = f"SELECT min(n) FROM ({next_one} UNION ALL SELECT number FROM pending)"
        return int(self._db.execute(sql).fetchone()[0])

    @_translated()
    def begin_bulk(self) -> bool:
        """Say that records will be journaled which are merged only later; False when another process is doing so.

        If this process dies, what it said stays, and records from before it are merged again at the next start.
        """
        if self._bulk < 0:
            self._bulk = os.open(f"{self._path}.bulk", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._bulk, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.leave_bulk()
                return False
            with self._locked():
                if _has_moved(self._db):
                    self.leave_bulk()
                    raise ProfilesUnavailable("the profiles were made anew for other features meanwhile; run it again")
                self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, '')", (_BULK,))
        return True

    @_translated()
    def end_bulk(self, seq: int) -> None:
        """Every record up to `seq` is merged."""
        with self._locked():
            self._db.execute("DELETE FROM meta WHERE name = ?", (_BULK,))
        self.mark_reconciled(seq)
        self.leave_bulk()

    def leave_bulk(self) -> None:
        """Let another process begin one, whether this one came to its end or not."""
        if self._bulk >= 0:
            os.close(self._bulk)
            self._bulk = -1

    @_translated()
    def checkpoint(self, restart_over_bytes: int) -> bool:
        """Move the write-ahead log into the file; past a size start the log anew. Whether all of it was moved."""
        _, total, moved = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if total * PAGE_BYTES > restart_over_bytes:
            # Before writers are stopped, bring to the disk and move what takes long, so that little is left for then.
            # The log keeps its size unless it is far too large: one that grows costs its writers half as much again.
            os.fdatasync(self._file)
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            how = "TRUNCATE" if self._wal_bytes() > 2 * restart_over_bytes else "RESTART"
            with self._locked():
                _, total, moved = self._db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        return bool(total == moved)

    def _wal_bytes(self) -> int:
        wal = Path(f"{self._path}-wal")
        return wal.stat().st_size if wal.exists() else 0

    async def close(self) -> None:
        """Finish what is queued, then release the file."""
        self.give_up()
        if self._queue or self._settled:
            self._arm(asyncio.get_running_loop(), "soon")
        while self._queue or self._settled:
            await asyncio.sleep(_RETRY_S)
        self._db.close()
        os.close(self._file)
        self.leave_bulk()
        os.close(self._lock)

    def _put(
        self, work: Callable[[Transaction], Any], keys: dict[bytes, str], deadline: float | None, lazy: bool = False
    ) -> asyncio.Future[Any]:
        """Queue an operation and see to it that the queue is drained: on the next turn, or a little later if lazy."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._queue.append(_Waiting(work, keys, future, deadline))
        self._arm(loop, "later" if lazy else "soon")
        return future

    def _arm(self, loop: asyncio.AbstractEventLoop, when: str) -> None:
        """See to it that what waits is done in time; a call that comes earlier than needed does no harm."""
        if _URGENCY[when] > _URGENCY[self._armed]:
            self._armed = when
            if when == "soon":
                loop.call_soon(self._drain, loop)
            else:
                loop.call_later(_DELAYS_S[when], self._drain, loop)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run all that waits in one transaction, or try again soon when another process holds the lock."""
        self._expire(loop.time())
        if not self._queue and not self._settled:
            self._armed = ""
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._armed = "soon"
            loop.call_later(_RETRY_S * (0.5 + random.random()), self._drain, loop)
            return
        waiting, self._queue, self._armed = self._queue, [], ""
        settled, self._settled = self._settled, []
        try:
            answers = self._run(waiting, settled)
        except LayoutsMoved:
            if self._patient:  # wait for `adopt`, or for the deadline
                self._queue, self._settled, self._armed = waiting, settled, "soon"
                loop.call_later(_RETRY_S * 10, self._drain, loop)
                return
            answers = [ProfilesUnavailable("profiles: made anew elsewhere")] * len(waiting)
        except Exception as problem:  # Whatever it is, those who wait must hear of it.
            lost = ProfilesUnavailable(f"profiles: {problem}") if isinstance(problem, sqlite3.Error) else problem
            answers = [lost] * len(waiting)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        for item, answer in zip(waiting, answers, strict=True):
            if item.future.done():
                continue
            if isinstance(answer, Exception):
                item.future.set_exception(answer)
            else:
                item.future.set_result(answer)

    def _run(self, waiting: Sequence[_Waiting], settled: Sequence[str]) -> list[Any]:
        keys: dict[bytes, str] = {}
        for item in waiting:
            keys.update(item.keys)
        answers: list[Any] = []
        with begin(self._db, self._layouts, keys) as transaction:
            transaction.settled += settled
            for item in waiting:
                try:
                    answers.append(item.work(transaction))
                except (BodyConflict, LayoutsMoved) as problem:
                    answers.append(problem)
        return answers

    def _expire(self, now: float) -> None:
        """Those whose deadline has passed get their answer now and leave no trace."""
        late = [item for item in self._queue if item.deadline is not None and item.deadline <= now]
        for item in late:
            if not item.future.done():
                item.future.set_exception(ProfilesUnavailable("profiles: the store was busy past the deadline"))
        if late:
            self._queue = [item for item in self._queue if not item.future.done()]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait for the file lock; for the keeper and bulk work, never on a loop that serves."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


def _in_use(base: Path) -> Path:
    """The oldest file, or the one that has taken its place; one that is only being made has taken nobody's."""
    path = next(iter(_family(base)), base)
    while moved := path.exists() and _meta(path, "moved"):
        path = path.with_name(moved[""])
    return path


def _family(base: Path) -> list[Path]:
    return sorted((p for p in base.parent.glob(f"{base.stem}*{base.suffix}")), key=_number)


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2] or 1)


@_translated()
def _meta(path: Path, prefix: str) -> dict[str, str]:
    """What a file says under names that begin so, by the rest of the name."""
    with closing(sqlite3.connect(path, timeout=5.0)) as db:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        return _said(db, prefix) if known else {}


def _said(db: sqlite3.Connection, prefix: str) -> dict[str, str]:
    rows = db.execute("SELECT name, value FROM meta WHERE name GLOB ?", (f"{prefix}*",))
    return {name.removeprefix(prefix): value for name, value in rows}


def _has_moved(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM meta WHERE name = 'moved'").fetchone() is not None


def _digests(layouts: Mapping[str, LogLayout]) -> dict[str, str]:
    return {entity: layout.digest for entity, layout in layouts.items()}


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm", ".lock", ".bulk"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=5.0, cached_statements=512, check_same_thread=False)
    for pragma in (
        "journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 0",
        "cache_size = -65536", "mmap_size = 1073741824",
    ):  # fmt: skip
        db.execute(f"PRAGMA {pragma}")
    return db
