"""The shop's world while it runs: what time it is, who is there, and the two ways out: documents and the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from engine.simulator import people, places
from engine.simulator.catalogue import Catalogue, Item, make_catalogue, tastes_of
from engine.simulator.config import SimulatorConfig
from engine.simulator.people import Device, Part, Shopper
from engine.simulator.places import Place
from engine.simulator.timeline import DAY_US, Timeline, microseconds, stamp

TruthSink = Callable[[dict[str, Any]], None]
Basket = tuple[tuple[Item, int], ...]
"""Items with pieces."""
PRICE_LEVELS = {"EUR": 1.0, "GBP": 0.86, "USD": 1.1}
"""The shop's own price lists: a price in EUR times this is the price in that currency."""
_CROWD = 4096


@dataclass(frozen=True, slots=True)
class Intent:
    """What somebody is truly up to. It goes to the truth sink and into outcomes, never into an event."""

    label: str = "good"
    """good, fraud (somebody else's money) or abuse (of refunds, coupons, stock)."""
    scheme: str | None = None
    campaign: int = 0
    """Number of the fraud campaign; 0 for honest shoppers."""


HONEST = Intent()


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where somebody seems to be."""

    ip: Part
    place: Place
    """The place that the network shows."""
    zone: str | None = None
    """The zone that the browser tells; None = the place's."""


@dataclass(slots=True)
class Visit:
    """Somebody at the shop on one device and network: what each event of a session has in common."""

    world: World
    rng: Random
    """Where the chance of all that happens at the visit, and follows from it, comes from."""
    shopper: Shopper
    geo: Part
    intent: Intent
    oddities: tuple[str, ...]
    head: Part
    """Parts of every event of the visit."""

    def emit(self, kind: str, **parts: Any) -> str:
        """The visitor does something now, and the browser tells where; returns the event id."""
        return self.world.emit(kind, self.head, geo=self.geo, **parts)


@dataclass(frozen=True, slots=True)
class Purchase:
    """A payment that was asked for, with what its later life needs."""

    visit: Visit
    event_id: str
    parts: Part
    """payment, txn, merchant, email and card."""
    address: Part
    basket: Basket

    @property
    def absent(self) -> Part:
        """Head of an event that happens without the buyer: no device, no network."""
        return {name: part for name, part in self.visit.head.items() if name in ("user", "event")}

    def emit(self, kind: str, **parts: Any) -> None:
        """Something happens now to the payment or its parcel, without the buyer."""
        self.visit.world.emit(kind, self.absent, **self.parts, **parts)


class World:
    """All that scripts may touch."""

    def __init__(self, config: SimulatorConfig, seed: int, truth: TruthSink | None) -> None:
        self.config, self.seed, self._truth = config, seed, truth
        self.start_us = microseconds(config.start)
        self.end_us = self.start_us + config.days * DAY_US
        """No new session, account or campaign begins after it."""
        self.timeline = Timeline(self.start_us, self.end_us + config.tail_days * DAY_US)
        self.rng = self.random("honest")
        self.catalogue: Catalogue = make_catalogue(self.random("catalogue"), config.items, config.sellers)
        self.outbox: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._crowd: list[Shopper] = []
        self._met = 0

    def random(self, name: str) -> Random:
        """A source of chance of its own, so that one part's draws don't shift another's."""
        return Random(f"{name}:{self.seed}")

    @property
    def now_us(self) -> int:
        """Simulated time, µs since 1970."""
        return self.timeline.now_us

    @property
    def open(self) -> bool:
        """Whether new sessions may still begin."""
        return self.timeline.now_us < self.end_us

    def number(self, what: str) -> int:
        """The next number of its kind, from 1."""
        self._counts[what] += 1
        return self._counts[what]

    def emit(self, kind: str, head: Part, **parts: Any) -> str:
        """Something happens now: hand out its event document; returns the event id."""
        event_id = f"e-{self.number('event'):09d}"
        self.outbox.append({"id": event_id, "kind": kind, "time": stamp(self.timeline.now_us), **head, **parts})
        return event_id

    def tell(self, purchase: Purchase, oddities: tuple[str, ...]) -> None:
        """Tell the truth about a payment, where somebody wants to hear it."""
        if self._truth is None:
            return
        intent = purchase.visit.intent
        self._truth({
            "event_id": purchase.event_id, "payment_id": purchase.parts["payment"]["id"], "label": intent.label,
            "is_fraud": intent.label == "fraud", "is_abuse": intent.label == "abuse", "scheme": intent.scheme,
            "campaign": intent.campaign or None, "oddities": sorted(set(oddities)),
        })  # fmt: skip

    def learn(self, kind: str, purchase: Purchase, happened_us: int, code: str | None = None) -> None:
        """An outcome of a payment becomes known now; it happened at `happened_us`."""
        outcome = {
            "id": f"o-{self.number('outcome'):08d}", "kind": kind, "event_id": purchase.event_id,
            "time": stamp(happened_us), "known_at": stamp(self.now_us),
        }  # fmt: skip
        if code:
            outcome |= {"code": code, **purchase.parts["txn"]}
        self.outbox.append(outcome)

    def payment_id(self) -> str:
        """The next payment id."""
        return f"pay-{self.number('payment'):07d}"

    def somebody(self, rng: Random, place: Place | None = None, created_us: int | None = None) -> Shopper:
        """A new person, whose account is opened now unless told otherwise; no habits yet."""
        number = self.number("person")
        place = place or places.home(rng, self.config.markets)
        created = self.now_us if created_us is None else created_us
        tastes = tastes_of(self.seed, number, self.catalogue)
        return people.make_shopper(rng, number, place, tastes, (created, stamp(created)), self.config.currencies)

    def meet(self, shopper: Shopper) -> None:
        """Remember a visitor for a while: the last few thousand are the crowd."""
        if len(self._crowd) < _CROWD:
            self._crowd.append(shopper)
        else:
            self._crowd[self._met % _CROWD] = shopper
        self._met += 1

    def passer_by(self, rng: Random) -> Shopper | None:
        """Somebody of the crowd; None while nobody has come yet."""
        return rng.choice(self._crowd) if self._crowd else None


def make_visit(
    world: World, rng: Random, shopper: Shopper, intent: Intent = HONEST, *,
    at: Whereabouts | None = None, device: Device | None = None, oddities: tuple[str, ...] = (),
) -> Visit:  # fmt: skip
    """Begin a visit, at home and on the first device unless told otherwise."""
    at, device = at or Whereabouts(shopper.home_ip, shopper.place), device or shopper.devices[0]
    zone = at.zone or at.place.zone
    head: Part = {
        "event": {"market": shopper.place.country, "zone": zone, "channel": device.channel},
        "device": device.part,
        "ip": at.ip,
    }
    if shopper.user is not None:
        head["user"] = shopper.user
    return Visit(world, rng, shopper, places.position(rng, at.place), intent, oddities, head)
