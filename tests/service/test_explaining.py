"""Scores are explained by a process that nobody waits for, soon, and whatever dies."""

import asyncio
import sqlite3
import time
from pathlib import Path

from engine.service import convert
from tests.conftest import NOW_US
from tests.service.installation import PATIENCE_S, calling, installed, settings_in
from tests.small_model import make_shop

WITHIN_S = 1.0


def _explained(state: Path) -> dict[str, int]:
    """Decision → how often it was explained."""
    db = sqlite3.connect(f"file:{state / 'journal.sqlite'}?mode=ro", uri=True)
    rows = db.execute("SELECT id, count(*) FROM record WHERE kind = 'explanation' GROUP BY id").fetchall()
    db.close()
    return dict(rows)


async def _until(state: Path, wanted: set[str]) -> float:
    """Seconds until all of them are explained, each once."""
    began_s = time.monotonic()
    while not wanted <= _explained(state).keys():
        assert time.monotonic() - began_s < PATIENCE_S, wanted - _explained(state).keys()
        await asyncio.sleep(0.02)
    assert set(_explained(state).values()) == {1}
    return time.monotonic() - began_s


async def _refuse(caller, numbers: range) -> set[str]:
    """Large payments, which the bands of the shop refuse."""
    for number in numbers:
        document = {
            "id": f"e{number}", "kind": "payment", "time_us": NOW_US + number * 1_000_000, "user.id": "u1",
            "device.id": "d1", "card.token": "tok_1", "event.market": "DE", "txn.amount_minor": 900_00,
            "txn.currency": "EUR", "payment.id": f"p{number}", "event.stage": "checkout",
        }  # fmt: skip
        reply = await caller.call("Decide", convert.decide_request(document))
        assert convert.decision_value(reply).action.name != "ALLOW"
    return {f"e{number}" for number in numbers}


async def test_explained_within_a_second_and_over_the_death_of_who_explains(tmp_path):
    """Each refused payment has its explanation soon after its answer; those decided while the keeper is dead too."""
    shop = make_shop(tmp_path / "shop")
    flags = {"rules": str(shop / "rules"), "models": str(shop / "models"), "workers": 1}
    with installed(settings_in(tmp_path, clock="event", **flags)) as server:
        async with calling(server.port, 1) as (caller,):
            await _until(server.settings.state, await _refuse(caller, range(1)))
            waits = [await _until(server.settings.state, await _refuse(caller, range(n, n + 1))) for n in range(1, 8)]
            server.kill("keeper")
            await _until(server.settings.state, await _refuse(caller, range(10, 40)))
        assert await asyncio.to_thread(server.stop) == 0
    assert sorted(waits)[len(waits) // 2] < WITHIN_S
