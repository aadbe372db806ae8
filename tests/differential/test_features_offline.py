"""Training and service see the same numbers: the columns against the online path, bit for bit, on a simulated shop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from engine.batch.history import History, Seen
from engine.features.offline import Item, build
from engine.intake import read_event, read_outcome
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.program import Program
from engine.schema import OUTCOMES
from engine.simulator import Simulation, SimulatorConfig
from engine.values import Event
from tests.conftest import ROOT
from tests.memory import replayed

LATER_US = 4_000_000_000_000_000
SHOP = SimulatorConfig(
    start=datetime(2026, 3, 1, tzinfo=UTC), days=40, shoppers=300, payments_per_day=14, browsing=0.1, fraud_share=0.08,
    abuse_share=0.06, held_out_from_day=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def program():
    """The shipped policy."""
    return load_program(ROOT / "rules", ROOT / "models", Identity(bytes(32)), lambda: 0, with_models=False)


def arrivals(seed: int) -> list[Any]:
    """A shop's events and outcomes, those that come late among them moved behind a few others."""
    read = []
    for number, document in enumerate(Simulation(SHOP, seed).events()):
        how = read_outcome if document["kind"] in OUTCOMES else read_event
        read.append((number + 25 * (number % 97 == 0), how(document, now_us=LATER_US)))
    return [item for _, item in sorted(read, key=lambda pair: pair[0])]


def test_equal_bit_for_bit(program):
    """Every feature of the shipped policy is the same number, or absent alike, for every payment of 40 days."""
    came = arrivals(11)
    online = {c.event.id: c.row for c in replayed(program, came) if c.event.kind == "payment"}
    table = build(program.feature_set, program.features, items(program, came), fields=("txn.amount_base", "ip.proxy"))
    assert table.column("event_id").to_pylist() == list(online)
    assert len(online) > 500
    for name in (*program.feature_set.names, "txn.amount_base", "ip.proxy"):
        live = [row.get(name) for row in online.values()]
        assert differences(name, table, live) == []
        assert any(value is not None for value in live), name


def items(program: Program, came: list[Any]) -> Iterator[Item]:
    """What offline features are built from."""
    return History(program, (Seen(a, a.time_us, False) if isinstance(a, Event) else a for a in came)).items()


def differences(name: str, table: pa.Table, live: list[Any]) -> list[tuple[int, Any, Any]]:
    """(row, online, offline) where the two differ in value or in type."""
    built = table.column(name).to_pylist()
    return [
        (at, one, other)
        for at, (one, other) in enumerate(zip(live, built, strict=True))
        if one != other or type(one) is not type(other)
    ]
