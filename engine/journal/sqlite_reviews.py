"""The queue of review cases in the journal's file; see the protocol `Reviews`.

Its table is a fold over records, written in the transaction that writes them, so that it is never behind and no crash
comes between. A step is checked and taken under the file's lock: of two processes that want one case, one gets it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import orjson

from engine.errors import BodyConflict
from engine.values import Action, DeskFigures, Record, ReviewCase, Stored

SCHEMA = """
CREATE TABLE IF NOT EXISTS review (
    id TEXT PRIMARY KEY, payment TEXT NOT NULL, currency TEXT NOT NULL, loss REAL NOT NULL, rank REAL NOT NULL,
    opened_us INTEGER NOT NULL, due_us INTEGER NOT NULL, timeout_us INTEGER NOT NULL, timeout_action INTEGER NOT NULL,
    holder TEXT NOT NULL DEFAULT '', held_us INTEGER NOT NULL DEFAULT 0, action INTEGER NOT NULL DEFAULT 0,
    decided_by TEXT NOT NULL DEFAULT '', decided_us INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    notes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS review_open ON review (rank DESC, id, held_us, due_us, loss, opened_us, action)
    WHERE action = 0;
CREATE INDEX IF NOT EXISTS review_decided ON review (decided_us DESC, id, decided_by, action, opened_us)
    WHERE action > 0;
CREATE INDEX IF NOT EXISTS review_held ON review (held_us) WHERE action = 0 AND held_us > 0;
CREATE INDEX IF NOT EXISTS review_late ON review (timeout_us) WHERE action = 0 AND timeout_us > 0;
"""
_SELECT = "SELECT * FROM review "
Rows = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
Step = Callable[[Callable[[], Sequence[Record]]], Sequence[Stored | BodyConflict]]


class SqliteReviews:
    """The queue, over the journal's own ways to read and write."""

    def __init__(
        self, rows: Rows, step: Step, records: Callable[[], Iterator[Stored]], db: Callable[[], sqlite3.Connection]
    ) -> None:
        """`rows` reads what is committed now, whatever other threads are reading.

        `records`: all that make the queue, in order; `db`: what the journal writes with.
        """
        self._rows, self._step, self._records, self._db = rows, step, records, db
        self._here = threading.local()
        """Whether this thread is in a step: it then reads with what the journal writes with."""

    def case(self, case_id: str) -> ReviewCase | None:
        """A case by its id."""
        return next(iter(self._cases("WHERE id = ?", case_id)), None)

    def open(
        self, limit: int, now_us: int, held: bool | None = None, after: tuple[float, str] | None = None
    ) -> list[ReviewCase]:
        """Open ones by falling rank; `held`: only those that somebody has now, or that nobody has."""
        rank, last = after or (float("inf"), "")
        chosen = {None: "? = ?", True: "held_us > 0 AND held_us > ?", False: "held_us <= ?"}[held]
        # few are held, so that they are sorted; of the others the index gives the first at once
        order = f"ORDER BY {'+' if held else ''}rank DESC, id LIMIT ?"
        where = f"WHERE action = 0 AND rank <= ? AND (rank < ? OR id > ?) AND {chosen} {order}"
        return self._cases(where, rank, rank, last, *([now_us] * chosen.count("?")), limit)

    def decided(self, limit: int, after: tuple[float, str] | None = None) -> list[ReviewCase]:
        """Decided ones, the newest first."""
        at_us, last = after or (2**62, "")
        where = (
            "WHERE action > 0 AND decided_us <= ? AND (decided_us < ? OR id > ?) ORDER BY decided_us DESC, id LIMIT ?"
        )
        return self._cases(where, int(at_us), int(at_us), last, limit)

    def late(self, now_us: int, limit: int) -> list[ReviewCase]:
        """Open ones that nobody has and that the policy decides by now."""
        where = "WHERE action = 0 AND timeout_us > 0 AND timeout_us <= ? AND held_us <= ? ORDER BY timeout_us LIMIT ?"
        return self._cases(where, now_us, now_us, limit)

    def figures(self, now_us: int, since_us: int) -> DeskFigures:
        """Counts; each is read from an index alone."""
        counts = "count(*), coalesce(sum(held_us > ?), 0), coalesce(sum(due_us < ?), 0), coalesce(sum(loss), 0.0)"
        sql = f"SELECT {counts}, coalesce(min(opened_us), 0) FROM review WHERE action = 0"
        ((count, taken, overdue, loss, oldest_us),) = self._rows(sql, (now_us, now_us))
        found: dict[str, list[tuple[int, float]]] = {}
        sql = "SELECT decided_by, action, decided_us - opened_us FROM review WHERE action > 0 AND decided_us >= ?"
        for reviewer, action, took_us in self._rows(sql, (since_us,)):
            found.setdefault(reviewer, []).append((action, took_us / 60_000_000))
        reviewers = [
            (name, sum(a == Action.ALLOW for a, _ in own), sum(a == Action.DECLINE for a, _ in own),
             median(minutes for _, minutes in own))
            for name, own in sorted(found.items())
        ]  # fmt: skip
        return DeskFigures(count - taken, taken, overdue, loss, oldest_us, reviewers)

    def append(self, make: Callable[[], Sequence[Record]]) -> list[Stored]:
        """Commit what `make` returns, called when nobody else can write."""

        def inside() -> Sequence[Record]:
            self._here.steps = True
            try:
                return make()
            finally:
                self._here.steps = False

        answers = self._step(inside)
        return [answer for answer in answers if isinstance(answer, Stored)]

    def rebuild(self) -> int:
        """Derive the queue anew from the records."""

        def again() -> list[Record]:
            db = self._db()
            db.execute("DELETE FROM review")
            for stored in self._records():
                opens = orjson.loads(stored.record.public).get("case") if stored.record.kind == "decision" else None
                if opens is not None or stored.record.kind == "review":
                    self.fold(stored, opens)
            return []

        self._step(again)
        return int(self._rows("SELECT count(*) FROM review", ())[0][0])

    def fold(self, stored: Stored, opens: Mapping[str, Any] | None) -> None:
        """What one record makes of the queue, within the transaction that writes it."""
        db, case_id = self._db(), stored.record.id
        if opens is not None:
            names = ("currency", "loss", "rank", "opened_us", "due_us", "timeout_us", "timeout_action")
            sql = f"INSERT OR IGNORE INTO review (id, payment, {', '.join(names)}) VALUES (?, ?{', ?' * len(names)})"
            db.execute(sql, (case_id, stored.record.payment_id, *(opens[name] for name in names)))
            return
        body = orjson.loads(stored.record.public)
        match body["step"]:
            case "take":
                change, values = "holder = ?, held_us = ?", [body["by"], body["held_us"]]
            case "release":
                change, values = "holder = '', held_us = 0", []
            case "note":
                change, values = "notes = notes + 1", []
            case "decide" | "timeout":
                change = "holder = '', held_us = 0, action = ?, decided_by = ?, decided_us = ?, reason = ?"
                values = [body["action"], body["by"], stored.known_us, body["text"]]
            case _:
                return
        db.execute(f"UPDATE review SET {change} WHERE id = ?", (*values, case_id))

    def _cases(self, where: str, *values: Any) -> list[ReviewCase]:
        stepping = getattr(self._here, "steps", False)
        rows = self._db().execute(_SELECT + where, values) if stepping else self._rows(_SELECT + where, values)
        return [_case(*row) for row in rows]


def _case(*columns: Any) -> ReviewCase:
    values = list(columns)
    for at in (8, 11):
        values[at] = Action(values[at])
    return ReviewCase(*values)
