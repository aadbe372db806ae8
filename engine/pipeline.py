"""The one way: Event → Admission → Features → Score → Signals and RuleHits → Decision → Record → reply.

Nothing flows back. What fails on the way is named in `degraded`, and the policy's fallback speaks for it; only the
journal must not fail, since a decision is durable before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from engine.errors import BodyConflict, InvalidInput, PatternsUnavailable, ProfilesUnavailable, Unavailable, Violation
from engine.journal.journal import Journal
from engine.lockstep import Lockstep
from engine.outcomes import join
from engine.policy.signals import PatternMatcher
from engine.profiles.store import Admit, Change, LayoutsMoved, ProfileStore
from engine.program import Case, Program
from engine.projection import (
    disposition_changes,
    disposition_of,
    flag_changes,
    pack_changes,
    result_of,
    speaks_of,
    standing_changes,
)
from engine.records import (
    attempt_body,
    control_day,
    control_record,
    control_spent,
    decision_of,
    event_of,
    event_record,
    pack_decision,
    receipt_of,
    settle_record,
    told_of,
)
from engine.review.opening import opened_by
from engine.snapshot import snapshot
from engine.standing import notices
from engine.values import Admission, Decision, EntityEvent, Event, Receipt, Record, Stored

ANSWER_RESERVE_S = 0.006
ANSWER_SHARE = 0.2
"""What is kept of a caller's deadline for the commit and the way back: a share of what is left, or at least so much."""
CHALLENGERS_SHARE = 0.05
CHALLENGERS_BURST_S = 0.05
"""Challengers may use so much of a worker's time, and what they did not use before, up to the burst."""


class Allowance:
    """A share of the time that passes, saved up to a limit, for what can be left out."""

    def __init__(self, share: float, burst_s: float) -> None:
        self._share, self._burst_s = share, burst_s
        self._left_s, self._at_s = burst_s, 0.0

    def left(self, now_s: float) -> bool:
        """Whether anything is left at a time."""
        self._left_s = min(self._burst_s, self._left_s + self._share * (now_s - self._at_s))
        self._at_s = now_s
        return self._left_s > 0

    def spend(self, seconds: float) -> None:
        """So much was used; the last one may use more than was left, and the next ones wait for it."""
        self._left_s -= seconds


class Clock(Protocol):
    """What time it is, in µs, when an event arrives; a replay's clock says the event's own time."""

    def now_us(self, event_us: int) -> int:
        """Now."""

    def known_us(self, event_us: int) -> int:
        """What to write as known-at: 0 leaves it to the journal's commit."""


class Recorder(Protocol):
    """Where stage timings go."""

    def observe(self, stage: str, seconds: float) -> None:
        """One stage took so long."""


@dataclass(frozen=True, slots=True)
class Live:
    """What a request takes once: a program, and the matcher that runs its patterns."""

    program: Program
    matcher: PatternMatcher


class Pipeline:
    """Decides and records events with what is `live`, which may be swapped between any two requests."""

    def __init__(self, live: Live, profiles: ProfileStore, journal: Journal, clock: Clock, recorder: Recorder) -> None:
        self.live = live
        self._profiles, self._journal, self._clock, self._recorder = profiles, journal, clock, recorder
        self._lockstep = Lockstep()
        self._allowance = Allowance(CHALLENGERS_SHARE, CHALLENGERS_BURST_S)
        self._later: set[asyncio.Task[None]] = set()

    async def decide(self, event: Event, *, dry_run: bool = False, deadline: float | None = None) -> Decision:
        """Decide about an event; the stored answer for a known id, `BodyConflict` for a known id with another body."""
        async with self._lockstep:
            stored = await self._known(event)
            if stored is not None:
                return self._answer(event, stored)
            decision, case = await self.consider(event, dry_run=dry_run, deadline=deadline)
            if dry_run:
                return decision
            await asyncio.sleep(0)
            began = perf_counter()
            self._challenge(case, deadline)
            changes = self._changes(case, decision)
            record = self._record(case, decision, changes)
        if any(lowered.kind == "control" for lowered in decision.lowered):
            await self._journal.append(control_record(event, case.as_of_us, case.row["txn.amount_base"]))
        stored = await self._journal.append(record)
        self._recorder.observe("journal", perf_counter() - began)
        if stored.record is not record:
            return self._answer(event, stored)
        self._settle(event, changes, await self._journal.of_payment(told_of(event.id)))
        return decision

    async def consider(self, event: Event, *, dry_run: bool, deadline: float | None) -> tuple[Decision, Case]:
        """All stages up to the decision, without making it durable; a dry run reads by a path that never writes.

        Between stages it gives way, so that the others of its group take the same stage next (`lockstep`).
        """
        began = perf_counter()
        live, case, opened = await self._admitted(event, dry_run, deadline)
        program, admitted = live.program, perf_counter()
        program.see(case)
        seen = perf_counter()
        await asyncio.sleep(0)
        turned = perf_counter()
        program.rate(case)
        scored = perf_counter()
        await asyncio.sleep(0)
        asked = perf_counter()
        signals = await self._signals(case, live.matcher, deadline)
        signalled = perf_counter()
        case.challenge_passed = await self._challenge_passed(event)
        decision = program.conclude(case, signals, self._clock.now_us(event.time_us), dry_run=dry_run)
        if decision.propensity and not await self._in_budget(case):
            case.control = False
            case.found.clear()
            decision = program.conclude(case, signals, self._clock.now_us(event.time_us), dry_run=dry_run)
        for stage, start, end in (
            ("open", began, opened), ("admission", opened, admitted), ("features", admitted, seen),
            ("score", turned, scored), ("signals", asked, signalled), ("rules", signalled, perf_counter()),
        ):  # fmt: skip
            self._recorder.observe(stage, end - start)
        return decision, case

    async def record(self, event: Event, *, deadline: float | None = None) -> Receipt:
        """Take in an event without deciding about it; a known id gets the same receipt again."""
        if (known := await self._known(event)) is not None:
            return receipt_of(known, new=False)
        target = await self._result_changes(event)
        live, case, _ = await self._admitted(event, False, deadline, target)
        program = live.program
        program.see(case)
        _, sources = program.judge_user(case)
        risk = program.next_risk(case, sources)
        changes = [
            *flag_changes(program, case.entries, case.step_flags),
            *standing_changes(_user(case), risk, case.risk, None),
        ]
        extra = {"late": case.late, "flags": case.flags, "changes": pack_changes([*target, *changes])}
        record = event_record("event", event, case.admission.number, extra, (), self._clock.known_us(event.time_us))
        stored = await self._journal.append(record)
        self._settle(event, changes, await self._journal.of_payment(told_of(event.id)))
        return receipt_of(stored, new=stored.record is record)

    def _challenge(self, case: Case, deadline: float | None) -> None:
        """Let challengers score what was just decided: the first thing that is left out when time is short."""
        latest, now = latest_of(deadline), asyncio.get_running_loop().time
        for model in case.program.challengers.get(case.event.kind, ()):
            case.challenged[model.name] = None
            began = now()
            if self._allowance.left(began) and (latest is None or began < latest):
                case.program.challenge(case, model)
                took = now() - began
                self._allowance.spend(took)
                self._recorder.observe("challenger", took)

    async def drain(self) -> None:
        """Wait for settlements that are still under way."""
        while self._later:
            await asyncio.wait(self._later)

    async def _known(self, event: Event) -> Stored | None:
        stored = await self._journal.find(event.id)
        if stored is not None and stored.record.digest != event.digest:
            raise BodyConflict(event.id, stored.record.digest, event.digest)
        return None if stored is not None and stored.record.kind == "undecided" else stored

    def _answer(self, event: Event, stored: Stored) -> Decision:
        if stored.record.kind != "decision":
            raise InvalidInput([Violation("id", "was recorded as an event before; a decision needs an id of its own")])
        return decision_of(stored)

    async def _admitted(
        self, event: Event, dry_run: bool, deadline: float | None, changes: Sequence[Change] = ()
    ) -> tuple[Live, Case, float]:
        """Open and admit an event with what is live; again, when the store has moved to other layouts meanwhile."""
        while True:
            live = self.live
            case, opened = live.program.open(event, self._clock.now_us(event.time_us)), perf_counter()
            with contextlib.suppress(LayoutsMoved):
                case.admission = await self._admit(case, dry_run, deadline, changes)
                return live, case, opened

    async def _admit(
        self, case: Case, dry_run: bool, deadline: float | None, changes: Sequence[Change] = ()
    ) -> Admission:
        """One round trip to the profiles. When they are late or down, the decision goes on without them."""
        entries, event = case.entries, case.event
        limit = latest_of(deadline)
        try:
            if dry_run:
                return Admission(0, await self._profiles.peek({e.entity: e.key for e in entries}), True)
            pending = attempt_body(event, pack_changes(changes), late=case.late)
            shape = case.program.features.shape
            request = Admit(event.id, event.digest, pending, entries, tuple(changes), shape)
            return await self._profiles.admit(request, limit)
        except ProfilesUnavailable:
            case.degraded.append("profiles")
            return Admission(0, {}, True)

    async def _signals(self, case: Case, matcher: PatternMatcher, deadline: float | None) -> tuple[str, ...]:
        histories = case.program.histories(case) if case.step_flags else []
        if not histories:
            return ()
        left, limit = None, latest_of(deadline)
        if limit is not None:
            left = max(0.0, min(0.02, limit - asyncio.get_running_loop().time()))
        try:
            return tuple(sorted(await matcher.match(histories, left)))
        except PatternsUnavailable:
            case.degraded.append("patterns")
            return ()

    async def _challenge_passed(self, event: Event) -> bool:
        """Whether the payment has passed a challenge; asked only at a stage after the checkout."""
        payment = event.fields.get("payment.id")
        if not payment or event.fields.get("event.stage", "checkout") == "checkout":
            return False
        events = [event_of(s.record) for s in await self._journal.of_payment(payment) if s.record.kind == "event"]
        ends = [e.fields.get("challenge.status") for e in events if e.kind == "challenge_result"]
        return bool(ends) and ends[-1] == "passed"

    async def _in_budget(self, case: Case) -> bool:
        """Whether the control group may let this payment through today, were it lost like all the others."""
        group = case.program.policy.settings.control
        spent = control_spent(await self._journal.of_payment(control_day(case.as_of_us)))
        return group is not None and spent + case.row["txn.amount_base"] <= group.daily_loss_base

    async def _result_changes(self, event: Event) -> list[Change]:
        """What a payment result or challenge result makes of the payment's entries in the logs."""
        code, payment = result_of(event), event.fields.get("payment.id")
        if not code or not payment:
            return []
        records = [s.record for s in await self._journal.of_payment(payment) if s.record.kind in {"decision", "event"}]
        paid = [
            e for e in map(event_of, records)
            if e.kind == "payment" and speaks_of(event, e.fields.get("card.token"))
        ]  # fmt: skip
        opened = [self.live.program.open(e, e.time_us) for e in paid]
        return [change for case in opened for change in disposition_changes(case.entries, code)]

    def _changes(self, case: Case, decision: Decision) -> list[Change]:
        code = disposition_of(decision) if case.event.kind == "payment" else 0
        return [
            *disposition_changes(case.entries, code),
            *flag_changes(case.program, case.entries, case.step_flags),
            *standing_changes(_user(case), decision.user_risk, case.risk, decision),
        ]

    def _record(self, case: Case, decision: Decision, changes: Sequence[Change]) -> Record:
        extra = {
            "decision": pack_decision(decision), "late": case.late, "changes": pack_changes(changes),
            **snapshot(case, decision),
        }  # fmt: skip
        opens = opened_by(case, decision)
        if opens is not None:
            extra["case"] = opens
        given = decision.measures
        told = notices(given, case.measures, case.row, case.event.id) if given else ()
        number = case.admission.number
        known_us = self._clock.known_us(case.event.time_us)
        return event_record("decision", case.event, number, extra, told, known_us, opens)

    def _settle(self, event: Event, changes: Sequence[Change], told: Sequence[Stored]) -> None:
        """Tell the profiles that the journal holds the event; changes get a number, which is journaled too.

        `told`: outcomes of the event, which may have come before it.
        """
        if not changes and not told:
            self._profiles.settle_soon([event.id])
            return
        task = asyncio.get_running_loop().create_task(self._settle_changes(event, changes, told))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _settle_changes(self, event: Event, changes: Sequence[Change], told: Sequence[Stored]) -> None:
        try:
            if changes:
                number = await self._profiles.settle(changes)
                await self._journal.append(settle_record(event, number))
            await join(event, self.live.program, told, self._journal, self._profiles)
        except Unavailable:
            return  # the pending entry stays, and the reconciler does all of it again
        self._profiles.settle_soon([event.id])


def latest_of(deadline: float | None) -> float | None:
    """Until when a source may take its time, on the loop's clock."""
    if deadline is None:
        return None
    left_s = deadline - asyncio.get_running_loop().time()
    return deadline - max(ANSWER_RESERVE_S, ANSWER_SHARE * left_s)


def _user(case: Case) -> EntityEvent | None:
    return next((entry for entry in case.entries if entry.entity == "user"), None)
