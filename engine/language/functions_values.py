"""Functions on numbers, on conversions between types, and on sizes."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from engine.language.functions import KINDS, define, define_all
from engine.language.quantities import INT_MAX, INT_MIN, UINT_MAX, TypeName, UInt

_DOUBLE = re.compile(r"[+-]?(?:inf(?:inity)?|nan|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
_TYPE_NAMES = {
    "null": "null_type", "timestamp": "google.protobuf.Timestamp", "duration": "google.protobuf.Duration",
    "ip": "net.IP", "cidr": "net.CIDR",
}  # fmt: skip


@define("type(dyn) type")
def type_of(value: Any) -> TypeName:
    """The type of a value, as a value."""
    kind = KINDS[type(value)]
    return TypeName(_TYPE_NAMES.get(kind, kind))


TYPE_NAMES = {
    name: TypeName(name)
    for name in ("bool", "int", "uint", "double", "string", "bytes", "list", "map", "type", *_TYPE_NAMES.values())
}
"""Names that stand for types in dynamic mode."""


_ITSELF = "bool int uint double string bytes timestamp duration ip cidr".split()
define_all(
    ("size(string) int; size(bytes) int; size(list) int; size(map(dyn, dyn)) int", len),
    ("string::size() int; bytes::size() int; list::size() int; map(dyn, dyn)::size() int", len),
    ("dyn(dyn) dyn", lambda value: value),
    *((f"{kind}({kind}) {kind}", lambda value: value) for kind in _ITSELF),
)


@define("bool(string) bool")
def _bool(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"{text!r} is not a bool")


def whole(value: int) -> int:
    """The value if it fits into int64, else ValueError."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise ValueError("the result doesn't fit into a 64-bit int")


@define("int(double) int")
def _int_of_double(value: float) -> int:
    if not -(2.0**63) < value < 2.0**63:
        raise ValueError(f"{value} doesn't fit into a 64-bit int")
    return int(value)


@define("int(string) int")
def _int_of_text(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,400}", text):
        raise ValueError(f"{text!r} is not an int")
    return whole(int(text))


@define("uint(double) uint")
def _uint_of_double(value: float) -> UInt:
    if not 0.0 <= value < 2.0**64:
        raise ValueError(f"{value} doesn't fit into a 64-bit uint")
    return UInt(int(value))


@define("uint(string) uint")
def _uint_of_text(text: str) -> UInt:
    if not re.fullmatch(r"[0-9]{1,400}", text):
        raise ValueError(f"{text!r} is not a uint")
    return UInt(int(text))


@define("double(string) double")
def _double_of_text(text: str) -> float:
    if not _DOUBLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a double")
    value = float(text)
    if math.isinf(value) and "i" not in text.lower():
        raise ValueError(f"{text!r} is too large for a double")
    return value


@define("string(bytes) string")
def _string_of_bytes(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("the bytes are not UTF-8") from error


@define("string(double) string")
def string_of_double(value: float) -> str:
    """The shortest text that reads back as the same double; exponents below -4 and from 21 significant places on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    exact = Decimal(repr(value)).normalize()
    exponent = exact.adjusted()
    if -4 <= exponent < 21:
        return f"{exact:f}"
    return f"{exact.scaleb(-exponent):f}e{exponent:+03d}"


# --- math -----------------------------------------------------------------------------------------------------------


def _extreme(name: str, choose: Callable[[Any], Any]) -> None:
    def chosen(*values: Any) -> Any:
        items = values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values
        if not items:
            raise ValueError("the list is empty")
        if any(KINDS.get(type(item)) not in ("int", "uint", "double") for item in items):
            raise ValueError("every argument must be a number")
        return choose(items)

    for kind in ("int", "uint", "double", "dyn"):
        forms = [f"math.{name}({', '.join([kind] * count)}) {kind}" for count in range(1, 9)]
        define(*forms, *([] if kind == "dyn" else [f"math.{name}(list({kind})) {kind}"]))(chosen)


_extreme("greatest", max)
_extreme("least", min)


def _whole_double(to_int: Callable[[float], int]) -> Callable[[float], float]:
    """A rounding that leaves infinities and NaN as they are."""
    return lambda value: float(to_int(value)) if math.isfinite(value) else value


@define("math.round(double) double")
def _round(value: float) -> float:
    """Half away from zero."""
    if not math.isfinite(value):
        return value
    low = math.floor(abs(value))
    return math.copysign(low + 1 if abs(value) - low >= 0.5 else low, value)


@define("math.abs(int) int", "math.abs(uint) uint", "math.abs(double) double")
def _abs(value: Any) -> Any:
    if isinstance(value, float | UInt):
        return value if isinstance(value, UInt) else abs(value)
    return whole(abs(value))


@define("math.sign(int) int", "math.sign(uint) uint", "math.sign(double) double")
def _sign(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isnan(value) or value == 0 else math.copysign(1.0, value)
    return type(value)((value > 0) - (value < 0))


def _signed(value: int) -> int:
    value &= UINT_MAX
    return value - 2**64 if value > INT_MAX else value


def _bits(name: str, combine: Callable[[int, int], int]) -> None:
    define(f"math.{name}(int, int) int")(lambda a, b: _signed(combine(a, b)))
    define(f"math.{name}(uint, uint) uint")(lambda a, b: UInt(combine(int(a), int(b)) & UINT_MAX))


_bits("bitAnd", lambda a, b: a & b)
_bits("bitOr", lambda a, b: a | b)
_bits("bitXor", lambda a, b: a ^ b)


def _shift(value: int, places: int, left: bool) -> int:
    """The 64-bit pattern of `value` moved; more than 63 places leave nothing."""
    if places < 0:
        raise ValueError("the number of places is negative")
    if places > 63:
        return 0
    pattern = int(value) & UINT_MAX
    return (pattern << places) & UINT_MAX if left else pattern >> places


# --- encoders -------------------------------------------------------------------------------------------------------


@define("base64.decode(string) bytes")
def _decode(text: str) -> bytes:
    """Padding may be missing; other characters than those of the alphabet are refused."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4) if "=" not in text else text, validate=True)
    except ValueError as error:
        raise ValueError(f"{text!r} is not base64") from error


define_all(
    ("int(uint) int", lambda value: whole(int(value))),
    ("uint(int) uint", UInt),
    ("double(int) double; double(uint) double", float),
    ("string(bool) string", lambda value: "true" if value else "false"),
    ("string(int) string; string(uint) string", lambda value: str(int(value))),
    ("string(ip) string; string(cidr) string", str),
    ("bytes(string) bytes", str.encode),
    ("math.ceil(double) double", _whole_double(math.ceil)),
    ("math.floor(double) double", _whole_double(math.floor)),
    ("math.trunc(double) double", _whole_double(math.trunc)),
    (
        "math.sqrt(int) double; math.sqrt(uint) double; math.sqrt(double) double",
        lambda value: math.sqrt(value) if value >= 0 else math.nan,
    ),
    ("math.isNaN(double) bool", math.isnan),
    ("math.isInf(double) bool", math.isinf),
    ("math.isFinite(double) bool", math.isfinite),
    ("math.bitNot(int) int", lambda value: ~value),
    ("math.bitNot(uint) uint", lambda value: UInt(~int(value) & UINT_MAX)),
    ("math.bitShiftLeft(int, int) int", lambda value, places: _signed(_shift(value, places, True))),
    ("math.bitShiftRight(int, int) int", lambda value, places: _signed(_shift(value, places, False))),
    ("math.bitShiftLeft(uint, int) uint", lambda value, places: UInt(_shift(value, places, True))),
    ("math.bitShiftRight(uint, int) uint", lambda value, places: UInt(_shift(value, places, False))),
    ("base64.encode(bytes) string", lambda value: base64.b64encode(value).decode("ascii")),
)
