"""Where each character of a YAML scalar's value stands in its raw text.

YAML rewrites what people type: quotes are doubled, escapes stand for other characters, lines are folded. A caret must
stand under the very characters in the file all the same, so the rewriting is done here again with places kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_BREAK = re.compile(r"\r\n|\n|\r|\x85|\u2028|\u2029")
_ESCAPE_LENGTH = {"x": 3, "u": 5, "U": 9}
_SINGLE_ESCAPES = dict(zip('0abt\tnvfre "/\\N_LP', '\0\a\b\t\t\n\v\f\r\x1b "/\\\x85\xa0\u2028\u2029', strict=True))

Places = list[tuple[str, int]]
"""Characters of the value, each with its index in the raw text."""


def value_offsets(raw: str, value: str, style: str) -> list[int]:
    """For each character of `value`, and one past its end, the index in `raw`.

    `style` is "" (plain), "'", '"', "|" or ">". Should the raw text not rebuild the value, every index is 0: the start.
    """
    if style in ("|", ">"):
        places, end = _block(raw, value, folded=style == ">"), len(raw.rstrip())
    else:
        quote = len(style)
        places, end = _flow(raw[quote : len(raw) - quote], quote, _READERS[style]), len(raw) - quote
    places = places[: len(value)]
    if "".join(character for character, _ in places) != value:
        return [0] * (len(value) + 1)
    return [index for _, index in places] + [places[-1][1] + 1 if places and style in ("|", ">") else end]


def _plain(raw: str, i: int) -> tuple[str, int]:
    return raw[i], 1


def _single(raw: str, i: int) -> tuple[str, int]:
    return (raw[i], 2) if raw[i : i + 2] == "''" else (raw[i], 1)


def _double(raw: str, i: int) -> tuple[str, int]:
    if raw[i] != "\\":
        return raw[i], 1
    kind = raw[i + 1]
    if kind in _ESCAPE_LENGTH:
        length = 1 + _ESCAPE_LENGTH[kind]
        return chr(int(raw[i + 2 : i + length], 16)), length
    joined = _BREAK.match(raw, i + 1)
    if joined:
        return "", 1 + len(joined.group())
    return _SINGLE_ESCAPES.get(kind, ""), 2


_READERS: dict[str, Callable[[str, int], tuple[str, int]]] = {"": _plain, "'": _single, '"': _double}


def _flow(raw: str, base: int, read: Callable[[str, int], tuple[str, int]]) -> Places:
    """Plain and quoted text: a line break is a space, further ones are breaks, blanks around them go."""
    places: Places = []
    i, kept = 0, 0  # `kept`: places before it are escapes or text that trailing-blank removal must not touch
    while i < len(raw):
        if _BREAK.match(raw, i):
            i = _fold(raw, i, base, places, kept)
            kept = len(places)
            continue
        character, length = read(raw, i)
        if length > 1 and not character:  # an escaped line break joins the lines
            i = _skip_joined(raw, i + length, base, places)
            kept = len(places)
            continue
        places.append((character, base + i))
        if length > 1 or character not in " \t":
            kept = len(places)
        i += length
    return places


def _fold(raw: str, i: int, base: int, places: Places, kept: int) -> int:
    del places[kept:]
    breaks, i = _breaks(raw, i)
    if len(breaks) == 1:
        places.append((" ", base + breaks[0]))
    else:
        places.extend(("\n", base + at) for at in breaks[1:])
    return i


def _skip_joined(raw: str, i: int, base: int, places: Places) -> int:
    breaks, i = _breaks(raw, i)
    places.extend(("\n", base + at) for at in breaks)
    return i


def _breaks(raw: str, i: int) -> tuple[list[int], int]:
    """Indices of the line breaks from `i` on with only blanks between, and where text goes on."""
    found: list[int] = []
    while True:
        while i < len(raw) and raw[i] in " \t":
            i += 1
        match = _BREAK.match(raw, i)
        if not match:
            return found, i
        found.append(i)
        i = match.end()


def _block(raw: str, value: str, *, folded: bool) -> Places:
    """Literal and folded blocks: the header line goes, then the common indentation of every line."""
    header = _BREAK.search(raw)
    if not header:
        return []
    lines = _split(raw, header.end())
    indent = _indentation(lines, value)
    places: Places = []
    pending: list[int] = []  # breaks since the last line with text
    previous = ""
    for text, start, break_at in lines:
        content = text[indent:]
        if content or (text and not text.strip(" ") and len(text) > indent):
            _join(places, pending, previous, content, folded=folded)
            places.extend((c, start + indent + k) for k, c in enumerate(content))
            pending, previous = [], content
        pending.append(break_at)
    places.extend(("\n", at) for at in pending)
    return places


def _join(places: Places, breaks: list[int], previous: str, following: str, *, folded: bool) -> None:
    """Put what stands between two lines with text: one folded break is a space, the first of several goes."""
    if folded and previous and breaks and previous[0] not in " \t" and following[:1] not in (" ", "\t"):
        if len(breaks) == 1:
            places.append((" ", breaks[0]))
            return
        breaks = breaks[1:]
    places.extend(("\n", at) for at in breaks)


def _split(raw: str, i: int) -> list[tuple[str, int, int]]:
    """Lines from `i` on: text, index of its first character, index of its break."""
    lines = []
    while i < len(raw):
        match = _BREAK.search(raw, i)
        stop, after = (match.start(), match.end()) if match else (len(raw), len(raw))
        lines.append((raw[i:stop], i, stop))
        i = after
    return lines


def _indentation(lines: list[tuple[str, int, int]], value: str) -> int:
    """Indentation of the block: what the first line with text has more than the value's first line with text."""
    first = next((text for text, _, _ in lines if text.strip()), "")
    wanted = next((text for text in value.split("\n") if text.strip()), "")
    return max(0, (len(first) - len(first.lstrip(" "))) - (len(wanted) - len(wanted.lstrip(" "))))
