"""The fraud schemes, and the director that starts their campaigns at the wanted share of payments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from engine.simulator.config import HELD_OUT_SCHEME, SimulatorConfig
from engine.simulator.schemes import abuse, fraud
from engine.simulator.schemes.campaign import Campaign
from engine.simulator.timeline import DAY_S, Script
from engine.simulator.world import Intent, World


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of fraud goes about."""

    label: str
    """fraud or abuse."""
    weight: float
    """Its part of the payments of its label, relative to the other schemes."""
    sizes: tuple[int, int]
    """Fewest and most payments that a campaign sets out to make."""
    script: Callable[[Campaign], Script]
    skill: float | None = None
    """How well its campaigns hide, 0..1; None = drawn for each, most of them middling."""

    def run(self, world: World, rng: Random, intent: Intent, size: int) -> Script:
        """One campaign from its first step to its last."""
        skill = rng.betavariate(2.2, 1.1) if self.skill is None else self.skill
        yield from self.script(Campaign(world, rng, intent, size, skill))


SCHEMES: dict[str, Scheme] = {
    "card_testing": Scheme("fraud", 20, (8, 24), fraud.card_testing),
    "stolen_card": Scheme("fraud", 22, (1, 1), fraud.stolen_card),
    "velocity_spree": Scheme("fraud", 16, (4, 9), fraud.velocity_spree),
    "account_takeover": Scheme("fraud", 22, (1, 3), fraud.account_takeover),
    "new_account_abuse": Scheme("fraud", 20, (1, 4), fraud.new_account_abuse),
    "triangulation": Scheme("fraud", 16, (6, 16), fraud.triangulation, skill=1.0),
    "refund_abuse": Scheme("abuse", 40, (5, 10), abuse.refund_abuse, skill=0.9),
    "coupon_abuse": Scheme("abuse", 35, (4, 10), abuse.coupon_abuse, skill=0.35),
    "reseller": Scheme("abuse", 25, (3, 7), abuse.reseller, skill=0.8),
}


def start_schemes(world: World) -> None:
    """Set every wanted scheme going."""
    config = world.config
    for name in config.schemes:
        world.timeline.start(_campaigns(world, name, 0))
    if config.held_out_from_day is not None:
        world.timeline.start(_campaigns(world, HELD_OUT_SCHEME, config.held_out_from_day))


def _payments_per_day(config: SimulatorConfig, name: str) -> float:
    """Payments that a scheme makes per day, so that the shares of the configuration come out."""
    label = SCHEMES[name].label
    share = config.fraud_share if label == "fraud" else config.abuse_share
    honest = 1 - config.fraud_share - config.abuse_share
    rivals = sum(SCHEMES[other].weight for other in config.schemes if SCHEMES[other].label == label)
    rivals = rivals or SCHEMES[name].weight
    return config.payments_per_day / honest * share * SCHEMES[name].weight / rivals


def _campaigns(world: World, name: str, from_day: int) -> Script:
    """Campaign after campaign, each followed by a pause that fits the payments it was to make."""
    scheme, rng = SCHEMES[name], world.random(name)
    rate = _payments_per_day(world.config, name)
    if rate <= 0:
        return
    size = rng.randint(*scheme.sizes)
    period = max(0, world.config.days - from_day)
    yield (from_day + rng.random() * min(size / rate, 0.7 * period)) * DAY_S
    while world.open:
        intent = Intent(scheme.label, name, world.number("campaign"))
        world.timeline.start(scheme.run(world, rng, intent, size))
        pause_days = size / rate * rng.gammavariate(3, 1 / 3)
        size = rng.randint(*scheme.sizes)
        yield pause_days * DAY_S
