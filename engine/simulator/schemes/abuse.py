"""Abuse with one's own money: serial refunds, welcome coupons over and over, buying up stock."""

from __future__ import annotations

from random import Random

from engine.simulator import people, places
from engine.simulator.aftermath import refund
from engine.simulator.checkout import GENUINE, pay
from engine.simulator.schemes.guise import enter, pose
from engine.simulator.shopping import WELCOME, browse, fill_basket, put_in_cart, redeem
from engine.simulator.timeline import DAY_S, HOUR_S, Script
from engine.simulator.world import Intent, World, make_visit


def refund_abuse(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """An account of some age buys often, and for most of it wants the money back without sending goods back."""
    shopper = pose(world, rng, 0.9, age_days=rng.uniform(5, 200))
    shopper.budget = rng.uniform(50, 200)
    for _ in range(size):
        visit = make_visit(rng, shopper, shopper.place, shopper.devices[0], shopper.home_ip, intent)
        yield from enter(world, rng, visit)
        seen = yield from browse(world, rng, visit, rng.expovariate(0.4))
        basket = fill_basket(world, rng, shopper, seen, None)
        yield from put_in_cart(world, rng, visit, basket)
        bought = yield from pay(world, rng, visit, basket, shopper.cards[0], shopper.address, GENUINE)
        if bought and rng.random() < 0.75:
            reason = rng.choice(("not_arrived", "not_arrived", "damaged", "empty_box"))
            steps = refund(world, rng, bought, visit.head, basket[0][0], reason, comes_back=rng.random() < 0.12)
            world.timeline.start(steps, rng.uniform(4, 9) * DAY_S)
        yield rng.uniform(0.3, 5) * DAY_S


def coupon_abuse(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """One household opens account after account for the welcome coupon: same address, mostly same device."""
    first = pose(world, rng, 0.35)
    one_device = rng.random() < 0.65
    cards = [people.make_card(rng, first.place.country) for _ in range(rng.randint(1, 3))]
    for step in range(size):
        shopper = first if step == 0 else pose(world, rng, 0.35, place=first.place)
        shopper.address = first.address
        if one_device:
            shopper.devices = first.devices
        ip = first.home_ip if rng.random() < 0.7 else places.mobile_network(rng, first.place)
        visit = make_visit(rng, shopper, shopper.place, shopper.devices[0], ip, intent)
        yield from enter(world, rng, visit)
        seen = yield from browse(world, rng, visit, rng.expovariate(0.6))
        basket = fill_basket(world, rng, shopper, seen, None)
        yield from put_in_cart(world, rng, visit, basket)
        redeem(world, visit, WELCOME, basket)
        yield rng.uniform(3, 30)
        yield from pay(world, rng, visit, basket, rng.choice(cards), shopper.address, GENUINE, coupon=WELCOME)
        yield rng.uniform(0.1, 30) * HOUR_S


def reseller(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """Buy up one article: large numbers of it, order after order, through a few accounts."""
    article = world.catalogue.sellable(rng)
    shopper = pose(world, rng, 0.8, age_days=rng.choice((0.0, rng.uniform(1, 90))))
    home = shopper.address
    for step in range(size):
        if step and rng.random() < 0.4:
            shopper = pose(world, rng, 0.7, place=shopper.place, device=shopper.devices[0])
            shopper.address = home
        visit = make_visit(rng, shopper, shopper.place, shopper.devices[0], shopper.home_ip, intent)
        yield from enter(world, rng, visit)
        basket = ((article, rng.randint(3, 12)),)
        yield from put_in_cart(world, rng, visit, basket)
        yield from pay(world, rng, visit, basket, shopper.cards[0], home, GENUINE)
        yield rng.expovariate(1 / (4 * HOUR_S))
