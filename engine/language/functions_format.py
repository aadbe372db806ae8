"""`format`: values put into a text, as C's printf spells them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from engine.language.functions import FUNCTIONS, KINDS, define
from engine.language.quantities import TypeName

_CLAUSE = re.compile(r"%(?:\.(?P<places>\d{1,3}))?(?P<verb>[%sdfebxXo])?")
_PLACES = 6
_WHOLE = ("int", "uint")


@define("string::format(list) string")
def _format(text: str, values: list[Any]) -> str:
    """Each %s, %d, %f, %e, %b, %o, %x or %X replaced by the next value; %.2f has two places, %% is a percent sign."""
    left = iter(enumerate(values))

    def filled(match: re.Match[str]) -> str:
        verb, places = match["verb"], match["places"]
        if verb is None or (places is not None and verb not in "fe"):
            raise ValueError(f"{text[match.start() : match.end() + 1]!r} is no place for a value")
        if verb == "%":
            return "%"
        number, value = next(left, (len(values), None))
        if number == len(values):
            raise ValueError(f"there are {len(values)} values, and more places for them")
        return _VERBS[verb](value, verb, _PLACES if places is None else int(places))

    return _CLAUSE.sub(filled, text)


def _refused(value: Any, verb: str) -> ValueError:
    return ValueError(f"%{verb} can't show {KINDS.get(type(value), 'this value')}")


def _text(value: Any, verb: str, places: int) -> str:
    kind = KINDS.get(type(value))
    if kind == "double":
        return _special(value) or _as_string(value)
    if kind in ("null", "bool"):
        return {None: "null", True: "true", False: "false"}[value]
    if kind == "list":
        return f"[{', '.join(_text(item, verb, places) for item in value)}]"
    if kind == "map":
        pairs = sorted((_text(key, verb, places), _text(item, verb, places)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    if isinstance(value, TypeName):
        return value.name
    if kind is None:
        raise _refused(value, verb)
    return _as_string(value)


def _as_string(value: Any) -> str:
    """What string() gives."""
    text = FUNCTIONS["string", False]([value])
    if not isinstance(text, str):
        raise _refused(value, "s")
    return text


def _special(value: float) -> str:
    """How a double that is no number is spelled; "" for one that is."""
    if math.isnan(value):
        return "NaN"
    return "" if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(value: Any, verb: str, places: int) -> str:
    special = _special(value) if isinstance(value, float) else ""
    if special or KINDS.get(type(value)) in _WHOLE:
        return special or f"{value:d}"
    raise _refused(value, verb)


def _real(value: Any, verb: str, places: int) -> str:
    if KINDS.get(type(value)) not in (*_WHOLE, "double"):
        raise _refused(value, verb)
    return _special(value) or f"{float(value):.{places}{verb}}"


def _digits(value: Any, verb: str, places: int) -> str:
    """In base 2, 8 or 16; a bool only in base 2, a text or bytes only in base 16."""
    kind = KINDS.get(type(value))
    if kind in _WHOLE or (kind == "bool" and verb == "b"):
        return format(int(value), verb)
    if kind in ("string", "bytes") and verb in "xX":
        shown = (value.encode() if kind == "string" else value).hex()
        return str(shown.upper() if verb == "X" else shown)
    raise _refused(value, verb)


_VERBS: dict[str, Callable[[Any, str, int], str]] = {
    "s": _text, "d": _decimal, "f": _real, "e": _real, "b": _digits, "o": _digits, "x": _digits, "X": _digits,
}  # fmt: skip
