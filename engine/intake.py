"""From an event document to an `Event`: every wrong field is found at once, and nothing unchecked goes further.

A document is a JSON object, nested or dotted, with `id`, `kind`, `time` and the fields of `engine/schema.py`. gRPC,
the command line, imports and rule tests all come through here, so all refuse the same things in the same words.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
import zoneinfo
from collections.abc import Callable, Mapping
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NoReturn

import orjson

from engine.codes import CHARGEBACKS, COUNTRIES, CURRENCIES
from engine.errors import InvalidInput, Violation
from engine.schema import DERIVED, FIELDS, KINDS, OUTCOMES, Field
from engine.values import Event

MAX_TEXT = 256
MAX_FREE_TEXT = 4_000
MAX_ATTRIBUTES = 64
MAX_LINES = 2_000
MAX_MINOR = 10**12
"""Largest amount in minor units: ten thousand million of a two-digit currency; sums stay inside int64."""
FUTURE_LIMIT_US = 24 * 3_600_000_000
EARLIEST_US = 946_684_800_000_000
"""2000-01-01: an older event time is a unit mistake (seconds or milliseconds for microseconds)."""

_PLAIN = frozenset({str, int, float, bool, list, type(None)})
"""Types that are no mapping, known without the slow question."""
SHORTEST_CARD = 13
"""Digits of the shortest card number; a text that is shorter holds none."""
_LIKE_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ID = re.compile(r"[!-~\u00a1-\ud7ff\ue000-\U0010ffff]{1,128}")
_FREE_TEXT = frozenset({"review.text", "search.query", "refund.reason"})
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "email.address": (_ADDRESS, "is not an email address"),
    "phone.number": (re.compile(r"\+[1-9]\d{6,14}"), "is not in E.164 form, such as +4930123456"),
    "card.bin": (re.compile(r"\d{6}(\d\d)?"), "must be the first six or eight digits"),
    "card.last4": (re.compile(r"\d{4}"), "must be four digits"),
    "card.expiry": (re.compile(r"20\d\d-(0[1-9]|1[0-2])"), "must be YYYY-MM"),
    "user.language": (re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*"), "is not a BCP 47 language tag"),
}
RANGES = {
    "geo.latitude": (-90.0, 90.0), "geo.longitude": (-180.0, 180.0), "txn.amount_minor": (0, MAX_MINOR),
    "review.rating": (1, 5), "page.seconds": (0.0, 86_400.0), "coupon.value_base": (0.0, 1e9),
}  # fmt: skip
"""Field → least and largest value that is taken in."""
_BASKET = ("basket.items", "basket.categories", "basket.quantities")
_ISO_COUNTRY = frozenset(name for name in FIELDS if name.endswith(".country")) | {"event.market"}


def read_event(document: Mapping[str, Any], *, now_us: int) -> Event:
    """Check a document and freeze it; raises `InvalidInput` with every violation, never echoing a value."""
    flat = flatten(document)
    wrong: list[Violation] = []
    event_id = _checked("id", flat.pop("id", None), _identifier, wrong)
    kind = _checked("kind", flat.pop("kind", None), _kind, wrong)
    time_us = _read_time(flat, wrong, now_us)
    fields: dict[str, Any] = {}
    for name, value in flat.items():
        check = _CHECKS.get(name)
        if check is None:
            wrong.append(Violation(_printable(name), _unknown_field(name)))
        elif value is not None:
            try:
                fields[name] = check(value)
            except ValueError as problem:
                wrong.append(Violation(name, str(problem)))
    if not wrong:
        _check_together(fields, wrong)
    if kind == "payment":
        fields.setdefault("event.stage", "checkout")
    _refuse_card_numbers(event_id, fields, wrong)
    if wrong:
        raise InvalidInput(wrong)
    assert event_id is not None
    assert kind is not None
    return event_from_fields(event_id, kind, time_us, fields)


def event_from_fields(event_id: str, kind: str, time_us: int, fields: Mapping[str, Any]) -> Event:
    """An event of checked parts, with its canonical body and digest."""
    body = orjson.dumps([event_id, kind, time_us, fields], option=orjson.OPT_SORT_KEYS)
    return Event(event_id, kind, time_us, fields, body, hashlib.blake2b(body, digest_size=16).digest())


def event_from_body(body: bytes) -> Event:
    """An event from its canonical body."""
    event_id, kind, time_us, fields = orjson.loads(body)
    return event_from_fields(event_id, kind, time_us, fields)


def read_outcome(document: Mapping[str, Any], *, now_us: int) -> dict[str, Any]:
    """Check an outcome document {id, kind, event_id, time, code?, amount_minor?, currency?, known_at?}.

    Returns the same names with `time_us` and, where stated, `known_us`; raises `InvalidInput`. A chargeback whose code
    is not about fraud is a service dispute, with `told` naming what it was told as.
    """
    flat, wrong = dict(document), list[Violation]()
    result: dict[str, Any] = {
        "id": _checked("id", flat.pop("id", None), _identifier, wrong),
        "event_id": _checked("event_id", flat.pop("event_id", None), _identifier, wrong),
        "kind": _checked("kind", flat.pop("kind", None), _outcome_kind, wrong),
        "time_us": _read_time(flat, wrong, now_us),
    }
    if "known_at" in flat:
        result["known_us"] = _checked("known_at", flat.pop("known_at"), timestamp_us, wrong)
        if result["known_us"] is not None and result["known_us"] < result["time_us"]:
            wrong.append(Violation("known_at", "lies before the outcome's own time"))
    checks = {"code": _text, "amount_minor": _CHECKS["txn.amount_minor"], "currency": _CHECKS["txn.currency"]}
    for name, value in flat.items():
        if name not in checks:
            wrong.append(Violation(_printable(name), "is not a field of an outcome"))
        elif value is not None:
            result[name] = _checked(name, value, checks[name], wrong)
    if ("amount_minor" in result) != ("currency" in result):
        wrong.append(Violation("amount_minor", "an amount needs a currency, and a currency an amount"))
    _refuse_card_numbers("", {k: v for k, v in result.items() if isinstance(v, str)}, wrong)
    if wrong:
        raise InvalidInput(wrong)
    kind = CHARGEBACKS.get(str(result.get("code", "")).upper(), "chargeback")
    return result | {"kind": kind, "told": "chargeback"} if result["kind"] == "chargeback" != kind else result


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Nested or dotted names → dotted names; `attributes` stays a map."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if type(value) not in _PLAIN and isinstance(value, Mapping) and name != "attributes":
            flat.update({f"{name}.{inner}": v for inner, v in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def timestamp_us(value: object) -> int:
    """RFC 3339 text or aware datetime → µs; ValueError without a zone, or finer than a microsecond."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            _fail("is not an RFC 3339 time such as 2026-11-24T10:00:00Z")
    if not isinstance(value, datetime):
        _fail("must be an RFC 3339 time such as 2026-11-24T10:00:00Z")
    if value.tzinfo is None:
        _fail("has no time zone; add Z or an offset")
    whole, micros = divmod(value.timestamp(), 1)
    return int(whole) * 1_000_000 + value.microsecond if micros or value.microsecond else int(whole) * 1_000_000


def passes_luhn(digits: str) -> bool:
    """Whether a string of digits has a valid Luhn check digit, as every card number has."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _check_together(fields: Mapping[str, Any], wrong: list[Violation]) -> None:
    """Fields that mean something only together."""
    if ("txn.amount_minor" in fields) != ("txn.currency" in fields):
        wrong.append(Violation("txn", "an amount needs a currency, and a currency an amount"))
    lines = {len(fields[name]) for name in _BASKET if name in fields}
    if len(lines) > 1:
        wrong.append(Violation("basket", "items, categories and quantities must have one entry for each line"))


def _fail(reason: str) -> NoReturn:
    raise ValueError(reason)


def _checked(name: str, value: Any, check: Callable[[Any], Any], wrong: list[Violation]) -> Any:
    try:
        return check(value)
    except ValueError as problem:
        wrong.append(Violation(name, str(problem)))
        return None


def _read_time(flat: dict[str, Any], wrong: list[Violation], now_us: int) -> int:
    given = flat.pop("time_us", None)
    try:
        time_us = given if isinstance(given, int) else timestamp_us(flat.pop("time", None))
        if time_us > now_us + FUTURE_LIMIT_US:
            _fail("is more than 24 hours in the future")
        if time_us < EARLIEST_US:
            _fail("is before the year 2000; is it in the right unit?")
    except ValueError as problem:
        wrong.append(Violation("time", str(problem)))
        return 0
    return time_us


def _moment(value: object) -> int:
    """A time of the past or near future: RFC 3339 text, or µs from a caller that has read it already."""
    time_us = value if isinstance(value, int) and not isinstance(value, bool) else timestamp_us(value)
    if not 0 <= time_us < 4_102_444_800_000_000:
        _fail("must lie between 1970 and 2100")
    return time_us


def _identifier(value: object) -> str:
    if not isinstance(value, str) or not value:
        _fail("is required: 1 to 128 printable characters without spaces")
    if not _ID.fullmatch(value):
        _fail("must be 1 to 128 printable characters without spaces")
    return value


def _kind(value: object) -> str:
    if value not in KINDS:
        _fail("is required: one of " + ", ".join(KINDS))
    return str(value)


def _outcome_kind(value: object) -> str:
    if value not in OUTCOMES:
        _fail("is required: one of " + ", ".join(OUTCOMES))
    return str(value)


def _text(value: object, limit: int = MAX_TEXT) -> str:
    if not isinstance(value, str):
        _fail("must be text")
    value = value.strip()
    if not value:
        _fail("is empty; leave it out instead")
    if len(value) > limit:
        _fail(f"is longer than {limit} characters")
    if not value.isprintable() and _CONTROL.search(value):
        _fail("holds control characters or invalid UTF-8")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _fail("must be a whole number")
    if not -(2**63) <= value < 2**63:
        _fail("does not fit in 64 bits")
    return value


def _double(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        _fail("must be a number")
    if not math.isfinite(value):
        _fail("must be finite")
    return float(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        _fail("must be true or false")
    return value


def _list_of(check: Callable[[Any], Any]) -> Callable[[object], list[Any]]:
    def checked(value: object) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            _fail("must be a list")
        if not value:
            _fail("is empty; leave it out instead")
        if len(value) > MAX_LINES:
            _fail(f"has more than {MAX_LINES} lines")
        return [check(line) for line in value]

    return checked


def _attributes(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        _fail("must be a map of texts")
    if not value:
        _fail("is empty; leave it out instead")
    if len(value) > MAX_ATTRIBUTES:
        _fail(f"has {len(value)} entries; at most {MAX_ATTRIBUTES} are taken")
    return {_text(name, 64): _text(text) for name, text in value.items()}


@lru_cache(maxsize=65_536)
def _ip(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("is not an IPv4 or IPv6 address") from None


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _special(name: str) -> Callable[[str], str] | None:
    """The extra check of one text field, after it is known to be a text."""
    if name == "ip.address":
        return _ip
    if name == "event.zone":
        return lambda v: v if v in _zones() else _fail("is not an IANA time zone such as Europe/Berlin")
    if name == "txn.currency":
        return lambda v: v if v in CURRENCIES else _fail("is not an ISO 4217 currency")
    if name in _ISO_COUNTRY:
        return lambda v: v if v in COUNTRIES else _fail("is not an ISO 3166 alpha-2 code")
    if name in _SHAPES:
        pattern, reason = _SHAPES[name]
        return lambda v: v if pattern.fullmatch(v) else _fail(reason)
    return None


def _string_check(field: Field) -> Callable[[Any], Any]:
    if field.choices:
        allowed = dict.fromkeys(field.choices)
        return lambda v: v if isinstance(v, str) and v in allowed else _fail("must be one of " + ", ".join(allowed))
    if field.name.endswith(".id") or field.name in {"card.token", "payment.retry_of"}:
        return _identifier
    limit = MAX_FREE_TEXT if field.name in _FREE_TEXT else MAX_TEXT
    special = _special(field.name)
    return (lambda v: special(_text(v, limit))) if special else (lambda v: _text(v, limit))


def _ranged(check: Callable[[object], Any], name: str) -> Callable[[Any], Any]:
    if name not in RANGES:
        return check
    low, high = RANGES[name]
    return lambda v: n if low <= (n := check(v)) <= high else _fail(f"must be between {low} and {high}")


def _check_for(field: Field) -> Callable[[Any], Any]:
    if field.derived:
        return lambda _: _fail("is computed by Arbiter; leave it out")
    simple: dict[str, Callable[[Any], Any]] = {
        "int": _integer, "double": _double, "bool": _boolean, "map(string, string)": _attributes,
        "list(string)": _list_of(_text), "list(int)": _list_of(_integer),
        "timestamp": _moment,
    }  # fmt: skip
    return _string_check(field) if field.type == "string" else _ranged(simple[field.type], field.name)


def _unknown_field(name: str) -> str:
    close = get_close_matches(name, FIELDS.keys() - DERIVED, 1)
    return "is not a field of an event" + (f"; did you mean {close[0]}?" if close else "; use attributes for the rest")


def _printable(name: str) -> str:
    """A name that came from outside, safe to show: digits masked, cut."""
    return re.sub(r"\d", "#", _CONTROL.sub("?", str(name)))[:64]


def _refuse_card_numbers(event_id: str | None, fields: Mapping[str, Any], wrong: list[Violation]) -> None:
    """Refuse any text that holds 13..19 digits with a valid check digit; the text itself is never shown."""
    texts = [event_id or ""]
    for value in fields.values():
        if type(value) is str:
            if len(value) >= SHORTEST_CARD:
                texts.append(value)
        elif type(value) is dict:
            texts += [*value, *value.values()]
        elif type(value) is list and value and type(value[0]) is str:
            texts += value
    if _LIKE_CARD.search("\n".join(texts)) is None:
        return
    for name, value in (("id", event_id), *fields.items()):
        parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if any(isinstance(p, str) and holds_card_number(p) for p in parts) and name != "phone.number":
            wrong.append(Violation(name, "looks like a card number; send a token or fingerprint instead"))


def holds_card_number(text: str) -> bool:
    """A whole text of 13..19 digits that passes Luhn, or one inside a text that starts like a card's (2..6)."""
    for found in _LIKE_CARD.finditer(text):
        digits = re.sub(r"[ -]", "", found.group())
        if passes_luhn(digits) and (found.group() == text or digits[0] in "23456"):
            return True
    return False


_CHECKS: dict[str, Callable[[Any], Any]] = {field.name: _check_for(field) for field in FIELDS.values()}
