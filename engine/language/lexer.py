"""Splits a condition into tokens with their places; literals come out as values."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import partial
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
    r"\\(?:([abfnrtv\\?\"'`])|[xX]([0-9a-fA-F]{2})|([0-3][0-7]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL
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
    given = body if "r" in prefix else _ESCAPE.sub(partial(_escaped, body_start, "b" in prefix), body)
    value = given.encode("utf-8", "surrogatepass" if "r" in prefix else "surrogateescape") if "b" in prefix else given
    return Token("literal", text[start : match.end()], start, match.end(), value)


def _escaped(start: int, in_bytes: bool, match: re.Match[str]) -> str:
    """The character of an escape in a text; in bytes a numeric one stands for a byte, so it is kept from encoding."""
    plain, byte, octal, wide = match[1], match[2], match[3], match[4] or match[5]
    if plain:
        return _PLAIN_ESCAPES[plain]
    if wide and not in_bytes:
        if int(wide, 16) > 0x10FFFF or 0xD800 <= int(wide, 16) <= 0xDFFF:
            raise SyntaxMistake("E203", f"U+{int(wide, 16):X} is not a character", start + match.start(), len(match[0]))
        return chr(int(wide, 16))
    if not (byte or octal):
        hint = "write `\\\\` for a backslash, or put r before the quotes"
        what = "in bytes" if wide else "in a text"
        raise SyntaxMistake("E203", f"`{match[0][:2]}` is not an escape {what}", start + match.start(), 2, hint)
    number = int(byte, 16) if byte else int(octal, 8)
    return chr(number + 0xDC00 if in_bytes and number > 0x7F else number)
