"""The only wiring: which stores, which clock, which background work. Everything above gets its parts from here."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import orjson

from engine.activation import Activations, now_us, verdict
from engine.bulk import backfill, replay
from engine.errors import NotFound, PolicyError
from engine.explaining import Explainers, Follower
from engine.hindsight import Hindsight
from engine.journal.sqlite import SqliteJournal
from engine.keeper import Keeper, Sink
from engine.language import Diagnostics
from engine.loader import load_program
from engine.pipeline import Clock, Recorder
from engine.profiles.identity import Identity
from engine.profiles.sqlite import SqliteProfiles
from engine.program import Program
from engine.review.desk import Desk
from engine.review.related import AT_ONCE, Related
from engine.runtime import EventClock, Runtime, WallClock
from engine.settings import Settings, hash_key

TESTS_S = 60
"""The tests of a saved policy may take so long."""


class Silence:
    """A recorder that records nothing."""

    def observe(self, stage: str, seconds: float) -> None:
        """Nothing."""


def open_program(
    settings: Settings, *, with_models: bool = True, diagnostics: Diagnostics | None = None,
    clock: Callable[[], int] | None = None,
) -> Program:  # fmt: skip
    """The program that the settings' folders hold now; what is found on the way is in `diagnostics` too.

    `clock`: as of when lists are asked; without it, as of the case that is judged.
    """
    identity = Identity(hash_key(settings.hash_key_file))
    return load_program(
        settings.rules, settings.models, identity, clock, with_models=with_models, diagnostics=diagnostics,
        in_service=True,
    )  # fmt: skip


def open_stores(settings: Settings) -> tuple[SqliteProfiles, SqliteJournal]:
    """The embedded stores, not opened yet."""
    profiles = SqliteProfiles(settings.state / "profiles.sqlite")
    return profiles, SqliteJournal(settings.state / "journal.sqlite", settings.gather_ms / 1000)


def open_engine(settings: Settings, *, recorder: Recorder | None = None, slot: int = 0) -> Runtime:
    """One worker's engine, not started yet."""
    profiles, journal = open_stores(settings)
    clock: Clock = EventClock() if settings.clock == "event" else WallClock()
    return Runtime(
        open_activations(settings, journal), settings.rules, profiles, journal, clock, recorder or Silence(),
        lambda program: Desk(journal, profiles, program, open_related(settings), now_us),
    )  # fmt: skip


def open_related(settings: Settings) -> Related:
    """The index of what events have in common."""
    return Related(settings.state / "related.sqlite", Identity(hash_key(settings.hash_key_file)))


def open_activations(settings: Settings, journal: SqliteJournal, *, with_models: bool = True) -> Activations:
    """What is live, and how it comes to be."""

    def load(rules: Path) -> Program:
        identity = Identity(hash_key(settings.hash_key_file))
        return load_program(
            rules, settings.models, identity, with_models=with_models, in_service=rules == settings.rules
        )

    return Activations(journal.programs, load, settings.rules, partial(_tests, settings))


def _tests(settings: Settings, folder: Path, wanted: Callable[[], bool]) -> str:
    """What the tests of a saved policy say, if they are asked for; run one at a time, in a process that gives way."""
    if settings.activation_needs in {None, "nothing"}:
        return ""
    code = "import os; os.nice(10); from engine.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "rules", "test", "--json", "--folder", str(settings.folder)]
    command += ["--rules", str(folder), "--models", str(settings.models), "--state", str(settings.state)]
    environment = {**os.environ, "ARBITER_HASH_KEY_FILE": str(settings.hash_key_file)}
    try:
        with (settings.state / "tests.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not wanted():  # another worker was first
                return ""
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TESTS_S, check=False)
    except subprocess.TimeoutExpired:
        raise PolicyError(f"its tests take more than {TESTS_S} s; `arbiter policy activate` waits for them") from None
    if not done.stdout:
        raise PolicyError(f"its tests can't be run: {done.stderr.decode(errors='replace').strip()}")
    return verdict(orjson.loads(done.stdout), str(settings.activation_needs))


def open_programs(settings: Settings, journal: SqliteJournal) -> Callable[[str], Program]:
    """Digest → the program that decisions name by it, without its models; the folder's where it was never live."""
    activations = open_activations(settings, journal, with_models=False)

    def load(digest: str) -> Program:
        try:
            return activations.of(activations.bundle(digest))
        except (NotFound, PolicyError):
            return activations.draft()[0]

    return load


@contextmanager
def looking_back(settings: Settings) -> Iterator[Hindsight]:
    """The journal of an installation, to be explained and replayed; a server may run."""
    _, journal = open_stores(settings)
    if not (settings.state / "journal.sqlite").exists():
        raise NotFound(f"there is no journal in {settings.state}")
    journal.open()
    try:
        yield Hindsight(open_activations(settings, journal), journal)
    finally:
        asyncio.run(journal.close())


async def keeper(settings: Settings, *, recorder: Recorder, sinks: Mapping[str, Sink]) -> None:
    """The background work of an installation, until cancelled."""
    profiles, journal = open_stores(settings)
    journal.open()
    activations = open_activations(settings, journal, with_models=False)
    program = _fitting(activations, profiles)
    profiles.open(program.layouts)
    related = open_related(settings)
    desk = Desk(journal, profiles, lambda: work.program, related, now_us)

    async def review() -> None:
        if settings.clock == "wall":  # the deadlines of a history that is replayed have passed
            await desk.time_out()
        await asyncio.to_thread(related.follow, journal)

    explain = Follower(journal, Explainers(settings.models), open_programs(settings, journal))
    make_anew = partial(backfill_beside, settings)
    work = Keeper(program, profiles, journal, settings.state, sinks, activations.current, explain, make_anew, review)
    work.recover()
    try:
        await work.run()
    finally:
        related.close()
        await profiles.close()
        await journal.close()


def _fitting(activations: Activations, profiles: SqliteProfiles) -> Program:
    """What is live, or what the stored logs fit while that waits for a backfill."""
    program = activations.current()
    if profiles.stored_shape() not in {"", program.features.shape}:
        program, _ = activations.fitting(profiles.stored_shape()) or (program, None)
    return program


@contextmanager
def at_the_desk(settings: Settings) -> Iterator[Desk]:
    """The review desk of an installation, from a process of its own; a server may run."""
    profiles, journal = open_stores(settings)
    if not (settings.state / "journal.sqlite").exists():
        raise NotFound(f"there is no journal in {settings.state}")
    journal.open()
    program = _fitting(open_activations(settings, journal, with_models=False), profiles)
    profiles.open(program.layouts)
    related = open_related(settings)
    try:
        while related.follow(journal) == AT_ONCE:
            pass
        yield Desk(journal, profiles, lambda: program, related, now_us)
    finally:
        related.close()
        asyncio.run(profiles.close())
        asyncio.run(journal.close())


def backfill_beside(settings: Settings, live: Program, wanted: Program, still: Callable[[], bool]) -> int:
    """Make the live program's profiles into those of another while a server runs; returns the records read.

    `still`: whether the other program is what is wanted, asked before anything changes.
    """
    profiles, journal = open_stores(settings)
    journal.open()
    profiles.open(live.layouts)
    try:
        return backfill(profiles, journal, wanted, settings.state, still)
    finally:
        asyncio.run(profiles.close())
        asyncio.run(journal.close())


def rebuild(settings: Settings, progress: Callable[[int], None] = lambda _: None) -> int:
    """Derive profiles and review queue anew from the journal; returns how many records were read. No server may run.

    `progress` is called now and then with the records read so far.
    """
    profiles, journal = open_stores(settings)
    program = open_program(settings, with_models=False)
    journal.open()
    profiles.reset(program.layouts)
    journal.reviews.rebuild()
    return replay(journal, profiles, program, 0, settings.state, progress)
