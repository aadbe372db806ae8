"""Two workers over one set of stores, and what callers see when the machine is slow, full, or leaving."""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.service import convert
from engine.settings import Settings
from tests.service.conftest import PAYMENT
from tests.service.findings import findings_of
from tests.service.installation import Caller, Installation, calling, installed, settings_in, until
from tests.service.recount import Fact, read_journal
from tests.service.shoppers import Ledger, Shopper
from tests.service.test_calls import detail

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def log() -> None:
    """Instead of this folder's capture of every line: gRPC's own are too many here."""


def pay(event_id: str, **fields: Any) -> Any:
    """A request about one payment of one card."""
    return convert.decide_request({**PAYMENT, "id": event_id, "payment.id": event_id} | fields)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store's file lock, as a process that hangs in the middle of a transaction would."""
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


async def ended(server: Installation, ledger: Ledger) -> None:
    """End the server in order; everything that was acknowledged is there, and every counter is right."""
    assert await asyncio.to_thread(server.stop) == 0
    found = await findings_of(server.settings, ledger)
    assert found.nothing, found


def admitted(settings: Settings) -> list[Fact]:
    """What the journal holds, in order of admission."""
    return sorted(read_journal(settings.state).facts.values(), key=lambda fact: fact.number)


async def test_a_burst_on_one_card_counts_exactly_through_both_workers(tmp_path: Path) -> None:
    """Of simultaneous payments on one card, the k-th to be admitted saw the k - 1 before it, whoever decided them."""
    ledger, count = Ledger(), 0
    with installed(settings_in(tmp_path, clock="event")) as server:
        while len({row["writer"] for row in read_journal(server.settings.state).rows}) < 2:
            async with calling(server.port, 8) as callers:
                ids = [f"e{count + n}" for n in range(40)]
                replies = await asyncio.gather(*[callers[n % 8].call("Decide", pay(i)) for n, i in enumerate(ids)])
            for event_id, reply in zip(ids, replies, strict=True):
                ledger.note("Decide", pay(event_id), event_id, reply)
            count += len(ids)
            assert count < 1_000, "all connections went to one worker"
        await ended(server, ledger)
    assert [fact.snapshot["card.payments_1h"] for fact in admitted(server.settings)] == list(range(count))


async def test_one_id_at_once_through_both_workers_is_one_decision(tmp_path: Path) -> None:
    """All callers get the same answer; of two bodies under one id one wins and the other is refused."""
    ledger = Ledger()
    with installed(settings_in(tmp_path)) as server:
        async with calling(server.port, 12) as callers:
            for turn in range(5):
                same = await asyncio.gather(*[c.call("Decide", pay(f"e{turn}")) for c in callers])
                assert all(reply == same[0] for reply in same)
                ledger.note("Decide", pay(f"e{turn}"), f"e{turn}", same[0])
            bodies = [pay("x", **{"txn.amount_minor": 1_000 + n % 2}) for n in range(12)]
            asked = [c.once("Decide", body) for c, body in zip(callers, bodies, strict=True)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [a for a in answers if isinstance(a, grpc.aio.AioRpcError)]
        assert {a.code() for a in refused} == {grpc.StatusCode.ALREADY_EXISTS}
        assert len(refused) == 6
        assert {n % 2 for n, a in enumerate(answers) if a in refused} in ({0}, {1})
        await ended(server, ledger)
    assert [fact.id for fact in admitted(server.settings)] == [*(f"e{n}" for n in range(5)), "x"]


async def test_sigterm_under_load_answers_or_refuses_every_call(tmp_path: Path) -> None:
    """Calls get their answer or a refusal after which a retry is right; the exit code is 0; what was said is there."""
    ledger = Ledger()

    async def shop(caller: Caller, number: int) -> grpc.StatusCode:
        for n in range(100_000):
            if not n % 10:
                await asyncio.sleep(0.001 * number)  # so that some call arrives in every moment of the end
            event_id = f"e-{number}-{n}"
            request = pay(event_id, **{"card.token": f"t{n % 7}", "user.id": f"u{number}"})
            try:
                reply = await caller.once("Decide", request, wait=False)
            except grpc.aio.AioRpcError as problem:
                return problem.code()
            ledger.note("Decide", request, event_id, reply)
        raise AssertionError("the server did not leave")

    with installed(settings_in(tmp_path)) as server:
        async with calling(server.port, 8) as callers:
            load = [asyncio.create_task(shop(callers[n % 8], n)) for n in range(64)]
            await until(lambda: len(ledger.answers) > 50)
            server.process.send_signal(signal.SIGTERM)
            assert set(await asyncio.gather(*load)) == {grpc.StatusCode.UNAVAILABLE}
        await ended(server, ledger)


async def test_a_full_disk_turns_health_and_heals_by_itself(tmp_path: Path) -> None:
    """While no file can grow nothing is acknowledged and health says NOT_SERVING; with room again both come back."""
    ledger = Ledger()
    with installed(settings_in(tmp_path, workers=1)) as server:
        (worker,) = server.children("worker")
        limit = resource.prlimit(worker, resource.RLIMIT_FSIZE)
        async with calling(server.port, 1) as (caller,), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as other:
            health = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest())
            assert (await health.read()).status == SERVING
            ledger.note("Decide", pay("before"), "before", await caller.call("Decide", pay("before")))
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (1, limit[1]))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await caller.once("Decide", pay("full"))
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            assert (await health.read()).status == NOT_SERVING
            resource.prlimit(worker, resource.RLIMIT_FSIZE, limit)
            assert (await health.read()).status == SERVING
            for event_id in ("full", "after"):
                reply = await caller.call("Decide", pay(event_id))
                assert not reply.degraded
                ledger.note("Decide", pay(event_id), event_id, reply)
            health.cancel()
        await ended(server, ledger)


async def test_profiles_that_hang_cost_the_profiles_and_not_the_deadline(tmp_path: Path) -> None:
    """The caller gets a decision in time that says what is missing; the event is admitted afterwards, once."""
    ledger = Ledger()
    with installed(settings_in(tmp_path)) as server:
        async with calling(server.port, 1) as (caller,):
            ledger.note("Decide", pay("e0"), "e0", await caller.call("Decide", pay("e0")))
            with locked(server.settings.state / "profiles.sqlite.lock"):
                outcome = convert.outcome_request(
                    {"id": "o", "event_id": "e0", "kind": "chargeback", "time": PAYMENT["time"]}
                )
                for event_id, method, request in (("e1", "Decide", pay("e1")), ("o", "RecordOutcome", outcome)):
                    reply = await caller.once(method, request, 1.5)
                    ledger.note(method, request, event_id, reply)
            assert list(ledger.answers["e1"][2].degraded) == ["profiles"]  # type: ignore[attr-defined]
            for event_id, (method, request, _) in list(ledger.answers.items()):
                ledger.note(method, request, event_id, await caller.call(method, request))
        await ended(server, ledger)
    assert sorted(fact.id for fact in admitted(server.settings)) == ["e0", "e1"]


async def test_a_journal_that_hangs_is_no_answer(tmp_path: Path) -> None:
    """Without a deadline of its own a call gets DEADLINE_EXCEEDED at the server's; the retry is decided, once."""
    with installed(settings_in(tmp_path, workers=1, deadline_ms=400)) as server:
        async with calling(server.port, 1) as (caller,):
            with locked(server.settings.state / "journal.sqlite.lock"):
                with pytest.raises(grpc.aio.AioRpcError) as late:
                    await caller.once("Decide", pay("e0"), None)
                assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            reply = await caller.call("Decide", pay("e0"))
        await ended(server, Ledger({"e0": ("Decide", pay("e0"), reply)}))
    assert [fact.id for fact in admitted(server.settings)] == ["e0"]


async def test_overload_is_shed_at_once_and_what_is_taken_is_right(tmp_path: Path) -> None:
    """With the journal at a standstill only as many calls wait as may; the rest are refused with a retry hint, and
    decided when they come again."""
    ledger, requests = Ledger(), {f"e{n}": pay(f"e{n}") for n in range(36)}
    with installed(settings_in(tmp_path, workers=1, in_flight_max=4)) as server:
        async with calling(server.port, 4) as callers:
            with locked(server.settings.state / "journal.sqlite.lock"):
                asked = {
                    event_id: asyncio.create_task(callers[n % 4].once("Decide", request))
                    for n, (event_id, request) in enumerate(requests.items())
                }
                await until(lambda: sum(task.done() for task in asked.values()) >= 32)
                shed = [event_id for event_id, task in asked.items() if task.done()]
            for event_id, task in asked.items():
                if event_id in shed:
                    problem = task.exception()
                    assert isinstance(problem, grpc.aio.AioRpcError)
                    assert problem.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                    hint = detail(problem, error_details_pb2.RetryInfo).retry_delay
                    assert 0 < hint.ToMilliseconds() <= 1_000
                ask = callers[0].call("Decide", requests[event_id]) if event_id in shed else task
                ledger.note("Decide", requests[event_id], event_id, await ask)
        assert len(shed) == 32
        await ended(server, ledger)


async def test_two_workers_under_mixed_load_agree_with_the_recount(tmp_path: Path) -> None:
    """Without any fault at all the counters of both workers are the journal's."""
    ledger = Ledger()
    with installed(settings_in(tmp_path, clock="event")) as server:
        async with calling(server.port, 8) as callers:
            shoppers = [Shopper(f"{n}", 100 + n, ledger) for n in range(8)]
            await asyncio.gather(*[s.steps(c, 40) for s, c in zip(shoppers, callers, strict=True)])
        await ended(server, ledger)
