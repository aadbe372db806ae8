"""Who comes to the shop and when they first do; and sales that bring many at once."""

from __future__ import annotations

import numpy as np

from engine.simulator.people import form_habits, join_household
from engine.simulator.shopping import life, session, usual_hour_s
from engine.simulator.timeline import DAY_S, DAY_US, Script
from engine.simulator.world import World

_JOINING = 0.2
"""Share of shoppers whose account is opened within the period."""
_ONCE = 0.16
"""Share of payments by people who come for one thing and are not seen again."""
_MEAN_BUYS = 0.4167 * 0.88 * 1.045 * 1.07 * 1.045
"""Payments per session: buyers' share, less carts left behind, more second tries and things forgotten."""


def crowd(world: World) -> Script:
    """Bring each shopper into being at their first visit, not before."""
    config, rng = world.config, world.rng
    mean_gap = _mean_gap_days(world)
    # one sorted array says when the next newcomer or returning customer is due: 8 bytes a person
    draw = np.random.default_rng(rng.getrandbits(64))
    joining = int(config.shoppers * _JOINING)
    gaps = draw.gamma(1.0, mean_gap, config.shoppers - joining)
    days = np.concatenate([gaps, draw.uniform(0, config.days, joining)])
    days, new = days[order := np.argsort(days, kind="stable")], order >= config.shoppers - joining
    for day, is_new in zip(days, new, strict=True):
        if day >= config.days:
            return
        wait_s = (world.start_us - world.now_us) / 1e6 + float(day) * DAY_S
        if wait_s > 0:
            yield wait_s
        _arrive(world, mean_gap, is_new=bool(is_new))


def _arrive(world: World, mean_gap: float, *, is_new: bool) -> None:
    rng = world.rng
    created_us = None if is_new else int(world.start_us - rng.expovariate(1 / 300) * DAY_US) // 1000 * 1000
    other = world.passer_by(rng) if rng.random() < 0.22 else None
    shopper = world.somebody(rng, other.place if other else None, created_us)
    shopper.gap_days = mean_gap * rng.lognormvariate(0.18, 0.6)
    form_habits(rng, shopper, _offices(world))
    if other is not None:
        join_household(rng, shopper, other)
    shopper.known = not is_new
    world.timeline.start(life(world, shopper))


def _mean_gap_days(world: World) -> float:
    """Days between sessions such that the wanted payments per day come out over the period."""
    config = world.config
    return max(0.3, config.shoppers * 0.82 * _MEAN_BUYS / (config.payments_per_day * (1 - _ONCE)))


def strangers(world: World) -> Script:
    """People who come for one thing: everything about them is new, and many a basket is dear."""
    rng = world.rng
    pause_s = DAY_S / (world.config.payments_per_day * _ONCE) * 0.7 * 0.88 * 1.12
    while world.open:
        yield rng.expovariate(1 / pause_s)
        shopper = world.somebody(rng)
        form_habits(rng, shopper, _offices(world))
        if rng.random() < 0.45:
            shopper.user = None
        shopper.oddities |= {"stranger"}
        wanted = world.catalogue.sellable(rng) if rng.random() < 0.35 else None
        article = wanted or world.catalogue.liked(rng, shopper.tastes)
        world.timeline.start(session(world, shopper, article), usual_hour_s(world, shopper, 1))


def _offices(world: World) -> int:
    return max(1, world.config.shoppers // 1_500)


def sales(world: World) -> Script:
    """A flash sale every week or two: hundreds come for one article within half an hour."""
    rng = world.random("sales")
    yield rng.uniform(2, 9) * DAY_S
    while world.open:
        article = world.catalogue.sellable(rng)
        guests = int(world.config.payments_per_day * rng.uniform(0.04, 0.15)) + 1
        for _ in range(guests):
            somebody = world.passer_by(rng)
            if somebody is not None:
                world.timeline.start(session(world, somebody, article, sale=True), rng.expovariate(1 / 700))
        yield rng.uniform(5, 14) * DAY_S
