"""Pieces of generated Python: an expression with what it needs, and the names that generated code may call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.language.interpret import Scope, from_row, run
from engine.language.operators import binary, double_divide, equals, int_divide, int_remainder, negative
from engine.language.quantities import INT_MAX, INT_MIN, UNKNOWN, ExpressionError, Failure
from engine.language.truth import negate

ABSENT = float("nan")
"""Stands in a variable for an absent number: every comparison with it is false, so only the false road asks `is`."""


def _in_range(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise ExpressionError("64-bit overflow")


def _sound(value: Any) -> Any:
    """The value, unless it is ERROR."""
    if type(value) is Failure:
        raise ExpressionError(value.reason)
    return value


BUILTINS: dict[str, Any] = {
    "UNKNOWN": UNKNOWN, "ABSENT": ABSENT, "sound": _sound, "run": run, "Scope": Scope, "from_row": from_row,
    "binary": binary, "equals": equals, "negate": negate, "negative": negative,
    "divide": int_divide, "remainder": int_remainder, "ratio": double_divide,
    "add": lambda a, b: _in_range(a + b), "subtract": lambda a, b: _in_range(a - b),
    "multiply": lambda a, b: _in_range(a * b),
}  # fmt: skip
"""What generated code may call."""


@dataclass(frozen=True, slots=True)
class Code:
    """A Python expression, and the variables that must be known before it may be evaluated.

    `quiet`: with an unknown variable it is just false, without an exception. `denied`: it stands for `not text`.
    """

    text: str
    needs: tuple[str, ...] = ()
    quiet: bool = False
    denied: bool = False


def plain(code: Code) -> str:
    """The expression itself, with its denial written out."""
    return f"(not {code.text})" if code.denied else code.text


def union(*codes: Code) -> tuple[str, ...]:
    """All needed variables, each once."""
    return tuple(dict.fromkeys(name for code in codes for name in code.needs))
