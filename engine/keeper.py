"""The background work of one installation, in a process of its own.

Checkpoints, reconciliation, the outbox, and the explaining of scores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog

from engine.activation import LIVE_US, awaits, now_us
from engine.bulk import entries_of, replay
from engine.errors import ArbiterError, BodyConflict, Unavailable
from engine.explaining import Follower
from engine.journal.sqlite import SqliteJournal
from engine.outcomes import joins
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Admit, LayoutsMoved, Pending
from engine.program import Program
from engine.projection import changes_about, stored_changes
from engine.records import attempt_record, event_of, settle_record, told_of
from engine.values import Event, Record, Stored

CHECKPOINT_S = 0.5
RESTART_OVER_BYTES = 16 * 1024 * 1024
"""A write-ahead log past this size is started anew, which stops writers for a millisecond or two."""
RECONCILE_S = 60.0
UNDECIDED_AFTER_US = 60 * 1_000_000
"""An admission without a record for so long was given up: its caller's deadline has passed."""
OUTBOX_S = 0.5
FOLLOW_S = 1.0
EXPLAIN_S = 0.2
REVIEW_S = 1.0
CHANGES_AT_ONCE = 500
LATER_CHANGES = ("outcome", "risk", "joined", "review")
"""Records whose changes no admission that is pending tells of."""
FIRST_RETRY_US = 2_000_000
LAST_RETRY_US = 3_600_000_000


class Sink(Protocol):
    """Somewhere that notices are delivered to."""

    def deliver(self, notice: Mapping[str, Any]) -> None:
        """Deliver, or raise `Unavailable`."""


class Keeper:
    """Keeps the stores of one installation in order. Every step can be repeated at any time."""

    def __init__(
        self, program: Program, profiles: SqliteProfiles, journal: SqliteJournal, folder: Path,
        sinks: Mapping[str, Sink], load: Callable[[], Program] | None = None, explain: Follower | None = None,
        backfill: Callable[[Program, Program, Callable[[], bool]], int] | None = None,
        review: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """`load` gives the live program; without it the first one stays.

        `backfill` makes profiles of one program into those of another, in stores of its own and for as long as that is
        wanted; it says how many records that took. `review` is what the review desk wants each second.
        """
        self._explain, self._backfill, self._review = explain, backfill, review
        self._wanted: tuple[str, Program] = "", program
        """Digest of what is live, and its program; the keeper's own differs until profiles have its columns."""
        self._program, self._profiles, self._journal = program, profiles, journal
        self._folder, self._sinks, self._load = folder, sinks, load
        self._applied = 0
        """Outcomes and standings up to this record are surely in the profiles."""
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """All of it until cancelled."""
        await asyncio.gather(
            self._every(CHECKPOINT_S, self.checkpoint),
            self._every(RECONCILE_S, self.reconcile),
            self._every(OUTBOX_S, self.dispatch),
            self._every(FOLLOW_S, self.follow),
            *([self._every(EXPLAIN_S, self._explain.follow)] if self._explain else ()),
            *([self._every(REVIEW_S, self._review)] if self._review else ()),
        )

    async def _every(self, seconds: float, step: Any) -> None:
        while True:
            try:
                await step()
            except ArbiterError as problem:
                self._log.error("keeper", step=step.__name__, reason=str(problem))
            await asyncio.sleep(seconds)

    @property
    def program(self) -> Program:
        """What it works with."""
        return self._program

    async def checkpoint(self) -> None:
        """Move both write-ahead logs on; then all that the journal held before is safe in the profiles' file too."""
        below = self._profiles.unsettled_from()
        seq = self._journal.last_seq()
        await self._apply(seq)
        self._journal.checkpoint(RESTART_OVER_BYTES)
        if self._profiles.checkpoint(RESTART_OVER_BYTES):
            self._profiles.mark_reconciled(seq, below)

    async def follow(self) -> None:
        """When what went live asks for other columns, derive profiles that have them from the journal, and go on there.

        It begins when every worker could take the program but for the columns. Until the end they decide with the one
        before, and with the new one from the same moment on.
        """
        store = self._journal.programs
        newest = store.newest()
        if newest is None or self._load is None or self._backfill is None:
            return
        if newest.digest != self._wanted[0]:
            self._wanted = newest.digest, await asyncio.to_thread(self._load)
        program, workers = self._wanted[1], store.workers(now_us() - LIVE_US)
        behind = [worker for worker in workers if worker.program != newest.digest]
        if program.features.shape == self._profiles.shape:
            self._program = program
            if not behind:
                self._profiles.forget_older()
        elif all(worker.problem == awaits(newest) for worker in behind):
            self._log.info("deriving other log columns from the journal", program=newest.digest)
            began_s = time.monotonic()
            count = await asyncio.to_thread(
                self._backfill, self._program, program, lambda: store.newest() == newest
            )  # fmt: skip
            self._profiles.adopt(program.layouts)
            self._program = program
            took_s = round(time.monotonic() - began_s, 1)
            self._log.info("the logs have the columns", program=newest.digest, records=count, seconds=took_s)

    def recover(self) -> int:
        """At the start: bring in the records that profiles may have lost with the power; returns how many were read."""
        seq = self._journal.last_seq()
        count = replay(self._journal, self._profiles, self._program, self._profiles.reconciled(), self._folder)
        self._applied = seq
        return count

    async def _apply(self, seq: int) -> None:
        """Apply outcomes and standings whose worker may have died after their commit: nothing pending tells of them."""
        after = self._applied or self._profiles.reconciled()
        changes = [c for s in self._journal.read(after, LATER_CHANGES) for c in stored_changes(s.record.public)]
        for at in range(0, len(changes), CHANGES_AT_ONCE):
            await self._profiles.settle(changes[at : at + CHANGES_AT_ONCE])
        self._applied = seq

    async def reconcile(self, now_us: int = 0) -> int:
        """Settle admissions that nobody settled, and admit records that were decided without profiles."""
        before_us = (now_us or time.time_ns() // 1000) - UNDECIDED_AFTER_US
        count = 0
        for pending in await self._profiles.pending(before_us):
            await self._settle(pending)
            count += 1
        unadmitted = self._journal.unadmitted(before_us)
        if unadmitted:
            self._renew()
        for stored in unadmitted:
            await self._admit(stored)
            count += 1
        return count

    def _renew(self) -> None:
        """Take the policy as it is now: rates, above all, may be newer than the keeper."""
        try:
            program = self._load() if self._load else self._program
            if program.features.shape == self._profiles.shape:
                self._program = program
        except ArbiterError as problem:
            self._log.warning("policy refused, the keeper goes on with the one before", reason=str(problem))

    async def _settle(self, pending: Pending) -> None:
        """Give a pending admission its record if it has none, then apply what the record holds."""
        stored: Stored | BodyConflict | None = await self._journal.find(pending.id)
        if stored is None:
            stored = self._journal.load([attempt_record(pending.body, pending.number)])[0]
        if isinstance(stored, Stored):
            changes = stored_changes(stored.record.public)
            number = await self._profiles.settle(changes)
            if changes and stored.record.kind != "undecided":
                self._journal.load([settle_record(event_of(stored.record), number)])
            await self._join(event_of(stored.record))
        await self._profiles.settle((), [pending.id])

    async def _join(self, event: Event) -> None:
        """Outcomes that came before an event whose worker died before it could join them."""
        found = joins(event, self._program, self._journal.of_payment_now(told_of(event.id)))
        self._journal.load([record for record, _ in found])
        await self._profiles.settle([change for _, changes in found for change in changes])

    async def _admit(self, stored: Stored) -> None:
        """Admit late what was decided while profiles were down; the number is journaled for rebuilds."""
        event = event_of(stored.record)
        changes = tuple(changes_about(stored, await self._journal.of_payment(stored.record.payment_id)))
        program = self._program
        entries, shape = entries_of(program, stored), program.features.shape
        try:
            admission = await self._profiles.admit(
                Admit(event.id, event.digest, event.body, entries, changes, shape), None
            )
        except LayoutsMoved:
            return  # next time, with the columns of then
        body = orjson.dumps({"number": admission.number})
        record = Record("admitted", event.id, b"", event.time_us, "", body, b"", admission.number)
        self._journal.load([record])
        await self._join(event)
        self._profiles.settle_soon([event.id])

    async def dispatch(self) -> int:
        """Deliver what is due to every sink; a failure is tried again, later each time. Returns what was delivered."""
        delivered = 0
        for notice in self._journal.due(time.time_ns() // 1000):
            try:
                for sink in self._sinks.values():
                    await asyncio.to_thread(sink.deliver, notice.body)
            except Unavailable as problem:
                pause_us = min(FIRST_RETRY_US * 2**notice.attempts, LAST_RETRY_US)
                self._journal.postpone(notice.id, time.time_ns() // 1000 + pause_us)
                self._log.warning("notice not delivered", notice=notice.body["id"], reason=str(problem))
                continue
            self._journal.delivered(notice.id)
            delivered += 1
        return delivered
