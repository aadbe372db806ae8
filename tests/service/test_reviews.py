"""The review desk over real gRPC: its statuses, and ten reviewers on one queue through two workers that are killed."""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
from google.rpc import error_details_pb2, status_pb2

from engine.bootstrap import open_engine, open_stores
from engine.service import convert
from engine.service._generated.arbiter.v1 import policy_pb2, review_pb2
from tests.service.conftest import PAYMENT, _open
from tests.service.installation import LOST, PATIENCE_S, calling, installed, settings_in

CASES, REVIEWERS, KILLS = 60, 10, 3
DECLINE, ALLOW = policy_pb2.ACTION_DECLINE, policy_pb2.ACTION_ALLOW


def big(number: int) -> Any:
    """A payment that the small policy wants looked at."""
    at = datetime.now(UTC).isoformat()
    more = {"id": f"e{number}", "payment.id": f"p{number}", "txn.amount_minor": 60_000 + number, "time": at}
    return convert.decide_request(PAYMENT | more | {"card.token": f"tok_{number}", "user.id": f"u{number}"})


async def ask(channel: grpc.aio.Channel, method: str, timeout: float = 20, **fields: Any) -> Any:
    """Call a method of the review service."""
    request, reply = convert.REVIEW_METHODS[method]
    path = f"/{convert.REVIEW_SERVICE}/{method}"
    body = request(**fields).SerializeToString()
    return await channel.unary_unary(path, None, reply.FromString)(body, timeout=timeout)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """`ErrorInfo.reason` of a failed call."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.reason


@pytest.fixture
async def service(tmp_path: Path):
    """The engine that ships with the small policy."""
    async with _open(settings_in(tmp_path, workers=1), make=open_engine) as running:
        yield running


async def test_the_way_of_a_case(service):
    """Listed, taken, shown, noted, decided, counted."""
    for number in (1, 2):
        await service.call("Decide", big(number))
    channel = service.channel
    listed = await ask(channel, "ListCases")
    assert [case.id for case in listed.cases] == ["e2", "e1"]
    taken = await ask(channel, "TakeCase", reviewer="ann")
    assert (taken.id, taken.state, taken.holder) == ("e2", review_pb2.CASE_STATE_TAKEN, "ann")
    assert taken.held_until.seconds > time.time()
    view = await ask(channel, "GetCase", id="e2", reviewer="ann")
    assert PAYMENT["email.address"].encode() in view.event.SerializeToString()
    assert (view.event.id, view.decision.action) == ("e2", policy_pb2.ACTION_REVIEW)
    assert (await ask(channel, "NoteCase", id="e2", reviewer="ben", text="called")).notes == 1
    assert not (await ask(channel, "ReleaseCase", id="e2", reviewer="ann")).holder
    await ask(channel, "TakeCase", id="e2", reviewer="ben")
    done = await ask(channel, "DecideCase", id="e2", reviewer="ben", action=DECLINE, reason="ring")
    assert (done.state, done.action, done.decided_by) == (review_pb2.CASE_STATE_DECIDED, DECLINE, "ben")
    stats = await ask(channel, "GetReviewStats")
    assert (stats.waiting, stats.taken, [(r.reviewer, r.declined) for r in stats.reviewers]) == (1, 0, [("ben", 1)])
    decided = await ask(channel, "ListCases", state=review_pb2.CASE_STATE_DECIDED)
    assert [case.id for case in decided.cases] == ["e2"]


async def test_each_refusal_has_its_status_and_words(service):
    """What a program reads is the status and the reason; what a person reads names the case and the way out."""
    await service.call("Decide", big(1))
    channel = service.channel
    decide = {"id": "e1", "reviewer": "ben", "action": ALLOW, "reason": "fine"}
    refusals = [
        ("DecideCase", decide, "FAILED_PRECONDITION", "LEASE_ENDED", "case 'e1' is not yours; take it first"),
        ("TakeCase", {"id": "e9", "reviewer": "ben"}, "NOT_FOUND", "NOT_FOUND", "no review case 'e9'"),
        ("DecideCase", decide | {"action": 0}, "INVALID_ARGUMENT", "INVALID_INPUT", "action: is required"),
        ("DecideCase", decide | {"reason": ""}, "INVALID_ARGUMENT", "INVALID_INPUT", "reason: is required"),
        ("TakeCase", {"id": "e1"}, "INVALID_ARGUMENT", "INVALID_INPUT", "reviewer: is required"),
        (
            "ListCases",
            {"state": 9},
            "INVALID_ARGUMENT",
            "INVALID_INPUT",
            "state: must be one of waiting, taken, decided",
        ),
        ("GetCase", {"id": "4111 1111"}, "INVALID_ARGUMENT", "INVALID_INPUT", "id: is required"),
    ]
    taken = (
        "TakeCase",
        {"id": "e1", "reviewer": "ben"},
        "FAILED_PRECONDITION",
        "CASE_HELD",
        "'ann' has case 'e1' until",
    )
    for name, fields, status, reason, words in [*refusals, taken]:
        if (name, reason) == ("TakeCase", "CASE_HELD"):
            await ask(channel, "TakeCase", id="e1", reviewer="ann")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(channel, name, **fields)
        assert (refused.value.code().name, reason_of(refused.value)) == (status, reason)
        assert words in refused.value.details()
    await ask(channel, "DecideCase", **decide | {"reviewer": "ann"})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(channel, "DecideCase", **decide | {"reviewer": "ann", "action": DECLINE})
    assert (refused.value.code().name, reason_of(refused.value)) == ("ALREADY_EXISTS", "CASE_DECIDED")
    assert "was decided ALLOW by 'ann'" in refused.value.details()


class Reviewer:
    """Works until no case is open; a lost answer is looked up, never assumed."""

    def __init__(self, port: int, name: str, seed: int, done: asyncio.Event) -> None:
        self.name, self._rnd, self._port, self._done = name, random.Random(seed), port, done
        self.decided: list[str] = []

    async def work(self) -> None:
        """A connection of its own, so that both workers are asked."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options) as self._channel:
            while not self._done.is_set() or (await self._ask("ListCases", limit=1)).cases:
                for case_id in await self._mine() or [await self._take()]:
                    if case_id:
                        await self._finish(case_id)
                    else:
                        await asyncio.sleep(0.02)

    async def _take(self) -> str:
        try:
            return (await self._ask("TakeCase", reviewer=self.name)).id
        except grpc.aio.AioRpcError as problem:
            if problem.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return ""

    async def _mine(self) -> list[str]:
        reply = await self._ask("ListCases", state=review_pb2.CASE_STATE_TAKEN, limit=500)
        return [case.id for case in reply.cases if case.holder == self.name]

    async def _finish(self, case_id: str) -> None:
        await self._ask("GetCase", id=case_id, reviewer=self.name)
        if self._rnd.random() < 0.2:
            with suppress(grpc.aio.AioRpcError):  # a release whose answer was lost is refused when it is sent again
                await self._ask("ReleaseCase", id=case_id, reviewer=self.name)
            return
        action = self._rnd.choice([ALLOW, DECLINE])
        try:
            await self._ask("DecideCase", id=case_id, reviewer=self.name, action=action, reason="looked at")
        except grpc.aio.AioRpcError as problem:
            # A release that was thought lost may arrive late, and give back what was taken again meanwhile.
            if reason_of(problem) not in {"CASE_HELD", "LEASE_ENDED", "CASE_DECIDED"}:
                raise
        else:
            self.decided.append(case_id)

    async def _ask(self, method: str, **fields: Any) -> Any:
        """Ask until there is an answer; a take whose answer was lost is found among one's own."""
        while True:
            try:
                return await ask(self._channel, method, timeout=5, **fields)
            except grpc.aio.AioRpcError as problem:
                if problem.code() not in LOST:
                    raise
                if method == "TakeCase" and (mine := await self._mine()):
                    return review_pb2.Case(id=mine[0])
                await asyncio.sleep(0.05)


async def test_ten_reviewers_on_one_queue_lose_nothing_and_decide_nothing_twice(tmp_path: Path) -> None:
    """While cases still come in, two workers are killed again and again; each case is decided once, by who had it."""
    with installed(settings_in(tmp_path, gather_ms=0, notices_file="notices.jsonl")) as server:
        done = asyncio.Event()
        people = [Reviewer(server.port, f"reviewer {n}", n, done) for n in range(REVIEWERS)]
        work = asyncio.gather(*(person.work() for person in people))
        async with calling(server.port, 1) as (caller,):
            for number in range(CASES):
                await caller.call("Decide", big(number))
                if number % (CASES // KILLS) == CASES // KILLS - 1:
                    server.kill("worker")
        done.set()
        async with asyncio.timeout(PATIENCE_S):
            await work
            async with calling(server.port, 1):
                pass
        assert await asyncio.to_thread(server.stop) == 0
        settings = server.settings
    _, journal = open_stores(settings)
    journal.open()
    bodies = [(s.record.id, orjson.loads(s.record.public)) for s in journal.read(0, ("review",))]
    decided = Counter(case_id for case_id, body in bodies if body["step"] == "decide")
    assert decided == Counter(f"e{number}" for number in range(CASES))
    by = {case_id: body["by"] for case_id, body in bodies if body["step"] == "decide"}
    assert all(by[case_id] == person.name for person in people for case_id in person.decided)
    assert sum(len(person.decided) for person in people) == CASES
    outcomes = [orjson.loads(s.record.public)["outcome"] for s in journal.read(0, ("outcome",))]
    assert Counter(one["event_id"] for one in outcomes) == decided
    sent = [n.body for n in journal.due(2**62, 10_000)] + [
        orjson.loads(line) for line in settings.notices_file.read_bytes().splitlines()
    ]
    told = {(n["id"], n["event_id"], n["action"]) for n in sent if n.get("kind") == "review_decided"}
    assert Counter(event_id for _, event_id, _ in told) == decided  # one content each, though it may be sent again
    kept = journal._read.execute("SELECT * FROM review ORDER BY id").fetchall()
    assert journal.reviews.rebuild() == CASES
    assert journal._read.execute("SELECT * FROM review ORDER BY id").fetchall() == kept
    shares = Counter(by.values())
    print(f"{CASES} cases, {len(shares)} reviewers, {KILLS} kills, {len(bodies)} steps")
    assert len(shares) > REVIEWERS // 2
    await journal.close()
