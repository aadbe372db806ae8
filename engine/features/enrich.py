"""Derived event fields: what can be said of an event alone, before any profile is read.

Money in the base currency, hours in the shopper's zone, network of an address, domain of a mail, one line of a
shipping address. What can't be derived is left out, and named where it was to be expected.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

from engine.codes import CURRENCIES
from engine.errors import PolicyError
from engine.values import Event, Row

DAY_US = 86_400_000_000
STALE_RATE_US = 3 * DAY_US
MICRO = 1_000_000
_MINOR_TO_MICRO: dict[str, int] = {code: 10 ** (6 - digits) for code, digits in CURRENCIES.items()}


FROM: Mapping[str, tuple[str, ...]] = {
    "txn.amount": ("txn.amount_minor", "txn.currency"), "txn.amount_base": ("txn.amount_minor", "txn.currency"),
    "event.utc_hour": (), "event.local_hour": ("event.zone", "event.market"),
    "event.weekday": ("event.zone", "event.market"), "email.domain": ("email.address",),
    "ip.network": ("ip.address",), "address.key": ("address.street", "address.postcode", "address.country"),
    "basket.quantity": ("basket.quantities",),
}  # fmt: skip
"""Derived field → what it is derived from, beside the event's time (`TIMED`)."""
TIMED = frozenset({"txn.amount_base", "event.utc_hour", "event.local_hour", "event.weekday"})
QUARTER_US = 900_000_000
"""Hours and weekdays change on no finer grid."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Exchange rates by date: how much base currency one unit of a currency is worth."""

    base: str
    table: Mapping[str, tuple[tuple[int, Fraction], ...]]
    """Currency → (valid from µs, rate), oldest first."""

    @classmethod
    def from_csv(cls, base: str, path: Path) -> Rates:
        """Read `currency,valid_from,rate`; `PolicyError` names the line of a mistake."""
        rows: dict[str, list[tuple[int, Fraction]]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8-sig") as file:
                for line, row in enumerate(csv.DictReader(file), 2):
                    currency, day, rate = _rate_row(path, line, row)
                    rows.setdefault(currency, []).append((day, rate))
        return cls(base, {currency: tuple(sorted(entries)) for currency, entries in rows.items()})

    def base_micro(self, minor: int, currency: str, at_us: int) -> int | None:
        """Micro-units of base currency, half-even, at the rate valid then; None when it is missing or stale."""
        micro: int = minor * _MINOR_TO_MICRO[currency]
        if currency == self.base:
            return micro
        entries = self.table.get(currency, ())
        place = bisect_right(entries, at_us, key=lambda entry: entry[0])
        if not place or at_us - entries[place - 1][0] > STALE_RATE_US:
            return None
        return round(micro * entries[place - 1][1])


def _rate_row(path: Path, line: int, row: Mapping[str, str | None]) -> tuple[str, int, Fraction]:
    try:
        currency, day, rate = (row[name] or "" for name in ("currency", "valid_from", "rate"))
        if currency not in CURRENCIES:
            raise ValueError(f"{currency!r} is not an ISO 4217 currency")
        start = datetime.fromisoformat(day)
        start = start if start.tzinfo else start.replace(tzinfo=UTC)
        value = Fraction(rate)
        if value <= 0:
            raise ValueError("a rate must be positive")
    except (KeyError, ValueError) as problem:
        raise PolicyError(f"{path}:{line}: {problem}; wanted columns: currency, valid_from, rate") from None
    return currency, int(start.timestamp()) * MICRO, value


def enrich(event: Event, rates: Rates, market_zone: Callable[[str], str]) -> tuple[Row, tuple[str, ...]]:
    """All fields of an event with the derived ones, and the names of sources that failed (`fx:USD`)."""
    row: Row = dict(event.fields)
    row["event.kind"] = event.kind
    missing: tuple[str, ...] = ()
    minor = row.get("txn.amount_minor")
    if minor is not None:
        currency = row["txn.currency"]
        row["txn.amount"] = minor * _MINOR_TO_MICRO[currency] / MICRO
        micro = rates.base_micro(minor, currency, event.time_us)
        if micro is None:
            missing = (f"fx:{currency}",)
        else:
            row["txn.amount_base"] = micro / MICRO
    _add_hours(row, event.time_us, market_zone)
    email = row.get("email.address")
    if email is not None:
        row["email.domain"] = email.rpartition("@")[2].lower()
    address = row.get("ip.address")
    if address is not None:
        row["ip.network"] = network_of(address)
    if "address.street" in row and "address.postcode" in row:
        row["address.key"] = address_key(row["address.street"], row["address.postcode"], row.get("address.country", ""))
    quantities = row.get("basket.quantities")
    if quantities is not None:
        row["basket.quantity"] = sum(quantities)
    return row, missing


def _add_hours(row: Row, time_us: int, market_zone: Callable[[str], str]) -> None:
    seconds = time_us // MICRO
    row["event.utc_hour"] = seconds // 3600 % 24
    zone = row.get("event.zone") or market_zone(row.get("event.market", ""))
    if zone:
        local = seconds + _offset_s(zone, seconds // 900)
        row["event.local_hour"] = local // 3600 % 24
        row["event.weekday"] = (local // 86_400 + 3) % 7


@lru_cache(maxsize=4096)
def _offset_s(zone: str, quarter: int) -> int:
    """Seconds east of UTC in a zone; zones change their offset on quarters of an hour at the finest."""
    offset = datetime.fromtimestamp(quarter * 900, ZoneInfo(zone)).utcoffset()
    return int(offset.total_seconds()) if offset else 0


@lru_cache(maxsize=65_536)
def network_of(address: str) -> str:
    """The /24 of an IPv4 address, the /48 of an IPv6 address."""
    if ":" not in address:
        return address.rpartition(".")[0] + ".0/24"
    head = address.split("::", maxsplit=1)[0].split(":")[:3]
    return ":".join(head) + "::/48"


def address_key(street: str, postcode: str, country: str) -> str:
    """Street, postcode and country in one comparable line: case, punctuation and spaces do not matter."""
    return "|".join(re.sub(r"[\W_]+", "", part.casefold()) for part in (street, postcode, country))
