"""What fraudsters of several schemes do alike: pose as somebody, hide where they are, and shop.

Each campaign has a `skill`, 0..1. At 0 every step gives it away; at 1 it looks like an ordinary new customer, so
that no rule or model can catch all of it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from random import Random

from engine.simulator import people, places
from engine.simulator.people import Device, Part, Shopper
from engine.simulator.places import Place
from engine.simulator.shopping import browse, fill_basket, open_account, put_in_cart
from engine.simulator.timeline import DAY_S, DAY_US, Script
from engine.simulator.world import Basket, Intent, Visit, World, make_visit


@dataclass(frozen=True, slots=True)
class Hiding:
    """Where somebody seems to be."""

    ip: Part
    place: Place
    """The place that the network shows."""
    zone: str
    """The zone that the browser tells."""


def talent(rng: Random) -> float:
    """The skill of one campaign, 0..1, most of them middling."""
    return rng.betavariate(2.2, 1.1)


def hide(rng: Random, wanted: Place, skill: float) -> Hiding:
    """A network to come from: the skilled have an ordinary home's line in the wanted city."""
    lair = places.abroad(rng, wanted.country)
    zone = wanted.zone if rng.random() < 0.6 + 0.5 * skill else lair.zone
    if rng.random() < 0.2 + 0.75 * skill:
        if rng.random() < 0.25 + 0.65 * skill:
            network = places.home_network if rng.random() < 0.7 else places.mobile_network
            return Hiding(network(rng, wanted), wanted, zone)
        return Hiding(places.proxy_network(rng, wanted.country), wanted, zone)
    if rng.random() < 0.5:
        elsewhere = places.abroad(rng, wanted.country)
        return Hiding(places.proxy_network(rng, elsewhere.country), elsewhere, zone)
    network = places.home_network if rng.random() < 0.6 else places.hotel_network
    return Hiding(network(rng, lair), lair, zone)


def pose(
    world: World, rng: Random, skill: float, *, place: Place | None = None, guest: float = 0.0,
    age_days: float = 0.0, device: Device | None = None,
) -> Shopper:  # fmt: skip
    """An account (or guest) of somebody up to no good; one of some age is known to the shop already."""
    created_us = int(world.now_us - age_days * DAY_US)
    shopper = world.somebody(rng, place, created_us // 1000 * 1000)
    shopper.email = people.make_email(rng, disposable=rng.random() < 0.5 * (1 - skill))
    shopper.known = age_days > 0
    shopper.budget, shopper.budget_spread = rng.lognormvariate(4.4, 0.6), 0.5
    if device is not None:
        shopper.devices = [device]
    if rng.random() < guest:
        shopper.user = None
    return shopper


def aged(rng: Random, skill: float) -> float:
    """Age in days of the account that is used: the skilled often buy one that has lain for months."""
    return rng.uniform(5, 400) if rng.random() < 0.5 * skill else 0.0


def come(rng: Random, shopper: Shopper, hiding: Hiding, intent: Intent) -> Visit:
    """A visit of a hidden somebody."""
    return make_visit(rng, shopper, hiding.place, shopper.devices[0], hiding.ip, intent, zone=hiding.zone)


def enter(world: World, rng: Random, visit: Visit) -> Script:
    """Open the account or log in."""
    if visit.shopper.user is None:
        return
    if visit.shopper.known:
        world.emit("login", visit.head, geo=visit.geo, consent=visit.shopper.consent)
    else:
        open_account(world, rng, visit)
    yield rng.uniform(8, 90)


def lie_low(world: World, rng: Random, visit: Visit, skill: float) -> Script:
    """Look around; the skilled then wait for days and come again, so that device and account are not new."""
    yield from browse(world, rng, visit, rng.expovariate(0.5))
    if rng.random() < 0.55 * skill:
        yield rng.uniform(1, 20) * DAY_S
        yield from enter(world, rng, visit)
        yield from browse(world, rng, visit, rng.expovariate(0.6))


def shop(world: World, rng: Random, visit: Visit, skill: float) -> Generator[float, None, Basket]:
    """Fill a basket: goods that sell on well, or, more often the skilled, what anybody buys."""
    if rng.random() < 0.8 - 0.5 * skill:
        basket: Basket = tuple((world.catalogue.sellable(rng), 1) for _ in range(rng.randint(1, 2)))
    else:
        basket = fill_basket(world, rng, visit.shopper, [], None)
    yield from put_in_cart(world, rng, visit, basket)
    return basket


def drop(rng: Random, place: Place) -> Part:
    """Where goods are fetched: a parcel station or a house in the country."""
    if rng.random() < 0.35:
        return places.parcel_station(rng, place)
    cities = [city for city in places.PLACES if city.country == place.country]
    return places.street_address(rng, rng.choice(cities))


def billed(rng: Random, holder: Part, shipped: Part, skill: float) -> Part:
    """The `billing` part: the card holder's address, or, more often the skilled, the one that is shipped to."""
    address = shipped if rng.random() < 0.2 + 0.5 * skill else holder
    return {"country": address["country"], "postcode": address["postcode"]}
