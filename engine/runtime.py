"""One running engine: the live program over its stores, and everything the service and the command line ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine.activation import Activations, awaits, now_us
from engine.errors import ArbiterError, BodyConflict, NotFound, Unavailable
from engine.explanation import Explanation
from engine.hindsight import Hindsight
from engine.journal.sqlite import SqliteJournal
from engine.outcomes import heard, join, user_key
from engine.pipeline import Clock, Live, Pipeline, Recorder, latest_of
from engine.policy.bundle import policy_files
from engine.policy.signals import PatternMatcher
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Change
from engine.program import Case, Program
from engine.projection import pack_changes, standing_changes
from engine.records import decision_of, event_of, outcome_digest, receipt_of, told_of
from engine.review.desk import Desk
from engine.standing import measures_of, next_risk
from engine.values import Activation, Admission, Assessment, Decision, Event, Receipt, Record, Worker

WATCH_S = 0.5
PROBE_S = 1.0
MOVED_S = 0.02
MATCHER_GRACE_S = 2.0
HEARTBEAT_S = 1.0
RETRY_S = 5.0
SETTLE_S = 0.2
"""How long the teller of an outcome waits until profiles know it too."""


class WallClock:
    """The time of this machine; the journal's commit says when something became known."""

    def now_us(self, event_us: int) -> int:
        """Now."""
        return time.time_ns() // 1000

    def known_us(self, event_us: int) -> int:
        """0: the commit's time."""
        return 0


class EventClock:
    """A replay's time: it is always the event's own time, and it became known then."""

    def now_us(self, event_us: int) -> int:
        """The event's time."""
        return event_us

    def known_us(self, event_us: int) -> int:
        """The event's time."""
        return event_us


class Runtime:
    """The engine of one process. It follows what is activated; a policy that can't be used changes nothing."""

    def __init__(
        self, activations: Activations, rules: Path, profiles: SqliteProfiles, journal: SqliteJournal,
        clock: Clock, recorder: Recorder, open_desk: Callable[[Callable[[], Program]], Desk],
    ) -> None:  # fmt: skip
        """`open_desk` gives the review desk, which asks for the live program whenever it needs it."""
        self._open_desk = open_desk
        self._activations, self._rules = activations, rules
        self._past, self._explaining = Hindsight(activations, journal), asyncio.Lock()
        self.profiles, self.journal = profiles, journal
        self._clock, self._recorder = clock, recorder
        self._log = structlog.get_logger()
        self._tasks: list[asyncio.Task[None]] = []
        self._pipeline: Pipeline | None = None
        self._matchers: set[PatternMatcher] = set()
        """The live one and the one before it, which answers for a moment after a reload."""
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._live: Activation | None = None
        self._since_us, self._problem = 0, ""
        """Since when it decides with its program, and why it could not take another."""
        self._saved: asyncio.Task[bool] | None = None
        """A saved policy on its way, whose tests may take a while; meanwhile what others activate is followed."""
        self._turn = asyncio.Lock()
        self._going: asyncio.Task[None] | None = None
        self._awaited: Activation | None = None
        """What waits for other columns in the profiles, and for which activation."""
        self._refused = (0, 0.0)
        """The number of the activation that it could not take, and when it tries that again."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline, once started."""
        assert self._pipeline is not None, "start the engine first"
        return self._pipeline

    @cached_property
    def desk(self) -> Desk:
        """The review desk, once started."""
        return self._open_desk(lambda: self.pipeline.live.program)

    @property
    def program_digest(self) -> str:
        """Digest of the live program."""
        return self.pipeline.live.program.digest

    async def start(self, *, watch: bool = True) -> None:
        """Load the program, open the stores, start the pattern matcher; raises what makes serving impossible.

        With `watch` it serves: it decides with what is activated, and signs in. Without, it tries the folder's policy.
        """
        signature = self._signature()
        await self.journal.start()
        try:
            wanted = self._activations.begin() if watch else None
            program, self._live = wanted or (self._activations.draft()[0], None)
            stored = self.profiles.stored_shape()
            if watch and stored not in {"", program.features.shape}:  # until profiles have its columns
                program, self._live = self._activations.fitting(stored) or (program, self._live)
            await self.profiles.start(program.layouts)
        except BaseException:
            await self.journal.close()
            raise
        self._since_us = now_us()
        matcher = PatternMatcher(program.policy.plan.patterns)
        self._matchers.add(matcher)
        with contextlib.suppress(ArbiterError):  # without patterns every decision says degraded: [patterns]
            await matcher.start()
        self._pipeline = Pipeline(Live(program, matcher), self.profiles, self.journal, self._clock, self._recorder)
        if watch:
            work = (self._watch(signature), self._probe(), self._heartbeat())
            self._tasks = [asyncio.create_task(one) for one in work]
            await self._sign_in()
            if wanted is not None and wanted[0] is not program:
                self._await_columns(*wanted)

    async def close(self) -> None:
        """Finish settlements, commit what is queued, release everything."""
        for task in (*self._tasks, *([self._saved] if self._saved else [])):
            task.cancel()
        if self._going is not None and not self.profiles.moved():
            self._going.cancel()
        await asyncio.gather(*self._tasks, *filter(None, (self._going, self._saved)), return_exceptions=True)
        if self._pipeline is not None:
            self.profiles.give_up()
            await self._pipeline.drain()
            with contextlib.suppress(Unavailable):
                self._activations.store.sign_out(self._name)
            await self.profiles.close()
            await self.journal.close()
            for matcher in self._matchers:
                matcher.close()

    def ready(self) -> bool:
        """A program is live and the journal can be written."""
        return self._pipeline is not None and self.journal.writable()

    async def decide(self, event: Event, *, dry_run: bool = False, deadline: float | None = None) -> Decision:
        """Decide about an event; durable when it returns."""
        return await self.pipeline.decide(event, dry_run=dry_run, deadline=deadline)

    async def consider(self, event: Event) -> tuple[Decision, Case]:
        """What would be decided, with everything that led to it; leaves no trace."""
        return await self.pipeline.consider(event, dry_run=True, deadline=None)

    async def record(self, event: Event, *, deadline: float | None = None) -> Receipt:
        """Take in an event."""
        return await self.pipeline.record(event, deadline=deadline)

    async def record_outcome(self, outcome: Mapping[str, Any], *, deadline: float | None = None) -> Receipt:
        """Take in what turned out to be true of an event; kept also when the event is not known (yet)."""
        digest = outcome_digest(outcome)
        known = await self.journal.find(outcome["id"])
        if known is not None:
            if known.record.digest != digest:
                raise BodyConflict(outcome["id"], known.record.digest, digest)
            return receipt_of(known, new=False)
        target = await self.journal.find(outcome["event_id"])
        known_us = outcome.get("known_us") or self._clock.now_us(outcome["time_us"])
        program = self.pipeline.live.program
        states = await self.profiles.peek(user_key(target, program))
        attributes = states["user"].head.get("attr", {}) if states else {}
        record, changes = heard(outcome, target, program, known_us, attributes)
        stored = await self.journal.append(record)
        if changes:
            await self._settle(changes, deadline)
        elif target is None and (target := await self.journal.find(outcome["event_id"])) is not None:
            # it came meanwhile, and may have looked for its outcomes before this one was there
            told = await self.journal.of_payment(told_of(outcome["event_id"]))
            with contextlib.suppress(Unavailable):
                await join(event_of(target.record), program, told, self.journal, self.profiles)
        return receipt_of(stored, new=stored.record is record)

    async def assess_user(self, user_id: str, *, dry_run: bool = False, deadline: float | None = None) -> Assessment:
        """How a person stands now, from the `on: user` rules; a change is journaled, nothing is counted."""
        program, now_us = self.pipeline.live.program, self._clock.now_us(time.time_ns() // 1000)
        event = Event("", "assessment", now_us, {"user.id": user_id}, b"", b"")
        case = program.open(event, now_us)
        case.admission = Admission(0, await self.profiles.peek({e.entity: e.key for e in case.entries}), True)
        program.see(case)
        hits, sources = program.judge_user(case)
        risk = case.risk
        if risk is not None:
            risk = next_risk(risk, sources, now_us, program.policy.settings.hold_us, program.digest)
            if risk != case.risk and not dry_run:
                await self._new_standing(case, standing_changes(case.entries[0], risk, case.risk, None), deadline)
        if risk is None:
            raise NotFound(f"user {user_id!r}: this policy keeps no user profiles")
        reasons = tuple(source.reason for source in sources)
        in_force = measures_of(case.admission.states.get("user"), now_us)
        return Assessment(risk, reasons, in_force, tuple(hits), tuple(case.degraded), program.digest, now_us)

    async def get_decision(self, event_id: str) -> Decision:
        """The stored decision of an id; `NotFound` when there is none."""
        stored = await self.journal.find(event_id)
        if stored is None:
            raise NotFound(f"no decision with id {event_id!r}")
        return decision_of(stored)

    async def explain(self, event_id: str) -> Explanation:
        """A stored decision with what led to it, by the program of then, which is loaded in a thread."""
        async with self._explaining:
            return await asyncio.to_thread(self._past.explain, event_id)

    async def reload(self) -> bool:
        """Take the folder as it is now: it goes live, for the other workers too; False, with the reasons logged, when
        it can't be used or something else was activated meanwhile."""
        try:
            program, bundle = await asyncio.to_thread(self._activations.draft)
            bundle = await asyncio.to_thread(self._activations.tested, bundle)
            async with self._turn:
                last = self._awaited or self._live
                after = last.seq if last else None
                activation = await asyncio.to_thread(self._activations.go_live, program, bundle, after)
                if activation is not None:
                    await self._swap(program, activation)
                return activation is not None
        except ArbiterError as problem:
            self._problem = f"the saved policy is a draft: {problem}"
            self._log.error("policy refused, the live one stays", live=self.program_digest, reason=str(problem))
            return False

    async def _take(self, activation: Activation) -> None:
        """Follow what somebody activated; what goes wrong is logged and told where workers sign in."""
        try:
            if activation.digest == self.program_digest:
                self._stop_waiting()
                self._live, self._problem = activation, ""
                return
            bundle = self._activations.bundle(activation.digest)
            program = await asyncio.to_thread(self._activations.of, bundle)
            await self._swap(program, activation)
        except ArbiterError as problem:
            self._problem, self._refused = str(problem), (activation.seq, time.monotonic() + RETRY_S)
            self._log.error("activation refused, the live one stays", live=self.program_digest, reason=str(problem))

    async def _swap(self, program: Program, activation: Activation) -> None:
        if activation == self._awaited:
            return
        self._stop_waiting()
        if program.features.shape != self.profiles.shape:
            self._await_columns(program, activation)
            await self._sign_in()
            return
        matcher = await self.pipeline.live.matcher.reload(program.policy.plan.patterns)
        await self._become(program, activation, matcher)

    async def _become(self, program: Program, activation: Activation, matcher: PatternMatcher) -> None:
        if matcher is not self.pipeline.live.matcher:
            self._matchers = {self.pipeline.live.matcher, matcher}
        self.pipeline.live = Live(program, matcher)
        self._live, self._awaited, self._problem, self._since_us = activation, None, "", now_us()
        self._log.info("policy activated", program=program.digest, rules=len(program.policy.rules))
        await self._sign_in()

    def _await_columns(self, program: Program, activation: Activation) -> None:
        """Decide with the live program until profiles have the columns that another one asks for."""
        self._awaited, self._problem = activation, awaits(activation)
        self._log.info("an activation waits until its log columns are derived", program=activation.digest)
        self._going = asyncio.create_task(self._go_over(program, activation))

    def _stop_waiting(self) -> None:
        if self._going is not None:
            self._going.cancel()
        self._going = self._awaited = None

    async def _go_over(self, program: Program, activation: Activation) -> None:
        """Wait until the profiles are made anew, then go on there in the same turn of the loop as the program."""
        now = self.pipeline.live.matcher
        patterns = program.policy.plan.patterns
        matcher = now if patterns.digest == now.patterns.digest else PatternMatcher(patterns)
        try:
            with contextlib.suppress(ArbiterError):
                await matcher.start()
            while not self.profiles.moved():
                await asyncio.sleep(MOVED_S)
            if (shape := self.profiles.stored_shape()) != program.features.shape:
                # made for an activation before this one, which is taken next
                found = await asyncio.to_thread(self._activations.fitting, shape)
                program, activation = found or (program, activation)
                matcher = await matcher.reload(program.policy.plan.patterns)
            self.profiles.adopt(program.layouts)
        except BaseException as problem:
            if matcher is not now:
                matcher.close()
            if not isinstance(problem, ArbiterError):
                raise
            self._awaited, self._problem = None, str(problem)  # `_watch` tries again
            self._log.error("the logs of an activation can't be taken", reason=str(problem))
            return
        if matcher is not now:
            asyncio.get_running_loop().call_later(MATCHER_GRACE_S, now.close)
        await self._become(program, activation, matcher)

    async def _settle(self, changes: list[Change], deadline: float | None) -> None:
        """Apply what the journal holds; if profiles are late or down the caller need not wait, the keeper does it."""
        latest = latest_of(deadline)
        left_s = SETTLE_S if latest is None else min(SETTLE_S, latest - asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError, Unavailable):
            await asyncio.wait_for(self.profiles.settle(changes), left_s)

    async def _new_standing(self, case: Case, changes: list[Change], deadline: float | None) -> None:
        body = orjson.dumps({"changes": pack_changes(changes)})
        event = case.event
        await self.journal.append(Record("risk", case.entries[0].key.hex(), b"", event.time_us, "", body, b"", 0))
        await self._settle(changes, deadline)

    def _signature(self) -> tuple[tuple[str, int, int], ...]:
        """Names, times and sizes of the policy's files: what changes when somebody saves one."""
        found = []
        for path in policy_files(self._rules):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    async def _watch(self, seen: tuple[tuple[str, int, int], ...]) -> None:
        """Follow the newest activation, and with `activation: on_save` the folder: within two polls either way."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._signature()
            busy = self._saved is not None and not self._saved.done()
            if now != seen and not busy and self.pipeline.live.program.policy.settings.activation == "on_save":
                seen, self._saved = now, asyncio.create_task(self.reload())
            with contextlib.suppress(Unavailable):
                newest = self._activations.store.newest()
                if newest is not None and newest not in (self._live, self._awaited) and not self._waits(newest):
                    async with self._turn:
                        await self._take(newest)
                elif self._live and (self._going is None or self._going.done()) and self.profiles.moved():
                    self._await_columns(self.pipeline.live.program, self._live)

    def _waits(self, activation: Activation) -> bool:
        seq, again_s = self._refused
        return activation.seq == seq and time.monotonic() < again_s

    async def _sign_in(self) -> None:
        """Say what this process decides with; another process's commits are waited for in a thread."""
        worker = Worker(self._name, self.program_digest, self._since_us, now_us(), self._problem)
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(self._activations.store.sign_in, worker)

    async def _heartbeat(self) -> None:
        while True:
            await self._sign_in()
            await asyncio.sleep(HEARTBEAT_S)

    async def _probe(self) -> None:
        """After a failed commit, try the journal until it can be written again."""
        while True:
            await asyncio.sleep(PROBE_S)
            if not self.journal.writable():
                await asyncio.to_thread(self.journal.probe)
