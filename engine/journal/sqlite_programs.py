"""Bundles, activations and workers in the journal's file; see the protocol `Programs`."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from engine.values import Activation, Bundle, Record, Worker

SCHEMA = """
CREATE INDEX IF NOT EXISTS record_activation ON record (seq) WHERE kind = 'activation';
CREATE TABLE IF NOT EXISTS content (digest BLOB PRIMARY KEY, compressed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bundle (
    digest TEXT PRIMARY KEY, policy TEXT NOT NULL, files BLOB NOT NULL, models BLOB NOT NULL, author TEXT NOT NULL,
    reason TEXT NOT NULL, created_us INTEGER NOT NULL, tests TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS worker (
    id TEXT PRIMARY KEY, program TEXT NOT NULL, since_us INTEGER NOT NULL, seen_us INTEGER NOT NULL,
    problem TEXT NOT NULL
) WITHOUT ROWID;
"""
_SELECT = "SELECT seq, known_us, public FROM record WHERE kind = 'activation' "
Rows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
Write = Callable[[str, Sequence[Any]], None]
Commit = Callable[[Sequence[Record], Callable[[], bool]], Sequence[Any]]
"""Commits records if a condition holds then."""


class SqlitePrograms:
    """What the journal knows of programs, over three of its own ways to read and write."""

    def __init__(self, rows: Rows, write: Write, commit: Commit) -> None:
        self._rows, self._write, self._commit = rows, write, commit

    def keep(self, bundle: Bundle) -> None:
        """Durable when it returns; a known digest stays as it is."""
        if self.digests(bundle.digest):
            return
        names = {name: self._keep(content).hex() for name, content in bundle.files.items()}
        values = (
            bundle.digest, bundle.policy, orjson.dumps(names), orjson.dumps(bundle.models), bundle.author,
            bundle.reason, bundle.created_us, bundle.tests,
        )  # fmt: skip
        self._write("INSERT OR IGNORE INTO bundle VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def bundle(self, digest: str) -> Bundle | None:
        """A bundle by the digest of its program."""
        rows = self._rows("SELECT * FROM bundle WHERE digest = ?", (digest,))
        if not rows:
            return None
        found, policy, names, models, author, reason, created_us, tests = rows[0]
        files = {name: self._content(bytes.fromhex(key)) for name, key in orjson.loads(names).items()}
        return Bundle(found, policy, files, orjson.loads(models), author, reason, created_us, tests)

    def _keep(self, content: bytes) -> bytes:
        """Keep the content of a file, once for all bundles that have it; returns its digest."""
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if not self._rows("SELECT 1 FROM content WHERE digest = ?", (digest,)):
            self._write("INSERT OR IGNORE INTO content VALUES (?, ?)", (digest, zlib.compress(content)))
        return digest

    def _content(self, digest: bytes) -> bytes:
        return zlib.decompress(self._rows("SELECT compressed FROM content WHERE digest = ?", (digest,))[0][0])

    def digests(self, beginning: str) -> list[str]:
        """Digests of bundles that begin so, the newest first."""
        chosen = "WHERE substr(digest, 1, ?) = ? ORDER BY created_us DESC"
        return [row[0] for row in self._rows(f"SELECT digest FROM bundle {chosen}", (len(beginning), beginning))]

    def activate(self, activation: Activation, after: int | None = None) -> Activation | None:
        """Durable when it returns, with its number; None, and nothing done, if `after` is not the newest's."""

        def still() -> bool:
            newest = self.newest()
            return after is None or (newest.seq if newest else 0) == after

        body = {name: value for name, value in asdict(activation).items() if name not in {"seq", "since_us"}}
        stored = self._commit([Record("activation", activation.digest, b"", 0, "", orjson.dumps(body), b"", 0)], still)
        return replace(activation, seq=stored[0].seq, since_us=stored[0].known_us) if stored else None

    def newest(self, at_us: int | None = None) -> Activation | None:
        """What is live, or was live at a time."""
        before = "" if at_us is None else "AND known_us <= ? "
        rows = self._rows(_SELECT + before + "ORDER BY seq DESC LIMIT 1", () if at_us is None else (at_us,))
        return _activation(rows[0]) if rows else None

    def activations(self, limit: int) -> list[Activation]:
        """The newest first."""
        return [_activation(row) for row in self._rows(_SELECT + "ORDER BY seq DESC LIMIT ?", (limit,))]

    def sign_in(self, worker: Worker) -> None:
        """Say that a worker lives and what it decides with."""
        values = (worker.id, worker.program, worker.since_us, worker.seen_us, worker.problem)
        self._write("INSERT OR REPLACE INTO worker VALUES (?, ?, ?, ?, ?)", values)

    def sign_out(self, worker_id: str) -> None:
        """A worker leaves."""
        self._write("DELETE FROM worker WHERE id = ?", (worker_id,))

    def workers(self, since_us: int) -> list[Worker]:
        """Those that signed in since."""
        return [Worker(*row) for row in self._rows("SELECT * FROM worker WHERE seen_us >= ? ORDER BY id", (since_us,))]


def _activation(row: tuple[Any, ...]) -> Activation:
    return Activation(**orjson.loads(row[2]), seq=row[0], since_us=row[1])
