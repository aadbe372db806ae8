"""An honest shopper's life: sessions by habit, looking, buying, and now and then something unusual."""

from __future__ import annotations

from collections.abc import Generator
from math import log
from random import Random

from engine.simulator import people, places
from engine.simulator.catalogue import Item
from engine.simulator.checkout import coupon_part, pay
from engine.simulator.people import Part, Shopper
from engine.simulator.timeline import DAY_S, DAY_US, HOUR_S, Script, seconds_until, stamp, zone_offset_s
from engine.simulator.world import Basket, Visit, Whereabouts, World, make_visit

_SLOTS = ("home_top", "home_row", "item_similar", "cart_row")
_BOREDOM_DAYS = 260.0
"""Mean days until somebody stops coming for good."""
WELCOME = ("WELCOME10", 0.10)
_COUPONS = (("SPRING5", 0.05), ("THANKS15", 0.15), ("APP10", 0.10))


def life(world: World, shopper: Shopper) -> Script:
    """Sessions at the shopper's rhythm until they lose interest or the period ends."""
    rng = world.rng
    yield usual_hour_s(world, shopper, 0)
    leaves_us = world.now_us + rng.expovariate(1 / _BOREDOM_DAYS) * DAY_US
    while world.open and world.now_us < leaves_us:
        yield from session(world, shopper)
        yield usual_hour_s(world, shopper, rng.gammavariate(1.6, shopper.gap_days / 1.6))


def usual_hour_s(world: World, shopper: Shopper, in_days: float) -> float:
    """Seconds until the shopper, by habit, comes on a day that is `in_days` ahead."""
    hour = world.rng.gauss(shopper.peak_hour, shopper.spread_hours) % 24
    return seconds_until(world.now_us, int(world.now_us / DAY_US + in_days), hour, shopper.place.zone)


def session(world: World, shopper: Shopper, wanted: Item | None = None, *, sale: bool = False) -> Script:
    """One session: sign in, look around, perhaps buy. `wanted` is what they come for, perhaps in a sale."""
    rng = world.rng
    world.meet(shopper)
    if shopper.user is not None and shopper.known and rng.random() < 0.02:
        yield from _incident(world, shopper)
    visit = arrive(world, shopper)
    if sale:
        visit.oddities += ("flash_sale",)
    yield from sign_in(visit)
    seen = yield from browse(visit, rng.expovariate(1 / (3.2 * world.config.browsing + 1e-9)))
    if rng.random() < (0.7 if wanted else shopper.buys):
        yield from _buy(visit, seen, wanted)
        if rng.random() < 0.07:
            # something was forgotten
            yield rng.expovariate(1 / 1_500)
            visit.oddities += ("bought_again",)
            yield from _buy(visit, [])


def arrive(world: World, shopper: Shopper) -> Visit:
    """Where and on what the shopper is today."""
    rng = world.rng
    device = shopper.devices[0] if rng.random() < 0.75 else rng.choice(shopper.devices)
    odd: tuple[str, ...] = tuple(sorted(shopper.oddities))
    if rng.random() < shopper.forgets:
        device = people.Device({**device.part, "id": people.token(rng, "d-")}, "web")
        odd += ("unrecognised_device",)
    place, ip, zone = shopper.place, shopper.home_ip, "Etc/UTC" if shopper.forgets == 1 else None
    if shopper.trip and world.now_us > shopper.trip[0]:
        shopper.trip = None
    elif shopper.trip is None and rng.random() < 0.012:
        away = places.abroad(rng, place.country) if rng.random() < 0.8 else rng.choice(places.PLACES)
        shopper.trip = (int(world.now_us + rng.uniform(3, 16) * DAY_US), away)
    if shopper.trip:
        place = shopper.trip[1]
        ip = (places.hotel_network if rng.random() < 0.6 else places.mobile_network)(rng, place)
        zone = zone or (shopper.place.zone if rng.random() < 0.4 else None)
        odd += ("traveller",)
    elif rng.random() < shopper.vpn:
        exit_country = place.country if rng.random() < 0.4 else places.abroad(rng, place.country).country
        ip = places.proxy_network(rng, exit_country)
        odd += ("vpn",)
    elif shopper.office_ip and _at_work(world.now_us, place.zone):
        ip, odd = shopper.office_ip, (*odd, "office")
    elif device.part["type"] == "phone" and rng.random() < 0.35:
        ip = places.mobile_network(rng, place)
    return make_visit(world, rng, shopper, at=Whereabouts(ip, place, zone), device=device, oddities=odd)


def _at_work(now_us: int, zone: str) -> bool:
    day = now_us // DAY_US
    local_s = now_us / 1e6 + zone_offset_s(zone, day)
    return 9 <= local_s % DAY_S / HOUR_S < 18 and int(local_s // DAY_S + 3) % 7 < 5


def sign_in(visit: Visit, *, slips: float = 0.03) -> Script:
    """Open the account at the first visit, else log in, mistyping now and then; guests do neither."""
    rng, shopper = visit.rng, visit.shopper
    if shopper.user is None:
        return
    if not shopper.known:
        open_account(visit)
        yield rng.uniform(5, 60)
        return
    while rng.random() < slips:
        visit.emit("login_failed", email=shopper.email)
        slips = 0.4
        yield rng.uniform(4, 25)
    if rng.random() < 0.6:
        visit.emit("login", consent=shopper.consent)
        yield rng.uniform(2, 20)


def open_account(visit: Visit) -> None:
    """The account is opened now."""
    shopper, now_us = visit.shopper, visit.world.now_us
    shopper.known, shopper.created_us = True, now_us
    if shopper.user is not None:
        shopper.user = visit.head["user"] = {**shopper.user, "account_created": stamp(now_us)}
    visit.emit("account_created", email=shopper.email, phone=shopper.phone, consent=shopper.consent)


def browse(visit: Visit, pages: float) -> Generator[float, None, list[Item]]:
    """Look at about `pages` items; returns them."""
    world, rng, head, tastes = visit.world, visit.rng, visit.head, visit.shopper.tastes
    seen = []
    for _ in range(int(pages + 0.5)):
        item = world.catalogue.liked(rng, tastes)
        way = rng.random()
        if way < 0.2:
            words = (item.function, f"{item.brand.lower()} {item.function}", item.category.replace("_", " "))
            world.emit("search", head, search={"query": rng.choice(words)})
            yield rng.uniform(2, 15)
        elif way < 0.4:
            world.emit("click", head, item=item.part, attributes={"slot": rng.choice(_SLOTS)})
            yield 0.3
        dwell_s = rng.lognormvariate(3.0, 0.9) * (0.4 + tastes.liking(item))
        # a tab left open is no interest
        seconds = dwell_s if rng.random() > 0.01 else dwell_s * 60
        world.emit("view", head, item=item.part, page={"seconds": round(seconds, 1)})
        seen.append(item)
        if way > 0.995:
            world.emit("share", head, item=item.part)
        yield dwell_s
    return seen


def fill_basket(visit: Visit, seen: list[Item], wanted: Item | None = None) -> Basket:
    """What goes into the basket: liked things, about as much as the shopper spends."""
    rng, shopper = visit.rng, visit.shopper
    budget = 100 * shopper.budget * rng.lognormvariate(0, shopper.budget_spread)
    pool = [*seen, *(visit.world.catalogue.liked(rng, shopper.tastes) for _ in range(6))]
    # the price that suits the purse first, then taste
    pool.sort(key=lambda item: abs(log(item.price_minor / budget)) - 1.2 * shopper.tastes.liking(item))
    lines = [(wanted or pool[0], 1)]
    left = budget - lines[0][0].price_minor
    for item in pool[1:]:
        if item.price_minor > left or len(lines) > 4:
            break
        pieces = 1 if rng.random() < 0.85 else rng.randint(2, 3)
        lines.append((item, pieces))
        left -= item.price_minor * pieces
    return tuple(lines)


def put_in_cart(visit: Visit, basket: Basket) -> Script:
    """Add each line to the cart."""
    for item, pieces in basket:
        lines = {"items": [item.id], "quantities": [pieces]}
        visit.world.emit("add_to_cart", visit.head, item=item.part, basket=lines)
        yield visit.rng.uniform(3, 40)


def _is_young(visit: Visit) -> bool:
    """Whether the account was opened within a day."""
    return visit.shopper.user is not None and visit.world.now_us - visit.shopper.created_us < DAY_US


def use_coupon(visit: Visit, basket: Basket, share: float) -> Generator[float, None, tuple[str, float] | None]:
    """With a chance of `share` redeem a coupon, the welcome one on a young account; returns code and share off."""
    rng = visit.rng
    if rng.random() >= share:
        return None
    coupon = WELCOME if _is_young(visit) else rng.choice(_COUPONS)
    redeem(visit, coupon, basket)
    yield rng.uniform(2, 20)
    return coupon


def redeem(visit: Visit, coupon: tuple[str, float], basket: Basket) -> None:
    """A coupon is redeemed now."""
    shopper, part = visit.shopper, coupon_part(coupon, basket)
    visit.world.emit("coupon_redeemed", visit.head, coupon=part, email=shopper.email, address=shopper.address)


def _buy(visit: Visit, seen: list[Item], wanted: Item | None = None) -> Script:
    rng, shopper = visit.rng, visit.shopper
    odd: tuple[str, ...] = ()
    basket = fill_basket(visit, seen, wanted)
    if rng.random() < 0.006:
        basket, odd = ((basket[0][0], rng.randint(5, 15)),), ("bulk_for_a_club",)
    yield from put_in_cart(visit, basket)
    if rng.random() < 0.12:
        return
    young = _is_young(visit)
    coupon = yield from use_coupon(visit, basket, 0.45 if young else shopper.coupons)
    address, gift = _ship_to(rng, shopper)
    odd += ("gift",) if gift else ()
    odd += ("young_account",) if young else ()
    yield from _pay_somehow(visit, basket, address, coupon, odd)


def _ship_to(rng: Random, shopper: Shopper) -> tuple[Part, bool]:
    if rng.random() >= shopper.gifts:
        away = shopper.ships_to is not None and rng.random() < 0.7
        return (shopper.ships_to if away and shopper.ships_to else shopper.address), False
    if not shopper.friends or rng.random() < 0.5:
        place = shopper.place if rng.random() < 0.6 else rng.choice(places.PLACES)
        shopper.friends = [*shopper.friends[-3:], places.street_address(rng, place)]
    return rng.choice(shopper.friends), True


def _pay_somehow(
    visit: Visit, basket: Basket, address: Part, coupon: tuple[str, float] | None, odd: tuple[str, ...]
) -> Script:
    """Pay; after a refusal try again, with another card where there is one, at most twice."""
    world, rng, shopper = visit.world, visit.rng, visit.shopper
    if shopper.known and rng.random() < 0.015:
        shopper.cards = [people.make_card(rng, shopper.place.country), *shopper.cards[:1]]
        world.emit("card_added", visit.head, card=shopper.cards[0])
        yield rng.uniform(10, 60)
    card = None if rng.random() < 0.05 else shopper.cards[0] if rng.random() < 0.8 else shopper.cards[-1]
    payment_id = world.payment_id()
    for _ in range(3):
        bought = yield from pay(visit, basket, card, address, coupon=coupon, payment_id=payment_id, oddities=odd)
        if bought or rng.random() < 0.4:
            return
        card = shopper.cards[-1] if card is shopper.cards[0] else shopper.cards[0]
        odd = (*odd, "second_try")
        yield rng.uniform(15, 180)


def _incident(world: World, shopper: Shopper) -> Script:
    """Something that happens to honest people and looks like a takeover."""
    rng = world.rng
    kind = rng.random()
    if kind < 0.3:
        # a new phone: password forgotten, reset from the new device, and shopping goes on with it
        device = people.make_device(rng)
        visit = make_visit(world, rng, shopper, device=device)
        yield from sign_in(visit, slips=0.7)
        visit.emit("password_change")
        shopper.devices = [device, *shopper.devices[1:]]
        yield rng.uniform(30, 600)
        visit.oddities = (*sorted(shopper.oddities), "new_phone")
        visit.emit("login")
        yield rng.uniform(30, 300)
        if rng.random() < 0.6:
            yield from _buy(visit, [])
        return
    visit = arrive(world, shopper)
    visit.emit("login")
    yield rng.uniform(20, 200)
    if kind < 0.6:
        visit.emit("password_change")
    elif kind < 0.8:
        shopper.address = places.street_address(rng, shopper.place)
        visit.emit("contact_changed", address=shopper.address)
    else:
        shopper.phone = people.make_phone(rng, shopper.place)
        visit.emit("contact_changed", phone=shopper.phone)
    yield rng.uniform(20, 200)
