"""Functions on numbers, on conversions between types, and on sizes."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from typing import Any

from engine.language.functions import KINDS, define
from engine.language.quantities import INT_MAX, INT_MIN, UINT_MAX, TypeName, UInt

_DOUBLE = re.compile(r"[+-]?(?:inf(?:inity)?|nan|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
_TYPE_NAMES = {
    "null": "null_type", "timestamp": "google.protobuf.Timestamp", "duration": "google.protobuf.Duration",
    "ip": "net.IP", "cidr": "net.CIDR",
}  # fmt: skip


@define("size(string) int", "size(bytes) int", "size(list) int", "size(map(dyn, dyn)) int")
@define("string::size() int", "bytes::size() int", "list::size() int", "map(dyn, dyn)::size() int")
def _size(value: Any) -> int:
    return len(value)


@define("dyn(dyn) dyn")
def _dyn(value: Any) -> Any:
    return value


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


@define("bool(bool) bool", "int(int) int", "uint(uint) uint", "double(double) double", "bytes(bytes) bytes")
@define("string(string) string", "timestamp(timestamp) timestamp", "duration(duration) duration")
@define("ip(ip) ip", "cidr(cidr) cidr")
def _same(value: Any) -> Any:
    return value


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


@define("int(uint) int")
def _int(value: int) -> int:
    return whole(int(value))


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


@define("uint(int) uint")
def _uint(value: int) -> UInt:
    return UInt(value)


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


@define("double(int) double", "double(uint) double")
def _double(value: int) -> float:
    return float(value)


@define("double(string) double")
def _double_of_text(text: str) -> float:
    if not _DOUBLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a double")
    value = float(text)
    if math.isinf(value) and "i" not in text.lower():
        raise ValueError(f"{text!r} is too large for a double")
    return value


@define("string(bool) string")
def _string_of_bool(value: bool) -> str:
    return "true" if value else "false"


@define("string(int) string", "string(uint) string")
def _string_of_int(value: int) -> str:
    return str(int(value))


@define("string(ip) string", "string(cidr) string")
def _string_of_network(value: Any) -> str:
    return str(value)


@define("string(bytes) string")
def _string_of_bytes(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("the bytes are not UTF-8") from error


@define("bytes(string) bytes")
def _bytes(text: str) -> bytes:
    return text.encode("utf-8")


@define("string(double) string")
def string_of_double(value: float) -> str:
    """The shortest text that reads back as the same double; exponents below -4 and from 21 significant places on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    digits, exponent = _digits(value)
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    threshold = max(21, len(digits))
    if -4 <= exponent < threshold:
        return sign + _positional(digits, exponent)
    fraction = "." + digits[1:] if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _digits(value: float) -> tuple[str, int]:
    """Significant digits without trailing zeros, and the exponent of the first one."""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    before, _, after = mantissa.partition(".")
    both = before + after
    digits = both.lstrip("0")
    place = len(before) - 1 - (len(both) - len(digits)) + int(exponent or 0)
    return (digits.rstrip("0") or "0"), (place if digits else 0)


def _positional(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    padded = digits.ljust(exponent + 1, "0")
    rest = padded[exponent + 1 :]
    return padded[: exponent + 1] + ("." + rest if rest else "")


# --- math -----------------------------------------------------------------------------------------------------------


def _extreme(name: str, better: Callable[[Any, Any], bool]) -> None:
    def choose(*values: Any) -> Any:
        items = values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values
        if not items:
            raise ValueError("the list is empty")
        if any(KINDS.get(type(item)) not in ("int", "uint", "double") for item in items):
            raise ValueError("every argument must be a number")
        best = items[0]
        for item in items[1:]:
            best = item if better(item, best) else best
        return best

    for kind in ("int", "uint", "double"):
        for count in range(1, 9):
            define(f"math.{name}({', '.join([kind] * count)}) {kind}")(choose)
        define(f"math.{name}(list({kind})) {kind}")(choose)
    for count in range(1, 9):
        define(f"math.{name}({', '.join(['dyn'] * count)}) dyn")(choose)


_extreme("greatest", lambda item, best: item > best)
_extreme("least", lambda item, best: item < best)


@define("math.ceil(double) double")
def _ceil(value: float) -> float:
    return float(math.ceil(value)) if math.isfinite(value) else value


@define("math.floor(double) double")
def _floor(value: float) -> float:
    return float(math.floor(value)) if math.isfinite(value) else value


@define("math.trunc(double) double")
def _trunc(value: float) -> float:
    return float(math.trunc(value)) if math.isfinite(value) else value


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


@define("math.sqrt(int) double", "math.sqrt(uint) double", "math.sqrt(double) double")
def _sqrt(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


@define("math.isNaN(double) bool")
def _is_nan(value: float) -> bool:
    return math.isnan(value)


@define("math.isInf(double) bool")
def _is_inf(value: float) -> bool:
    return math.isinf(value)


@define("math.isFinite(double) bool")
def _is_finite(value: float) -> bool:
    return math.isfinite(value)


def _signed(value: int) -> int:
    value &= UINT_MAX
    return value - 2**64 if value > INT_MAX else value


def _bits(name: str, combine: Callable[[int, int], int]) -> None:
    define(f"math.{name}(int, int) int")(lambda a, b: _signed(combine(a, b)))
    define(f"math.{name}(uint, uint) uint")(lambda a, b: UInt(combine(int(a), int(b)) & UINT_MAX))


_bits("bitAnd", lambda a, b: a & b)
_bits("bitOr", lambda a, b: a | b)
_bits("bitXor", lambda a, b: a ^ b)
define("math.bitNot(int) int")(lambda a: ~a)
define("math.bitNot(uint) uint")(lambda a: UInt(~int(a) & UINT_MAX))


def _shift(value: int, places: int, left: bool) -> int:
    """The 64-bit pattern of `value` moved; more than 63 places leave nothing."""
    if places < 0:
        raise ValueError("the number of places is negative")
    if places > 63:
        return 0
    pattern = int(value) & UINT_MAX
    return (pattern << places) & UINT_MAX if left else pattern >> places


define("math.bitShiftLeft(int, int) int")(lambda a, n: _signed(_shift(a, n, True)))
define("math.bitShiftRight(int, int) int")(lambda a, n: _signed(_shift(a, n, False)))
define("math.bitShiftLeft(uint, int) uint")(lambda a, n: UInt(_shift(a, n, True)))
define("math.bitShiftRight(uint, int) uint")(lambda a, n: UInt(_shift(a, n, False)))


# --- encoders -------------------------------------------------------------------------------------------------------


@define("base64.encode(bytes) string")
def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


@define("base64.decode(string) bytes")
def _decode(text: str) -> bytes:
    """Padding may be missing; other characters than those of the alphabet are refused."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4) if "=" not in text else text, validate=True)
    except ValueError as error:
        raise ValueError(f"{text!r} is not base64") from error
