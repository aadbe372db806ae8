"""A simulated shop whose payments went through the live pipeline: the journal that the reports are made from."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import pytest

from engine.bootstrap import open_engine
from engine.intake import flatten, read_event, read_outcome
from engine.schema import OUTCOMES
from engine.settings import Settings, read_settings
from engine.simulator import Simulation, SimulatorConfig
from engine.values import Action
from tests.conftest import ROOT

START = datetime(2026, 5, 4, tzinfo=UTC)
DAYS, CHANGED_ON_DAY = 42, 21
FAR_US = 2**61
CONFIG = SimulatorConfig(
    start=START, days=DAYS, shoppers=100, payments_per_day=10, fraud_share=0.08, browsing=0.0,
    currencies=("EUR", "GBP"), tail_days=60,
)  # fmt: skip


RIVAL = "challengers: {payment: [payment/2]}"
WATCHED = """
ruleset: watched
on: payment
rules:
  - id: large
    when: txn.amount_base > 150
    then: {tier: MEDIUM, action: CHALLENGE}
    reason: {code: W901, analyst: a large order, customer: Please confirm this payment.}
    status: observe
"""
BINS = ("411111", "426684", "520082", "222100")
LEFT_OUT = frozenset({"add_to_cart", "view", "click", "search", "captured", "shipped", "delivered", "review", "return"})
"""Kinds that neither rules nor reports read here."""


@pytest.fixture(scope="session")
def shop() -> Iterator[Settings]:
    """Settings of a shop with eight weeks of decisions, a change of the policy between them, and what came of it."""
    memory = Path("/dev/shm")  # thousands of commits, one after the other: a disk would wait for each
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield make_shop(Path(folder))


def make_shop(folder: Path) -> Settings:
    """The same in a folder."""
    shutil.copytree(ROOT / "rules", folder / "rules")
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("*.py", "report.html"))
    _edit(folder / "rules" / "labels.yaml", "mature_after: 90d", "mature_after: 45d")
    _add_a_challenger(folder / "models" / "payment")
    _edit(folder / "rules" / "policy.yaml", "models: {payment: payment/1}", f"models: {{payment: payment/1}}\n{RIVAL}")
    (folder / "rules" / "risk" / "watched.yaml").write_text(WATCHED)
    rates = "".join(f"GBP,{day},1.1{day[-1]}5\n" for day in _days())
    (folder / "rules" / "tables").mkdir(exist_ok=True)
    (folder / "rules" / "tables" / "fx.csv").write_text("currency,valid_from,rate\n" + rates)
    settings = read_settings(folder, {"clock": "event", "gather_ms": 0}, {})
    asyncio.run(_live(settings))
    return settings


def _days() -> Iterator[str]:
    for day in range(-1, DAYS + 62):
        yield datetime.fromtimestamp(START.timestamp() + day * 86_400, UTC).date().isoformat()


async def _live(settings: Settings) -> None:
    """Decide and record all of it, as a shop would: what is declined ends there, challenges are passed or not."""
    truth: dict[str, dict[str, Any]] = {}
    simulation = Simulation(CONFIG, 11, lambda label: truth.__setitem__(label["event_id"], label))
    engine = open_engine(settings)
    await engine.start(watch=False)
    engine._activations.begin()  # what is live is journaled, though nobody watches the folder
    over: set[str] = set()
    changed = False
    for document in simulation.events():
        if document["kind"] in OUTCOMES:
            await engine.record_outcome(read_outcome(document, now_us=FAR_US))
            continue
        if document["kind"] in LEFT_OUT:
            continue
        flat = flatten(document)
        if "card.token" in flat:
            flat["card.bin"] = BINS[crc32(flat["card.token"].encode()) % len(BINS)]
        event, payment = read_event(flat, now_us=FAR_US), flat.get("payment.id", "")
        if not changed and event.time_us >= (START.timestamp() + CHANGED_ON_DAY * 86_400) * 1e6:
            changed = True
            await engine.pipeline.drain()
            _lower_a_band(settings)
            await engine.reload()
        if payment in over:
            continue
        if event.kind != "payment":
            await engine.record(event)
            continue
        decision = await engine.decide(read_event(flat | {"event.stage": "checkout"}, now_us=FAR_US))
        if await _ends(engine, flat, decision.action, truth[event.id]["is_fraud"]):
            over.add(payment)
    await engine.close()


async def _ends(engine: Any, flat: dict[str, Any], action: Action, fraud: bool) -> bool:
    """What follows a decision: a challenge with its stage, a review with its verdict; True when the payment is over."""
    draw, at_us = Random(flat["id"]).random(), read_event(flat, now_us=FAR_US).time_us
    if action is Action.CHALLENGE:
        status = ("failed" if draw < 0.85 else "passed") if fraud else ("passed" if draw < 0.94 else "abandoned")
        about = {name: value for name, value in flat.items() if name.startswith(("user.", "payment.id", "card.token"))}
        result = {"id": f"{flat['id']}-c", "kind": "challenge_result", "time_us": at_us + 200_000} | about
        await engine.record(read_event(_timed(result) | {"challenge.status": status}, now_us=FAR_US))
        return status != "passed"
    if action is Action.REVIEW:
        desk = engine.desk
        desk.now_us = lambda: at_us + 3_600_000_000  # an hour later
        await desk.take("ann", flat["id"])
        await desk.decide("ann", flat["id"], Action.DECLINE if fraud else Action.ALLOW, "looked at the order")
        return fraud
    return action is Action.DECLINE


def _timed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "time_us"} | {"time": _text(document["time_us"])}


def _text(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


def _lower_a_band(settings: Settings) -> None:
    _edit(settings.rules / "policy.yaml", "from_score: 0.12", "from_score: 0.05")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _add_a_challenger(models: Path) -> None:
    """The same trees under another version: its scores are known before they are made."""
    shutil.copytree(models / "1", models / "2")
    _edit(models / "2" / "manifest.yaml", 'version: "1"', 'version: "2"')
