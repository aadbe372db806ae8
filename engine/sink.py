"""Where imports go: the journal first, batch by batch with the position of the source, then profiles in bulk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.batch.load import BatchResult, Item
from engine.bulk import Spill, replay
from engine.errors import BodyConflict, ProfilesUnavailable
from engine.journal.sqlite import SqliteJournal
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Change
from engine.program import Program
from engine.projection import disposition_changes, outcome_changes, pack_changes, result_of, speaks_of
from engine.records import event_of, event_record, outcome_digest, outcome_record
from engine.values import EntityEvent, Event, Record

Prepared = tuple[Record, tuple[EntityEvent, ...], Sequence[Change]]


class ImportSink:
    """An `EventSink` over the embedded stores. Rows known already are counted, never taken twice.

    What becomes known with an import is known at its event time, or when the file states it.
    """

    def __init__(self, program: Program, profiles: SqliteProfiles, journal: SqliteJournal, folder: Path) -> None:
        self._program, self._profiles, self._journal, self._folder = program, profiles, journal, folder
        replay(journal, profiles, program, profiles.reconciled(), folder)  # what an earlier import left unmerged
        self._spill = Spill(program, folder)
        self._source = ""
        self._payments: dict[str, list[tuple[str | None, tuple[EntityEvent, ...]]]] = {}
        """Payment → (card, log entries) of its attempts in this batch; those before it are in the journal."""

    def position(self, source_digest: bytes) -> int:
        """Events of this source that are durable already; what is written from here on belongs to it."""
        if not self._profiles.begin_bulk():
            raise ProfilesUnavailable("another import is under way, or a server is starting; import when it is done")
        self._source = source_digest.hex()
        return self._journal.position(self._source)

    def write(self, batch: Sequence[Item], position: int) -> BatchResult:
        """Journal a batch together with its position, and put what is new on the way to profiles."""
        first = self._profiles.reserve(len(batch))
        prepared: list[Prepared] = []
        self._payments.clear()
        for number, (event, outcomes) in enumerate(batch, first):
            entries: tuple[EntityEvent, ...] = ()
            if event is not None:
                entries, changes = self._event(event)
                record = event_record("event", event, number, {"changes": pack_changes(changes)}, (), event.time_us)
                prepared.append((record, entries, changes))
            prepared += [self._outcome(outcome, event, entries) for outcome in outcomes]
        answers = self._journal.load([record for record, _, _ in prepared], self._source, position)
        new, conflicts = 0, []
        for (record, entries, changes), answer in zip(prepared, answers, strict=True):
            if isinstance(answer, BodyConflict):
                conflicts.append(record.id)
            elif answer.record is record:
                new += 1
                self._spill.add(entries, changes, record.number)
        return BatchResult(new, len(prepared) - new - len(conflicts), tuple(conflicts))

    def finish(self) -> None:
        """Merge all that was new into profiles."""
        self._spill.merge_into(self._profiles)
        self._profiles.end_bulk(self._journal.last_seq())
        self._spill = Spill(self._program, self._folder)

    def close(self) -> None:
        """Let go of the temporary files; an import that stopped half way is merged by the next one, or by a start."""
        self._spill.close()
        self._profiles.leave_bulk()

    def _event(self, event: Event) -> tuple[tuple[EntityEvent, ...], Sequence[Change]]:
        entries = self._program.open(event, event.time_us).entries
        payment = event.fields.get("payment.id")
        if not payment:
            return entries, ()
        if event.kind == "payment":
            self._payments.setdefault(payment, []).append((event.fields.get("card.token"), entries))
        code = result_of(event)
        return entries, disposition_changes(self._paid(event, payment), code) if code else ()

    def _paid(self, result: Event, payment: str) -> tuple[EntityEvent, ...]:
        """The log entries of the attempts that a result speaks of."""
        stored = [s.record for s in self._journal.of_payment_now(payment) if s.record.kind in {"event", "decision"}]
        paid = [event for event in map(event_of, stored) if event.kind == "payment"]
        attempts = [(event.fields.get("card.token"), self._entries(event)) for event in paid]
        attempts += self._payments.get(payment, ())
        return tuple(entry for card, entries in attempts if speaks_of(result, card) for entry in entries)

    def _entries(self, event: Event) -> tuple[EntityEvent, ...]:
        return self._program.open(event, event.time_us).entries

    def _outcome(self, outcome: Mapping[str, Any], event: Event | None, entries: tuple[EntityEvent, ...]) -> Prepared:
        """An outcome speaks of the event beside it, or of one in the journal; else it is kept as an orphan."""
        if event is None or outcome["event_id"] != event.id:
            stored = self._journal.find_now(outcome["event_id"])
            known = stored is not None and stored.record.kind in {"event", "decision"}
            entries = self._entries(event_of(stored.record)) if stored is not None and known else ()
        known_us = outcome.get("known_us") or outcome["time_us"]
        changes = outcome_changes(entries, outcome, known_us, {})
        record = outcome_record(outcome, outcome_digest(outcome), known_us, pack_changes(changes), orphan=not entries)
        return record, (), changes
