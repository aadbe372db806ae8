"""One simulated shop with much fraud, run once for all tests that only look at it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest

from engine.schema import OUTCOMES
from engine.simulator import Simulation, SimulatorConfig

CONFIG = SimulatorConfig(
    days=24, shoppers=2_400, payments_per_day=160, fraud_share=0.1, abuse_share=0.06, held_out_from_day=0,
    browsing=0.2, tail_days=80,
)  # fmt: skip


@dataclass
class Shop:
    """What a run gave, sorted for reading."""

    simulation: Simulation
    documents: list[dict[str, Any]] = field(default_factory=list)
    truth: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Event documents in order."""
        return [d for d in self.documents if d["kind"] not in OUTCOMES]

    @cached_property
    def outcomes(self) -> list[dict[str, Any]]:
        """Outcome documents in order."""
        return [d for d in self.documents if d["kind"] in OUTCOMES]

    @cached_property
    def payments(self) -> list[dict[str, Any]]:
        """Payment events in order."""
        return [d for d in self.documents if d["kind"] == "payment"]

    def odd(self, name: str) -> list[dict[str, Any]]:
        """Honest payments with an oddity."""
        return [p for p in self.payments if name in self.truth[p["id"]]["oddities"]]

    def campaigns(self, scheme: str) -> list[list[dict[str, Any]]]:
        """Payments of each campaign of a scheme."""
        found: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for payment in self.payments:
            label = self.truth[payment["id"]]
            if label["scheme"] == scheme:
                found[label["campaign"]].append(payment)
        return list(found.values())


@pytest.fixture(scope="session")
def shop() -> Shop:
    """The run."""
    truth: dict[str, dict[str, Any]] = {}
    simulation = Simulation(CONFIG, 20, lambda label: truth.__setitem__(label["event_id"], label))
    return Shop(simulation, list(simulation.events()), truth)
