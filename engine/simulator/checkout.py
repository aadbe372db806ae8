"""Paying: what the checkout asks, what the issuer answers, and what that sets off."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from random import Random

from engine.simulator.aftermath import fulfil, settle
from engine.simulator.people import Part
from engine.simulator.world import PRICE_LEVELS, Basket, Purchase, Visit

_CODES = ("51", "05", "54", "14", "61", "62")
_AVS = ("match", "partial", "mismatch", "unavailable")
_THREE_DS = ("authenticated", "attempted", "failed", "not_enrolled")


@dataclass(frozen=True, slots=True)
class Issuer:
    """How a card's bank answers, as shares: it knows a little more than the shop, and is often wrong."""

    declines: float
    codes: tuple[float, ...] = (60, 20, 8, 4, 5, 3)
    """Weights of not enough money, do not honour, expired, no such card, over limit, restricted."""
    cvv_wrong: float = 0.012
    avs: tuple[float, ...] = (80, 8, 4, 8)
    three_ds: tuple[float, ...] = (45, 8, 1, 46)


GENUINE = Issuer(0.045)
STOLEN = Issuer(0.15, (30, 42, 3, 2, 10, 13), cvv_wrong=0.04, avs=(55, 14, 18, 13), three_ds=(10, 12, 5, 73))
TESTED = Issuer(0.6, (15, 35, 15, 30, 2, 3), cvv_wrong=0.3, avs=(30, 10, 35, 25), three_ds=(1, 6, 6, 87))
TAKEN_OVER = Issuer(0.06, avs=(78, 8, 6, 8), three_ds=(10, 16, 4, 70))


def total_minor(basket: Basket, currency: str, off: float = 0.0) -> int:
    """Price of a basket in minor units of a currency, less a share of it."""
    cents = sum(item.price_minor * pieces for item, pieces in basket)
    return max(100, round(cents * PRICE_LEVELS[currency] * (1 - off)))


def pay(
    visit: Visit, basket: Basket, card: Part | None, address: Part, issuer: Issuer = GENUINE, *,
    billing: Part | None = None, email: Part | None = None, coupon: tuple[str, float] | None = None,
    payment_id: str | None = None, oddities: tuple[str, ...] = (),
) -> Generator[float, None, Purchase | None]:  # fmt: skip
    """Ask for a payment and wait for the issuer; returns the purchase when it was approved.

    `coupon` is a code and the share it takes off. A second try with another card keeps its `payment_id`.
    """
    world, rng, shopper = visit.world, visit.rng, visit.shopper
    off = coupon[1] if coupon else 0.0
    method = "transfer" if card is None else "wallet" if rng.random() < 0.12 else "card"
    parts: Part = {
        "payment": {"id": payment_id or world.payment_id(), "method": method},
        "txn": {"amount_minor": total_minor(basket, shopper.currency, off), "currency": shopper.currency},
        "merchant": {"id": basket[0][0].seller},
        "email": email or shopper.email,
        "address": address,
    }
    if card is not None:
        parts["card"] = card
    more: Part = {"basket": _lines(basket), "phone": shopper.phone, "billing": billing or billed_to(shopper.address)}
    if coupon:
        more["coupon"] = coupon_part(coupon, basket)
    event_id = visit.emit("payment", **parts, **more)
    later = {name: part for name, part in parts.items() if name != "address"}
    purchase = Purchase(visit, event_id, later, address, basket)
    world.tell(purchase, (*visit.oddities, *oddities))
    yield rng.uniform(0.6, 4.0)
    result = _answer(rng, issuer, card)
    world.emit("payment_result", visit.head, **parts, result=result)
    if result["status"] == "declined":
        return None
    world.timeline.start(fulfil(purchase), rng.expovariate(1 / 900))
    settle(purchase)
    return purchase


def coupon_part(coupon: tuple[str, float], basket: Basket) -> Part:
    """The `coupon` part: a code, and what it takes off the basket in EUR."""
    return {"code": coupon[0], "value_base": round(coupon[1] * total_minor(basket, "EUR") / 100, 2)}


def _answer(rng: Random, issuer: Issuer, card: Part | None) -> Part:
    """The issuer's `result`; a transfer has no issuer and always comes in."""
    if card is None:
        return {"status": "approved", "code": "00"}
    wrong = rng.random() < issuer.cvv_wrong
    declined = rng.random() < (0.85 if wrong else issuer.declines)
    return {
        "status": "declined" if declined else "approved",
        "code": ("82" if wrong else rng.choices(_CODES, issuer.codes)[0]) if declined else "00",
        "avs": rng.choices(_AVS, issuer.avs)[0],
        "cvv": "mismatch" if wrong else "match",
        "three_ds": rng.choices(_THREE_DS, issuer.three_ds)[0],
    }


def _lines(basket: Basket) -> Part:
    return {
        "items": [item.id for item, _ in basket],
        "categories": [item.category for item, _ in basket],
        "quantities": [pieces for _, pieces in basket],
    }


def billed_to(address: Part) -> Part:
    """The `billing` part for a card holder's address."""
    return {"country": address["country"], "postcode": address["postcode"]}
