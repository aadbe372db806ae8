"""Activating a policy in a running server: every worker has it within seconds, under load, and it survives restarts."""

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from engine.activation import now_us
from engine.bootstrap import open_activations, open_engine, open_stores
from engine.cli.app import app
from engine.errors import PolicyError
from engine.service import convert
from engine.settings import Settings
from engine.values import Activation, Worker
from tests.conftest import POLICY, payment
from tests.service.conftest import PAYMENT
from tests.service.installation import Caller, calling, installed, settings_in, until


@pytest.fixture(autouse=True)
def log() -> None:
    """Instead of this folder's capture of every line."""


def made(tmp_path: Path, explicit: bool, **flags: Any) -> Settings:
    """Settings of an installation with a policy of its own."""
    shutil.copytree(POLICY, tmp_path / "rules")
    if explicit:
        change(tmp_path, "hold: 30d", "hold: 30d\nactivation: explicit")
    return settings_in(tmp_path, rules="rules", **flags)


def change(folder: Path, old: str, new: str) -> None:
    """Save `policy.yaml` with one text replaced."""
    path = folder / "rules" / "policy.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


async def call(settings: Settings, *words: str) -> Any:
    """Call `arbiter policy` for this installation."""
    where = ["--folder", str(settings.folder), "--state", str(settings.state), "--rules", str(settings.rules)]
    return await asyncio.to_thread(CliRunner().invoke, app, ["policy", *words, *where], prog_name="arbiter")


def pay(event_id: str) -> Any:
    """A payment of 49.90."""
    return convert.decide_request({**PAYMENT, "id": event_id, "payment.id": event_id, "card.token": event_id})


async def test_an_activation_reaches_both_workers_under_load_and_a_rollback_too(tmp_path: Path) -> None:
    """Within five seconds each worker decides with it and says so; no call fails meanwhile; a draft changes nothing."""
    settings = made(tmp_path, True)
    assert (await call(settings, "activate", "--reason", "first")).exit_code == 0
    ended = asyncio.Event()

    async def shop(caller: Caller, number: int) -> list[Any]:
        replies = []
        while not ended.is_set():
            replies.append(await caller.once("Decide", pay(f"e-{number}-{len(replies)}")))
        return replies

    with installed(settings) as server:
        async with calling(server.port, 8) as callers:
            load = [asyncio.create_task(shop(caller, n)) for n, caller in enumerate(callers)]
            await asyncio.sleep(1)
            change(tmp_path, "large: 500", "large: 10")
            began = time.monotonic()
            done = await call(settings, "activate", "--reason", "lower", "--author", "ann")
            took_s = time.monotonic() - began
            assert done.exit_code == 0, done.output
            assert done.stdout.count("has it, after") == 2
            reviewed = await asyncio.gather(*[c.once("Decide", pay(f"after-{n}")) for n, c in enumerate(callers)])
            back = await call(settings, "rollback")
            assert back.stdout.count("has it, after") == 2, back.output
            allowed = await asyncio.gather(*[c.once("Decide", pay(f"back-{n}")) for n, c in enumerate(callers)])
            ended.set()
            replies = [reply for some in await asyncio.gather(*load) for reply in some]
        assert server.stop() == 0
    assert took_s < 5
    assert {reply.action for reply in reviewed} == {3}
    assert {reply.action for reply in allowed} == {1}
    assert len({reply.program.digest for reply in replies}) == 2
    assert len(replies) > 100


async def test_a_worker_that_does_not_take_it_is_named(tmp_path: Path) -> None:
    """The command says who decides with another policy and why, and fails."""
    settings = made(tmp_path, True)
    assert (await call(settings, "activate", "--reason", "first")).exit_code == 0
    _, journal = open_stores(settings)
    await journal.start()
    deaf = Worker("elsewhere:7", "d" * 32, 1, 0, "its models folder is empty")

    async def living() -> None:
        while True:
            journal.programs.sign_in(replace(deaf, seen_us=now_us()))
            await asyncio.sleep(0.5)

    beat = asyncio.create_task(living())
    change(tmp_path, "large: 500", "large: 10")
    done = await call(settings, "activate", "--reason", "lower")
    beat.cancel()
    await journal.close()
    assert done.exit_code == 1
    assert "worker elsewhere:7 has it not: its models folder is empty" in done.stdout
    assert "1 of 1 workers still decide with another policy" in done.stderr


async def test_a_worker_tells_why_it_can_not_take_what_was_activated(tmp_path: Path) -> None:
    """It goes on with what it has, and the reason stands where workers sign in; the next activation is taken."""
    settings = made(tmp_path, True, clock="event")
    assert (await call(settings, "activate", "--reason", "first")).exit_code == 0
    engine = open_engine(settings)
    await engine.start()
    old = engine.program_digest
    activations = open_activations(settings, engine.journal)
    activations.store.activate(Activation("e" * 32, "eve", "not kept here", True, ""))
    await until(lambda: any("no bundle begins" in worker.problem for worker in activations.workers()))
    assert (await engine.decide(payment(1))).program == old
    change(tmp_path, "large: 500", "large: 10")
    assert (await call(settings, "activate", "--reason", "lower")).exit_code == 0
    assert engine.program_digest != old
    await engine.close()


async def test_a_start_refuses_what_is_configured_but_not_enforced(tmp_path: Path) -> None:
    """`explicit` without an activation doesn't start, and names the command; afterwards the folder is a draft."""
    settings = made(tmp_path, True)
    engine = open_engine(settings)
    with pytest.raises(PolicyError, match="arbiter policy activate --reason"):
        await engine.start()
    assert (await call(settings, "activate", "--reason", "first")).exit_code == 0
    change(tmp_path, "large: 500", "large: 10")
    with structlog.testing.capture_logs() as logs:
        engine = open_engine(settings)
        await engine.start()
    assert (await engine.decide(payment(1))).action == 1
    assert [line["event"] for line in logs] == ["the folder's policy is a draft"]
    await engine.close()


async def test_a_rollback_outlives_a_restart_until_a_file_is_saved(tmp_path: Path) -> None:
    """Also with `on_save`: what was taken back does not come back by itself; a saved file does go live."""
    settings = made(tmp_path, False, clock="event")
    await _started(settings)
    change(tmp_path, "large: 500", "large: 10")
    assert (await _started(settings)).action == 3
    assert (await call(settings, "rollback")).exit_code == 0
    assert (await _started(settings)).action == 1
    change(tmp_path, "large: 10", "large: 11")
    assert (await _started(settings)).action == 3
    _, journal = open_stores(settings)
    await journal.start()
    assert [a.author for a in journal.programs.activations(9)][:1] == ["on_save"]
    assert len(journal.programs.activations(9)) == 4
    await journal.close()


async def test_a_broken_file_does_not_keep_a_worker_from_taking_anothers_place(tmp_path: Path) -> None:
    """While others live it starts with what is live; a server that starts anew is told of the mistake."""
    settings = made(tmp_path, False, clock="event")
    first = open_engine(settings)
    await first.start()
    change(tmp_path, "large: 500", "large: [")
    second = open_engine(settings)
    await second.start()
    assert second.program_digest == first.program_digest
    await second.close()
    await first.close()
    with pytest.raises(PolicyError, match=r"policy.yaml:\d+:\d+"):
        await open_engine(settings).start()


async def test_a_saved_policy_whose_tests_fail_stays_a_draft(tmp_path: Path) -> None:
    """Where the setting asks for it: the log and the list of workers name the failing case; mended, it goes live."""
    settings = made(tmp_path, False, activation_needs="tests")
    event = "{user.id: u1, device.id: d1, card.token: c1, txn.amount_minor: 50000, txn.currency: EUR}"
    (tmp_path / "rules" / "tests").mkdir()
    (tmp_path / "rules" / "tests" / "large.yaml").write_text(
        f"cases:\n  - {{name: large, event: {event}, expect: {{action: ALLOW}}}}\n"
    )
    engine = open_engine(settings)
    await engine.start()
    old = engine.program_digest
    change(tmp_path, "large: 500", "large: 10")
    with structlog.testing.capture_logs() as logs:
        await until(lambda: any("1 of 1 tests fail" in line.get("reason", "") for line in logs))
    assert "tests/large.yaml:2:12: large" in str(logs)
    assert engine.program_digest == old
    told = ""
    while "tests/large.yaml:2:12: large" not in told:
        told = (await call(settings, "list")).stdout
    other = open_engine(settings)
    await other.start()
    assert other.program_digest == old
    await other.close()
    change(tmp_path, "large: 10", "large: 600")
    await until(lambda: engine.program_digest != old)
    assert "tests   1 passed" in (await call(settings, "show")).stdout
    await engine.close()


async def test_a_file_that_is_gone_while_it_is_read_is_a_policy_that_can_not_be_used(tmp_path: Path) -> None:
    """The live policy stays, and the next save is taken."""
    settings = made(tmp_path, False, clock="event")
    engine = open_engine(settings)
    await engine.start()
    gone = tmp_path / "rules" / "gone.csv"
    gone.symlink_to(tmp_path / "nowhere.csv")
    assert not await engine.reload()
    gone.unlink()
    change(tmp_path, "large: 500", "large: 10")
    assert await engine.reload()
    await engine.close()


async def _started(settings: Settings) -> Any:
    """What a server that starts now decides about a payment of 49.90."""
    engine = open_engine(settings)
    await engine.start()
    decision = await engine.decide(payment(1), dry_run=True)
    await engine.close()
    return decision
