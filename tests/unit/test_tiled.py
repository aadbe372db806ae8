"""`precision: tiled` in whole: a hot entity keeps few rows, its windows count all, and nothing is counted twice."""

import asyncio
import shutil

import pytest

from engine.bootstrap import open_engine, open_program, open_stores, rebuild
from engine.keeper import Keeper
from engine.profiles.store import Change
from tests.conftest import POLICY, payment

EVENTS = 400
FEATURES = """
  ip.payments_24h: {measure: count, on: payment, window: 24h, precision: tiled, unit: events, meaning: x}
  ip.spend_24h: {measure: sum, of: txn.amount_base, on: payment, window: 24h, precision: tiled, unit: money, meaning: x}
"""


@pytest.fixture
async def hot(settings_of, tmp_path):
    """An engine whose policy keeps twenty rows of a network; (engine, settings)."""
    shutil.copytree(POLICY, tmp_path / "rules")
    path = tmp_path / "rules" / "features.yaml"
    path.write_text(path.read_text().replace("keep: {user: 1000}", "keep: {user: 1000, ip: 20}") + FEATURES)
    settings = settings_of(rules=str(tmp_path / "rules"))
    engine = open_engine(settings)
    await engine.start(watch=False)
    yield engine, settings
    await engine.close()


async def test_few_rows_are_kept_and_all_are_counted(hot):
    """After each checkpoint rows go; what a crash makes the keeper read again is counted once; a rebuild agrees."""
    engine, settings = hot
    profiles, journal = open_stores(settings)
    program = open_program(settings, with_models=False)
    profiles.open(program.layouts)
    journal.open()
    keeper = Keeper(program, profiles, journal, settings.state, {})
    for n in range(EVENTS):
        await engine.decide(payment(n, at_s=60 * n, user__id=f"u{n}", card__token=f"tok_{n}", device__id=f"d{n}"))
        if n % 50 == 49:
            await asyncio.sleep(0.15)  # what is settled is forgotten with the next transaction
            keeper.recover()
            await keeper.checkpoint()
    keeper.recover()
    key = program.identity.key("ip", "203.0.113.7")
    log = (await engine.profiles.peek({"ip": key}))["ip"].log
    assert len(log) // program.layouts["ip"].size < 200
    await profiles.settle([Change("ip", key, "outcome", 1, "chargeback", 0, 0)])  # a head may change for other reasons
    _, case = await engine.consider(payment(EVENTS, at_s=60 * EVENTS))
    assert (case.row["ip.payments_24h"], case.row["ip.spend_24h"]) == (EVENTS, round(49.9 * EVENTS, 2))
    assert case.truncated == []
    await profiles.close()
    await journal.close()
    await engine.close()
    rebuild(settings)
    again = open_engine(settings)
    await again.start(watch=False)
    _, case = await again.consider(payment(EVENTS, at_s=60 * EVENTS))
    assert (case.row["ip.payments_24h"], case.row["ip.spend_24h"]) == (EVENTS, round(49.9 * EVENTS, 2))
    await again.close()
    await engine.start(watch=False)  # for the fixture
