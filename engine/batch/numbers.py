"""Exact numbers, money and times out of whatever a file holds; ValueError says in words what is wrong, never the value.

Money never passes through binary arithmetic: text is read as a decimal, and a float64 as the shortest decimal that
gives it (what the file's writer saw), then rounded half-even to the currency's minor unit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from engine.intake import holds_card_number

MAX_TEXT = 40
"""Longest text of a number; longer ones are no amounts."""
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_PLAIN = re.compile(r"[+-]?(?:[0-9]+)?(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")
_EPOCH = datetime(1970, 1, 1)
_US = timedelta(microseconds=1)
_QUARTER_US = 900_000_000
_MANY_DIGITS = re.compile(r"(?:\d\D?){6}")
_INTEGRAL = re.compile(r"([+-]?[0-9]{1,30})(?:\.0*)?")


def decimal_of(value: Any, pattern: re.Pattern[str] = _PLAIN, marks: tuple[str, str] = (".", "")) -> Decimal:
    """The exact decimal of a text that looks like `pattern`, an int, or the shortest decimal of a float."""
    if type(value) is float:
        value = repr(value)
    elif type(value) is int:
        return Decimal(value)
    elif type(value) is str and pattern.fullmatch(value) and len(value) <= MAX_TEXT:
        value = value.replace(marks[1], "").replace(marks[0], ".") if marks != (".", "") else value
    else:
        raise ValueError("is not a number")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError("is not a number") from None
    if not number.is_finite():
        raise ValueError("must be finite")
    return number


def to_minor(amount: Decimal, digits: int) -> int:
    """Major units → minor units of a currency with `digits` after the point, half-even."""
    return int(amount.scaleb(digits, _EXACT).to_integral_value(ROUND_HALF_EVEN))


def whole_minor(amount: Decimal) -> int:
    """An amount that is in minor units already; a fraction of one is a unit mistake."""
    whole = int(amount)
    if whole != amount:
        raise ValueError("is not a whole number of minor units; is it in major units?")
    return whole


def product(one: Decimal, other: Decimal) -> Decimal:
    """The exact product of two numbers that `decimal_of` read."""
    return _EXACT.multiply(one, other)


def total(one: Decimal, other: Decimal) -> Decimal:
    """The exact sum."""
    return _EXACT.add(one, other)


def signed(sign: str) -> Callable[[Any], Any] | None:
    """What `sign: drop` or `sign: flip` does; None for keep."""
    return {"drop": abs, "flip": lambda number: -number}.get(sign)


def integer_of(value: Any) -> int:
    """A whole number; 12.0 is one, 12.5 isn't."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    match = _INTEGRAL.fullmatch(value) if type(value) is str else None
    if match is None:
        raise ValueError("is not a whole number")
    return int(match.group(1))


def double_of(value: Any) -> float:
    """A finite double."""
    return value if type(value) is float else float(decimal_of(value))


def boolean_of(value: Any) -> bool:
    """true/false or 1/0, as values or as texts."""
    word = value if isinstance(value, bool) else str(value).lower()
    if word in (True, "true", "1"):
        return True
    if word in (False, "false", "0"):
        return False
    raise ValueError("is not true, false, 1 or 0")


def text_of(value: Any) -> str:
    """The text a person would write for a value: 12.0 is 12, true is true."""
    kind = type(value)
    if kind is str:
        return value.strip()  # type: ignore[no-any-return]
    if kind is int:
        return str(value)
    if kind is float:
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if kind is bool:
        return "true" if value else "false"
    raise ValueError("is a list or an object; name a value inside it")


def masked(value: Any, private: bool = False) -> str:
    """A value that can be shown to anyone."""
    text: str = text_of(value)
    if holds_card_number(text):
        return "[card number]"
    if "@" in text:
        return "[address]"
    if private or (type(value) is str and _MANY_DIGITS.search(text)):
        return text[:2] + "…"
    return repr(value if len(value) <= 40 else value[:39] + "…")[1:-1] if type(value) is str else text


CONVERT: dict[str, Callable[[Any], Any]] = {
    "string": text_of, "int": integer_of, "double": double_of, "bool": boolean_of,
}  # fmt: skip
"""Type of a field → how a column's value becomes one."""


# --- times ----------------------------------------------------------------------------------------------------------


def microseconds(moment: datetime, zone: str) -> int:
    """µs since 1970 UTC of a time with its own zone, else in the declared one; ValueError without both."""
    if moment.tzinfo is not None:
        return (moment.astimezone(UTC).replace(tzinfo=None) - _EPOCH) // _US
    if not zone:
        raise ValueError("has no time zone; declare `zone:` beside the column")
    return wall_us((moment - _EPOCH) // _US, zone)


def wall_us(wall: int, zone: str) -> int:
    """µs since 1970 UTC of a wall clock reading, itself in µs as if it were UTC.

    Of an hour that the clock shows twice the first is taken; one that it skips is read as if it had not been moved.
    """
    return wall if zone == "UTC" else wall - _offset_us(wall // _QUARTER_US, zone)


@lru_cache(maxsize=100_000)
def _offset_us(quarter: int, zone: str) -> int:
    """The zone's offset at a wall clock quarter of an hour: offsets change on no finer grid in our time."""
    local = (_EPOCH + timedelta(seconds=quarter * 900)).replace(tzinfo=ZoneInfo(zone))
    offset = local.utcoffset()
    return 0 if offset is None else offset // _US


def moment_of(time_us: int) -> datetime:
    """The time of µs since 1970 UTC."""
    return (_EPOCH + timedelta(microseconds=time_us)).replace(tzinfo=UTC)


def iso_us(value: Any, zone: str) -> int:
    """A date, or date and time, in ISO 8601."""
    if type(value) is not str:
        raise ValueError("is a number; declare `format: epoch_s`, epoch_ms or epoch_us")
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        raise ValueError("is not an ISO 8601 time such as 2026-11-24 10:00:00") from None
    return microseconds(moment, zone)


def strptime_us(value: Any, form: str, zone: str) -> int:
    """A time in a declared format."""
    try:
        moment = datetime.strptime(text_of(value), form)
    except ValueError:
        raise ValueError(f"does not look like {form}") from None
    return microseconds(moment, zone)


def epoch_us(value: Any, unit_us: int) -> int:
    """A number of units since 1970 UTC; finer than a microsecond is wrong."""
    span = _EXACT.multiply(decimal_of(value), Decimal(unit_us))
    if span != int(span):
        raise ValueError("is finer than a microsecond")
    return int(span)
