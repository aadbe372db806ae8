"""Sends the stream over several connections at once, and keeps the order that counts.

A profile sees the world in order: a login before the payment that follows it. So a call waits for every earlier call
about the same person, device, card, network, mail, address or payment, and runs beside all others. What the server
decides is then the same in each run, however the calls race.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio

from engine.demo.shop import Call
from engine.service import convert
from engine.values import Action, Decision

DEADLINE_S = 5.0
TRIES = 4
_PASSING = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""Failures after which the same call with the same id is safe, and may succeed."""
_TELL_EVERY = 200


@dataclass(slots=True)
class Phase:
    """What was measured while one part of the stream was sent."""

    sent: int = 0
    retried: int = 0
    left_out: int = 0
    """Calls about payments that were declined before: in a real shop those payments end there."""
    seconds: float = 0.0
    decide_s: list[float] = field(default_factory=list)
    """From sending to answer, of each Decide, in seconds."""

    def percentile_ms(self, share: float) -> float:
        """The time in ms within which this share (0..1) of the Decide calls were answered."""
        ordered = sorted(self.decide_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Client:
    """A caller with several connections; use it as an async context."""

    def __init__(self, address: str, connections: int, in_flight: int) -> None:
        # Channels of one process share a connection unless told otherwise.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(connections)]
        self._stubs: list[dict[str, Any]] = [
            {name: channel.unary_unary(f"/{convert.SERVICE}/{name}") for name in convert.METHODS}
            for channel in self._channels
        ]
        self._in_flight = in_flight
        self._last: dict[str, asyncio.Task[None]] = {}
        self.decisions: dict[str, Decision] = {}
        """Event id → what was decided."""
        self._declined: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def ask(self, document: dict[str, Any]) -> list[Decision]:
        """What each connection would be answered about a payment, without a trace."""
        body = convert.decide_request(document, dry_run=True).SerializeToString()
        return [_read(await stub["Decide"](body, timeout=DEADLINE_S)) for stub in self._stubs]

    async def send(
        self, calls: Sequence[Call], tell: Callable[[int], None], *, per_second: float | None = None
    ) -> Phase:
        """Send calls as fast as the server answers, or at most so many each second; `tell` hears how many were sent."""
        phase, window = Phase(), asyncio.Semaphore(self._in_flight)
        began = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as tasks:
                for number, call in enumerate(calls):
                    if per_second:
                        await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
                    await window.acquire()
                    before = {task for name in call.about if (task := self._last.get(name)) and not task.done()}
                    stub = self._stubs[number % len(self._stubs)]
                    task = tasks.create_task(self._one(call, before, stub, phase, window))
                    self._last.update(dict.fromkeys(call.about, task))
                    if number % _TELL_EVERY == 0:
                        tell(number)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        phase.seconds = time.perf_counter() - began
        return phase

    async def _one(
        self, call: Call, before: set[asyncio.Task[None]], stub: dict[str, Any], phase: Phase, window: asyncio.Semaphore
    ) -> None:
        try:
            if before:
                await asyncio.wait(before)
            if call.payment_id in self._declined and call.method != "Decide":
                phase.left_out += 1
                return
            answer, seconds = await _answered(stub[call.method], call, phase)
            phase.sent += 1
            if call.method == "Decide":
                phase.decide_s.append(seconds)
                self._note(call, _read(answer))
        finally:
            window.release()

    def _note(self, call: Call, decision: Decision) -> None:
        self.decisions[call.id] = decision
        if decision.action is Action.DECLINE:
            self._declined.add(call.payment_id)


async def _answered(method: Any, call: Call, phase: Phase) -> tuple[bytes, float]:
    """Call until it is answered; a failure that another try can't mend is raised."""
    began = time.perf_counter()
    for attempt in range(TRIES):
        try:
            return await method(call.body, timeout=DEADLINE_S), time.perf_counter() - began
        except grpc.aio.AioRpcError as problem:
            if problem.code() not in _PASSING or attempt == TRIES - 1:
                raise
            phase.retried += 1
            await asyncio.sleep(0.1 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _read(answer: bytes) -> Decision:
    return convert.decision_value(convert.METHODS["Decide"][1].FromString(answer))  # type: ignore[arg-type]
