"""Schemes with accounts: taking over somebody's, opening fresh ones, and the buyer who is only a middleman."""

from __future__ import annotations

from collections.abc import Generator
from random import Random

from engine.simulator import people, places
from engine.simulator.aftermath import complain
from engine.simulator.checkout import STOLEN, TAKEN_OVER, pay
from engine.simulator.people import Part, Shopper
from engine.simulator.schemes.guise import billed, come, drop, enter, hide, lie_low, pose, shop, talent
from engine.simulator.shopping import browse, fill_basket, put_in_cart, use_coupon
from engine.simulator.timeline import DAY_S, DAY_US, HOUR_S, Script
from engine.simulator.world import Intent, Purchase, Visit, World, make_visit


def account_takeover(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """Guess or reset a password, change the contacts, then buy with the stored card for a new address.

    The skilled know the password, change nothing, and some of them even come from the victim's own device.
    """
    skill = talent(rng)
    victim = yield from _choose(world, rng)
    if victim is None:
        return
    device = victim.devices[0] if skill > 0.9 else people.make_device(rng)
    hiding = hide(rng, victim.place, skill)
    visit = make_visit(rng, victim, hiding.place, device, hiding.ip, intent, zone=hiding.zone)
    quiet = rng.random() < 0.1 + 0.7 * skill
    for _ in range(0 if quiet else rng.randint(1, 7)):
        world.emit("login_failed", visit.head, geo=visit.geo, email=victim.email)
        yield rng.uniform(2, 40)
    world.emit("login", visit.head, geo=visit.geo)
    yield rng.uniform(20, 300)
    email = None if quiet else (yield from _lock_out(world, rng, visit))
    to = victim.address if rng.random() < 0.3 * skill else drop(rng, victim.place)
    for _ in range(size):
        basket = yield from shop(world, rng, visit, skill)
        bought = yield from pay(world, rng, visit, basket, victim.cards[0], to, TAKEN_OVER, email=email)
        if bought and rng.random() < 0.5:
            world.timeline.start(_notice(world, rng, bought), rng.uniform(0.5, 6) * DAY_S)
        yield rng.uniform(60, 2 * HOUR_S)


def _choose(world: World, rng: Random) -> Generator[float, None, Shopper | None]:
    """A customer of at least 20 days with an account; None when none comes by for hours."""
    for _ in range(40):
        victim = world.passer_by(rng)
        if victim and victim.user and victim.known and world.now_us - victim.created_us > 20 * DAY_US:
            return victim
        yield 600.0
    return None


def _lock_out(world: World, rng: Random, visit: Visit) -> Generator[float, None, Part | None]:
    """Change the password, mostly the mail address too (returned); wait for minutes, or half a day."""
    new: Part | None = None
    if rng.random() < 0.8:
        world.emit("password_change", visit.head, geo=visit.geo)
        yield rng.uniform(10, 200)
    if rng.random() < 0.6:
        new = people.make_email(rng, disposable=rng.random() < 0.25)
        world.emit("contact_changed", visit.head, geo=visit.geo, email=new)
        yield rng.uniform(10, 200)
    yield rng.uniform(60, 2_400) if rng.random() < 0.7 else rng.uniform(1, 12) * HOUR_S
    return new


def _notice(world: World, rng: Random, purchase: Purchase) -> Script:
    """The true owner sees it: complains, is believed within days, and takes the account back."""
    owner = purchase.shopper
    visit = make_visit(rng, owner, owner.place, owner.devices[0], owner.home_ip)
    world.emit("login_failed", visit.head, geo=visit.geo, email=owner.email)
    yield rng.uniform(60, 900)
    world.emit("password_change", visit.head, geo=visit.geo)
    complain(world, purchase, purchase.basket[0][0], "fraud")
    filed_us = world.now_us
    yield rng.uniform(0.5, 6) * DAY_S
    world.learn("confirmed_fraud", purchase, filed_us)


def new_account_abuse(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """Fresh accounts, often with throw-away mail and on one device, buy with a new stolen card each."""
    skill = talent(rng)
    shopper, ring = pose(world, rng, skill), rng.random() < 0.6
    device, hiding, to = shopper.devices[0], hide(rng, shopper.place, skill), drop(rng, shopper.place)
    for step in range(size):
        if step and ring:
            own = device if rng.random() > 0.7 * skill else people.make_device(rng)
            shopper = pose(world, rng, skill, place=shopper.place, device=own)
        visit = come(rng, shopper, hiding, intent)
        yield from enter(world, rng, visit)
        yield from lie_low(world, rng, visit, skill)
        card = people.make_card(rng, shopper.place.country)
        basket = yield from shop(world, rng, visit, skill)
        billing = billed(rng, places.street_address(rng, shopper.place), to, skill)
        coupon = yield from use_coupon(world, rng, visit, basket, 0.25 * skill)
        yield from pay(world, rng, visit, basket, card, to, STOLEN, billing=billing, coupon=coupon)
        yield rng.expovariate(1 / (5 * HOUR_S))


def triangulation(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """Ordinary looking buyers order for strangers who paid a false shop; each order on another stolen card.

    Everything about account, device, network, hour and amount is usual; the addresses and cards never repeat,
    and most orders go to one seller.
    """
    shopper = pose(world, rng, 1.0, age_days=rng.uniform(20, 200))
    article = world.catalogue.liked(rng, shopper.tastes)
    for _ in range(size):
        visit = make_visit(rng, shopper, shopper.place, shopper.devices[0], shopper.home_ip, intent)
        yield from enter(world, rng, visit)
        seen = yield from browse(world, rng, visit, rng.expovariate(0.4))
        basket = fill_basket(world, rng, shopper, seen, article if rng.random() < 0.7 else None)
        yield from put_in_cart(world, rng, visit, basket)
        card = people.make_card(rng, shopper.place.country)
        cities = [city for city in places.PLACES if city.country == shopper.place.country]
        buyer = places.street_address(rng, rng.choice(cities))
        yield from pay(world, rng, visit, basket, card, buyer, STOLEN, billing=billed(rng, buyer, buyer, 1.0))
        yield rng.uniform(0.2, 2.2) * DAY_S
