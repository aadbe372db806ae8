"""Columns of values, and the operators of the language on whole columns.

A column is values, a mask of the rows that are UNKNOWN and one of those that are ERROR; a mask that would be empty is
None, and no row is in both. A bool is false where it is masked; other values are then anything. Times are int64 µs.
Texts are codes into the distinct texts. A constant is a column of one scalar, which NumPy spreads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.language.quantities import INT_MAX, INT_MIN, UNKNOWN, Failure
from engine.language.types import BOOL, DOUBLE, DURATION, INT, STRING, TIMESTAMP, UINT, Type

Mask = npt.NDArray[np.bool_]
TIME_MIN_US, TIME_MAX_US = -62_135_596_800 * 10**6, 253_402_300_800 * 10**6 - 1
DTYPES: dict[Type, Any] = {
    BOOL: np.bool_, INT: np.int64, UINT: np.uint64, DOUBLE: np.float64, TIMESTAMP: np.int64, DURATION: np.int64,
    STRING: np.int32,
}  # fmt: skip
"""What values of a type are held as; other types have no columns."""
_SPAN_US = INT_MAX // 1000
"""The longest duration."""
_SURE = 9.2e18
"""A product that a double shows to be smaller than this fits into int64."""
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq, "!=": ne}


class Column(NamedTuple):
    """Values of one type for some rows."""

    values: Any
    """An array, or one NumPy scalar for all rows; codes if there are `texts`."""
    unknown: Mask | None = None
    error: Mask | None = None
    texts: tuple[str, ...] | None = None

    def take(self, at: Any) -> Column:
        """The values at some positions, or a slice of them."""
        unknown, error = (None if mask is None else mask[at] for mask in (self.unknown, self.error))
        return Column(self.values[at], unknown, error, self.texts)


def from_values(found: Sequence[Any], kind: Type) -> Column:
    """A column of what expressions gave for rows: values, UNKNOWN or Failure; without a dtype, Python objects."""
    unknown = np.array([value is UNKNOWN for value in found], np.bool_)
    error = np.array([type(value) is Failure for value in found], np.bool_)
    bad = unknown | error
    plain = [None if masked else value for value, masked in zip(found, bad, strict=True)]
    texts = None
    if kind == STRING:
        numbers = {text: code for code, text in enumerate(dict.fromkeys(text for text in plain if text is not None))}
        plain, texts = [numbers.get(text, 0) for text in plain], tuple(numbers)
    if kind in DTYPES:
        values = np.array([0 if value is None else value for value in plain], DTYPES[kind])
    else:
        values = np.empty(len(plain), object)
        values[:] = plain
    return Column(values, some(unknown), some(error), texts)


# --- masks ----------------------------------------------------------------------------------------------------------


def some(mask: Mask | None) -> Mask | None:
    """The mask, or None if no row is in it."""
    return mask if mask is not None and mask.any() else None


def joined(masks: Sequence[Mask | None], how: Callable[[Any, Any], Any] = or_) -> Mask | None:
    """The masks that there are, joined."""
    found: Mask | None = None
    for mask in masks:
        if mask is not None:
            found = mask if found is None else how(found, mask)
    return found


def without(mask: Mask | None, other: Mask | None) -> Mask | None:
    """The rows in one mask and not in the other."""
    return mask if mask is None or other is None else mask & np.logical_not(other)


def _complete(columns: Sequence[Column]) -> bool:
    """Whether no row is UNKNOWN or ERROR in any of the columns."""
    return not any(unknown is not None or error is not None for _, unknown, error, _ in columns)


def strict(columns: Sequence[Column], values: Any, failed: Mask | None = None, *, is_bool: bool = False) -> Column:
    """The result of an operator that needs all operands: UNKNOWN if any is, else ERROR if any is or it `failed`."""
    if failed is None and _complete(columns):
        return Column(values)
    unknown = joined([column.unknown for column in columns])
    error = without(joined([*(column.error for column in columns), failed]), unknown)
    bad = joined([unknown, error])
    return Column(values & ~bad if is_bool and bad is not None else values, unknown, error)


# --- logic ----------------------------------------------------------------------------------------------------------


def not_false(column: Column) -> Any:
    """The rows where a bool is true, unknown or failed."""
    if column.unknown is None and column.error is None:
        return column.values
    return joined([column.values, column.unknown, column.error])


def both(columns: Sequence[Column]) -> Column:
    """`&&`: false if any is, else UNKNOWN if any is, else ERROR if any is."""
    values = reduce(and_, [column.values for column in columns])
    if _complete(columns):
        return Column(values)
    unknown, error = joined([c.unknown for c in columns]), joined([c.error for c in columns])
    maybe = joined([not_false(column) for column in columns], and_)
    unknown = joined([unknown, maybe], and_) if unknown is not None else None
    error = without(joined([error, maybe], and_), unknown) if error is not None else None
    return Column(values, unknown, error)


def either(columns: Sequence[Column]) -> Column:
    """`||`: true if any is, else UNKNOWN if any is, else ERROR if any is."""
    values = joined([column.values for column in columns])
    unknown = without(joined([column.unknown for column in columns]), values)
    error = without(without(joined([column.error for column in columns]), values), unknown)
    return Column(values, unknown, error)


def denied(column: Column) -> Column:
    """`!`."""
    return strict([column], np.logical_not(column.values), is_bool=True)


def chosen(condition: Column, then: Column, otherwise: Column, *, is_bool: bool) -> Column:
    """`?:`: what the branch that is chosen gives."""
    yes = condition.values
    undecided = joined([condition.unknown, condition.error])

    def pick(first: Mask | None, second: Mask | None, own: Mask | None) -> Mask | None:
        of_branch = joined([None if first is None else first & yes, without(second, yes)])
        return joined([without(of_branch, undecided), own])

    unknown = pick(then.unknown, otherwise.unknown, condition.unknown)
    error = pick(then.error, otherwise.error, condition.error)
    values = np.where(yes, then.values, otherwise.values)
    bad = joined([unknown, error]) if is_bool else None
    return Column(values if bad is None else values & ~bad, unknown, error)


def first_known(columns: Sequence[Column]) -> Column:
    """`coalesce`: the first that is not UNKNOWN."""
    found = columns[0]
    for column in columns[1:]:
        missing = found.unknown
        if missing is None:
            break
        unknown = None if column.unknown is None else missing & column.unknown
        error = joined([found.error, None if column.error is None else missing & column.error])
        found = Column(np.where(missing, column.values, found.values), unknown, error)
    return found


# --- arithmetic: values, and the rows that failed -------------------------------------------------------------------

Found = tuple[Any, Mask | None]


def _plus(a: Any, b: Any) -> Found:
    total = a + b
    return total, some(((a ^ total) & (b ^ total)) < 0)


def _minus(a: Any, b: Any) -> Found:
    rest = a - b
    return rest, some(((a ^ b) & (a ^ rest)) < 0)


def _times(a: Any, b: Any) -> Found:
    product = a * b
    near = np.abs(np.asarray(a, np.float64) * np.asarray(b, np.float64))
    doubtful = np.flatnonzero(near >= _SURE)
    if not doubtful.size:
        return product, None
    left, right = (np.broadcast_to(side, near.shape) for side in (a, b))
    failed = np.zeros(near.shape, np.bool_)
    failed[doubtful] = [not INT_MIN <= int(left[i]) * int(right[i]) <= INT_MAX for i in doubtful]
    return product, some(failed)


def _divided(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """Quotient toward zero, divisor without zeros, and the rows without a quotient."""
    failed = (b == 0) | ((a == INT_MIN) & (b == -1))
    divisor = np.where(failed, 1, b)
    quotient = a // divisor
    inexact = quotient * divisor != a
    return quotient + (inexact & ((a < 0) != (divisor < 0))), divisor, some(failed)


def _quotient(a: Any, b: Any) -> Found:
    quotient, _, failed = _divided(a, b)
    return quotient, failed


def _remainder(a: Any, b: Any) -> Found:
    quotient, divisor, failed = _divided(a, b)
    return a - quotient * divisor, failed


def _within(low: int, high: int, run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Found]:
    def bounded(a: Any, b: Any) -> Found:
        found = run(a, b)
        return found, some((found < low) | (found > high))

    return bounded


def _exact(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Found]:
    return lambda a, b: (run(a, b), None)


_SPAN = (-_SPAN_US, _SPAN_US)
_MOMENT = (TIME_MIN_US, TIME_MAX_US)
ARITHMETIC: dict[tuple[str, str, str], Callable[[Any, Any], Found]] = {
    ("+", "int", "int"): _plus, ("-", "int", "int"): _minus, ("*", "int", "int"): _times,
    ("/", "int", "int"): _quotient, ("%", "int", "int"): _remainder,
    ("+", "double", "double"): _exact(np.add), ("-", "double", "double"): _exact(np.subtract),
    ("*", "double", "double"): _exact(np.multiply), ("/", "double", "double"): _exact(np.divide),
    ("+", "duration", "duration"): _within(*_SPAN, np.add), ("-", "duration", "duration"): _within(*_SPAN, np.subtract),
    ("-", "timestamp", "timestamp"): _within(*_SPAN, np.subtract),
    ("+", "timestamp", "duration"): _within(*_MOMENT, np.add),
    ("+", "duration", "timestamp"): _within(*_MOMENT, np.add),
    ("-", "timestamp", "duration"): _within(*_MOMENT, np.subtract),
}  # fmt: skip
"""Operator and types of the operands → values and failed rows."""


def whole_part(value: Any) -> Found:
    """`int(double)`."""
    fits = (value > -(2.0**63)) & (value < 2.0**63)
    return np.where(fits, value, 0.0).astype(np.int64), some(~fits)


def extreme(choose: str, values: Sequence[Any]) -> Any:
    """`math.greatest` and `math.least`: a later value wins only if it is really more, or less."""
    found = values[0]
    for value in values[1:]:
        found = np.where(value > found if choose == "math.greatest" else value < found, value, found)
    return found
