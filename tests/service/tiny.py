"""A whole engine in memory for tests of the serving half: real intake, real errors, decisions without a model.

What an event's `attributes["do"]` says is done while it is decided, so that a test can hold, fail or delay a call.
As a module it is the child process that `engine.service` is in production.
"""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import BodyConflict, DeadlinePassed, JournalUnavailable, NotFound, PolicyError
from engine.explanation import Explanation
from engine.service.metrics import Recorder
from engine.service.outbox_sinks import Sink
from engine.service.worker import main
from engine.settings import Settings
from engine.values import Action, Assessment, Decision, Event, Receipt, Tier


class TinyEngine:
    """Keeps everything in dictionaries; a payment above 1,000 in major units is HIGH and DECLINE."""

    program_digest = "71" * 16

    def __init__(self, settings: Settings, *, recorder: Recorder, slot: int) -> None:
        self._settings, self._recorder, self.slot = settings, recorder, slot
        self.decided: dict[str, tuple[bytes, Decision]] = {}
        self.recorded: dict[str, Any] = {}
        self.healthy = True
        self.release = asyncio.Event()
        self.holding = asyncio.Event()

    async def start(self) -> None:
        """Refuse a policy with the words `broken`; leave a mark."""
        policy = self._settings.rules / "policy.yaml"
        if policy.exists() and policy.read_text() == "broken":
            raise PolicyError("policy.yaml:1:1: it is broken")
        self._settings.state.mkdir(parents=True, exist_ok=True)
        (self._settings.state / "started").touch()

    async def close(self) -> None:
        """Leave a mark, so that a test can see that the end was an orderly one."""
        self._settings.state.mkdir(parents=True, exist_ok=True)
        (self._settings.state / f"closed-{os.getpid()}").touch()

    def ready(self) -> bool:
        """What the test says, and as long as no file forbids it."""
        return self.healthy and not (self._settings.state / "unwritable").exists()

    async def decide(self, event: Event, *, dry_run: bool, deadline: float | None) -> Decision:
        """Do as told, then decide; a known id gets its stored answer."""
        began = time.perf_counter()
        await self._do(event.fields.get("attributes", {}).get("do", ""), deadline)
        if known := self.decided.get(event.id):
            if known[0] != event.digest:
                raise BodyConflict(event.id, known[0], event.digest)
            return known[1]
        large = event.fields.get("txn.amount_minor", 0) > 100_000
        decision = Decision(
            id=event.id, tier=Tier.HIGH if large else Tier.LOW, action=Action.DECLINE if large else Action.ALLOW,
            measures=(), score=0.25, reasons=(), hits=(), signals=(), degraded=("model",) if large else (),
            flags=(f"pid:{os.getpid()}",), user_risk=None, program=self.program_digest,
            decided_us=time.time_ns() // 1_000, dry_run=dry_run,
        )  # fmt: skip
        if not dry_run:
            self.decided[event.id] = (event.digest, decision)
        self._recorder.observe("admission", time.perf_counter() - began)
        return decision

    async def _do(self, what: str, deadline: float | None) -> None:
        match what.partition(" "):
            case "hold", _, "":
                self.holding.set()
                await self.release.wait()
            case "hold", _, path:
                Path(f"{path}.held").touch()
                while not Path(path).exists():
                    await asyncio.sleep(0.01)
            case "late", _, _:
                assert deadline is not None
                await asyncio.sleep(max(0.0, deadline - asyncio.get_running_loop().time()))
                raise DeadlinePassed("the journal was late")
            case "fail", _, words:
                raise RuntimeError(f"card of {words}")
            case "unwritable", _, _:
                raise JournalUnavailable("disk full at /var/lib/secret")

    async def record(self, event: Event, *, deadline: float | None) -> Receipt:
        """Keep an event."""
        new = event.id not in self.recorded
        self.recorded[event.id] = event
        return Receipt(new, 1_700_000_000_000_000)

    async def record_outcome(self, outcome: dict[str, Any], *, deadline: float | None) -> Receipt:
        """Keep an outcome."""
        new = outcome["id"] not in self.recorded
        self.recorded[outcome["id"]] = outcome
        return Receipt(new, 1_700_000_000_000_000)

    async def assess_user(self, user_id: str, *, dry_run: bool, deadline: float | None) -> Assessment:
        """Nothing is known of anybody."""
        raise NotFound("nothing is known of this user")

    async def explain(self, event_id: str) -> Explanation:
        """Nothing more is known than the decision."""
        decision = await self.get_decision(event_id)
        return Explanation(decision, "payment", decision.decided_us, (), {}, (), {}, "EUR", ())

    async def get_decision(self, event_id: str) -> Decision:
        """A decision that was kept."""
        if event_id not in self.decided:
            raise NotFound("there is no decision with this id")
        return self.decided[event_id][1]


async def tiny_keeper(settings: Settings, *, recorder: Recorder, sinks: Mapping[str, Sink]) -> None:
    """Wait while the file `disorder` is there, deliver one notice, then wait for the end and leave a mark."""
    while (settings.state / "disorder").exists():
        time.sleep(0.01)
    for sink in sinks.values():
        sink.deliver({"id": 1, "kind": "started"})
    try:
        await asyncio.Event().wait()
    finally:
        settings.state.mkdir(parents=True, exist_ok=True)
        (settings.state / "kept").touch()


if __name__ == "__main__":
    sys.exit(main(TinyEngine, tiny_keeper))
