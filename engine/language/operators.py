"""Arithmetic, equality, order and membership of values, as the language defines them; what can't be is a Failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from operator import add, ge, gt, le, lt, mul, sub
from typing import Any, Final

from engine.language.functions import KINDS
from engine.language.functions_values import whole
from engine.language.quantities import Duration, Failure, Timestamp, UInt, inward
from engine.language.types import DYN, NUMBERS, ORDERED, Type, join

_NUMBERS = frozenset(kind.name for kind in NUMBERS)
_ORDERED = frozenset(kind.name for kind in ORDERED)
_KEYS = frozenset({"bool", "int", "uint", "string"})
MISSING: Final = object()
"""What `find` gives when there is no such key."""


def kind_of(value: Any) -> str:
    """Name of a value's type; "?" for what is no value of the language."""
    return KINDS.get(type(value), "?")


# --- equality, membership, order ------------------------------------------------------------------------------------


def equals(left: Any, right: Any) -> bool:
    """Equality at any depth: numbers by their value whatever their type, other types never equal each other."""
    left, right = inward(left), inward(right)
    first, second = kind_of(left), kind_of(right)
    if first in _NUMBERS and second in _NUMBERS:
        return bool(left == right)
    if first != second:
        return False
    if first == "list":
        return len(left) == len(right) and all(map(equals, left, right))
    if first == "map":
        return len(left) == len(right) and all(
            (other := find(right, key)) is not MISSING and equals(value, other) for key, value in left.items()
        )
    return bool(left == right)


def find(mapping: dict[Any, Any], key: Any) -> Any:
    """The value of a key, or MISSING; 1, 1u and 1.0 are one key, true is another."""
    if kind_of(key) not in _KEYS and not isinstance(key, float):
        return MISSING
    value = mapping.get(key, MISSING)
    if value is not MISSING and key in (0, 1):
        is_bool = isinstance(key, bool)
        return next((v for k, v in mapping.items() if k == key and isinstance(k, bool) == is_bool), MISSING)
    return value


def contains(collection: Any, item: Any) -> bool | Failure:
    """`item in collection` of a list or of a map's keys."""
    kind = kind_of(collection)
    if kind == "list":
        return any(equals(item, other) for other in collection)
    if kind == "map":
        return find(collection, item) is not MISSING
    return Failure(f"`in` needs a list or a map, not {kind}")


def listed(entries: Container[Any], value: Any) -> bool | Failure:
    """`in_list`: membership in a named list."""
    try:
        return value in entries
    except (TypeError, ValueError) as error:
        return Failure(f"in_list: {error}")


_ORDER: dict[str, Callable[[Any, Any], Any]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


def order(operator: str, left: Any, right: Any) -> bool | Failure:
    """`<`, `<=`, `>`, `>=`; false beside NaN. Beside a double a whole number is the nearest double, as CEL has it."""
    first, second = kind_of(left), kind_of(right)
    if first != second and "double" in (first, second) and first in _NUMBERS and second in _NUMBERS:
        left, right = float(left), float(right)
    if (first in _NUMBERS and second in _NUMBERS) or (first == second and first in _ORDERED):
        return bool(_ORDER[operator](left, right))
    return Failure(f"`{operator}` can't compare {first} and {second}")


# --- items ----------------------------------------------------------------------------------------------------------


def item(collection: Any, key: Any) -> Any:
    """`collection[key]`."""
    kind = kind_of(collection)
    if kind == "map":
        value = find(collection, key)
        return Failure(f"no key {key!r}") if value is MISSING else inward(value)
    if kind != "list" or kind_of(key) not in _NUMBERS:
        return Failure(f"{kind} has no item {key!r}")
    if key != key // 1 or not 0 <= key < len(collection):
        return Failure(f"index {key} is outside the list of {len(collection)}")
    return inward(collection[int(key)])


def make_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any] | Failure:
    """A map from keys and values; a key given twice, or of another type than text, whole number or bool, can't be."""
    made: dict[Any, Any] = {}
    for key, value in pairs:
        if kind_of(key) not in _KEYS:
            return Failure(f"{kind_of(key)} can't be a key")
        if key in made:
            return Failure(f"key {key!r} is given twice")
        made[key] = value
    return made


# --- arithmetic -----------------------------------------------------------------------------------------------------


def int_divide(left: int, right: int) -> int:
    """Toward zero; ZeroDivisionError by zero, ValueError on overflow."""
    quotient = abs(left) // abs(right)
    return whole(-quotient if (left < 0) != (right < 0) else quotient)


def int_remainder(left: int, right: int) -> int:
    """With the sign of the dividend."""
    return left - right * int_divide(left, right)


def double_divide(left: float, right: float) -> float:
    """By IEEE 754: x / 0 is infinite, 0 / 0 is NaN."""
    if right:
        return left / right
    if left == 0 or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


Run = Callable[[Any, Any], Any]
_WHOLE: dict[str, Run] = {
    "+": lambda a, b: whole(a + b), "-": lambda a, b: whole(a - b), "*": lambda a, b: whole(a * b),
    "/": int_divide, "%": int_remainder,
}  # fmt: skip
_UNSIGNED: dict[str, Run] = {
    "+": lambda a, b: UInt(int(a) + int(b)), "-": lambda a, b: UInt(int(a) - int(b)),
    "*": lambda a, b: UInt(int(a) * int(b)), "/": lambda a, b: UInt(int(a) // int(b)),
    "%": lambda a, b: UInt(int(a) % int(b)),
}  # fmt: skip
_FRACTIONAL: dict[str, Run] = {"+": add, "-": sub, "*": mul, "/": double_divide}
ARITHMETIC: dict[tuple[str, str, str], tuple[str, Run]] = {
    **{(sign, "int", "int"): ("int", run) for sign, run in _WHOLE.items()},
    **{(sign, "uint", "uint"): ("uint", run) for sign, run in _UNSIGNED.items()},
    **{(sign, "double", "double"): ("double", run) for sign, run in _FRACTIONAL.items()},
    ("+", "string", "string"): ("string", add),
    ("+", "bytes", "bytes"): ("bytes", add),
    ("+", "list", "list"): ("list", lambda a, b: [*a, *b]),
    ("+", "duration", "duration"): ("duration", lambda a, b: Duration(a.ns + b.ns)),
    ("-", "duration", "duration"): ("duration", lambda a, b: Duration(a.ns - b.ns)),
    ("-", "timestamp", "timestamp"): ("duration", lambda a, b: Duration(a.ns - b.ns)),
    ("+", "timestamp", "duration"): ("timestamp", lambda a, b: Timestamp(a.ns + b.ns)),
    ("+", "duration", "timestamp"): ("timestamp", lambda a, b: Timestamp(a.ns + b.ns)),
    ("-", "timestamp", "duration"): ("timestamp", lambda a, b: Timestamp(a.ns - b.ns)),
}
"""Operator and types of the operands → type of the result, and the Python behind it. Checker and generator read it."""


def arithmetic_type(operator: str, left: Type, right: Type) -> Type | None:
    """The type of left ⊕ right, or None if there is no such operation; beside dyn, the only possible one or dyn."""
    if (operator, left.name, right.name) in ARITHMETIC:
        return join(left, right) if left.name == "list" else Type(ARITHMETIC[operator, left.name, right.name][0])
    possible = {
        result
        for (sign, first, second), (result, _) in ARITHMETIC.items()
        if sign == operator and left.name in (first, "dyn") and right.name in (second, "dyn")
    }
    if len(possible) > 1 or possible == {"list"}:
        return DYN
    return Type(possible.pop()) if possible else None


def arithmetic(operator: str, left: Any, right: Any) -> Any:
    """`+ - * / %` of two values of one type, or of times; overflow and division by zero are Failures."""
    first, second = kind_of(left), kind_of(right)
    found = ARITHMETIC.get((operator, first, second))
    if found is None:
        return Failure(f"`{operator}` can't take {first} and {second}")
    try:
        return found[1](left, right)
    except ZeroDivisionError:
        return Failure("division by zero")
    except ValueError as error:
        return Failure(f"`{operator}`: {error}")


def negative(value: Any) -> Any:
    """`-value` of an int or double."""
    kind = kind_of(value)
    if kind not in ("int", "double"):
        return Failure(f"`-` can't take {kind}")
    if kind == "double":
        return -value
    return Failure("`-`: the result doesn't fit into a 64-bit int") if value == -(2**63) else -value


def binary(operator: str, left: Any, right: Any) -> Any:
    """Any operator with two operands that are values."""
    if operator == "==":
        return equals(left, right)
    if operator == "!=":
        return not equals(left, right)
    if operator in _ORDER:
        return order(operator, left, right)
    return contains(right, left) if operator == "in" else arithmetic(operator, left, right)
