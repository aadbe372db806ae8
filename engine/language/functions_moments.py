"""Functions on timestamps and durations, with calendars in any zone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from engine.language.functions import define, define_all
from engine.language.quantities import Duration, Timestamp, timestamp_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SPAN = re.compile(r"([+-]?)((?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0)", re.ASCII)
_SPAN_PART = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h)")
_UNIT_NS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_SECOND_NS = 10**9


@define("timestamp(string) timestamp")
def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339 with at most nine decimals; ValueError if it isn't one."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a timestamp such as 2026-11-27T09:30:00Z")
    whole = timestamp_of(datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")))
    return Timestamp(whole.ns + int((match[2] or "0").ljust(9, "0")))


def _timestamp_text(moment: Timestamp) -> str:
    seconds, ns = divmod(moment.ns, _SECOND_NS)
    whole = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    return whole + _decimals(ns) + "Z"


@define("duration(string) duration")
def parse_duration(text: str) -> Duration:
    """Such as 1h30m, -1.5s, 250ms; ValueError if it isn't one."""
    match = _SPAN.fullmatch(text) if len(text) < 200 else None
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a duration such as 1h30m")
    total = 0
    for whole, fraction, unit in _SPAN_PART.findall(match[2]):
        total += int(whole or 0) * _UNIT_NS[unit]
        total += int(fraction or 0) * _UNIT_NS[unit] // 10 ** len(fraction)
    return Duration(-total if match[1] == "-" else total)


def _duration_text(span: Duration) -> str:
    seconds, ns = divmod(abs(span.ns), _SECOND_NS)
    return f"{'-' if span.ns < 0 else ''}{seconds}{_decimals(ns)}s"


def _decimals(ns: int) -> str:
    return f".{ns:09d}".rstrip("0") if ns else ""


@lru_cache(maxsize=1024)
def zone(name: str) -> tzinfo:
    """An IANA zone, or a fixed offset such as -09:30; ValueError if there is none such."""
    match = re.fullmatch(r"([+-]?)(\d\d):(\d\d)", name, re.ASCII)
    if match:
        span = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-span if match[1] == "-" else span)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone") from error


def _local(moment: Timestamp, zone_name: str | None) -> datetime:
    whole = _EPOCH + timedelta(microseconds=moment.ns // 1000)
    return whole if zone_name is None else whole.astimezone(zone(zone_name))


def _part(read: Callable[[datetime], int]) -> Callable[..., int]:
    """A reader of a part of the date or time, in UTC or in a zone."""
    return lambda moment, zone_name=None: read(_local(moment, zone_name))


def _total(unit_ns: int) -> Callable[[Duration], int]:
    """A duration in whole units, toward zero."""
    return lambda span: abs(span.ns) // unit_ns * (-1 if span.ns < 0 else 1)


_GETTERS: tuple[tuple[str, Callable[..., int], str], ...] = (
    ("getFullYear", _part(lambda t: t.year), "The year, in UTC or in a zone."),
    ("getMonth", _part(lambda t: t.month - 1), "The month, 0 = January."),
    ("getDate", _part(lambda t: t.day), "The day of the month, from 1."),
    ("getDayOfMonth", _part(lambda t: t.day - 1), "The day of the month, from 0."),
    ("getDayOfWeek", _part(lambda t: t.isoweekday() % 7), "The day of the week, 0 = Sunday."),
    ("getDayOfYear", _part(lambda t: t.timetuple().tm_yday - 1), "The day of the year, from 0."),
    ("getHours", _part(lambda t: t.hour), "The hour 0..23 of a time; the whole hours of a duration."),
    ("getMinutes", _part(lambda t: t.minute), "The minute of a time; the whole minutes of a duration."),
    ("getSeconds", _part(lambda t: t.second), "The second of a time; the whole seconds of a duration."),
    ("getMilliseconds", _part(lambda t: t.microsecond // 1000), "The milliseconds beyond the whole second."),
)
define_all(
    *((f"timestamp::{name}() int; timestamp::{name}(string) int", read, said) for name, read, said in _GETTERS),
    ("timestamp(int) timestamp", lambda seconds: Timestamp(seconds * _SECOND_NS)),
    ("int(timestamp) int", lambda moment: moment.ns // _SECOND_NS),
    ("string(timestamp) string", _timestamp_text),
    ("string(duration) string", _duration_text),
    ("duration::getHours() int", _total(3600 * _SECOND_NS)),
    ("duration::getMinutes() int", _total(60 * _SECOND_NS)),
    ("duration::getSeconds() int", _total(_SECOND_NS)),
    (
        "duration::getMilliseconds() int",
        lambda span: abs(span.ns) % _SECOND_NS // 10**6 * (-1 if span.ns < 0 else 1),
        "The milliseconds beyond whole seconds, -999..999.",
    ),
)
