"""What else was done with the same card, device, mail, address or user: an index over the journal, in its own file.

Keys are keyed hashes, as profiles have them. The index is derived: whoever needs it brings it up to the journal's end,
a part at a time, and it may be deleted. Written apart from decisions, it costs them nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from engine.errors import JournalUnavailable
from engine.features.enrich import address_key
from engine.journal.journal import Journal
from engine.profiles.identity import Identity
from engine.schema import ENTITIES
from engine.values import Record

SHARED = ("card", "device", "email", "address", "user")
KINDS = ("decision", "event", "undecided")
AT_ONCE = 2_000
"""Records that one step takes in: some 50 ms of work."""
MOST = 50
_SCHEMA = """
CREATE TABLE IF NOT EXISTS link (key BLOB, time_us INTEGER, id TEXT, PRIMARY KEY (key, time_us DESC, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL);
INSERT OR IGNORE INTO position VALUES (1, 0);
"""


class Related:
    """The index of one installation; several processes may use its file."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self._identity = identity
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as problem:
            raise JournalUnavailable(f"index of related events at {path}: {problem}") from problem

    def follow(self, journal: Journal, most: int = AT_ONCE) -> int:
        """Take in up to `most` further records of the journal; returns how many there were."""
        try:
            (seq,) = self._db.execute("SELECT seq FROM position").fetchone()
            found = list(islice(journal.read(seq, KINDS), most))
            links = [(key, s.record.event_us, s.record.id) for s in found for _, key in self._keys(s.record)]
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO link VALUES (?, ?, ?)", links)
            self._db.execute("UPDATE position SET seq = max(seq, ?)", (found[-1].seq if found else seq,))
            self._db.execute("COMMIT")
        except sqlite3.Error as problem:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalUnavailable(f"index of related events: {problem}") from problem
        return len(found)

    def of(self, record: Record, most: int = MOST) -> dict[str, list[str]]:
        """Events with something in common with a record's, the newest first: id → what they share."""
        found: dict[str, tuple[int, list[str]]] = {}
        sql = "SELECT time_us, id FROM link WHERE key = ? ORDER BY time_us DESC LIMIT ?"
        for entity, key in self._keys(record):
            for time_us, event_id in self._db.execute(sql, (key, most + 1)):
                if event_id != record.id:
                    found.setdefault(event_id, (time_us, []))[1].append(entity)
        newest = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))[:most]
        return {event_id: shares for event_id, (_, shares) in newest}

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def _keys(self, record: Record) -> Iterator[tuple[str, bytes]]:
        fields = orjson.loads(record.personal) if record.personal else {}
        if "address.street" in fields and "address.postcode" in fields:
            fields["address.key"] = _address(fields, orjson.loads(record.public)["fields"])
        for entity in SHARED:
            value = fields.get(ENTITIES[entity])
            if value is not None:
                yield entity, self._identity.key(entity, value)


def _address(personal: Mapping[str, Any], public: Mapping[str, Any]) -> str:
    return address_key(personal["address.street"], personal["address.postcode"], public.get("address.country", ""))
