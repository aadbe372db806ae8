"""Functions on texts: search, RE2, slices, case, and the ones that policies use for e-mail and names."""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache
from itertools import pairwise
from typing import Any

import re2

from engine.language.functions import define, define_all

_LOWER = {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_UPPER = {ord(c): c.upper() for c in "abcdefghijklmnopqrstuvwxyz"}


@lru_cache(maxsize=4096)
def regex(pattern: str) -> Any:
    """A compiled RE2 pattern, which matches in linear time; ValueError says what is wrong with it."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else error
        said = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        raise ValueError(f"{pattern!r} is not a regular expression: {said}") from error


def _inside(text: str, *indices: int) -> None:
    """Refuse indices outside the text, or that go backwards."""
    for low, high in pairwise((0, *indices, len(text))):
        if low > high:
            raise ValueError(f"index {' to '.join(map(str, indices))} is outside the text")


@define("string::charAt(int) string")
def _char_at(text: str, index: int) -> str:
    """The character at an index; empty at the end."""
    _inside(text, index)
    return text[index : index + 1]


@define("string::indexOf(string) int", "string::indexOf(string, int) int")
def _index_of(text: str, part: str, start: int = 0) -> int:
    """Where a part begins, -1 if it isn't there; from an index on."""
    _inside(text, start)
    return text.find(part, start)


@define("string::lastIndexOf(string) int", "string::lastIndexOf(string, int) int")
def _last_index_of(text: str, part: str, start: int | None = None) -> int:
    """Where the last such part begins, -1 if it isn't there; at an index at most."""
    if start is None:
        return text.rfind(part)
    _inside(text, start)
    return text.rfind(part, 0, start + len(part))


@define("string::substring(int) string", "string::substring(int, int) string")
def _substring(text: str, start: int, end: int | None = None) -> str:
    """From an index on, up to another."""
    stop = len(text) if end is None else end
    _inside(text, start, stop)
    return text[start:stop]


@define("list(string)::join() string", "list(string)::join(string) string")
def _join(items: list[Any], between: str = "") -> str:
    """The texts one after another, with something between them."""
    if not all(isinstance(item, str) for item in items):
        raise ValueError("every item must be a string")
    return between.join(items)


@define("string::split(string) list(string)", "string::split(string, int) list(string)")
def _split(text: str, between: str, most: int = -1) -> list[str]:
    """The parts between a separator, at most as many as the number says."""
    if most == 0:
        return []
    if not between:
        parts = list(text)
        return parts if most < 0 or len(parts) <= most else [*parts[: most - 1], "".join(parts[most - 1 :])]
    return text.split(between, most - 1 if most > 0 else -1)


def _quote(text: str) -> str:
    quoted = json.dumps(text.encode("utf-8", "replace").decode("utf-8"), ensure_ascii=False)
    return quoted.replace("\\u0007", "\\a").replace("\\u000b", "\\v")


@define("domain_of(string) string")
def _domain_of(address: str) -> str:
    """What stands after the last @, in lower case."""
    name, at, domain = address.rpartition("@")
    if not (name and at and domain):
        raise ValueError("not an e-mail address")
    return domain.strip().lower()


define_all(
    ("string::startsWith(string) bool", str.startswith),
    ("string::endsWith(string) bool", str.endswith),
    ("string::contains(string) bool", str.__contains__),
    (
        "string::matches(string) bool; matches(string, string) bool",
        lambda text, pattern: regex(pattern).search(text) is not None,
        "Whether the pattern is found anywhere in the text.",
    ),
    ("string::lowerAscii() string", lambda text: text.translate(_LOWER), "Only the letters a to z change."),
    ("string::upperAscii() string", lambda text: text.translate(_UPPER), "Only the letters a to z change."),
    (
        "string::replace(string, string) string; string::replace(string, string, int) string",
        str.replace,
        "Every such part replaced, or as many as the number says.",
    ),
    ("string::trim() string", lambda text: text.strip(_BLANKS), "Without blanks at both ends."),
    ("string::reverse() string", lambda text: text[::-1]),
    ("strings.quote(string) string", _quote),
    ("lower(string) string", str.lower, "Lower case, in any alphabet."),
    (
        "normalised(string) string",
        lambda text: " ".join(unicodedata.normalize("NFKC", text).casefold().split()),
        "For comparing what people type: compatibility forms, case, and runs of blanks don't matter.",
    ),
)
