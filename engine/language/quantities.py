"""The values of the rule language that plain Python doesn't have: uint, nanosecond time, UNKNOWN and ERROR.

| rule language | Python inside                | Python at the edges          |
| ------------- | ---------------------------- | ---------------------------- |
| bool, int, double, string, bytes, null, list, map | bool, int, float, str, bytes, None, list, dict | the same |
| uint          | UInt                         | UInt                         |
| timestamp     | Timestamp (ns since 1970)    | aware datetime (µs)          |
| duration      | Duration (ns)                | timedelta (µs)               |
| UNKNOWN       | UNKNOWN                      | absent, or None in a row     |
| ERROR         | Failure                      | ExpressionError              |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Literal

from engine.errors import ArbiterError

INT_MIN, INT_MAX, UINT_MAX = -(2**63), 2**63 - 1, 2**64 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_MIN_NS = -62_135_596_800 * 10**9
_TIME_MAX_NS = 253_402_300_800 * 10**9 - 1


class ExpressionError(ArbiterError):
    """An expression can't be parsed, or its evaluation gave ERROR; the text says why."""

    status = "INVALID_ARGUMENT"


class _Unknown(Enum):
    UNKNOWN = "UNKNOWN"

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        raise TypeError("UNKNOWN is neither true nor false")


UNKNOWN: Final = _Unknown.UNKNOWN
"""The value of what depends on a declared input that is absent."""
Unknown = Literal[_Unknown.UNKNOWN]


@dataclass(frozen=True, slots=True)
class Failure:
    """ERROR as a value, with the reason in words."""

    reason: str

    def __bool__(self) -> bool:
        raise TypeError(f"ERROR is neither true nor false: {self.reason}")


class UInt(int):
    """An unsigned 64-bit integer, apart from int: `1u + 1` is a mistake, `1u == 1` is true."""

    __slots__ = ()

    def __new__(cls, value: int) -> UInt:
        """Refuse what doesn't fit into 64 bits without a sign."""
        if not 0 <= value <= UINT_MAX:
            raise ValueError(f"{value} is not an unsigned 64-bit integer")
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"UInt({int(self)})"


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """A moment from year 1 to 9999 in nanoseconds since 1970 UTC; ValueError outside."""

    ns: int

    def __post_init__(self) -> None:
        if not _TIME_MIN_NS <= self.ns <= _TIME_MAX_NS:
            raise ValueError("timestamp outside the years 0001 to 9999")


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time in nanoseconds within 64 bits, about 292 years either way; ValueError outside."""

    ns: int

    def __post_init__(self) -> None:
        if not INT_MIN <= self.ns <= INT_MAX:
            raise ValueError("duration of more than 292 years")


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type as a value, such as `type(1)`; only inside expressions."""

    name: str


def timestamp_of(value: datetime) -> Timestamp:
    """From an aware datetime; ValueError without a zone."""
    if value.tzinfo is None:
        raise ValueError("a timestamp needs a time zone")
    return Timestamp(_microseconds(value - _EPOCH) * 1000)


def _microseconds(span: timedelta) -> int:
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


_INWARD: dict[type, Any] = {datetime: timestamp_of, timedelta: lambda span: Duration(_microseconds(span) * 1000)}


def inward(value: Any) -> Any:
    """One value as the language sees it: time becomes Timestamp or Duration, the rest stays. Items are not touched."""
    convert = _INWARD.get(type(value))
    return convert(value) if convert else value


def outward(value: Any) -> Any:
    """A result as plain Python, at any depth; ValueError for time finer than a microsecond and for type values."""
    if isinstance(value, list | tuple):
        return [outward(item) for item in value]
    if isinstance(value, dict):
        return {key: outward(item) for key, item in value.items()}
    if isinstance(value, Timestamp):
        return _EPOCH + timedelta(microseconds=_whole_us(value.ns))
    if isinstance(value, Duration):
        return timedelta(microseconds=_whole_us(value.ns))
    if isinstance(value, TypeName):
        raise ValueError(f"the type {value.name} is not a value that can be returned")
    return value


def _whole_us(ns: int) -> int:
    if ns % 1000:
        raise ValueError(f"{ns} ns is finer than a microsecond, which Python's datetime can't hold")
    return ns // 1000
