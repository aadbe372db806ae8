"""Schemes with stolen cards: testing many, one large purchase, and one card spent in many places."""

from __future__ import annotations

from random import Random

from engine.simulator import people, places
from engine.simulator.checkout import STOLEN, TESTED, pay
from engine.simulator.schemes.guise import billed, come, elsewhere, enter, hide, pick, pose
from engine.simulator.shopping import browse
from engine.simulator.timeline import HOUR_S, Script
from engine.simulator.world import Basket, Intent, World


def card_testing(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """Many small payments with ever new cards on one device; a third takes its time and changes devices.

    A card that works is sometimes spent at once on something dear.
    """
    patient = rng.random() < 0.35
    shopper = pose(world, rng, guest=0.6, disposable=0.35)
    visit = come(rng, shopper, hide(rng, shopper.place), intent)
    yield from enter(world, rng, visit)
    same = people.make_card(rng, shopper.place.country)["bin"] if rng.random() < 0.6 else None
    for _ in range(size):
        card = people.make_card(rng, shopper.place.country, same)
        basket: Basket = ((world.catalogue.cheap(rng), 1),)
        worked = yield from pay(world, rng, visit, basket, card, shopper.address, TESTED)
        if worked and rng.random() < 0.06:
            basket, steps = pick(world, rng, visit, most=1)
            yield from steps
            yield from pay(world, rng, visit, basket, card, elsewhere(rng, shopper.place), STOLEN)
        yield rng.uniform(600, 3 * HOUR_S) if patient else rng.uniform(4, 70)
        if patient and rng.random() < 0.3:
            shopper.devices = [people.make_device(rng)]
            visit = come(rng, shopper, hide(rng, shopper.place), intent)


def stolen_card(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """One large purchase by a guest or a fresh account; the network often is in another country than the card."""
    shopper = pose(world, rng, guest=0.5, disposable=0.2)
    victim = shopper.place if rng.random() < 0.6 else places.abroad(rng, shopper.place.country)
    card = people.make_card(rng, victim.country)
    visit = come(rng, shopper, hide(rng, victim), intent)
    yield from enter(world, rng, visit)
    yield from browse(world, rng, visit, rng.expovariate(0.5))
    for _ in range(size):
        basket, steps = pick(world, rng, visit)
        yield from steps
        drop = elsewhere(rng, shopper.place)
        holder = drop if rng.random() < 0.35 else places.street_address(rng, victim)
        yield from pay(world, rng, visit, basket, card, drop, STOLEN, billing=billed(holder))


def velocity_spree(world: World, rng: Random, intent: Intent, size: int) -> Script:
    """One stolen card spent within hours through several accounts at several sellers, until it is stopped."""
    first = pose(world, rng)
    place, card = first.place, people.make_card(rng, first.place.country)
    device, holder, hiding = first.devices[0], first.address, hide(rng, first.place)
    drop = elsewhere(rng, place)
    refused = 0
    for step in range(size):
        if step == 0 or rng.random() < 0.6:
            shopper = first if step == 0 else pose(world, rng, place=place, guest=0.25, device=device)
            if rng.random() < 0.4:
                shopper.devices, hiding = [people.make_device(rng)], hide(rng, place)
            visit = come(rng, shopper, hiding, intent)
            yield from enter(world, rng, visit)
        basket, steps = pick(world, rng, visit)
        yield from steps
        bought = yield from pay(world, rng, visit, basket, card, drop, STOLEN, billing=billed(holder))
        refused += bought is None
        if refused > 2:
            return
        yield rng.expovariate(1 / (25 * 60))
