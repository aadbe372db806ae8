"""Where people live, and the addresses and networks of those places. All of it is made up or reserved."""

from __future__ import annotations

from dataclasses import dataclass
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


def _places(text: str) -> tuple[Place, ...]:
    rows = [line.split("|") for line in text.strip().splitlines()]
    return tuple(
        Place(i, r[0], r[1], r[2], float(r[3]), float(r[4]), r[5], r[6], r[7], r[8], float(r[9]))
        for i, r in enumerate(rows)
    )


PLACES = _places("""
DE|Berlin|1####|52.52|13.40|Europe/Berlin|de-DE|EUR|49|9
DE|Hamburg|2####|53.55|9.99|Europe/Berlin|de-DE|EUR|49|6
DE|Leipzig|04###|51.34|12.37|Europe/Berlin|de-DE|EUR|49|5
DE|Munich|80###|48.14|11.58|Europe/Berlin|de-DE|EUR|49|6
AT|Vienna|1##0|48.21|16.37|Europe/Vienna|de-AT|EUR|43|4
FR|Paris|750##|48.86|2.35|Europe/Paris|fr-FR|EUR|33|7
FR|Lyon|690##|45.76|4.84|Europe/Paris|fr-FR|EUR|33|4
NL|Amsterdam|10## @@|52.37|4.90|Europe/Amsterdam|nl-NL|EUR|31|4
NL|Utrecht|35## @@|52.09|5.12|Europe/Amsterdam|nl-NL|EUR|31|3
IT|Milan|201##|45.46|9.19|Europe/Rome|it-IT|EUR|39|5
IT|Bologna|401##|44.49|11.34|Europe/Rome|it-IT|EUR|39|3
ES|Madrid|280##|40.42|-3.70|Europe/Madrid|es-ES|EUR|34|5
ES|Valencia|460##|39.47|-0.38|Europe/Madrid|es-ES|EUR|34|3
GB|London|E# #@@|51.51|-0.13|Europe/London|en-GB|GBP|44|6
GB|Leeds|LS# #@@|53.80|-1.55|Europe/London|en-GB|GBP|44|3
US|New York|100##|40.71|-74.01|America/New_York|en-US|USD|1|5
US|Denver|802##|39.74|-104.99|America/Denver|en-US|USD|1|3
US|Seattle|981##|47.61|-122.33|America/Los_Angeles|en-US|USD|1|3
BE|Ghent|90##|51.05|3.72|Europe/Brussels|nl-BE|EUR|32|3
PL|Krakow|30-###|50.06|19.94|Europe/Warsaw|pl-PL|PLN|48|3
PT|Porto|4###-###|41.15|-8.61|Europe/Lisbon|pt-PT|EUR|351|2
SE|Gothenburg|41# ##|57.71|11.97|Europe/Stockholm|sv-SE|SEK|46|2
CA|Toronto|M#@ #@#|43.65|-79.38|America/Toronto|en-CA|CAD|1|2
BR|Recife|50###-###|-8.05|-34.88|America/Recife|pt-BR|BRL|55|2
JP|Osaka|53#-####|34.69|135.50|Asia/Tokyo|ja-JP|JPY|81|2
IN|Pune|4110##|18.52|73.86|Asia/Kolkata|en-IN|INR|91|2
""")
COUNTRIES = frozenset(place.country for place in PLACES)

_STREETS = (
    "Linden", "Station", "Garden", "Mill", "Church", "School", "Forest", "Lake", "Market", "Castle", "Bridge", "Meadow",
    "Harbour", "Orchard", "Hill", "River", "Chapel", "Cedar", "Maple", "Birch", "Rose", "Tower", "Quarry", "Willow",
)  # fmt: skip
_KINDS = ("Street", "Lane", "Road", "Way", "Row", "Square")


def home(rng: Random, markets: tuple[str, ...]) -> Place:
    """A city in one of the markets, larger ones more often."""
    known = [place for place in PLACES if place.country in markets]
    return rng.choices(known, [place.weight for place in known])[0]


def abroad(rng: Random, country: str) -> Place:
    """A city in any other country."""
    return rng.choice([place for place in PLACES if place.country != country])


def street_address(rng: Random, place: Place) -> dict[str, Any]:
    """The `address` part of an event: a house in a city."""
    street = f"{rng.choice(_STREETS)} {rng.choice(_KINDS)} {rng.randint(1, 160)}"
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
