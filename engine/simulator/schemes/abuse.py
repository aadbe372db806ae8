"""Abuse with one's own money: serial refunds, welcome coupons over and over, buying up stock."""

from __future__ import annotations

from engine.simulator import people, places
from engine.simulator.aftermath import refund
from engine.simulator.checkout import pay
from engine.simulator.schemes.campaign import Campaign
from engine.simulator.shopping import WELCOME, put_in_cart, redeem
from engine.simulator.timeline import DAY_S, HOUR_S, Script
from engine.simulator.world import Whereabouts


def refund_abuse(campaign: Campaign) -> Script:
    """An account of some age buys often, and for most of it wants the money back without sending goods back."""
    rng = campaign.rng
    shopper = campaign.pose(age_days=rng.uniform(5, 200))
    shopper.budget = rng.uniform(50, 200)
    for _ in range(campaign.size):
        visit = campaign.come(shopper)
        basket = yield from campaign.fill_as_anybody(visit, 0.4)
        bought = yield from pay(visit, basket, shopper.cards[0], shopper.address)
        if bought and rng.random() < 0.75:
            reason = rng.choice(("not_arrived", "not_arrived", "damaged", "empty_box"))
            steps = refund(bought, basket[0][0], reason, comes_back=rng.random() < 0.12)
            campaign.world.timeline.start(steps, rng.uniform(4, 9) * DAY_S)
        yield rng.uniform(0.3, 5) * DAY_S


def coupon_abuse(campaign: Campaign) -> Script:
    """One household opens account after account for the welcome coupon: same address, mostly same device."""
    rng = campaign.rng
    first = campaign.pose()
    one_device = rng.random() < 0.65
    cards = [people.make_card(rng, first.place.country) for _ in range(rng.randint(1, 3))]
    for step in range(campaign.size):
        shopper = first if step == 0 else campaign.pose(place=first.place)
        shopper.address = first.address
        if one_device:
            shopper.devices = first.devices
        ip = first.home_ip if rng.random() < 0.7 else places.mobile_network(rng, first.place)
        visit = campaign.come(shopper, Whereabouts(ip, shopper.place))
        basket = yield from campaign.fill_as_anybody(visit, 0.6)
        redeem(visit, WELCOME, basket)
        yield rng.uniform(3, 30)
        yield from pay(visit, basket, rng.choice(cards), shopper.address, coupon=WELCOME)
        yield rng.uniform(0.1, 30) * HOUR_S


def reseller(campaign: Campaign) -> Script:
    """Buy up one article: large numbers of it, order after order, through a few accounts."""
    rng = campaign.rng
    article = campaign.world.catalogue.sellable(rng)
    shopper = campaign.pose(age_days=rng.choice((0.0, rng.uniform(1, 90))))
    campaign.skill = 0.7
    home = shopper.address
    for step in range(campaign.size):
        if step and rng.random() < 0.4:
            shopper = campaign.pose(place=shopper.place, device=shopper.devices[0])
            shopper.address = home
        visit = campaign.come(shopper)
        yield from campaign.enter(visit)
        basket = ((article, rng.randint(3, 12)),)
        yield from put_in_cart(visit, basket)
        yield from pay(visit, basket, shopper.cards[0], home)
        yield rng.expovariate(1 / (4 * HOUR_S))
