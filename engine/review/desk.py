"""The desk itself: who takes which case, what was looked at, noted and decided.

Each step is a record of the journal, checked and committed when nobody else can write, so no case is lost or decided
twice, whatever number of processes work on it. What a decision says goes to the checkout by the outbox, in the same
commit, and becomes an outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from engine.errors import BodyConflict, CaseDecided, CaseHeld, InvalidInput, LeaseEnded, NotFound, Violation
from engine.explanation import moment
from engine.intake import holds_card_number
from engine.journal.journal import Journal
from engine.outcomes import heard, user_key
from engine.profiles.store import Change, ProfileStore
from engine.program import Program
from engine.projection import disposition_changes, pack_changes
from engine.records import DAY_US, decision_of, event_of, outcome_digest, review_of, told_of
from engine.review.related import Related
from engine.schema import DISPOSITIONS
from engine.values import Action, Decision, DeskFigures, Event, Record, ReviewCase, Stored

POLICY = "policy"
"""Who decides where nobody looked."""
FINDINGS: Mapping[Action, str] = {Action.ALLOW: "confirmed_good", Action.DECLINE: "confirmed_fraud"}
OUTCOME_OF = {"good": "confirmed_good", "fraud": "confirmed_fraud", "unsure": ""}
MOST_TEXT, MOST_NAME, MOST_LISTED = 2_000, 64, 500


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done with a case."""

    what: str
    by: str
    at_us: int
    text: str
    shown: Sequence[str]


@dataclass(frozen=True, slots=True)
class RelatedEvent:
    """Another event with something in common."""

    event: Event
    shares: Sequence[str]
    action: Action
    """Unspecified where it was only recorded."""
    outcomes: Sequence[str]


@dataclass(frozen=True, slots=True)
class CaseView:
    """All that a reviewer is shown."""

    case: ReviewCase
    event: Event
    decision: Decision
    steps: Sequence[Step]
    related: Sequence[RelatedEvent]
    outcomes: Sequence[str]


class Desk:
    """The review desk of one installation; times in µs. Errors are `CaseConflict`, `NotFound` and `InvalidInput`."""

    def __init__(
        self, journal: Journal, profiles: ProfileStore, program: Callable[[], Program], related: Related,
        now_us: Callable[[], int],
    ) -> None:  # fmt: skip
        self._journal, self._queue, self._profiles = journal, journal.reviews, profiles
        self._program, self._related, self.now_us = program, related, now_us

    def case(self, case_id: str) -> ReviewCase:
        """A case, or `NotFound`."""
        found = self._queue.case(case_id)
        if found is None:
            raise NotFound(f"there is no review case {case_id!r}; `arbiter review list` shows those that are open")
        return found

    def cases(self, state: str, limit: int, after: str = "") -> tuple[Sequence[ReviewCase], str]:
        """Cases of a state (open, waiting, taken, decided), and what to say as `after` to go on."""
        if not 1 <= limit <= MOST_LISTED:
            raise InvalidInput([Violation("limit", f"must be between 1 and {MOST_LISTED}")])
        place = _place(after) if after else None
        if state == "decided":
            found = self._queue.decided(limit, place)
        else:
            held = {"open": None, "waiting": False, "taken": True}[state]
            found = self._queue.open(limit, self.now_us(), held, place)
        last = found[-1] if len(found) == limit else None
        return found, f"{last.decided_us if last.action else last.rank!r}|{last.id}" if last else ""

    def figures(self, since_us: int = 0) -> DeskFigures:
        """How the desk is doing; what was decided since a time, else within a day."""
        now_us = self.now_us()
        return self._queue.figures(now_us, since_us or now_us - DAY_US)

    async def take(self, by: str, case_id: str = "") -> ReviewCase:
        """Take a case, or the one to be looked at first; one's own is taken for longer."""
        _check(by)
        now_us, lease_us = self.now_us(), self._program().policy.settings.review.lease_us

        def make() -> list[Record]:
            case = self.case(case_id) if case_id else next(iter(self._queue.open(1, now_us, held=False)), None)
            if case is None:
                raise NotFound("no case waits; `arbiter review list` shows those that are taken")
            if case.action:
                raise _decided(case)
            if case.held(now_us) and case.holder != by:
                raise _held(case)
            return [_step(case, "take", by, now_us, held_us=now_us + lease_us)]

        (stored,) = await asyncio.to_thread(self._queue.append, make)
        return self.case(stored.record.id)

    async def release(self, by: str, case_id: str) -> ReviewCase:
        """Give a case back."""
        _check(by)
        now_us = self.now_us()

        def make() -> list[Record]:
            case = self.case(case_id)
            if case.action:
                raise _decided(case)
            _own(case, by, now_us)
            return [_step(case, "release", by, now_us)]

        await asyncio.to_thread(self._queue.append, make)
        return self.case(case_id)

    async def note(self, by: str, case_id: str, text: str) -> ReviewCase:
        """Write something down; nobody needs to have the case for that."""
        _check(by, text, "text")
        now_us = self.now_us()
        make = lambda: [_step(self.case(case_id), "note", by, now_us, text=text)]  # noqa: E731  a step like the others
        await asyncio.to_thread(self._queue.append, make)
        return self.case(case_id)

    async def view(self, case_id: str, by: str = "") -> CaseView:
        """All that there is about a case; what is shown to a named reviewer is kept."""
        case, stored = self.case(case_id), await self._stored(case_id)
        steps = [_read(s) for s in await self._journal.of_payment(review_of(case_id))]
        related = [await self._seen(event_id, shares) for event_id, shares in self._related.of(stored.record).items()]
        if by:
            _check(by)
            shown = [one.event.id for one in related]
            look = _step(case, "look", by, self.now_us(), shown=shown)
            await asyncio.to_thread(self._queue.append, lambda: [look])
        told = await self._told(case_id)
        return CaseView(case, event_of(stored.record), decision_of(stored), steps, related, told)

    async def decide(self, by: str, case_id: str, action: Action, text: str, finding: str = "") -> ReviewCase:
        """Say what is to be done; `finding` (good, fraud, unsure) is else what the action says."""
        _check(by, text, "reason")
        if action not in FINDINGS:
            raise InvalidInput([Violation("action", "must be ALLOW or DECLINE")])
        case, now_us = self.case(case_id), self.now_us()
        told = OUTCOME_OF[finding] if finding else FINDINGS[action]
        records, changes = await self._verdict(case, "decide", by, action, text, told)

        def make() -> Sequence[Record]:
            now = self.case(case_id)
            if now.action:
                if (now.decided_by, now.action) == (by, action):
                    return ()  # sent again
                raise _decided(now)
            _own(now, by, now_us)
            return records

        if await asyncio.to_thread(self._queue.append, make) and changes:
            await self._profiles.settle(changes)
        return self.case(case_id)

    async def time_out(self, most: int = 100) -> int:
        """Let the policy decide what nobody looked at in time; returns how many."""
        now_us, count = self.now_us(), 0
        for case in self._queue.late(now_us, most):
            text = "nobody looked at it in time"
            records, changes = await self._verdict(case, "timeout", POLICY, case.timeout_action, text, "")

            def make(case: ReviewCase = case, records: Sequence[Record] = records) -> Sequence[Record]:
                now = self.case(case.id)
                return () if now.action or now.held(now_us) else records

            if await asyncio.to_thread(self._queue.append, make):
                await self._profiles.settle(changes)
                count += 1
        return count

    async def _verdict(
        self, case: ReviewCase, step: str, by: str, action: Action, text: str, told: str
    ) -> tuple[list[Record], list[Change]]:
        """The records of a decision with the notice that it sends, and what they change in profiles."""
        stored, program, now_us = await self._stored(case.id), self._program(), self.now_us()
        event = event_of(stored.record)
        changes: list[Change] = []
        if action is Action.DECLINE and event.kind == "payment":
            entries = program.open(event, event.time_us).entries
            changes = disposition_changes(entries, DISPOSITIONS.index("declined_by_us"))
        notice = {
            "id": f"{case.id}:REVIEW", "kind": "review_decided", "event_id": case.id, "payment_id": case.payment_id,
            "action": action.name, "decided_by": by, "reason": text, "decided_us": now_us,
        }  # fmt: skip
        more = {"action": action, "text": text, "changes": pack_changes(changes)}
        records = [_step(case, step, by, now_us, (notice,), **more)]
        if told:
            outcome_id, at_us = review_of(case.id), max(now_us, event.time_us)
            outcome = {"id": outcome_id, "event_id": case.id, "kind": told, "time_us": at_us}
            if (known := await self._journal.find(outcome_id)) is not None and not self.case(case.id).action:
                raise BodyConflict(outcome_id, known.record.digest, outcome_digest(outcome))
            states = await self._profiles.peek(user_key(stored, program))
            attributes = states["user"].head.get("attr", {}) if states else {}
            record, more_changes = heard(outcome, stored, program, now_us, attributes)
            records.append(record)
            changes = [*changes, *more_changes]
        return records, changes

    async def _stored(self, case_id: str) -> Stored:
        stored = await self._journal.find(case_id)
        if stored is None or stored.record.kind != "decision":
            raise NotFound(f"there is no decision with id {case_id!r}")
        return stored

    async def _seen(self, event_id: str, shares: Sequence[str]) -> RelatedEvent:
        await asyncio.sleep(0)  # others, who decide, have their turn between two of many
        stored = await self._journal.find(event_id)
        assert stored is not None, f"{event_id} is in the index and not in the journal"
        decided = stored.record.kind == "decision"
        action = decision_of(stored).action if decided else Action.UNSPECIFIED
        return RelatedEvent(event_of(stored.record), shares, action, await self._told(event_id))

    async def _told(self, event_id: str) -> list[str]:
        """What is known to be true of an event."""
        records = [s.record for s in await self._journal.of_payment(told_of(event_id)) if s.record.kind == "outcome"]
        return [orjson.loads(record.public)["outcome"]["kind"] for record in records]


def _step(
    case: ReviewCase, step: str, by: str, now_us: int, notices: Sequence[Mapping[str, Any]] = (), **more: Any
) -> Record:
    body = orjson.dumps({"step": step, "by": by, **more})
    return Record("review", case.id, b"", now_us, review_of(case.id), body, b"", 0, notices, now_us)


def _read(stored: Stored) -> Step:
    body = orjson.loads(stored.record.public)
    return Step(body["step"], body["by"], stored.known_us, body.get("text", ""), body.get("shown", ()))


def _place(after: str) -> tuple[float, str]:
    try:
        number, _, last = after.partition("|")
        return float(number), last
    except ValueError:
        raise InvalidInput([Violation("after", "is not what an earlier reply gave as `next`")]) from None


def _check(by: str, text: str | None = None, name: str = "") -> None:
    """Who does it, and what is written down, are texts to be kept for good."""
    wrong = []
    if not (by.strip() == by and 1 <= len(by) <= MOST_NAME and by.isprintable()) or by == POLICY:
        wrong.append(Violation("reviewer", f"is required: 1 to {MOST_NAME} printable characters, and not `{POLICY}`"))
    if text is not None:
        if not 1 <= len(text.strip()) <= MOST_TEXT:
            wrong.append(Violation(name, f"is required: 1 to {MOST_TEXT:,} characters"))
        elif holds_card_number(text):
            wrong.append(Violation(name, "looks as if it held a card number; it is kept for good, so leave that out"))
    if wrong:
        raise InvalidInput(wrong)


def _own(case: ReviewCase, by: str, now_us: int) -> None:
    """Only who has a case may go on with it."""
    if case.held(now_us):
        if case.holder != by:
            raise _held(case)
    elif case.holder == by:
        ended = f"your lease of case {case.id!r} ended at {moment(case.held_us)}"
        raise LeaseEnded(f"{ended}; take it again, and nothing is lost if nobody else did")
    else:
        raise LeaseEnded(f"case {case.id!r} is not yours; take it first")


def _held(case: ReviewCase) -> CaseHeld:
    until = f"{case.holder!r} has case {case.id!r} until {moment(case.held_us)}"
    return CaseHeld(f"{until}; take another one, or this one when it was given back or the lease has ended")


def _decided(case: ReviewCase) -> CaseDecided:
    said = f"case {case.id!r} was decided {case.action.name} by {case.decided_by!r} at {moment(case.decided_us)}"
    return CaseDecided(f"{said}, which is final; if that was wrong, record an outcome of the event")
