"""Shoppers with their habits, and the things they carry: devices, cards, addresses, networks.

Fraudsters' accounts are made by the same functions, so nothing in a document's shape tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from engine.simulator import places
from engine.simulator.catalogue import Tastes
from engine.simulator.places import WORDS, Place

Part = dict[str, Any]
"""One nested part of an event document. Shared between documents: never changed, only replaced."""

_MAIL = ("example.com", "example.org", "example.net", "mail.example")
_THROW_AWAY = "tempbox.example"
_LETTERS = str.maketrans("0123456789", "ghjkmnpqrs")
# type, system, channel, weight
_DEVICES = (
    ("phone", "android", "app", 34), ("phone", "ios", "app", 30), ("desktop", "windows", "web", 20),
    ("desktop", "macos", "web", 9), ("tablet", "ios", "web", 7),
)  # fmt: skip
_CARD_TYPES = ("credit", "debit", "debit", "credit", "prepaid")
_CONSENTS = (("marketing", 0.55), ("personalise", 0.8), ("profiling", 0.7))
_AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")


@dataclass(frozen=True, slots=True)
class Device:
    """A device, and the way its owner comes to the shop with it."""

    part: Part
    channel: str


@dataclass(slots=True)
class Shopper:
    """One person, as they are. What a field says may change in a life: moving house, a new phone."""

    number: int
    place: Place
    user: Part | None
    """None for someone who always buys as a guest."""
    created_us: int
    email: Part
    phone: Part
    address: Part
    devices: list[Device]
    cards: list[Part]
    home_ip: Part
    tastes: Tastes
    currency: str
    office_ip: Part | None = None
    known: bool = False
    """Whether the account exists in the shop already."""
    peak_hour: float = 19.0
    spread_hours: float = 2.5
    gap_days: float = 7.0
    """Mean days between two sessions."""
    buys: float = 0.4
    """Share of sessions that end in a payment."""
    budget: float = 60.0
    """Median of a basket, EUR."""
    budget_spread: float = 0.5
    gifts: float = 0.05
    returns: float = 0.06
    reviews: float = 0.12
    coupons: float = 0.1
    vpn: float = 0.0
    forgets: float = 0.03
    """Share of sessions on which the device can't be recognised (private window, cleared cookies)."""
    ships_to: Part | None = None
    """Where parcels go instead of home: a parcel station, the place of work."""
    friends: list[Part] = field(default_factory=list)
    """Addresses that gifts have gone to."""
    trip: tuple[int, Place] | None = None
    """Away until a time (µs), at a place."""
    consent: Part = field(default_factory=dict)
    oddities: frozenset[str] = frozenset()
    """What is lastingly unusual about them, and honest."""


def token(rng: Random, prefix: str) -> str:
    """An opaque id of letters only: a run of digits could look like a card number."""
    return prefix + format(rng.getrandbits(56), "014x").translate(_LETTERS)


def make_device(rng: Random) -> Device:
    """A device of a common kind."""
    kind, system, channel, _ = rng.choices(_DEVICES, [row[3] for row in _DEVICES])[0]
    way = channel if rng.random() < 0.7 else "web"
    return Device({"id": token(rng, "d-"), "type": kind, "os": system}, way)


def make_card(rng: Random, country: str, bin_: str | None = None) -> Part:
    """A card issued in a country: a token, never a number. About 12 banks a country."""
    bank = rng.randrange(12)
    issued = sum(ord(c) * 7**i for i, c in enumerate(country)) % 80 + 10
    return {
        "token": token(rng, "tok_"), "bin": bin_ or f"9{issued}{bank:03d}", "last4": f"{rng.randrange(10_000):04d}",
        "expiry": f"{rng.randint(2027, 2031)}-{rng.randint(1, 12):02d}", "country": country,
        "type": _CARD_TYPES[bank % len(_CARD_TYPES)],
    }  # fmt: skip


def make_email(rng: Random, *, disposable: bool) -> Part:
    """An address; a throw-away one says so."""
    local = f"{rng.choice(WORDS['first'])}.{rng.choice(WORDS['last'])}{rng.randrange(10_000)}"
    domain = _THROW_AWAY if disposable else rng.choice(_MAIL)
    return {"address": f"{local}@{domain}", "disposable": disposable}


def make_phone(rng: Random, place: Place) -> Part:
    """A number in E.164 of at most 12 digits."""
    return {"number": f"+{place.calling_code}555{rng.randrange(10**6):06d}"}


def make_shopper(
    rng: Random, number: int, place: Place, tastes: Tastes, created: tuple[int, str], currencies: Sequence[str]
) -> Shopper:
    """A person with an ordinary life; `created` is when the account is opened (µs, and written)."""
    user = {
        "id": f"u-{number:07d}", "account_created": created[1], "age_band": rng.choice(_AGES),
        "sex": rng.choice(("f", "m")), "language": place.language,
    }  # fmt: skip
    return Shopper(
        number, place, user, created[0],
        email=make_email(rng, disposable=rng.random() < 0.03), phone=make_phone(rng, place),
        address=places.street_address(rng, place),
        devices=[make_device(rng) for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0])],
        cards=[make_card(rng, place.country) for _ in range(rng.choices((1, 2), (7, 3))[0])],
        home_ip=places.home_network(rng, place), tastes=tastes,
        currency=place.currency if place.currency in currencies else currencies[0],
        consent={name: rng.random() < share for name, share in _CONSENTS},
    )  # fmt: skip


def form_habits(rng: Random, shopper: Shopper, offices: int) -> None:
    """Give a shopper habits, most of them common, some odd and honest."""
    odd = set()
    shopper.peak_hour, shopper.spread_hours = rng.gauss(18.5, 3.0), rng.uniform(1.2, 4.0)
    shopper.buys = rng.betavariate(5, 7)
    shopper.budget, shopper.budget_spread = rng.lognormvariate(4.1, 0.5), rng.uniform(0.3, 0.7)
    shopper.gifts, shopper.returns = rng.betavariate(1, 14), rng.betavariate(1.2, 14)
    shopper.reviews, shopper.coupons = rng.betavariate(1, 7), rng.betavariate(1, 8)
    if rng.random() < 0.3:
        # a few offices and a campus of each city hold most people
        shopper.office_ip = places.office_network(shopper.place, int(offices * rng.random() ** 2))
    if rng.random() < 0.25:
        to_work = rng.random() < 0.4
        shopper.ships_to = (places.street_address if to_work else places.parcel_station)(rng, shopper.place)
    shopper.forgets = rng.betavariate(1, 12) if rng.random() < 0.96 else 1.0
    if shopper.forgets == 1.0:
        odd.add("private_browser")
    if rng.random() < 0.06:
        shopper.peak_hour, shopper.spread_hours = rng.gauss(2, 1.5) % 24, 1.5
        odd.add("night_owl")
    if rng.random() < 0.03:
        shopper.budget *= 4
        odd.add("big_spender")
    if rng.random() < 0.015:
        # an office's errands: dear, often, to many addresses, on several cards
        shopper.gap_days, shopper.gifts, shopper.budget = shopper.gap_days / 4, 0.7, shopper.budget * 1.5
        shopper.cards = [make_card(rng, shopper.place.country) for _ in range(rng.randint(2, 5))]
        odd.add("small_business")
    if rng.random() < 0.06:
        shopper.vpn = rng.uniform(0.3, 1.0)
    if rng.random() < 0.04:
        shopper.cards = [make_card(rng, places.abroad(rng, shopper.place.country).country)]
        odd.add("card_from_abroad")
    if rng.random() < 0.01:
        shopper.returns = rng.uniform(0.3, 0.5)
        odd.add("returns_much")
    if rng.random() < 0.08:
        shopper.user = None
        odd.add("guest")
    shopper.oddities = frozenset(odd)


def join_household(rng: Random, shopper: Shopper, other: Shopper) -> None:
    """Let a shopper live with another: one address and line, perhaps one device, perhaps one card."""
    odd = {"family"}
    shopper.place, shopper.address, shopper.home_ip = other.place, other.address, other.home_ip
    shopper.currency = other.currency
    if rng.random() < 0.5:
        shopper.devices = [other.devices[0], *shopper.devices[1:]]
        odd.add("family_device")
    if rng.random() < 0.45:
        shopper.cards = [other.cards[0], *shopper.cards[1:]]
        odd.add("family_card")
    shopper.oddities |= odd
