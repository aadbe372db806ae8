"""What fsync promises: no answer leaves before it, and every answer is there on the disk that it leaves behind."""

import asyncio
import random
import signal
from copy import copy
from pathlib import Path

import grpc
import grpc.aio
import pytest

from engine.bootstrap import open_program, open_stores
from engine.service import convert
from engine.settings import Settings
from tests.service.conftest import PAYMENT
from tests.service.findings import findings_of
from tests.service.installation import Installation, calling, installed, settings_in, until
from tests.service.power import Disk, plug_in
from tests.service.recount import read_journal
from tests.service.shoppers import Ledger, Shopper

CUTS = 6
SEED = 7


@pytest.fixture(autouse=True)
def log() -> None:
    """Instead of this folder's capture of every line: gRPC's own are too many here."""


def calls(count: int, first: int = 0) -> list[tuple[str, object]]:
    """Requests of every kind that makes something durable."""
    made: list[tuple[str, object]] = []
    for n in range(first, first + count):
        made.append(("Decide", convert.decide_request(PAYMENT | {"id": f"e{n}", "payment.id": f"p{n}"})))
        made.append(("Record", convert.record_request({"id": f"l{n}", "kind": "login", "time": PAYMENT["time"]})))
    return made


async def test_no_answer_leaves_before_its_fsync_returned(tmp_path: Path) -> None:
    """While the journal's fsync is held nobody is answered and the disk holds nothing; then all are, and it does."""
    settings = settings_in(tmp_path)
    disk = Disk(tmp_path, settings.state)
    with installed(settings, disk.env) as server:
        async with calling(server.port, 4) as callers:
            disk.hold()
            asked = [asyncio.create_task(callers[n % 4].once(*c)) for n, c in enumerate(calls(8))]
            await until(disk.held)
            done, _ = await asyncio.wait(asked, timeout=0.5)
            assert not done
            disk.copy(tmp_path / "before")
            disk.release()
            await asyncio.gather(*asked)
        disk.copy(tmp_path / "after")
    for name, expected in (("before", 0), ("after", 16)):
        plug_in(tmp_path / name, tmp_path / f"{name}-state")
        assert sum(read_journal(tmp_path / f"{name}-state").kinds[k] for k in ("decision", "event")) == expected


async def test_a_failed_fsync_is_no_answer(tmp_path: Path) -> None:
    """When the disk refuses, the caller hears UNAVAILABLE, and the same id is decided as soon as it takes again."""
    settings = settings_in(tmp_path, workers=1)
    disk = Disk(tmp_path, settings.state)
    with installed(settings, disk.env) as server:
        async with calling(server.port, 1) as (caller,):
            disk.fail(True)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await caller.once(*calls(1)[0])
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            disk.copy(tmp_path / "failed")
            disk.fail(False)
            reply = await caller.call(*calls(1)[0])
            assert await caller.call(*calls(1)[0]) == reply
        assert await asyncio.to_thread(server.stop) == 0
    plug_in(tmp_path / "failed", tmp_path / "failed-state")
    assert set(read_journal(tmp_path / "failed-state").kinds) == {"activation"}
    found = await findings_of(server.settings, Ledger({"e0": ("Decide", calls(1)[0][1], reply)}))
    assert found.nothing, found


async def cut(server: Installation, disk: Disk, to: Path, ledger: Ledger) -> Ledger:
    """The power goes: everything stops at once, and the disk is taken out. Returns what was acknowledged by then.

    Then time goes on for the server, as if nothing had happened, so that the next cut comes later in its life.
    """
    await asyncio.to_thread(server.freeze)
    known = copy(ledger)
    known.answers = dict(ledger.answers)
    await asyncio.to_thread(disk.copy, to)
    server.signal_all(signal.SIGCONT)
    return known


async def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The bytes as of the last fsync, taken at several moments under load, hold every acknowledged answer; profiles,
    which lost what they never synced, are brought back to the very counters that the journal gives."""
    settings, chance, stop = settings_in(tmp_path, clock="event"), random.Random(SEED), asyncio.Event()
    disk, ledger = Disk(tmp_path, settings.state), Ledger()
    known: list[Ledger] = []
    with installed(settings, disk.env) as server:
        async with calling(server.port, 6) as callers:
            shoppers = [Shopper(f"{n}", SEED + n, ledger) for n in range(6)]
            load = [asyncio.create_task(s.run(c, stop)) for s, c in zip(shoppers, callers, strict=True)]
            for number in range(CUTS):
                target = len(ledger.answers) + chance.randint(40, 160)
                await until(lambda target=target: len(ledger.answers) >= target or any(t.done() for t in load))
                known.append(await cut(server, disk, tmp_path / f"cut-{number}", ledger))
            stop.set()
            await asyncio.gather(*load)
        server.kill("everything")
    behind = 0
    for number, told in enumerate(known):
        folder = tmp_path / f"after-{number}"
        folder.mkdir()
        plug_in(tmp_path / f"cut-{number}", folder / "state")
        after = settings_in(folder, clock="event")
        if number == CUTS - 1:
            await _serve_again(folder, told)
        else:
            behind += missing_in_profiles(after)
        found = await findings_of(after, told, power=True)
        assert found.nothing, found
    assert behind > 0, "no cut took anything from the profiles, so that nothing was shown"


async def _serve_again(folder: Path, told: Ledger) -> None:
    """A server started on the disk gives every acknowledged answer again, and goes on counting."""
    with installed(settings_in(folder, clock="event")) as server:
        async with calling(server.port, 2) as callers:
            for n, (event_id, (method, request, _)) in enumerate(list(told.answers.items())):
                told.note(method, request, event_id, await callers[n % 2].call(method, request))
            await Shopper("later", SEED, told).steps(callers[0], 40)
        assert await asyncio.to_thread(server.stop) == 0
    assert not told.changed


def missing_in_profiles(settings: Settings) -> int:
    """How many of the journal's admissions a store lacks before it is brought in order."""
    profiles, _ = open_stores(settings)
    profiles.open(open_program(settings, with_models=False).layouts)
    (last,) = profiles._db.execute("SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'next'").fetchone()
    profiles._db.close()
    return sum(fact.number >= last for fact in read_journal(settings.state).facts.values())
