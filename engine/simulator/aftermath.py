"""After an approved payment: delivery, returns, reviews, and, weeks later, what it turns out to have been."""

from __future__ import annotations

from engine.simulator.catalogue import Item
from engine.simulator.places import WORDS
from engine.simulator.timeline import DAY_S, HOUR_S, Script
from engine.simulator.world import Purchase

_FRAUD_CODES = ("10.4", "4837", "10.4", "4863")
"""Reason codes that card networks give to payments the holder did not make."""


def fulfil(purchase: Purchase) -> Script:
    """Capture, ship, deliver; then what the buyer makes of it."""
    rng = purchase.visit.rng
    purchase.emit("captured")
    if rng.random() < 0.02:
        yield rng.expovariate(1 / (4 * HOUR_S))
        purchase.emit("order_cancelled")
        return
    yield rng.uniform(4, 60) * HOUR_S
    purchase.emit("shipped", address=purchase.address)
    yield rng.uniform(0.8, 5) * DAY_S
    purchase.emit("delivered", address=purchase.address)
    if purchase.visit.intent.label == "good":
        yield from _judge(purchase)


def _judge(purchase: Purchase) -> Script:
    rng, shopper = purchase.visit.rng, purchase.visit.shopper
    let_down = [item for item, _ in purchase.basket if rng.random() < item.fault_rate]
    if let_down:
        yield rng.uniform(0.1, 4) * DAY_S
        if rng.random() < 0.35:
            complain(purchase, let_down[0], rng.choice(("quality", "quality", "delivery", "service")))
        if rng.random() < 0.5:
            yield rng.uniform(0.1, 1) * DAY_S
            yield from refund(purchase, let_down[0], "damaged", comes_back=True)
        if rng.random() < 3 * shopper.reviews:
            _review(purchase, let_down[0], rng.choice((1, 1, 2, 2, 3)))
        return
    sized = any(item.category in ("fashion", "shoes") for item, _ in purchase.basket)
    if rng.random() < shopper.returns * (1.6 if sized else 0.7):
        yield rng.uniform(0.5, 9) * DAY_S
        yield from refund(purchase, purchase.basket[0][0], "wrong_size" if sized else "changed_mind", comes_back=True)
    elif rng.random() < shopper.reviews:
        yield rng.uniform(1, 12) * DAY_S
        _review(purchase, rng.choice(purchase.basket)[0], rng.choice((3, 4, 4, 5, 5, 5)))


def complain(purchase: Purchase, item: Item, reason: str) -> None:
    """The buyer complains now."""
    purchase.emit("complaint", item=item.part, complaint={"reason": reason})


def _review(purchase: Purchase, item: Item, rating: int) -> None:
    """The buyer rates an item now, 1..5."""
    rng, parts = purchase.visit.rng, purchase.parts
    phrases = WORDS["praise"] if rating > 3 else WORDS["blame"]
    text = f"{item.function}: {', '.join(rng.sample(phrases, rng.randint(1, 2)))}"
    purchase.visit.world.emit(
        "review", purchase.absent, item=item.part, merchant=parts["merchant"], payment=parts["payment"],
        review={"rating": rating, "text": text},
    )  # fmt: skip


def refund(purchase: Purchase, item: Item, reason: str, *, comes_back: bool) -> Script:
    """The buyer asks for the money now, on the device of the purchase, and has it days later."""
    visit, rng = purchase.visit, purchase.visit.rng
    why = {"item": item.part, "refund": {"reason": reason}}
    visit.world.emit("refund_requested", visit.head, **purchase.parts, **why)
    yield rng.uniform(0.5, 2) * DAY_S
    if comes_back:
        yield rng.uniform(1, 5) * DAY_S
        purchase.emit("return", **why)
        yield rng.uniform(0.2, 2) * DAY_S
    purchase.emit("refund", **why)


def settle(purchase: Purchase) -> None:
    """Plan what will be learnt of an approved payment; most honest ones are never heard of again."""
    rng, timeline, label = purchase.visit.rng, purchase.visit.world.timeline, purchase.visit.intent.label
    if label == "fraud":
        timeline.start(_fraud(purchase))
    elif label == "abuse":
        if rng.random() < 0.5:
            timeline.start(_known(purchase, "abuse"), rng.uniform(10, 45) * DAY_S)
    elif (chance := rng.random()) < 0.0135:
        timeline.start(_honest(purchase, chance))


def _known(purchase: Purchase, kind: str, code: str | None = None) -> Script:
    """Something is filed now; the shop hears of it a little later."""
    world, filed_us = purchase.visit.world, purchase.visit.world.now_us
    yield purchase.visit.rng.uniform(0.2, 2.5) * DAY_S
    world.learn(kind, purchase, filed_us, code)


def _fraud(purchase: Purchase) -> Script:
    """Fraud: a warning within three weeks for some, a chargeback after two to eight weeks for most."""
    rng = purchase.visit.rng
    charged_back, warned = rng.random() < 0.83, rng.random() < 0.35
    days = 14 + 42 * rng.betavariate(1.6, 2.6)
    code = rng.choice(_FRAUD_CODES)
    early = rng.uniform(2, 12)
    yield early * DAY_S
    if warned:
        purchase.visit.world.timeline.start(_known(purchase, "fraud_warning"))
    if charged_back:
        yield (days - early) * DAY_S
        yield from _known(purchase, "chargeback", code)


def _honest(purchase: Purchase, chance: float) -> Script:
    """Honest payments that are heard of again: praised, disputed, or denied by their own buyer."""
    rng = purchase.visit.rng
    if chance < 0.011:
        yield rng.uniform(5, 30) * DAY_S
        yield from _known(purchase, "confirmed_good")
        return
    if chance < 0.0125:
        yield rng.uniform(10, 25) * DAY_S
        if rng.random() < 0.5:
            complain(purchase, purchase.basket[0][0], "delivery")
        yield rng.uniform(5, 30) * DAY_S
        yield from _known(purchase, "service_dispute", "13.1")
        return
    # friendly fraud arrives as fraud; only part of it is ever put right
    yield rng.uniform(16, 55) * DAY_S
    yield from _known(purchase, "chargeback", rng.choice(_FRAUD_CODES))
    if rng.random() < 0.6:
        yield rng.uniform(8, 25) * DAY_S
        yield from _known(purchase, "friendly_fraud" if rng.random() < 0.6 else "dispute_won")
