"""Typed reading of YAML nodes: every mistake is collected, and reading always goes on.

    reader = Reader(diagnostics)
    rule = reader.fields(node, required={"id", "when"}, optional={"status", "rollout"})
    rule.text("id")                                    # "" after a mistake, which is then in `diagnostics`
    rule.choice("status", ("enforce", "observe", "off"), "enforce")
    for item in rule.fields_list("tests", required={"event"}): ...

A getter gives its default when an optional key is absent, and a neutral value (empty text, 0, False) after a mistake:
the caller finishes reading everything and then asks `diagnostics.raise_if_failed()`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from engine.language.diagnostics import Diagnostics, Position
from engine.language.source import Listing, Node, Scalar, Table

D = TypeVar("D")
T = TypeVar("T")
F = TypeVar("F", int, float)

MOST_CHOICES = 24
"""So many are named in a message."""
_UNIT_US = {
    "us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000,
    "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000,
}  # fmt: skip
_DURATION = re.compile(r"(?:\d{1,9}(?:us|ms|s|m|h|d|w))+")
_DURATION_PART = re.compile(r"(\d+)(us|ms|s|m|h|d|w)")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|z|[+-]\d\d:\d\d)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGER = re.compile(r"-?\d{1,40}(_\d{1,40}){0,9}")
_NUMBER = re.compile(r"-?\d{1,40}(_\d{1,40}){0,9}(\.\d{1,40})?([eE][+-]?\d{1,3})?")
_SHARE = re.compile(r"\d{1,3}(\.\d{1,9})?%")


def parse_duration_us(text: str) -> int | None:
    """Microseconds of "30d", "1h30m", "90s" (units us, ms, s, m, h, d, w); None if it isn't one."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(int(n) * _UNIT_US[unit] for n, unit in _DURATION_PART.findall(text))


def parse_timestamp_us(text: str) -> int | None:
    """Microseconds since 1970 UTC of an ISO 8601 date and time with a zone; None without zone or if it isn't one."""
    match = _TIMESTAMP.fullmatch(text)
    if not match or not match.group(3):
        return None
    try:
        span = datetime.fromisoformat(text.upper()).astimezone(UTC) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def _integer(scalar: Scalar) -> int | None:
    return int(scalar.value) if scalar.plain and _INTEGER.fullmatch(scalar.value) else None


def _number(scalar: Scalar) -> float | None:
    return float(scalar.value) if scalar.plain and _NUMBER.fullmatch(scalar.value) else None


def _boolean(scalar: Scalar) -> bool | None:
    return {"true": True, "false": False}.get(scalar.value) if scalar.plain else None


def _share(scalar: Scalar) -> float | None:
    return float(scalar.value[:-1]) / 100 if _SHARE.fullmatch(scalar.value) else None


@dataclass(slots=True)
class Reader:
    """Reads nodes as typed values into one `Diagnostics`."""

    diagnostics: Diagnostics

    def fields(self, node: Node | None, required: Collection[str] = (), optional: Collection[str] = ()) -> Fields:
        """A mapping with known keys: an unknown or missing key is a mistake. No node: empty, nothing more said."""
        fields = Fields(self, node)
        if node is None:
            return fields
        if not isinstance(node, Table):
            self._shape(node, "a mapping")
            return fields
        known = [*required, *optional]
        for key, value in node.entries:
            if key.value in known:
                fields.values[key.value] = value
            else:
                hint = self.diagnostics.did_you_mean(key.value, known) or f"known here: {', '.join(sorted(known))}"
                self.diagnostics.error("E111", f"unknown key `{key.value}`", key.position(), key.length, hint=hint)
        missing = sorted(key for key in required if key not in fields.values)
        if missing:
            keys = ", ".join(f"`{key}`" for key in missing)
            self.diagnostics.error("E112", f"missing {keys}", node.position())
        return fields

    def entries(self, node: Node | None) -> Iterator[tuple[Scalar, Node]]:
        """Key and value of a mapping whose keys are free names."""
        if isinstance(node, Table):
            yield from node.entries
        elif node is not None:
            self._shape(node, "a mapping")

    def items(self, node: Node | None) -> tuple[Node, ...]:
        """The items of a list."""
        if isinstance(node, Listing):
            return node.items
        if node is not None:
            self._shape(node, "a list")
        return ()

    def scalar(self, node: Node) -> Scalar | None:
        """A single value that isn't empty; use it for expressions, which keep the exact places of their characters."""
        if not isinstance(node, Scalar):
            self._shape(node, "a single value")
        elif node.plain and node.value in ("", "~", "null", "Null", "NULL"):
            self.wrong(node, "a value is missing")
        else:
            return node
        return None

    def text(self, node: Node) -> str | None:
        """Text as written, never empty."""
        scalar = self.scalar(node)
        if scalar is not None and not scalar.value.strip():
            self.wrong(scalar, "the text is empty")
            return None
        return scalar.value if scalar else None

    def _parsed(self, node: Node, parse: Callable[[Scalar], T | None], what: str, wanted: str) -> T | None:
        """What `parse` makes of a single value; where that is None, the value is reported as not being `what`."""
        scalar = self.scalar(node)
        value = parse(scalar) if scalar else None
        if scalar is not None and value is None:
            self.wrong(scalar, f"`{_short(scalar.value)}` {what}", wanted=wanted)
        return value

    def _within(self, node: Node, value: F | None, least: float, most: float, bounds: str) -> F | None:
        """The value, if it lies in its range."""
        if value is None or least <= value <= most:
            return value
        message = f"{_short(node.value) if isinstance(node, Scalar) else value} is {bounds}"
        self.diagnostics.error("E115", message, node.position(), node.length)
        return None

    def integer(self, node: Node) -> int | None:
        """A whole number in the range of int64, with optional `_` between digits."""
        value = self._parsed(node, _integer, "is not a whole number", "a whole number")
        return self._within(node, value, -(2**63), 2**63 - 1, "outside 64 bits")

    def number(self, node: Node) -> float | None:
        """A finite decimal number."""
        value = self._parsed(node, _number, "is not a number", "a number such as 0.25")
        if value is None or math.isfinite(value):
            return value
        self.wrong(node, "the number is too large")
        return None

    def constant(self, node: Node) -> int | float | bool | str | None:
        """A value of the type it is written as: 7, 2.5, true; anything else, and whatever is quoted, is text."""
        scalar = self.scalar(node)
        if scalar is None:
            return None
        if _INTEGER.fullmatch(scalar.value) and scalar.plain:
            return self.integer(node)
        if _NUMBER.fullmatch(scalar.value) and scalar.plain:
            return self.number(node)
        boolean = _boolean(scalar)
        return scalar.value if boolean is None else boolean

    def boolean(self, node: Node) -> bool | None:
        """`true` or `false`."""
        return self._parsed(node, _boolean, "is not a yes-or-no value", "true or false")

    def duration_us(self, node: Node) -> int | None:
        """A length of time in microseconds, such as 30d, 1h, 90s."""
        wanted = "such as 30d, 1h30m, 90s"
        return self._parsed(node, lambda scalar: parse_duration_us(scalar.value), "is not a duration", wanted)

    def timestamp_us(self, node: Node) -> int | None:
        """Microseconds since 1970 UTC of a date and time with a zone, such as 2026-11-27T00:00Z."""
        match = _TIMESTAMP.fullmatch(node.value) if isinstance(node, Scalar) else None
        what = "has no time zone" if match and not match.group(3) else "is not a date and time"
        return self._parsed(node, lambda scalar: parse_timestamp_us(scalar.value), what, "such as 2026-11-27T00:00Z")

    def share(self, node: Node) -> float | None:
        """A share 0..1, written as a percentage such as 25%."""
        value = self._parsed(node, _share, "is not a percentage", "such as 25%")
        return self._within(node, value, 0, 1, "more than 100%")

    def choice(self, node: Node, values: Collection[str]) -> str | None:
        """One of the given words."""
        scalar = self.scalar(node)
        if scalar is None or scalar.value in values:
            return scalar.value if scalar else None
        hint = self.diagnostics.did_you_mean(scalar.value, values)
        known = (
            list(values) if len(values) <= MOST_CHOICES else [*list(values)[:MOST_CHOICES], f"… {len(values)} in all"]
        )
        message = f"`{_short(scalar.value)}` is not one of {', '.join(known)}"
        self.diagnostics.error("E116", message, scalar.position(), scalar.length, hint=hint)
        return None

    def wrong(self, node: Node, message: str, wanted: str = "", hint: str = "") -> None:
        """Report that a value can't be read as wanted."""
        found = f"`{_short(node.value)}`" if wanted and isinstance(node, Scalar) else ""
        self.diagnostics.error("E114", message, node.position(), node.length, hint=hint, found=found, wanted=wanted)

    def _shape(self, node: Node, wanted: str) -> None:
        found = {Scalar: "a single value", Listing: "a list", Table: "a mapping"}[type(node)]
        self.diagnostics.error(
            "E113", f"{wanted} is wanted here, not {found}", node.position(), node.length, found=found, wanted=wanted
        )


@dataclass(slots=True)
class Fields:
    """The values of one mapping by key. An absent key gives the default, a mistake a neutral value."""

    reader: Reader
    node: Node | None
    values: dict[str, Node] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str) -> Node | None:
        """The node under a key, or None."""
        return self.values.get(key)

    def position(self, key: str = "") -> Position:
        """Where the value of a key stands; without it, where the mapping begins."""
        node = self.values.get(key) or self.node
        return node.position() if node is not None else Position("", 1, 1)

    def mistake(self, code: str, message: str, key: str = "", hint: str = "") -> None:
        """Report a mistake of the caller's own rules at the value of a key, or at the mapping."""
        node = self.values.get(key)
        length = node.length if node is not None else 1
        self.reader.diagnostics.error(code, message, self.position(key), length, hint=hint)

    def read(self, key: str, how: Callable[[Node], T | None], default: D) -> T | D:
        """The value of a key by any reading function; the default if the key is absent or the value wrong."""
        node = self.values.get(key)
        value = how(node) if node is not None else None
        return default if value is None else value

    def scalar(self, key: str) -> Scalar | None:
        """The scalar itself, which is what `engine.language.check` takes as an expression."""
        return self.read(key, self.reader.scalar, None)

    def text(self, key: str, default: str = "") -> str:
        """Text as written."""
        return self.read(key, self.reader.text, default)

    def choice(self, key: str, values: Collection[str], default: str = "") -> str:
        """One of the given words."""
        return self.read(key, lambda node: self.reader.choice(node, values), default)

    def integer(self, key: str, default: int = 0, minimum: int | None = None, maximum: int | None = None) -> int:
        """A whole number, within inclusive bounds if they are given."""
        return self._bounded(key, self.read(key, self.reader.integer, default), minimum, maximum)

    def number(
        self, key: str, default: float = 0.0, minimum: float | None = None, maximum: float | None = None
    ) -> float:
        """A finite number, within inclusive bounds if they are given."""
        return self._bounded(key, self.read(key, self.reader.number, default), minimum, maximum)

    def boolean(self, key: str, default: bool = False) -> bool:
        """`true` or `false`."""
        return self.read(key, self.reader.boolean, default)

    def duration_us(self, key: str, default: int = 0) -> int:
        """A length of time in microseconds."""
        return self.read(key, self.reader.duration_us, default)

    def timestamp_us(self, key: str, default: int = 0) -> int:
        """Microseconds since 1970 UTC."""
        return self.read(key, self.reader.timestamp_us, default)

    def share(self, key: str, default: float = 0.0) -> float:
        """A share 0..1, written as a percentage."""
        return self.read(key, self.reader.share, default)

    def items(self, key: str) -> tuple[Node, ...]:
        """The items of a list; none if absent."""
        return self.reader.items(self.values.get(key))

    def each(self, key: str, how: Callable[[Node], T | None]) -> tuple[T, ...]:
        """The items of a list by any reading function; wrong ones are left out."""
        return tuple(value for value in map(how, self.items(key)) if value is not None)

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of a list."""
        return self.each(key, self.reader.text)

    def choices(self, key: str, values: Collection[str]) -> tuple[str, ...]:
        """The words of a list, each one of the given ones."""
        return self.each(key, lambda node: self.reader.choice(node, values))

    def fields(self, key: str, required: Collection[str] = (), optional: Collection[str] = ()) -> Fields:
        """A nested mapping with known keys; empty if absent."""
        return self.reader.fields(self.values.get(key), required, optional)

    def fields_list(self, key: str, required: Collection[str] = (), optional: Collection[str] = ()) -> list[Fields]:
        """A list of mappings with known keys."""
        return [self.reader.fields(item, required, optional) for item in self.items(key)]

    def entries(self, key: str) -> Iterator[tuple[Scalar, Node]]:
        """Key and value of a nested mapping whose keys are free names; none if absent."""
        return self.reader.entries(self.values.get(key))

    def _bounded(self, key: str, value: F, minimum: float | None, maximum: float | None) -> F:
        if key not in self.values:
            return value
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            bounds = " and ".join(f"at {w} {b:g}" for w, b in (("least", minimum), ("most", maximum)) if b is not None)
            self.mistake("E115", f"{value} is outside its range: {bounds}", key)
        return value


def _short(text: str) -> str:
    """A value for a message, cut when long."""
    return text if len(text) <= 40 else text[:37] + "…"
