"""SIGKILL under load, again and again: nothing acknowledged is lost, nothing is counted twice."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.service.findings import findings_of
from tests.service.installation import Installation, calling, installed, settings_in, until
from tests.service.shoppers import Ledger, Shopper

KILLS = 200 if os.environ.get("ARBITER_LONG") else 50
CALLERS = 6
VICTIMS = ("worker",) * 12 + ("workers",) * 3 + ("keeper",) * 3 + ("everything",)
SEED = 20241124


async def under_fire(server: Installation, ledger: Ledger, kills: int) -> None:
    """Load from several connections while processes are killed; each kill waits until callers are answered again."""
    chance, stop = random.Random(SEED), asyncio.Event()
    async with calling(server.port, CALLERS) as callers:
        shoppers = [Shopper(f"{n}", SEED + n, ledger) for n in range(CALLERS)]
        load = [asyncio.create_task(s.run(c, stop)) for s, c in zip(shoppers, callers, strict=True)]
        for kill in range(kills):
            target = len(ledger.answers) + chance.randint(1, 30)
            await until(lambda target=target: len(ledger.answers) >= target or any(t.done() for t in load))
            ledger.hot = kill // 5
            victim = chance.choice(VICTIMS)
            await asyncio.to_thread(server.kill, victim)
            if victim == "everything":
                await asyncio.to_thread(server.start)
            if any(task.done() for task in load):
                break
        stop.set()
        await asyncio.gather(*load)


@pytest.fixture(autouse=True)
def log() -> None:
    """Instead of this folder's capture of every line: gRPC's own are too many here."""


async def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    """Two workers, a keeper and a supervisor are killed 50 times under load: every acknowledged answer is there and
    is the same again, every counter equals the recount, and every admitted attempt is in the journal once."""
    ledger = Ledger()
    with installed(settings_in(tmp_path, clock="event")) as server:
        await under_fire(server, ledger, KILLS)
        async with calling(server.port, 1) as (caller,):
            for event_id, (method, request, _) in list(ledger.answers.items())[-300:]:
                ledger.note(method, request, event_id, await caller.call(method, request))
        assert await asyncio.to_thread(server.stop) == 0
        found = await findings_of(server.settings, ledger)
    print(f"{KILLS} kills, {len(ledger.answers)} acknowledged, {found.admitted} admitted, {found.undecided} undecided")
    assert found.nothing, found
    assert len(ledger.answers) > KILLS
