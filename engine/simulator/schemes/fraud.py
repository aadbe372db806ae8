"""Schemes with other people's money: stolen cards, accounts taken over or freshly opened, and a false middleman."""

from __future__ import annotations

from collections.abc import Generator

from engine.simulator import people, places
from engine.simulator.aftermath import complain
from engine.simulator.checkout import STOLEN, TAKEN_OVER, TESTED, pay
from engine.simulator.people import Part, Shopper
from engine.simulator.schemes.campaign import Campaign
from engine.simulator.timeline import DAY_S, DAY_US, HOUR_S, Script
from engine.simulator.world import Basket, Purchase, Visit, make_visit


def card_testing(campaign: Campaign) -> Script:
    """Many small payments with ever new cards on one device; the skilled take hours and change their guise.

    A card that works is sometimes spent at once on something dear.
    """
    rng, skill = campaign.rng, campaign.skill
    patient = skill > 0.6
    shopper = campaign.pose(guest=0.6)
    visit = campaign.come(shopper, campaign.hide(shopper.place))
    yield from campaign.enter(visit)
    bin_ = people.make_card(rng, shopper.place.country)["bin"] if rng.random() < 0.6 else None
    for _ in range(campaign.size):
        card = people.make_card(rng, shopper.place.country, bin_)
        basket: Basket = ((campaign.world.catalogue.cheap(rng), 1),)
        worked = yield from pay(visit, basket, card, shopper.address, TESTED)
        if worked and rng.random() < 0.1:
            basket = yield from campaign.fill_to_sell(visit, hasty=True)
            yield from pay(visit, basket, card, campaign.drop(shopper.place), STOLEN)
        yield rng.uniform(900, 4 * HOUR_S) if patient else rng.uniform(4, 70)
        if patient and rng.random() < skill:
            shopper = campaign.pose(guest=0.8, place=shopper.place)
            visit = campaign.come(shopper, campaign.hide(shopper.place))
            yield from campaign.enter(visit)


def stolen_card(campaign: Campaign) -> Script:
    """One large purchase by a guest or an unused account; the network often is in another country than the card.

    The skilled often buy an account that has lain for months.
    """
    rng, skill = campaign.rng, campaign.skill
    age_days = rng.uniform(5, 400) if rng.random() < 0.5 * skill else 0.0
    shopper = campaign.pose(guest=0.5, age_days=age_days)
    near = rng.random() < 0.4 + 0.6 * skill
    victim = shopper.place if near else places.abroad(rng, shopper.place.country)
    card = people.make_card(rng, victim.country)
    visit = campaign.come(shopper, campaign.hide(victim))
    yield from campaign.enter(visit)
    yield from campaign.lie_low(visit)
    basket = yield from campaign.fill_to_sell(visit)
    to = campaign.drop(shopper.place)
    yield from campaign.spend(visit, basket, card, places.street_address(rng, victim), to)


def velocity_spree(campaign: Campaign) -> Script:
    """One stolen card spent within hours through several accounts at several sellers, until it is stopped."""
    rng, skill = campaign.rng, campaign.skill
    shopper = campaign.pose()
    place, card, device = shopper.place, people.make_card(rng, shopper.place.country), shopper.devices[0]
    to, holder, hiding = campaign.drop(place), shopper.address, campaign.hide(place)
    refused = 0
    for step in range(campaign.size):
        if step == 0 or rng.random() < 0.6:
            if step:
                shopper = campaign.pose(place=place, guest=0.25, device=device)
            if rng.random() < 0.2 + 0.6 * skill:
                shopper.devices, hiding = [people.make_device(rng)], campaign.hide(place)
            visit = campaign.come(shopper, hiding)
            yield from campaign.enter(visit)
        basket = yield from campaign.fill_to_sell(visit)
        bought = yield from campaign.spend(visit, basket, card, holder, to)
        refused += bought is None
        if refused > 2:
            return
        yield rng.expovariate(1 / ((10 + 90 * skill) * 60))


def account_takeover(campaign: Campaign) -> Script:
    """Guess or reset a password, change the contacts, then buy with the stored card for a new address.

    The skilled know the password, change nothing, and some of them even come from the victim's own device.
    """
    rng, skill = campaign.rng, campaign.skill
    victim = yield from _choose(campaign)
    if victim is None:
        return
    device = victim.devices[0] if skill > 0.9 else people.make_device(rng)
    visit = campaign.come(victim, campaign.hide(victim.place), device)
    quiet = rng.random() < 0.1 + 0.7 * skill
    for _ in range(0 if quiet else rng.randint(1, 7)):
        visit.emit("login_failed", email=victim.email)
        yield rng.uniform(2, 40)
    visit.emit("login")
    yield rng.uniform(20, 300)
    email = None if quiet else (yield from _lock_out(visit))
    to = victim.address if rng.random() < 0.3 * skill else campaign.drop(victim.place)
    for _ in range(campaign.size):
        basket = yield from campaign.fill_to_sell(visit)
        bought = yield from pay(visit, basket, victim.cards[0], to, TAKEN_OVER, email=email)
        if bought and rng.random() < 0.5:
            campaign.world.timeline.start(_notice(bought), rng.uniform(0.5, 6) * DAY_S)
        yield rng.uniform(60, 2 * HOUR_S)


def _choose(campaign: Campaign) -> Generator[float, None, Shopper | None]:
    """A customer of at least 20 days with an account; None when none comes by for hours."""
    world = campaign.world
    for _ in range(40):
        victim = world.passer_by(campaign.rng)
        if victim and victim.user and victim.known and world.now_us - victim.created_us > 20 * DAY_US:
            return victim
        yield 600.0
    return None


def _lock_out(visit: Visit) -> Generator[float, None, Part | None]:
    """Change the password, mostly the mail address too (returned); wait for minutes, or half a day."""
    rng, new = visit.rng, None
    if rng.random() < 0.8:
        visit.emit("password_change")
        yield rng.uniform(10, 200)
    if rng.random() < 0.6:
        new = people.make_email(rng, disposable=rng.random() < 0.25)
        visit.emit("contact_changed", email=new)
        yield rng.uniform(10, 200)
    yield rng.uniform(60, 2_400) if rng.random() < 0.7 else rng.uniform(1, 12) * HOUR_S
    return new


def _notice(purchase: Purchase) -> Script:
    """The true owner sees it: complains, is believed within days, and takes the account back."""
    world, rng, owner = purchase.visit.world, purchase.visit.rng, purchase.visit.shopper
    visit = make_visit(world, rng, owner)
    visit.emit("login_failed", email=owner.email)
    yield rng.uniform(60, 900)
    visit.emit("password_change")
    complain(purchase, purchase.basket[0][0], "fraud")
    filed_us = world.now_us
    yield rng.uniform(0.5, 6) * DAY_S
    world.learn("confirmed_fraud", purchase, filed_us)


def new_account_abuse(campaign: Campaign) -> Script:
    """Fresh accounts, often with throw-away mail and on one device, buy with a new stolen card each."""
    rng, skill = campaign.rng, campaign.skill
    shopper, ring = campaign.pose(), rng.random() < 0.6
    place, device = shopper.place, shopper.devices[0]
    hiding, to = campaign.hide(place), campaign.drop(place)
    for step in range(campaign.size):
        if step and ring:
            own = device if rng.random() > 0.7 * skill else people.make_device(rng)
            shopper = campaign.pose(place=place, device=own)
        visit = campaign.come(shopper, hiding)
        yield from campaign.enter(visit)
        yield from campaign.lie_low(visit)
        card = people.make_card(rng, place.country)
        basket = yield from campaign.fill_to_sell(visit)
        yield from campaign.spend(visit, basket, card, places.street_address(rng, place), to)
        yield rng.expovariate(1 / (5 * HOUR_S))


def triangulation(campaign: Campaign) -> Script:
    """Ordinary looking buyers order for strangers who paid a false shop; each order on another stolen card.

    Everything about account, device, network, hour and amount is usual; the addresses and cards never repeat,
    and most orders go to one seller.
    """
    rng = campaign.rng
    shopper = campaign.pose(age_days=rng.uniform(20, 200))
    article = campaign.world.catalogue.liked(rng, shopper.tastes)
    for _ in range(campaign.size):
        visit = campaign.come(shopper)
        basket = yield from campaign.fill_as_anybody(visit, 0.4, article)
        card = people.make_card(rng, shopper.place.country)
        buyer = campaign.house(shopper.place)
        yield from pay(visit, basket, card, buyer, STOLEN, billing=campaign.billed(buyer, buyer))
        yield rng.uniform(0.2, 2.2) * DAY_S
