"""One SQLite transaction over profiles: read the entities it names, let them change, write what changed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import orjson

from engine.errors import BodyConflict
from engine.eventlog import LogLayout
from engine.profiles.state import Entity
from engine.profiles.store import Admit, Change, LayoutsMoved
from engine.values import Admission, EntityState


class Transaction:
    """What one transaction has read and means to write."""

    def __init__(self, db: sqlite3.Connection, entities: dict[bytes, Entity], number: int) -> None:
        self._db, self.entities, self.number = db, entities, number
        self.settled: list[str] = []

    def admit(self, request: Admit) -> Admission:
        """Admit one event; an id that is pending or in a log answers as it did the first time."""
        known = self._remember(request)
        number = known or self.number
        states: dict[str, EntityState] = {}
        first = last = number
        for entry in request.entries:
            states[entry.entity], at = self.entities[entry.key].append(entry, number)
            first, last = min(first, at), max(last, at)
        self.number = max(self.number, last + 1)
        for change in request.changes:
            if change.key in self.entities:
                self.entities[change.key].apply(change)
        return Admission(first, states, fresh=not known and first == number)

    def _remember(self, request: Admit) -> int:
        """Note the admission as pending; the number of an earlier one with the same body, or 0."""
        now_us = time.time_ns() // 1000
        row = (request.id, request.digest, self.number, now_us, request.pending)
        if self._db.execute("INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?, ?)", row).rowcount:
            return 0
        digest, number = self._db.execute("SELECT digest, number FROM pending WHERE id = ?", row[:1]).fetchone()
        if digest != request.digest:
            raise BodyConflict(request.id, digest, request.digest)
        return int(number)

    def settle(self, changes: Sequence[Change], settled: Sequence[str]) -> int:
        """Apply changes under a number of their own."""
        for change in changes:
            if change.key in self.entities:  # not an entity that other layouts had
                self.entities[change.key].apply(change)
        self.settled += settled
        self.number += bool(changes)
        return self.number - bool(changes)


@contextmanager
def begin(db: sqlite3.Connection, layouts: Mapping[str, LogLayout], keys: Mapping[bytes, str]) -> Iterator[Transaction]:
    """Read the entities, let the caller change them, write what changed, commit; any failure leaves no trace."""
    db.execute("BEGIN IMMEDIATE")
    try:
        meta = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('next', 'moved', 'safe')"))
        if "moved" in meta:
            raise LayoutsMoved
        number = int(meta["next"])
        transaction = Transaction(db, read(db, keys, layouts, int(meta.get("safe", 0))), number)
        yield transaction
        _write(db, transaction.entities.values())
        if transaction.settled:
            marks = ",".join("?" * len(transaction.settled))
            db.execute(f"DELETE FROM pending WHERE id IN ({marks})", transaction.settled)
        if transaction.number != number:
            db.execute("UPDATE meta SET value = ? WHERE name = 'next'", (str(transaction.number),))
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def read(
    db: sqlite3.Connection, keys: Mapping[bytes, str], layouts: Mapping[str, LogLayout], safe: int = 0
) -> dict[bytes, Entity]:
    """Profile key → entity as it is stored; one that is not stored is empty."""
    entities = {key: Entity(layouts[entity], key, safe=safe) for key, entity in keys.items() if entity in layouts}
    wanted = list(entities)
    for at in range(0, len(wanted), 500):
        some = wanted[at : at + 500]
        marks = ",".join("?" * len(some))
        # They come in this order already; SQLite's sorter would copy every body, which costs as much as reading it.
        rows = db.execute(f"SELECT key, n, body, rowid FROM part WHERE key IN ({marks})", some)
        for key, n, body, row in sorted(rows):
            entity = entities[key]
            entity.stored[n] = row
            if n:
                entity.chunks[n] = body
            else:
                entity.head = orjson.loads(body)
    return entities


def _write(db: sqlite3.Connection, entities: Iterable[Entity]) -> None:
    changed = [entity for entity in entities if entity.dirty or entity.gone]
    writes = [(entity, write) for entity in changed for write in entity.writes()]
    # An upsert of a row that is there costs more than twice its update.
    known = [(body, entity.stored[n]) for entity, (_, n, body) in writes if n in entity.stored]
    fresh = [write for entity, write in writes if write[1] not in entity.stored]
    if known:
        db.executemany("UPDATE part SET body = ? WHERE rowid = ?", known)
    for at in range(0, len(fresh), 500):
        some = fresh[at : at + 500]
        marks = ",".join(["(?,?,?)"] * len(some))
        db.execute(f"INSERT INTO part VALUES {marks}", [value for write in some for value in write])
    for entity in changed:
        for number in entity.gone:
            db.execute("DELETE FROM part WHERE key = ? AND n = ?", (entity.key, number))
