"""What fraudsters of several schemes do alike: pose as somebody, hide where they are, and shop.

Each campaign has a `skill`, 0..1. At 0 every step gives it away; at 1 it looks like an ordinary new customer, so
that no rule or model can catch all of it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from random import Random

from engine.simulator import people, places
from engine.simulator.catalogue import Item
from engine.simulator.checkout import STOLEN, billed_to, pay
from engine.simulator.people import Device, Part, Shopper
from engine.simulator.places import Place
from engine.simulator.shopping import browse, fill_basket, open_account, put_in_cart, use_coupon
from engine.simulator.timeline import DAY_S, DAY_US, Script
from engine.simulator.world import Basket, Intent, Purchase, Visit, Whereabouts, World, make_visit

Bought = Generator[float, None, Purchase | None]
Filled = Generator[float, None, Basket]


@dataclass(slots=True)
class Campaign:
    """One run of a scheme, and the steps that it is made of."""

    world: World
    rng: Random
    intent: Intent
    size: int
    """Payments that it sets out to make."""
    skill: float

    def pose(
        self, *, place: Place | None = None, guest: float = 0.0, age_days: float = 0.0, device: Device | None = None
    ) -> Shopper:
        """An account (or guest) of somebody up to no good; one of some age is known to the shop already."""
        rng, created_us = self.rng, int(self.world.now_us - age_days * DAY_US)
        shopper = self.world.somebody(rng, place, created_us // 1000 * 1000)
        shopper.email = people.make_email(rng, disposable=rng.random() < 0.5 * (1 - self.skill))
        shopper.known = age_days > 0
        shopper.budget, shopper.budget_spread = rng.lognormvariate(4.4, 0.6), 0.5
        if device is not None:
            shopper.devices = [device]
        if rng.random() < guest:
            shopper.user = None
        return shopper

    def hide(self, wanted: Place) -> Whereabouts:
        """A network to come from: the skilled have an ordinary home's line in the wanted city."""
        rng, skill = self.rng, self.skill
        lair = places.abroad(rng, wanted.country)
        zone = wanted.zone if rng.random() < 0.6 + 0.5 * skill else lair.zone
        if rng.random() < 0.2 + 0.75 * skill:
            if rng.random() < 0.25 + 0.65 * skill:
                network = places.home_network if rng.random() < 0.7 else places.mobile_network
                return Whereabouts(network(rng, wanted), wanted, zone)
            return Whereabouts(places.proxy_network(rng, wanted.country), wanted, zone)
        if rng.random() < 0.5:
            elsewhere = places.abroad(rng, wanted.country)
            return Whereabouts(places.proxy_network(rng, elsewhere.country), elsewhere, zone)
        network = places.home_network if rng.random() < 0.6 else places.hotel_network
        return Whereabouts(network(rng, lair), lair, zone)

    def come(self, shopper: Shopper, at: Whereabouts | None = None, device: Device | None = None) -> Visit:
        """A visit, from home and on the first device unless told otherwise."""
        return make_visit(self.world, self.rng, shopper, self.intent, at=at, device=device)

    def enter(self, visit: Visit) -> Script:
        """Open the account or log in; guests do neither."""
        if visit.shopper.user is None:
            return
        if visit.shopper.known:
            visit.emit("login", consent=visit.shopper.consent)
        else:
            open_account(visit)
        yield self.rng.uniform(8, 90)

    def lie_low(self, visit: Visit) -> Script:
        """Look around; the skilled then wait for days and come again, so that device and account are not new."""
        rng = self.rng
        yield from browse(visit, rng.expovariate(0.5))
        if rng.random() < 0.55 * self.skill:
            yield rng.uniform(1, 20) * DAY_S
            yield from self.enter(visit)
            yield from browse(visit, rng.expovariate(0.6))

    def fill_as_anybody(self, visit: Visit, haste: float, article: Item | None = None) -> Filled:
        """Enter, look at 1 / `haste` pages or so and fill a basket, `article` in most."""
        yield from self.enter(visit)
        seen = yield from browse(visit, self.rng.expovariate(haste))
        wanted = article if article and self.rng.random() < 0.7 else None
        basket = fill_basket(visit, seen, wanted)
        yield from put_in_cart(visit, basket)
        return basket

    def fill_to_sell(self, visit: Visit, *, hasty: bool = False) -> Filled:
        """Fill a basket: goods that sell on well, or, more often the skilled without haste, what anybody buys."""
        rng, catalogue = self.rng, self.world.catalogue
        if rng.random() < 0.8 - 0.5 * (0.0 if hasty else self.skill):
            basket: Basket = tuple((catalogue.sellable(rng), 1) for _ in range(rng.randint(1, 2)))
        else:
            basket = fill_basket(visit, [])
        yield from put_in_cart(visit, basket)
        return basket

    def drop(self, place: Place) -> Part:
        """Where goods are fetched: a parcel station or a house in the country."""
        if self.rng.random() < 0.35:
            return places.parcel_station(self.rng, place)
        return self.house(place)

    def house(self, place: Place) -> Part:
        """The address of a house in a place's country."""
        cities = [city for city in places.PLACES if city.country == place.country]
        return places.street_address(self.rng, self.rng.choice(cities))

    def billed(self, holder: Part, shipped: Part) -> Part:
        """The `billing` part: the card holder's address, or, more often the skilled, the one that is shipped to."""
        return billed_to(shipped if self.rng.random() < 0.2 + 0.5 * self.skill else holder)

    def spend(self, visit: Visit, basket: Basket, card: Part, holder: Part, to: Part) -> Bought:
        """Pay with a stolen card of somebody who lives at `holder`; the skilled look for a coupon as others do."""
        billing = self.billed(holder, to)
        coupon = yield from use_coupon(visit, basket, 0.25 * self.skill)
        return (yield from pay(visit, basket, card, to, STOLEN, billing=billing, coupon=coupon))
