"""Tables of the checker: which types have an order, what arithmetic gives, which constants can be tried early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.language.functions_moments import parse_duration, parse_timestamp, zone
from engine.language.functions_places import address, network
from engine.language.functions_texts import regex
from engine.language.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    NUMBERS,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    join,
)

ORDERED = frozenset({BOOL, INT, UINT, DOUBLE, STRING, BYTES, TIMESTAMP, DURATION, DYN})
_TIMES = {
    ("+", TIMESTAMP, DURATION): TIMESTAMP, ("+", DURATION, TIMESTAMP): TIMESTAMP, ("+", DURATION, DURATION): DURATION,
    ("-", TIMESTAMP, TIMESTAMP): DURATION, ("-", TIMESTAMP, DURATION): TIMESTAMP, ("-", DURATION, DURATION): DURATION,
}  # fmt: skip
_CONSTANT_READERS: dict[tuple[str, int], Callable[[str], Any]] = {
    ("matches", 1): regex, ("timestamp", 0): parse_timestamp, ("duration", 0): parse_duration, ("ip", 0): address,
    ("cidr", 0): network, ("ip_in", 1): lambda text: network(text) if "/" in text else address(text),
}  # fmt: skip


def arithmetic(operator: str, left: Type, right: Type) -> Type | None:
    """The type of left ⊕ right, or None if there is no such operation."""
    if DYN in (left, right):
        return _dynamic(operator, right if left == DYN else left)
    if (operator, left, right) in _TIMES:
        return _TIMES[operator, left, right]
    if operator == "+" and left.name == right.name == "list":
        return join(left, right)
    same = left == right
    if same and (left in (INT, UINT) or (left == DOUBLE and operator != "%")):
        return left
    return left if same and operator == "+" and left in (STRING, BYTES) else None


def _dynamic(operator: str, other: Type) -> Type | None:
    """With one side dyn: the other's type where only it is possible, None where nothing is."""
    if other in (BOOL, NULL) or other.name == "map" or (other.name == "list" and operator != "+"):
        return None
    return other if other in NUMBERS or other in (STRING, BYTES) else DYN


def constant_reader(function: str, argument: int) -> Callable[[str], Any] | None:
    """What reads a text argument of a function when it is a constant; it raises ValueError for what can't be right."""
    if function.startswith("get") and argument == 1:
        return zone
    return _CONSTANT_READERS.get((function, argument))
