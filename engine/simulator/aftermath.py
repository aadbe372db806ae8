"""After an approved payment: delivery, returns, reviews, and, weeks later, what it turns out to have been."""

from __future__ import annotations

from random import Random

from engine.simulator.catalogue import Item
from engine.simulator.people import Part
from engine.simulator.timeline import DAY_S, HOUR_S, Script
from engine.simulator.world import Purchase, World

_PRAISE = ("love it", "very good quality", "fits perfectly", "fast delivery", "would buy again", "great gift")
_BLAME = ("broke after a week", "poor quality", "colour differs", "arrived late", "too small", "missing parts")
FRAUD_CODES = ("10.4", "4837", "10.4", "4863")
"""Reason codes that card networks give to payments the holder did not make."""


def fulfil(world: World, rng: Random, purchase: Purchase) -> Script:
    """Capture, ship, deliver; then what the buyer makes of it."""
    parts = _later(purchase)
    world.emit("captured", parts)
    if rng.random() < 0.02:
        yield rng.expovariate(1 / (4 * HOUR_S))
        world.emit("order_cancelled", parts)
        return
    yield rng.uniform(4, 60) * HOUR_S
    world.emit("shipped", parts, address=purchase.parts["address"])
    yield rng.uniform(0.8, 5) * DAY_S
    world.emit("delivered", parts, address=purchase.parts["address"])
    if purchase.intent.label == "good":
        yield from _judge(world, rng, purchase)


def _later(purchase: Purchase) -> Part:
    """Parts of an event that happens without the buyer: no device, no network."""
    head = {name: part for name, part in purchase.head.items() if name in ("user", "event")}
    return {**head, **{k: v for k, v in purchase.parts.items() if k != "address"}}


def _judge(world: World, rng: Random, purchase: Purchase) -> Script:
    shopper = purchase.shopper
    let_down = [item for item, _ in purchase.basket if rng.random() < item.fault_rate]
    if let_down:
        yield rng.uniform(0.1, 4) * DAY_S
        if rng.random() < 0.35:
            complain(world, purchase, let_down[0], rng.choice(("quality", "quality", "delivery", "service")))
        if rng.random() < 0.5:
            yield rng.uniform(0.1, 1) * DAY_S
            yield from refund(world, rng, purchase, purchase.head, let_down[0], "damaged", comes_back=True)
        if rng.random() < 3 * shopper.reviews:
            review(world, rng, purchase, let_down[0], rng.choice((1, 1, 2, 2, 3)))
        return
    sized = any(item.category in ("fashion", "shoes") for item, _ in purchase.basket)
    if rng.random() < shopper.returns * (1.6 if sized else 0.7):
        yield rng.uniform(0.5, 9) * DAY_S
        reason = "wrong_size" if sized else "changed_mind"
        item = purchase.basket[0][0]
        yield from refund(world, rng, purchase, purchase.head, item, reason, comes_back=True)
    elif rng.random() < shopper.reviews:
        yield rng.uniform(1, 12) * DAY_S
        review(world, rng, purchase, rng.choice(purchase.basket)[0], rng.choice((3, 4, 4, 5, 5, 5)))


def complain(world: World, purchase: Purchase, item: Item, reason: str) -> None:
    """The buyer complains now."""
    world.emit("complaint", _later(purchase), item=item.part, complaint={"reason": reason})


def review(world: World, rng: Random, purchase: Purchase, item: Item, rating: int) -> None:
    """The buyer rates an item now, 1..5."""
    phrases = _PRAISE if rating > 3 else _BLAME
    text = f"{item.function}: {', '.join(rng.sample(phrases, rng.randint(1, 2)))}"
    head = {name: part for name, part in purchase.head.items() if name in ("user", "event")}
    world.emit(
        "review", head, item=item.part, merchant=purchase.parts["merchant"], payment=purchase.parts["payment"],
        review={"rating": rating, "text": text},
    )  # fmt: skip


def refund(
    world: World, rng: Random, purchase: Purchase, head: Part, item: Item, reason: str, *, comes_back: bool
) -> Script:
    """The buyer asks for the money now, on the device of `head`, and has it days later."""
    parts = {**head, **{k: v for k, v in purchase.parts.items() if k != "address"}}
    world.emit("refund_requested", parts, item=item.part, refund={"reason": reason})
    yield rng.uniform(0.5, 2) * DAY_S
    later = _later(purchase)
    if comes_back:
        yield rng.uniform(1, 5) * DAY_S
        world.emit("return", later, item=item.part, refund={"reason": reason})
        yield rng.uniform(0.2, 2) * DAY_S
    world.emit("refund", later, item=item.part, refund={"reason": reason})


def settle(world: World, rng: Random, purchase: Purchase) -> None:
    """Plan what will be learnt of an approved payment; most honest ones are never heard of again."""
    label = purchase.intent.label
    if label == "fraud":
        world.timeline.start(_fraud(world, rng, purchase))
    elif label == "abuse":
        if rng.random() < 0.5:
            world.timeline.start(_known(world, rng, purchase, "abuse"), rng.uniform(10, 45) * DAY_S)
    elif (chance := rng.random()) < 0.0135:
        world.timeline.start(_honest(world, rng, purchase, chance))


def _known(world: World, rng: Random, purchase: Purchase, kind: str, code: str | None = None) -> Script:
    """Something is filed now; the shop hears of it a little later."""
    filed_us = world.now_us
    yield rng.uniform(0.2, 2.5) * DAY_S
    world.learn(kind, purchase, filed_us, code)


def _fraud(world: World, rng: Random, purchase: Purchase) -> Script:
    """Fraud: a warning within three weeks for some, a chargeback after two to eight weeks for most."""
    charged_back, warned = rng.random() < 0.83, rng.random() < 0.35
    days = 14 + 42 * rng.betavariate(1.6, 2.6)
    code = rng.choice(FRAUD_CODES)
    early = rng.uniform(2, 12)
    yield early * DAY_S
    if warned:
        world.timeline.start(_known(world, rng, purchase, "fraud_warning"))
    if charged_back:
        yield (days - early) * DAY_S
        yield from _known(world, rng, purchase, "chargeback", code)


def _honest(world: World, rng: Random, purchase: Purchase, chance: float) -> Script:
    """Honest payments that are heard of again: praised, disputed, or denied by their own buyer."""
    if chance < 0.011:
        yield rng.uniform(5, 30) * DAY_S
        yield from _known(world, rng, purchase, "confirmed_good")
        return
    if chance < 0.0125:
        yield rng.uniform(10, 25) * DAY_S
        if rng.random() < 0.5:
            complain(world, purchase, purchase.basket[0][0], "delivery")
        yield rng.uniform(5, 30) * DAY_S
        yield from _known(world, rng, purchase, "service_dispute", "13.1")
        return
    # friendly fraud arrives as fraud; only part of it is ever put right
    yield rng.uniform(16, 55) * DAY_S
    yield from _known(world, rng, purchase, "chargeback", rng.choice(FRAUD_CODES))
    if rng.random() < 0.6:
        yield rng.uniform(8, 25) * DAY_S
        kind = "friendly_fraud" if rng.random() < 0.6 else "dispute_won"
        yield from _known(world, rng, purchase, kind)
