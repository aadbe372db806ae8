"""A feature whose columns the stored logs lack is added while a server runs; a kill on the way is harmless."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.bootstrap import open_engine, open_program, open_stores
from engine.bulk import replay
from engine.profiles.sqlite import SqliteProfiles
from engine.runtime import Runtime
from engine.settings import Settings
from tests.conftest import POLICY, ROOT, payment
from tests.service.findings import findings_of
from tests.service.installation import calling, installed, settings_in, until
from tests.service.recount import DAY_US, Counts, Fact, read_journal
from tests.service.shoppers import Ledger, Shopper

NAME = "card.people_24h"
ADDED = f"""
  {NAME}: {{measure: distinct, of: user.id, on: payment, window: 24h, unit: events, meaning: people who paid with it}}
  user.first_24h: {{measure: first, of: txn.amount_base, on: payment, window: 24h, unit: money, meaning: first today}}
"""
CALLERS = 6
_KEEPER = """
import asyncio, os, signal, sys
from engine import bootstrap, bulk
from engine.bootstrap import Silence, keeper
from engine.profiles.sqlite import SqliteProfiles
from engine.settings import Settings

settings, point, last = Settings.model_validate_json(sys.argv[1]), sys.argv[2], int(sys.argv[3])
owner = bulk if hasattr(bulk, point) else SqliteProfiles
real, begin, calls = getattr(owner, point, None), bulk.backfill, []

def counted(*given, **named):
    done = real(*given, **named)
    calls.append(point)
    if len(calls) == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

def armed(*given):
    setattr(owner, point, counted)
    return begin(*given)

if point:
    bootstrap.backfill = armed
asyncio.run(keeper(settings, recorder=Silence(), sinks={}))
"""


@pytest.fixture(autouse=True)
def log() -> None:
    """Instead of this folder's capture of every line: gRPC's own are too many here."""


async def test_a_feature_is_added_under_load(tmp_path: Path) -> None:
    """No decision is lost or degraded; from one admission on all have the feature, and each value is the recount's."""
    rules = tmp_path / "rules"
    shutil.copytree(POLICY, rules)
    ledger, stop = Ledger(), asyncio.Event()
    with installed(settings_in(tmp_path, clock="event", rules=str(rules))) as server:
        state = server.settings.state
        async with calling(server.port, CALLERS) as callers:
            shoppers = [Shopper(f"s{n}", n, ledger, hurried=0) for n in range(CALLERS)]
            tasks = [asyncio.create_task(s.run(c, stop)) for s, c in zip(shoppers, callers, strict=True)]
            await until(lambda: len(ledger.answers) > 400)
            with (rules / "features.yaml").open("a") as file:
                file.write(ADDED)
            await until(lambda: len({writer for writer, fact in decided(state) if NAME in fact.snapshot}) == 2)
            after = len(ledger.answers)
            await until(lambda: len(ledger.answers) > after + 300)
            await until(lambda: not (state / "profiles.sqlite").exists())
            stop.set()
            await asyncio.gather(*tasks)
        assert await asyncio.to_thread(server.stop) == 0
        found = await findings_of(server.settings, ledger)
    assert found.nothing, found
    assert {source for _, _, reply in ledger.answers.values() for source in getattr(reply, "degraded", ())} == set()
    everybody = [fact for _, fact in decided(state) if fact.snapshot]
    first = min(fact.number for fact in everybody if NAME in fact.snapshot)
    assert {NAME in fact.snapshot for fact in everybody if fact.number < first} == {False}
    assert {NAME in fact.snapshot for fact in everybody if fact.number >= first} == {True}
    counts = Counts(read_journal(state))
    wrong = [
        (fact.id, fact.snapshot[NAME], people(counts, fact))
        for fact in everybody
        if fact.number >= first and fact.snapshot[NAME] != people(counts, fact)
    ]
    assert wrong == []
    assert max(fact.snapshot[NAME] for fact in everybody if fact.number >= first) > 2


def decided(state: Path) -> list[tuple[str, Fact]]:
    """Who wrote it, and the decided payments that name a card."""
    journal = read_journal(state)
    writers = {row["id"]: row["writer"] for row in journal.rows if row["kind"] == "decision"}
    facts = [fact for fact in journal.facts.values() if fact.decided and "card.token" in fact.fields]
    return [(writers[fact.id], fact) for fact in facts]


def people(counts: Counts, fact: Fact) -> int:
    """How many people paid with the card in the day before, as admitted before."""
    seen = counts._seen("card", fact.fields["card.token"], fact.time_us, DAY_US, fact.number)
    return len({one.fields["user.id"] for one in seen if "user.id" in one.fields})


@pytest.fixture
async def serving(settings_of, tmp_path: Path) -> AsyncIterator[tuple[Runtime, Settings]]:
    """An engine with sixty payments behind it, and a saved feature that waits for its columns."""
    shutil.copytree(POLICY, tmp_path / "rules")
    settings = settings_of(rules=str(tmp_path / "rules"))
    engine = open_engine(settings)
    await engine.start()
    for n in range(60):
        await engine.decide(payment(n, at_s=n, user__id=f"u{n % 7}", card__token=f"tok_{n % 5}"))
    with (settings.rules / "features.yaml").open("a") as file:
        file.write(ADDED)
    assert await engine.reload()
    yield engine, settings
    await engine.close()


@contextlib.asynccontextmanager
async def keeping(settings: Settings, point: str = "", call: int = 0) -> AsyncIterator[asyncio.subprocess.Process]:
    """A keeper in a process of its own; in its backfill, after the nth call of a function, it kills itself."""
    command = (sys.executable, "-c", _KEEPER, settings.model_dump_json(), point, str(call))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=DEVNULL)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def test_a_kill_on_the_way_leaves_what_is_live(serving) -> None:
    """Killed while it reads, merges or hands over: program and logs of before go on; the next keeper completes it."""
    engine, settings = serving
    old = engine.program_digest
    for number, (point, call) in enumerate((("spill_record", 30), ("_merge_batch", 3), ("_rest", 1)), 60):
        async with keeping(settings, point, call) as killed:
            assert await killed.wait() == -signal.SIGKILL
        assert (settings.state / "profiles-2.sqlite").exists()
        decision, case = await engine.consider(payment(100, at_s=100, user__id="u1", card__token="tok_1"))
        assert (decision.program, decision.degraded, NAME in case.row) == (old, (), False)
        await engine.decide(payment(number, at_s=60, user__id="u9", card__token="tok_1"))
    other = open_engine(settings)
    await other.start()
    assert other.program_digest == old
    await other.close()
    async with keeping(settings):
        await until(lambda: engine.program_digest != old)
        _, case = await engine.consider(payment(100, at_s=100, card__token="tok_1"))
        assert (case.row[NAME], case.row["card.payments_1h"]) == (8, 15)
        await until(lambda: not (settings.state / "profiles.sqlite").exists())
    assert parts(settings.state / "profiles-2.sqlite") == await rebuilt(settings)


async def test_a_kill_after_the_handing_over_is_too_late(serving) -> None:
    """The new logs are in force from their commit on, whoever dies then."""
    engine, settings = serving
    old = engine.program_digest
    async with keeping(settings, "hand_over", 1) as killed:
        assert await killed.wait() == -signal.SIGKILL
    await until(lambda: engine.program_digest != old)
    decision = await engine.decide(payment(100, at_s=100))
    assert (decision.program, decision.degraded) == (engine.program_digest, ())


async def test_going_back_while_logs_are_derived(serving) -> None:
    """What is live again before the columns are there keeps its logs; nothing waits any longer."""
    engine, settings = serving
    old = engine.program_digest
    (settings.rules / "features.yaml").write_text((POLICY / "features.yaml").read_text())
    assert await engine.reload()
    async with keeping(settings):
        await asyncio.sleep(3)
        decision = await engine.decide(payment(100, at_s=100))
    assert (decision.program, decision.degraded) == (old, ())
    assert not (settings.state / "profiles-2.sqlite").exists()


def parts(path: Path) -> dict[tuple[bytes, int], bytes]:
    """All that a file of profiles holds."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {(key, n): body for key, n, body in db.execute("SELECT key, n, body FROM part")}


async def rebuilt(settings: Settings) -> dict[tuple[bytes, int], bytes]:
    """What the journal makes of an empty store."""
    fresh, (_, journal) = SqliteProfiles(settings.state / "again.sqlite"), open_stores(settings)
    program = open_program(settings, with_models=False)
    fresh.open(program.layouts)
    journal.open()
    replay(journal, fresh, program, 0, settings.state)
    await fresh.close()
    await journal.close()
    return parts(settings.state / "again.sqlite")
