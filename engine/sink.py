"""Where imports go: the journal first, batch by batch with the position of the source, then profiles in bulk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.batch.load import BatchResult, Item
from engine.bulk import Spill, replay
from engine.errors import BodyConflict, InvalidInput, ProfilesUnavailable, Violation
from engine.journal.sqlite import SqliteJournal
from engine.outcomes import SPEAKS_OF, contradictions, heard, joins, user_key
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Change
from engine.program import Program
from engine.projection import disposition_changes, outcome_changes, pack_changes, result_of, speaks_of
from engine.records import event_of, event_record, outcome_digest, outcome_record, told_of
from engine.values import EntityEvent, Event, Record, Stored

Prepared = tuple[Record, tuple[EntityEvent, ...], Sequence[Change]]


class ImportSink:
    """An `EventSink` over the embedded stores. Rows known already are counted, never taken twice.

    An event of an import is known at its event time; an outcome when the file states it, else now.
    """

    def __init__(
        self, program: Program, profiles: SqliteProfiles, journal: SqliteJournal, folder: Path,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:  # fmt: skip
        self._now_us = now_us
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
        """Journal a batch together with its position, and put what is new on the way to profiles.

        Outcomes that contradict their event are refused; those of an event that is not known yet wait for it.
        """
        first, told = self._profiles.reserve(len(batch)), self._told([event.id for event, _ in batch if event])
        prepared: list[Prepared] = []
        refused: dict[str, Sequence[Violation]] = {}
        self._payments.clear()
        for number, (event, outcomes) in enumerate(batch, first):
            entries: tuple[EntityEvent, ...] = ()
            if event is not None:
                entries, changes = self._event(event)
                record = event_record("event", event, number, {"changes": pack_changes(changes)}, (), event.time_us)
                prepared.append((record, entries, changes))
                prepared += [(r, (), c) for r, c in joins(event, self._program, told.get(event.id, ()))]
            for outcome in outcomes:
                try:
                    prepared.append(self._outcome(outcome, event, entries))
                except InvalidInput as wrong:
                    refused[outcome["id"]] = wrong.violations
        counts, conflicts = self._load(prepared, position)
        orphans, joined = counts["orphan"], counts["joined"]
        new, repeated = counts["event"] + counts["outcome"] + orphans, counts["repeated"]
        return BatchResult(new, repeated, tuple(conflicts), refused, orphans, joined)

    def _load(self, prepared: Sequence[Prepared], position: int) -> tuple[Counter[str], list[str]]:
        """How many records of each kind were new, and the ids that are known with another body."""
        answers = self._journal.load([record for record, _, _ in prepared], self._source, position)
        counts, conflicts, waiting = Counter[str](), list[str](), set[str]()
        for (record, entries, changes), answer in zip(prepared, answers, strict=True):
            if isinstance(answer, BodyConflict):
                conflicts.append(record.id)
            elif answer.record is not record:
                counts["repeated"] += record.kind != "joined"
            else:
                is_orphan = record.kind == "outcome" and not changes
                counts["orphan" if is_orphan else record.kind] += 1
                waiting |= {record.payment_id} if is_orphan else set()
                self._spill.add(entries, changes, record.number)
        self._join_late(waiting, counts)
        return counts, conflicts

    def _join_late(self, waiting: set[str], counts: Counter[str]) -> None:
        """Join orphans whose event a server took in meanwhile, when it could not see them yet."""
        events = [name.removeprefix(told_of("")) for name in sorted(waiting)]
        late = [stored.record for event_id in events if (stored := self._journal.find_now(event_id)) is not None]
        told = self._told([record.id for record in late])
        found = [one for r in late if r.kind in SPEAKS_OF for one in joins(event_of(r), self._program, told[r.id])]
        answers = self._journal.load([record for record, _ in found])
        for (record, changes), answer in zip(found, answers, strict=True):
            counts["joined"] += isinstance(answer, Stored) and answer.record is record
            self._spill.add((), changes, 0)

    def _told(self, event_ids: Sequence[str]) -> dict[str, list[Stored]]:
        """What was told of these events before."""
        found: dict[str, list[Stored]] = {}
        for stored in self._journal.of_payments_now([told_of(event_id) for event_id in event_ids]):
            found.setdefault(stored.record.payment_id.removeprefix(told_of("")), []).append(stored)
        return found

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
        known_us = outcome.get("known_us") or self._now_us()
        if event is not None and outcome["event_id"] == event.id:
            if wrong := contradictions(outcome, event):
                raise InvalidInput(wrong)
            changes = outcome_changes(entries, outcome, known_us, {}, self._program.policy.settings.listings)
            body, digest = pack_changes(changes), outcome_digest(outcome)
            return outcome_record(outcome, digest, known_us, body, orphan=False), (), changes
        target = self._journal.find_now(outcome["event_id"])
        states = self._profiles.peek_now(user_key(target, self._program))
        attributes = states["user"].head.get("attr", {}) if states else {}
        record, changes = heard(outcome, target, self._program, known_us, attributes)
        return record, (), changes
