"""Functions on texts: search, RE2, slices, case, and the ones that policies use for e-mail and names."""

from __future__ import annotations

import json
import unicodedata
from functools import lru_cache
from typing import Any

import re2

from engine.language.functions import define

_LOWER = {ord(c): c.lower() for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_UPPER = {ord(c): c.upper() for c in "abcdefghijklmnopqrstuvwxyz"}


@define("string::startsWith(string) bool")
def _starts(text: str, prefix: str) -> bool:
    return text.startswith(prefix)


@define("string::endsWith(string) bool")
def _ends(text: str, suffix: str) -> bool:
    return text.endswith(suffix)


@define("string::contains(string) bool")
def _contains(text: str, part: str) -> bool:
    return part in text


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


@define("string::matches(string) bool", "matches(string, string) bool")
def _matches(text: str, pattern: str) -> bool:
    """Whether the pattern is found anywhere in the text."""
    return regex(pattern).search(text) is not None


@define("string::charAt(int) string")
def _char_at(text: str, index: int) -> str:
    """The character at an index; empty at the end."""
    if not 0 <= index <= len(text):
        raise ValueError(f"index {index} is outside the text")
    return text[index : index + 1]


@define("string::indexOf(string) int", "string::indexOf(string, int) int")
def _index_of(text: str, part: str, start: int = 0) -> int:
    """Where a part begins, -1 if it isn't there; from an index on."""
    if not 0 <= start <= len(text):
        raise ValueError(f"index {start} is outside the text")
    return text.find(part, start)


@define("string::lastIndexOf(string) int", "string::lastIndexOf(string, int) int")
def _last_index_of(text: str, part: str, start: int | None = None) -> int:
    """Where the last such part begins, -1 if it isn't there; at an index at most."""
    if start is None:
        return text.rfind(part)
    if not 0 <= start <= len(text):
        raise ValueError(f"index {start} is outside the text")
    return text.rfind(part, 0, start + len(part))


@define("list(string)::join() string", "list(string)::join(string) string")
def _join(items: list[Any], between: str = "") -> str:
    """The texts one after another, with something between them."""
    if not all(isinstance(item, str) for item in items):
        raise ValueError("every item must be a string")
    return between.join(items)


@define("string::lowerAscii() string")
def _lower_ascii(text: str) -> str:
    """Only the letters a to z change."""
    return text.translate(_LOWER)


@define("string::upperAscii() string")
def _upper_ascii(text: str) -> str:
    """Only the letters a to z change."""
    return text.translate(_UPPER)


@define("string::replace(string, string) string", "string::replace(string, string, int) string")
def _replace(text: str, old: str, new: str, most: int = -1) -> str:
    """Every such part replaced, or as many as the number says."""
    return text.replace(old, new, most)


@define("string::split(string) list(string)", "string::split(string, int) list(string)")
def _split(text: str, between: str, most: int = -1) -> list[str]:
    """The parts between a separator, at most as many as the number says."""
    if most == 0:
        return []
    if not between:
        parts = list(text)
        return parts if most < 0 or len(parts) <= most else [*parts[: most - 1], "".join(parts[most - 1 :])]
    return text.split(between, most - 1 if most > 0 else -1)


@define("string::substring(int) string", "string::substring(int, int) string")
def _substring(text: str, start: int, end: int | None = None) -> str:
    """From an index on, up to another."""
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"{start} to {stop} is outside the text")
    return text[start:stop]


@define("string::trim() string")
def _trim(text: str) -> str:
    """Without blanks at both ends."""
    return text.strip(
        "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
    )


@define("string::reverse() string")
def _reverse(text: str) -> str:
    return text[::-1]


@define("strings.quote(string) string")
def _quote(text: str) -> str:
    quoted = json.dumps(text.encode("utf-8", "replace").decode("utf-8"), ensure_ascii=False)
    return quoted.replace("\\u0007", "\\a").replace("\\u000b", "\\v")


@define("lower(string) string")
def _lower(text: str) -> str:
    """Lower case, in any alphabet."""
    return text.lower()


@define("normalised(string) string")
def _normalised(text: str) -> str:
    """For comparing what people type: compatibility forms, case, and runs of blanks don't matter."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@define("domain_of(string) string")
def _domain_of(address: str) -> str:
    """What stands after the last @, in lower case."""
    name, at, domain = address.rpartition("@")
    if not (name and at and domain):
        raise ValueError("not an e-mail address")
    return domain.strip().lower()
