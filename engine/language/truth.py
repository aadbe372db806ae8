"""The four truth values and how `&&`, `||`, `!` and strict operators combine them: the specification in code.

`docs/rules.md` shows `truth_table()`, and tests hold page, interpreter and generated code to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.language.quantities import UNKNOWN, Failure

FALSE_WINS = "&&"
TRUE_WINS = "||"


def combine(operator: str, values: Iterable[Any]) -> Any:
    """`&&`: false if any operand is false, else UNKNOWN if any is, else the first ERROR, else true; `||` is its dual.

    `values` may be lazy: nothing is taken after the value that decides. A value that is no bool counts as ERROR.
    """
    decides = operator == TRUE_WINS
    unknown, failure = False, None
    for value in values:
        if value is decides:
            return decides
        if value is UNKNOWN:
            unknown = True
        elif failure is None and value is not (not decides):
            failure = value if type(value) is Failure else Failure(f"`{operator}` needs true or false")
    return UNKNOWN if unknown else failure if failure is not None else not decides


def strict(values: Iterable[Any]) -> Any:
    """What other operators give for operands that are no values: UNKNOWN if any is, else the first ERROR, else None."""
    failure = None
    for value in values:
        if value is UNKNOWN:
            return UNKNOWN
        if failure is None and type(value) is Failure:
            failure = value
    return failure


def negate(value: Any) -> Any:
    """`!`."""
    if value is True or value is False:
        return not value
    special = strict((value,))
    return Failure("`!` needs true or false") if special is None else special


def truth_table() -> list[tuple[str, str, str, str, str, str]]:
    """Rows of a, b, a && b, a || b, !a, a == b over true, false, UNKNOWN and ERROR, as text."""
    named = {"true": True, "false": False, "UNKNOWN": UNKNOWN, "ERROR": Failure("")}

    def text(value: Any) -> str:
        return next(name for name, known in named.items() if type(known) is type(value) and known == value)

    rows = []
    for left, a in named.items():
        for right, b in named.items():
            special = strict((a, b))
            equal = special if special is not None else a == b
            both, either = combine(FALSE_WINS, (a, b)), combine(TRUE_WINS, (a, b))
            rows.append((left, right, text(both), text(either), text(negate(a)), text(equal)))
    return rows
