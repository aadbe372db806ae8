"""One running engine: the live program over its stores, and everything the service and the command line ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine.errors import ArbiterError, BodyConflict, NotFound, PolicyError, Unavailable
from engine.journal.sqlite import SqliteJournal
from engine.loader import policy_files
from engine.pipeline import Clock, Live, Pipeline, Recorder, latest_of
from engine.policy.signals import PatternMatcher
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Change
from engine.program import Case, Program
from engine.projection import outcome_changes, pack_changes, standing_changes
from engine.records import decision_of, event_of, outcome_digest, outcome_record, receipt_of
from engine.standing import measures_of, next_risk
from engine.values import Admission, Assessment, Decision, Event, Receipt, Record

WATCH_S = 0.5
PROBE_S = 1.0
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
    """The engine of one process. `load` makes a program from the policy folder; a broken folder changes nothing."""

    def __init__(
        self, load: Callable[[], Program], rules: Path, profiles: SqliteProfiles, journal: SqliteJournal,
        clock: Clock, recorder: Recorder,
    ) -> None:  # fmt: skip
        self._load, self._rules = load, rules
        self.profiles, self.journal = profiles, journal
        self._clock, self._recorder = clock, recorder
        self._log = structlog.get_logger()
        self._tasks: list[asyncio.Task[None]] = []
        self._pipeline: Pipeline | None = None
        self._matchers: set[PatternMatcher] = set()
        """The live one and the one before it, which answers for a moment after a reload."""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline, once started."""
        assert self._pipeline is not None, "start the engine first"
        return self._pipeline

    @property
    def program_digest(self) -> str:
        """Digest of the live program."""
        return self.pipeline.live.program.digest

    async def start(self, *, watch: bool = True) -> None:
        """Load the program, open the stores, start the pattern matcher; raises what makes serving impossible."""
        signature = self._signature()
        program = self._load()
        await self.profiles.start(program.layouts)
        await self.journal.start()
        matcher = PatternMatcher(program.policy.plan.patterns)
        self._matchers.add(matcher)
        with contextlib.suppress(ArbiterError):  # without patterns every decision says degraded: [patterns]
            await matcher.start()
        self._pipeline = Pipeline(Live(program, matcher), self.profiles, self.journal, self._clock, self._recorder)
        if watch:
            self._tasks = [asyncio.create_task(self._watch(signature)), asyncio.create_task(self._probe())]

    async def close(self) -> None:
        """Finish settlements, commit what is queued, release everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pipeline is not None:
            await self._pipeline.drain()
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
        changes = []
        if target is not None and target.record.kind in {"decision", "event"}:
            case = self.pipeline.live.program.open(event_of(target.record), target.record.event_us)
            user = {e.entity: e.key for e in case.entries if e.entity == "user"}
            states = await self.profiles.peek(user)
            attributes = states["user"].head.get("attr", {}) if user else {}
            changes = outcome_changes(case.entries, outcome, known_us, attributes)
        record = outcome_record(outcome, digest, known_us, pack_changes(changes), orphan=target is None)
        stored = await self.journal.append(record)
        if changes:
            await self._settle(changes, deadline)
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

    async def reload(self) -> bool:
        """Load the folder anew and swap the program; False, with the reasons logged, when it can't be used."""
        try:
            program = await asyncio.to_thread(self._load)
            self._same_layouts(program)
            matcher = await self.pipeline.live.matcher.reload(program.policy.plan.patterns)
            self._matchers = {self.pipeline.live.matcher, matcher}
        except ArbiterError as problem:
            self._log.error("policy refused, the live one stays", live=self.program_digest, reason=str(problem))
            return False
        self.pipeline.live = Live(program, matcher)
        self._log.info("policy activated", program=program.digest, rules=len(program.policy.rules))
        return True

    def _same_layouts(self, program: Program) -> None:
        old, new = self.pipeline.live.program.layouts, program.layouts
        changed = sorted(
            e for e in old.keys() | new.keys() if e not in old or e not in new or old[e].digest != new[e].digest
        )
        if changed:
            raise PolicyError(
                f"the features or patterns ask for other columns in the logs of {', '.join(changed)}; stop the server "
                "and run `arbiter rebuild`, which derives the profiles anew from the journal"
            )

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
        """With `activation: on_save`, a saved file takes effect within two polls."""
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._signature()
            if now != seen and self.pipeline.live.program.policy.settings.activation == "on_save":
                seen = now
                await self.reload()

    async def _probe(self) -> None:
        """After a failed commit, try the journal until it can be written again."""
        while True:
            await asyncio.sleep(PROBE_S)
            if not self.journal.writable():
                await asyncio.to_thread(self.journal.probe)
