"""Traffic that remembers what was acknowledged: payments, results, logins, outcomes, retries, and giving up."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from engine.service import convert
from tests.service.installation import LOST, Caller, Installation, calling, until

BASE = datetime(2024, 11, 24, 10, tzinfo=UTC)
SPREAD_S = 3 * 3600
"""Event times lie anywhere in so many seconds from `BASE`, in no order."""
PEOPLE, CARDS, DEVICES = 120, 150, 80
CALLERS = 6
VICTIMS = ("worker",) * 12 + ("workers",) * 3 + ("keeper",) * 3 + ("everything",)


@dataclass
class Ledger:
    """What callers were told, over all servers that they asked."""

    answers: dict[str, tuple[str, Message, Message]] = field(default_factory=dict)
    """Request id → method, request, reply."""
    given_up: set[str] = field(default_factory=set)
    """Ids that were asked once and never again, without an answer."""
    changed: list[str] = field(default_factory=list)
    """Ids whose second answer was another one."""
    hot: int = 0
    """Which card everybody uses just now."""

    def note(self, method: str, request: Any, event_id: str, reply: Message) -> None:
        """Take in an answer; a different one from before is a change."""
        known = self.answers.setdefault(event_id, (method, request, reply))
        if known[2] != reply:
            self.changed.append(event_id)


class Shopper:
    """One source of traffic with a seed of its own; ids start with its name."""

    def __init__(
        self, name: str, seed: int, ledger: Ledger, *, spread_s: float = SPREAD_S, base: datetime = BASE,
        hurried: float = 1 / 20,
    ) -> None:  # fmt: skip
        """`hurried`: the share of calls that are given up after some milliseconds."""
        self._name, self._random, self._ledger = name, random.Random(seed), ledger
        self._spread_s, self._base, self._hurried = spread_s, base, hurried
        self._count = 0
        self._paid: list[dict[str, Any]] = []

    async def run(self, caller: Caller, stop: asyncio.Event) -> None:
        """Shop until told to stop."""
        while not stop.is_set():
            await self._step(caller)

    async def steps(self, caller: Caller, count: int) -> None:
        """Do a number of things."""
        for _ in range(count):
            await self._step(caller)

    async def _step(self, caller: Caller) -> None:
        dice = self._random.random()
        if dice < 0.1 and self._paid:
            event_id = self._random.choice(self._paid)["id"]
            method, request, _ = self._ledger.answers[event_id]
            self._ledger.note(method, request, event_id, await caller.call(method, request))
        elif dice < 0.2 and self._paid:
            await self._ask(caller, "Record", self._result())
        elif dice < 0.25:
            kind = self._random.choice(("login", "contact_changed"))
            await self._ask(caller, "Record", self._event(kind))
        elif dice < 0.3 and self._paid:
            await self._tell(caller)
        else:
            await self._pay(caller)

    async def _pay(self, caller: Caller) -> None:
        document = self._event("payment") | {"txn.amount_minor": 10 * self._random.randint(1, 4_000)}
        document |= {"txn.currency": "EUR", "payment.id": f"p-{document['id']}"}
        dice = self._random.random()
        if dice < 0.05:
            document["txn.amount_minor"] = 600_000  # declined: very large
        elif dice < 0.1 and self._paid:
            document |= {name: self._paid[-1][name] for name in ("payment.id", "card.token", "user.id")}
        if await self._ask(caller, "Decide", document):
            self._paid.append(document)

    async def _ask(self, caller: Caller, method: str, document: dict[str, Any]) -> bool:
        """Ask until an answer comes; some give up soon and never ask again."""
        make = convert.decide_request if method == "Decide" else convert.record_request
        request = make(document)
        patience_s = self._random.uniform(0.005, 0.02)
        if self._random.random() > self._hurried:
            reply = await caller.call(method, request)
        else:
            try:
                reply = await caller.once(method, request, patience_s)
            except grpc.aio.AioRpcError as problem:
                if problem.code() not in LOST:
                    raise
                self._ledger.given_up.add(document["id"])
                return False
        self._ledger.note(method, request, document["id"], reply)
        return True

    async def _tell(self, caller: Caller) -> None:
        """An outcome of something that was paid."""
        event = self._random.choice(self._paid)
        kind = self._random.choice(("chargeback", "confirmed_good", "dispute_won"))
        outcome = {"id": self._id("o"), "event_id": event["id"], "kind": kind, "time": self._time()}
        request = convert.outcome_request(outcome)
        self._ledger.note("RecordOutcome", request, outcome["id"], await caller.call("RecordOutcome", request))

    def _result(self) -> dict[str, Any]:
        """The issuer's answer to something that was paid."""
        paid = self._random.choice(self._paid)
        status = self._random.choice(("approved", "approved", "declined"))
        same = {name: paid[name] for name in ("payment.id", "card.token", "user.id", "device.id")}
        return {"id": self._id("r"), "kind": "payment_result", "time": self._time(), "result.status": status} | same

    def _event(self, kind: str) -> dict[str, Any]:
        pick = self._random.randrange
        card = f"tok-hot-{self._ledger.hot}" if self._random.random() < 0.2 else f"tok-{pick(CARDS)}"
        event = {"id": self._id("e"), "kind": kind, "time": self._time(), "user.id": f"u-{pick(PEOPLE)}"}
        event |= {"device.id": f"d-{pick(DEVICES)}", "ip.country": "DE", "event.market": "DE"}
        return event | ({"card.token": card} if kind == "payment" else {})

    def _id(self, letter: str) -> str:
        self._count += 1
        return f"{letter}-{self._name}-{self._count}"

    def _time(self) -> str:
        moment = self._base + timedelta(milliseconds=self._random.randrange(int(self._spread_s * 1000)))
        return moment.isoformat().replace("+00:00", "Z")


async def under_fire(server: Installation, ledger: Ledger, kills: int, seed: int) -> None:
    """Load from several connections while processes are killed; each kill waits until callers are answered again."""
    chance, stop = random.Random(seed), asyncio.Event()
    async with calling(server.port, CALLERS) as callers:
        shoppers = [Shopper(f"{n}", seed + n, ledger) for n in range(CALLERS)]
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
