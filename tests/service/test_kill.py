"""SIGKILL under load, again and again: nothing acknowledged is lost, nothing is counted twice."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.service.findings import findings_of
from tests.service.installation import calling, installed, settings_in
from tests.service.shoppers import Ledger, under_fire

KILLS = 200 if os.environ.get("ARBITER_LONG") else 50
SEED = 20241124


@pytest.fixture(autouse=True)
def log() -> None:
    """Instead of this folder's capture of every line: gRPC's own are too many here."""


async def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    """Two workers, a keeper and a supervisor are killed 50 times under load: every acknowledged answer is there and
    is the same again, every counter equals the recount, and every admitted attempt is in the journal once."""
    ledger = Ledger()
    with installed(settings_in(tmp_path, clock="event")) as server:
        await under_fire(server, ledger, KILLS, SEED)
        async with calling(server.port, 1) as (caller,):
            for event_id, (method, request, _) in list(ledger.answers.items())[-300:]:
                ledger.note(method, request, event_id, await caller.call(method, request))
        assert await asyncio.to_thread(server.stop) == 0
        found = await findings_of(server.settings, ledger)
    print(f"{KILLS} kills, {len(ledger.answers)} acknowledged, {found.admitted} admitted, {found.undecided} undecided")
    assert found.nothing, found
    assert len(ledger.answers) > KILLS
