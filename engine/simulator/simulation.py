"""One run of the simulated shop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.simulator.catalogue import tastes_of
from engine.simulator.config import SimulatorConfig
from engine.simulator.crowd import crowd, sales, strangers
from engine.simulator.schemes import start_schemes
from engine.simulator.world import TruthSink, World


class Simulation:
    """A shop and its people. Same configuration and seed, same documents, byte for byte.

    `truth` is called once for each payment event with {event_id, payment_id, label, is_fraud, is_abuse, scheme,
    campaign, oddities}. Nothing of it is in the documents.
    """

    def __init__(self, config: SimulatorConfig, seed: int = 1, truth: TruthSink | None = None) -> None:
        self.config, self.seed = config, seed
        self._truth = truth
        self._world = World(config, seed, truth)

    def events(self) -> Iterator[dict[str, Any]]:
        """Event documents in event time order and outcomes (they have `known_at`) among them when they are known.

        Each call runs the period from its start. Nested parts are shared between documents: read them, don't
        change them. Memory follows the people alive and the payments under way, not the events made.
        """
        self._world = world = World(self.config, self.seed, self._truth)
        world.timeline.start(crowd(world))
        world.timeline.start(strangers(world))
        world.timeline.start(sales(world))
        start_schemes(world)
        return world.timeline.run(world.outbox)

    def items(self) -> Iterator[dict[str, Any]]:
        """The catalogue: id, category, brand, title, text, price, seller, attributes of each item."""
        return (item.document() for item in self._world.catalogue.items)

    def appeal(self, user_id: str, item_id: str) -> float:
        """The truth about tastes: how much an item appeals to a user, 0..1. The shop can't see it.

        Raises KeyError for an item that is not in the catalogue, ValueError for an id that is no user's.
        """
        tastes = tastes_of(self.seed, int(user_id.removeprefix("u-")), self._world.catalogue)
        return tastes.appeal(self._world.catalogue[item_id])

    @property
    def progress(self) -> float:
        """Share of the period that has passed in the latest run, 0..1."""
        line = self._world.timeline
        start_us = self._world.start_us
        return min(1.0, (line.now_us - start_us) / (line.end_us - start_us))
