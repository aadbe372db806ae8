"""What fraudsters of several schemes do alike: pose as somebody, hide where they are, and shop."""

from __future__ import annotations

from random import Random

from engine.simulator import people, places
from engine.simulator.people import Device, Part, Shopper
from engine.simulator.places import Place
from engine.simulator.shopping import open_account, put_in_cart
from engine.simulator.timeline import DAY_US, Script
from engine.simulator.world import Basket, Intent, Visit, World, make_visit


def hide(rng: Random, country: Place) -> tuple[Part, Place, str]:
    """A network to come from, the place it shows, and the zone that the browser tells.

    Half of them seem to be in the victim's country, some of those from an ordinary home.
    """
    lair = places.abroad(rng, country.country)
    zone = country.zone if rng.random() < 0.65 else lair.zone
    way = rng.random()
    if way < 0.25:
        return places.proxy_network(rng, country.country), country, zone
    if way < 0.58:
        return places.home_network(rng, country), country, zone
    if way < 0.7:
        elsewhere = places.abroad(rng, country.country)
        return places.proxy_network(rng, elsewhere.country), elsewhere, zone
    network = places.home_network if way < 0.85 else places.hotel_network
    return network(rng, lair), lair, zone


def pose(
    world: World, rng: Random, *, place: Place | None = None, disposable: float = 0.3, guest: float = 0.0,
    age_days: float = 0.0, device: Device | None = None,
) -> Shopper:  # fmt: skip
    """An account (or guest) of somebody up to no good; one of some age is known to the shop already."""
    created_us = int(world.now_us - age_days * DAY_US)
    shopper = world.somebody(rng, place, created_us // 1000 * 1000)
    shopper.email = people.make_email(rng, disposable=rng.random() < disposable)
    shopper.known = age_days > 0
    if device is not None:
        shopper.devices = [device]
    if rng.random() < guest:
        shopper.user = None
    return shopper


def come(rng: Random, shopper: Shopper, hiding: tuple[Part, Place, str], intent: Intent) -> Visit:
    """A visit of a hidden somebody."""
    ip, place, zone = hiding
    return make_visit(rng, shopper, place, shopper.devices[0], ip, intent, zone=zone)


def enter(world: World, rng: Random, visit: Visit) -> Script:
    """Open the account or log in."""
    if visit.shopper.user is None:
        return
    if visit.shopper.known:
        world.emit("login", visit.head, geo=visit.geo)
    else:
        open_account(world, rng, visit)
    yield rng.uniform(8, 90)


def pick(world: World, rng: Random, visit: Visit, *, most: int = 2) -> tuple[Basket, Script]:
    """A basket of goods that sell on well, and the steps that fill the cart."""
    lines = tuple((world.catalogue.sellable(rng), 1) for _ in range(rng.randint(1, most)))
    return lines, put_in_cart(world, rng, visit, lines)


def elsewhere(rng: Random, place: Place) -> Part:
    """A drop: an address in the victim's country that is not the victim's."""
    cities = [city for city in places.PLACES if city.country == place.country]
    return places.street_address(rng, rng.choice(cities))


def billed(address: Part) -> Part:
    """The `billing` part for a card holder's address."""
    return {"country": address["country"], "postcode": address["postcode"]}
