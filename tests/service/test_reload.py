"""Saving a policy file while the engine runs: a right one is live within two polls, a broken one changes nothing."""

import asyncio
import shutil

import pytest
import structlog

from engine import bulk
from engine.bootstrap import backfill_beside, open_engine, open_program
from engine.values import Tier
from tests.conftest import POLICY, payment


@pytest.fixture
async def watched(settings_of, tmp_path):
    """A running engine that watches its own copy of the small policy; (engine, folder)."""
    folder = tmp_path / "rules"
    shutil.copytree(POLICY, folder)
    engine = open_engine(settings_of(rules=str(folder)))
    await engine.start()
    yield engine, folder
    await engine.close()


def replace(path, old, new):
    """Save a file with one text replaced."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def until(condition, tries=600):
    """Wait for something that must come; fails after a minute."""
    for _ in range(tries):
        if condition():
            return
        await asyncio.sleep(0.1)
    pytest.fail("it did not come")


async def test_a_saved_rule_takes_effect_without_a_restart(watched):
    """The next decision follows the new threshold, and says which program made it."""
    engine, folder = watched
    before = await engine.decide(payment(1))
    old = engine.program_digest
    replace(folder / "risk" / "payments.yaml", "txn.amount_base > param.large", "txn.amount_base > 40")
    await until(lambda: engine.program_digest != old)
    after = await engine.decide(payment(2))
    assert (before.tier, after.tier) == (Tier.LOW, Tier.HIGH)
    assert (before.program, after.program) == (old, engine.program_digest)


async def test_a_broken_file_changes_nothing_and_says_why(watched):
    """The live program stays, and the log holds file, line and column; mending the file makes it live."""
    engine, folder = watched
    old = engine.program_digest
    with structlog.testing.capture_logs() as logs:
        replace(folder / "risk" / "payments.yaml", "txn.amount_base > param.large", "txn.amount_bsae > 500")
        await until(lambda: any(line["event"].startswith("policy refused") for line in logs))
    (line,) = [line for line in logs if line["event"].startswith("policy refused")]
    assert "risk/payments.yaml:9:11: error[E301]" in line["reason"]
    assert "did you mean `txn.amount_base`" in line["reason"]
    assert engine.program_digest == old
    replace(folder / "risk" / "payments.yaml", "txn.amount_bsae > 500", "txn.amount_base > 501")
    await until(lambda: engine.program_digest != old)


async def test_other_log_columns_go_live_when_the_profiles_have_them(watched, settings_of):
    """Until then the live program decides; what it counted is there afterwards, and under the new definition."""
    engine, folder = watched
    old = engine.program_digest
    await engine.decide(payment(1))
    replace(folder / "features.yaml", "measure: distinct, of: card.token", "measure: distinct, of: user.id")
    assert await engine.reload()
    await engine.decide(payment(2, at_s=1))
    assert engine.program_digest == old
    settings = settings_of(rules=str(folder))
    live, wanted = engine.pipeline.live.program, open_program(settings, with_models=False)
    assert await asyncio.to_thread(backfill_beside, settings, live, wanted, lambda: True) >= 3
    last = await engine.decide(payment(3, at_s=2, user__id="u2"))
    assert (engine.program_digest, last.program, last.degraded) == (wanted.digest, wanted.digest, ())
    _, case = await engine.consider(payment(4, at_s=3))
    assert (case.row["device.cards_24h"], case.row["user.payments_1h"]) == (2, 2)


async def test_a_server_that_starts_before_its_columns_are_there_decides_as_before(watched, settings_of):
    """What went live but waits for columns is awaited again after a restart."""
    engine, folder = watched
    old = engine.program_digest
    replace(folder / "features.yaml", "measure: distinct, of: card.token", "measure: distinct, of: user.id")
    assert await engine.reload()
    settings = settings_of(rules=str(folder))
    other = open_engine(settings)
    await other.start()
    assert (await other.decide(payment(1))).program == old
    wanted = open_program(settings, with_models=False)
    await asyncio.to_thread(backfill_beside, settings, other.pipeline.live.program, wanted, lambda: True)
    await until(lambda: other.program_digest == wanted.digest)
    assert (await other.decide(payment(2, at_s=1))).degraded == ()
    await other.close()


async def test_a_backfill_that_fails_leaves_all_as_it_was(watched, settings_of, monkeypatch):
    """An error half way: the old profiles go on, no file is left, and the next try succeeds."""
    engine, folder = watched
    await engine.decide(payment(1))
    replace(folder / "features.yaml", "measure: distinct, of: card.token", "measure: distinct, of: user.id")
    assert await engine.reload()
    settings = settings_of(rules=str(folder))
    live, wanted = engine.pipeline.live.program, open_program(settings, with_models=False)
    with monkeypatch.context() as broken:
        broken.setattr(bulk, "_rest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(backfill_beside, settings, live, wanted, lambda: True)
    assert list(settings.state.glob("profiles-*")) == []
    assert (await engine.decide(payment(2, at_s=1))).degraded == ()
    await asyncio.to_thread(backfill_beside, settings, live, wanted, lambda: True)
    assert (await engine.decide(payment(3, at_s=2))).program == wanted.digest


async def test_patterns_are_swapped_with_their_program(watched):
    """A changed pattern is matched by a new child; decisions under way keep the old one."""
    engine, folder = watched
    child = engine.pipeline.live.matcher.pid
    replace(folder / "patterns" / "takeover.yaml", "within: 1h", "within: 2h")
    assert await engine.reload()
    assert engine.pipeline.live.matcher.pid not in (None, child)
    assert (await engine.decide(payment(1))).degraded == ()


async def test_an_explicit_policy_waits(watched):
    """With `activation: explicit` a saved file is a draft."""
    engine, folder = watched
    replace(folder / "policy.yaml", "base_currency: EUR", "base_currency: EUR\nactivation: explicit")
    assert await engine.reload()
    old = engine.program_digest
    replace(folder / "risk" / "payments.yaml", "txn.amount_base > param.large", "txn.amount_base > 40")
    await asyncio.sleep(1.5)
    assert engine.program_digest == old
