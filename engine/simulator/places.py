"""Where people live, and the addresses and networks of those places. All of it is made up or reserved."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """A city."""

    number: int
    country: str
    city: str
    postcode: str
    """Pattern: # is a digit, @ a letter."""
    latitude: float
    longitude: float
    zone: str
    language: str
    currency: str
    calling_code: str
    weight: float
    """Share of shoppers within its country."""


with (Path(__file__).parent / "places.csv").open(newline="", encoding="utf-8") as _table:
    PLACES = tuple(
        Place(number, **row, latitude=float(y), longitude=float(x), weight=float(weight))
        for number, row in enumerate(csv.DictReader(_table))
        for y, x, weight in [(row.pop("latitude"), row.pop("longitude"), row.pop("weight"))]
    )
COUNTRIES = frozenset(place.country for place in PLACES)
WORDS = {
    name: tuple(words.split(", "))
    for name, words in csv.reader((Path(__file__).parent / "words.txt").read_text("utf-8").splitlines(), delimiter=":")
}
"""What made-up people, streets and reviews are called: name of the list → its words."""


def home(rng: Random, markets: tuple[str, ...]) -> Place:
    """A city in one of the markets, larger ones more often."""
    known = [place for place in PLACES if place.country in markets]
    return rng.choices(known, [place.weight for place in known])[0]


def abroad(rng: Random, country: str) -> Place:
    """A city in any other country."""
    return rng.choice([place for place in PLACES if place.country != country])


def street_address(rng: Random, place: Place) -> dict[str, Any]:
    """The `address` part of an event: a house in a city."""
    street = f"{rng.choice(WORDS['streets'])} {rng.choice(WORDS['kinds'])} {rng.randint(1, 160)}"
    postcode = "".join(
        str(rng.randrange(10)) if c == "#" else rng.choice("ABDEFGHJLN") if c == "@" else c for c in place.postcode
    )
    return {"street": street, "city": place.city, "postcode": postcode, "country": place.country}


def parcel_station(rng: Random, place: Place) -> dict[str, Any]:
    """One of a city's few parcel stations, which hundreds of people share as an address."""
    number = rng.randint(1, 8)
    postcode = "".join(str(number) if c == "#" else "P" if c == "@" else c for c in place.postcode)
    return {"street": f"Parcel Station {number}", "city": place.city, "postcode": postcode, "country": place.country}


def position(rng: Random, place: Place) -> dict[str, float]:
    """The `geo` part of an event: within a few kilometres of the city's middle."""
    return {
        "latitude": round(place.latitude + rng.gauss(0, 0.03), 4),
        "longitude": round(place.longitude + rng.gauss(0, 0.04), 4),
    }


def home_network(rng: Random, place: Place) -> dict[str, Any]:
    """The `ip` part of an event from a home's own line."""
    octets = f"{place.number}.{rng.randrange(256)}.{rng.randint(1, 254)}"
    return {"address": f"10.{octets}", "country": place.country}


def mobile_network(rng: Random, place: Place) -> dict[str, Any]:
    """A carrier's address, which hundreds of phones of a country share."""
    return {"address": f"100.{64 + place.number}.{rng.randrange(4)}.{rng.randint(1, 40)}", "country": place.country}


def office_network(place: Place, office: int) -> dict[str, Any]:
    """One office or campus of a city: all who work there come from this address."""
    return {"address": f"198.18.{place.number}.{1 + office % 250}", "country": place.country}


def hotel_network(rng: Random, place: Place) -> dict[str, Any]:
    """A hotel or café of a city."""
    return {"address": f"198.19.{place.number}.{rng.randint(1, 120)}", "country": place.country}


def proxy_network(rng: Random, country: str) -> dict[str, Any]:
    """An exit of a VPN or proxy that shows itself in `country`; lists know two of three exits."""
    block, host = rng.choice(("203.0.113", "192.0.2", "198.51.100")), rng.randint(1, 254)
    return {"address": f"{block}.{host}", "country": country, "proxy": host % 3 != 0}
