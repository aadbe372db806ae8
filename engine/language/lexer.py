"""Splits a condition into tokens with their places; literals come out as values."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from engine.language.diagnostics import plain_letters
from engine.language.quantities import INT_MAX, UINT_MAX, ExpressionError, UInt

MAX_LENGTH = 100_000
_TOKEN = re.compile(
    r"""(?P<space>[\t\n\f\r ]+|//[^\n\r]*)
      | (?P<text>(?:[rR][bB]?|[bB][rR]?)?(?:"{3}|'{3}|"|'))
      | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+
          |[0-9]+[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<quoted>`[A-Za-z0-9_.\-/ ]+`)
      | (?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_STYLES = {s: re.compile(e, re.DOTALL) for s, e in {
    '"': r'(?:[^"\\\r\n]|\\.)*"', "'": r"(?:[^'\\\r\n]|\\.)*'",
    '"""': r'(?:[^"\\]|\\.|"(?!""))*"""', "'''": r"(?:[^'\\]|\\.|'(?!''))*'''",
}.items()}  # fmt: skip
_RAW_STYLES = {s: re.compile(e, re.DOTALL) for s, e in {
    '"': r'[^"\r\n]*"', "'": r"[^'\r\n]*'", '"""': r'.*?"""', "'''": r".*?'''",
}.items()}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))"
)
_PLAIN_ESCAPES = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a condition: `kind` is name, quoted, literal, sign or end; `text` as written; `value` of a literal."""

    kind: str
    text: str
    start: int
    end: int
    value: Any = None


class SyntaxMistake(ExpressionError):
    """A condition that can't be parsed: code, offset into the text and length of what is wrong, and a hint."""

    def __init__(self, code: str, message: str, start: int, length: int = 1, hint: str = "") -> None:
        self.code, self.message, self.start, self.length, self.hint = code, message, start, max(1, length), hint
        super().__init__(f"{message} (at character {start + 1})" + (f"; {hint}" if hint else ""))


def tokens(text: str) -> list[Token]:
    """All tokens and a last one of kind "end"; SyntaxMistake at the first that is wrong."""
    if len(text) > MAX_LENGTH:
        raise SyntaxMistake("E207", f"a condition may have {MAX_LENGTH:,} characters, this has {len(text):,}", 0)
    found, i = [], 0
    while i < len(text):
        match = _TOKEN.match(text, i)
        if match is None:
            raise _strange(text, i)
        kind, end = match.lastgroup or "", match.end()
        if kind == "text":
            token = _text(text, i, match.group())
            found.append(token)
            end = token.end
        elif kind == "number":
            found.append(Token("literal", match.group(), i, end, _number(match.group(), i)))
            _ends_cleanly(text, i, end)
        elif kind != "space":
            found.append(Token(kind, match.group(), i, end))
        i = end
    found.append(Token("end", "", len(text), len(text)))
    return found


def _strange(text: str, i: int) -> SyntaxMistake:
    character = text[i]
    hint = ""
    twin = plain_letters(character)
    if ord(character) > 127 and twin.isascii():
        hint = f"this is {unicodedata.name(character, 'not ASCII')}, which only looks like `{twin}`"
    elif character in "=&|":
        hint = {"=": "compare with `==`", "&": "`and` is `&&`", "|": "`or` is `||`"}[character]
    shown = character if character.isprintable() else f"U+{ord(character):04X}"
    return SyntaxMistake("E201", f"`{shown}` can't stand here", i, 1, hint)


def _number(text: str, start: int) -> int | float | UInt:
    digits = text.rstrip("uU")
    if len(digits) > 400:
        raise SyntaxMistake("E204", "the number has too many digits", start, len(text))
    if digits[:2] in ("0x", "0X"):
        whole = int(digits[2:], 16)
    elif digits.isdigit():
        whole = int(digits)
    else:
        return float(digits)
    unsigned = digits != text
    # -2^63 is written as minus 2^63, so one more than the largest int is let through; the parser looks at its sign.
    if whole > (UINT_MAX if unsigned else INT_MAX + 1):
        raise SyntaxMistake("E204", f"{text} doesn't fit into 64 bits", start, len(text))
    return UInt(whole) if unsigned else whole


def _ends_cleanly(text: str, start: int, end: int) -> None:
    if end < len(text) and (text[end].isalnum() or text[end] == "_"):
        stop = end
        while stop < len(text) and (text[stop].isalnum() or text[stop] == "_"):
            stop += 1
        raise SyntaxMistake("E204", f"`{text[start:stop]}` is not a number", start, stop - start)


def _text(text: str, start: int, opening: str) -> Token:
    """A text or bytes literal that begins at `start` with prefix and quotes `opening`."""
    prefix = opening.rstrip("\"'").lower()
    quotes = opening[len(prefix) :]
    styles = _RAW_STYLES if "r" in prefix else _STYLES
    body_start = start + len(opening)
    match = styles[quotes].match(text, body_start)
    if match is None:
        raise SyntaxMistake("E202", f"the text that begins with {opening} is not closed", start, len(opening))
    body = text[body_start : match.end() - len(quotes)]
    value: str | bytes = body
    if "r" not in prefix:
        value = _unescape_bytes(body, body_start) if "b" in prefix else _unescape(body, body_start)
    elif "b" in prefix:
        value = body.encode("utf-8", "surrogatepass")
    return Token("literal", text[start : match.end()], start, match.end(), value)


def _unescape(body: str, start: int) -> str:
    return "".join(part if isinstance(part, str) else chr(part) for part in _parts(body, start, bytes_allowed=False))


def _unescape_bytes(body: str, start: int) -> bytes:
    parts = _parts(body, start, bytes_allowed=True)
    return b"".join(part.encode("utf-8") if isinstance(part, str) else bytes([part]) for part in parts)


def _parts(body: str, start: int, *, bytes_allowed: bool) -> list[str | int]:
    """Plain stretches as text, numeric escapes as numbers; carriage returns are kept as written."""
    found: list[str | int] = []
    i = 0
    while i < len(body):
        at = body.find("\\", i)
        if at < 0:
            found.append(body[i:])
            break
        found.append(body[i:at])
        match = _ESCAPE.match(body, at)
        wide = match and (match.group(3) or match.group(4))
        if match is None or (bytes_allowed and wide):
            what = "in bytes" if match else "in a text"
            hint = "write `\\\\` for a backslash, or put r before the quotes"
            raise SyntaxMistake("E203", f"`{body[at : at + 2]}` is not an escape {what}", start + at, 2, hint)
        if match.group(1):
            found.append(_PLAIN_ESCAPES[match.group(1)])
        else:
            number = int(match.group(5), 8) if match.group(5) else int(match.group(2) or wide or "", 16)
            if wide and (number > 0x10FFFF or 0xD800 <= number <= 0xDFFF):
                raise SyntaxMistake("E203", f"U+{number:X} is not a character", start + at, len(match.group()))
            found.append(number)
        i = match.end()
    return found
