"""Schemes with stolen cards: testing many, one large purchase, and one card spent in many places."""

from __future__ import annotations

from random import Random

from engine.simulator import people, places
from engine.simulator.checkout import STOLEN, TESTED, pay
from engine.simulator.schemes.guise import (
    aged,
    billed,
    come,
    drop,
    enter,
    hide,
    lie_low,
    pose,
    shop,
    talent,
)
from engine.simulator.shopping import use_coupon
from engine.simulator.timeline import HOUR_S, Script
from engine.simulator.world import Basket, Intent, World


def card_testing(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """Many small payments with ever new cards on one device; the skilled take hours and change their guise.

    A card that works is sometimes spent at once on something dear.
    """
    skill = talent(rng)
    patient = skill > 0.6
    shopper = pose(world, rng, skill, guest=0.6)
    visit = come(rng, shopper, hide(rng, shopper.place, skill), intent)
    yield from enter(world, rng, visit)
    bin_ = people.make_card(rng, shopper.place.country)["bin"] if rng.random() < 0.6 else None
    for _ in range(size):
        card = people.make_card(rng, shopper.place.country, bin_)
        basket: Basket = ((world.catalogue.cheap(rng), 1),)
        worked = yield from pay(world, rng, visit, basket, card, shopper.address, TESTED)
        if worked and rng.random() < 0.1:
            basket = yield from shop(world, rng, visit, 0.0)
            yield from pay(world, rng, visit, basket, card, drop(rng, shopper.place), STOLEN)
        yield rng.uniform(900, 4 * HOUR_S) if patient else rng.uniform(4, 70)
        if patient and rng.random() < skill:
            shopper = pose(world, rng, skill, guest=0.8, place=shopper.place)
            visit = come(rng, shopper, hide(rng, shopper.place, skill), intent)
            yield from enter(world, rng, visit)


def stolen_card(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """One large purchase by a guest or an unused account; the network often is in another country than the card."""
    skill = talent(rng)
    shopper = pose(world, rng, skill, guest=0.5, age_days=aged(rng, skill))
    near = rng.random() < 0.4 + 0.6 * skill
    victim = shopper.place if near else places.abroad(rng, shopper.place.country)
    card = people.make_card(rng, victim.country)
    visit = come(rng, shopper, hide(rng, victim, skill), intent)
    yield from enter(world, rng, visit)
    yield from lie_low(world, rng, visit, skill)
    for _ in range(size):
        basket = yield from shop(world, rng, visit, skill)
        to = drop(rng, shopper.place)
        billing = billed(rng, places.street_address(rng, victim), to, skill)
        coupon = yield from use_coupon(world, rng, visit, basket, 0.25 * skill)
        yield from pay(world, rng, visit, basket, card, to, STOLEN, billing=billing, coupon=coupon)


def velocity_spree(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """One stolen card spent within hours through several accounts at several sellers, until it is stopped."""
    skill = talent(rng)
    shopper = pose(world, rng, skill)
    place, card, device = shopper.place, people.make_card(rng, shopper.place.country), shopper.devices[0]
    to, holder, hiding = drop(rng, place), shopper.address, hide(rng, place, skill)
    refused = 0
    for step in range(size):
        if step == 0 or rng.random() < 0.6:
            if step:
                shopper = pose(world, rng, skill, place=place, guest=0.25, device=device)
            if rng.random() < 0.2 + 0.6 * skill:
                shopper.devices, hiding = [people.make_device(rng)], hide(rng, place, skill)
            visit = come(rng, shopper, hiding, intent)
            yield from enter(world, rng, visit)
        basket = yield from shop(world, rng, visit, skill)
        billing = billed(rng, holder, to, skill)
        coupon = yield from use_coupon(world, rng, visit, basket, 0.25 * skill)
        bought = yield from pay(world, rng, visit, basket, card, to, STOLEN, billing=billing, coupon=coupon)
        refused += bought is None
        if refused > 2:
            return
        yield rng.expovariate(1 / ((10 + 90 * skill) * 60))
