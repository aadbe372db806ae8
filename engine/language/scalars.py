"""Where each character of a YAML scalar's value stands in its raw text.

YAML rewrites what people type: quotes are doubled, escapes stand for other characters, lines are folded. But what is no
blank comes out in the order in which it was written, so value and raw text are walked side by side: a character of the
value stands at the next place that can give it, and only blanks are passed over on the way there.
"""

from __future__ import annotations

import re

_BREAKS = frozenset({"\r\n", "\n", "\r", "\x85"})
_BLANKS = frozenset({" ", "\t", "\n", "\u2028", "\u2029", ""})
_PIECES = {
    "'": re.compile(r"''|\r\n|.", re.DOTALL),
    '"': re.compile(r"\\x..|\\u.{4}|\\U.{8}|\\\r\n|\\.|\r\n|.", re.DOTALL),
}
_PLAIN = re.compile(r"\r\n|.", re.DOTALL)
_ESCAPES = dict(zip('0abt\tnvfre "/\\N_LP', '\0\a\b\t\t\n\v\f\r\x1b "/\\\x85\xa0\u2028\u2029', strict=True))


def value_offsets(raw: str, value: str, style: str) -> list[int]:
    """For each character of `value`, and one past its end, the index in `raw`.

    `style` is "" (plain), "'", '"', "|" or ">". Should the raw text not rebuild the value, every index is 0: the start.
    """
    block = style in ("|", ">")
    header = re.match(r"[^\r\n\x85]*(?:\r\n|.)?", raw, re.DOTALL) if block else None
    first, last = (header.end(), len(raw)) if header else (len(style), len(raw) - len(style))
    pieces = _PIECES.get(style, _PLAIN).finditer(raw, first, last)
    places: list[int] = []
    for character in value:
        for piece in pieces:
            given = _given(piece.group(), style)
            if given == character or (given == "\n" and character == " "):  # a break may be folded into a space
                places.append(piece.start())
                break
            if given not in _BLANKS:
                return [0] * (len(value) + 1)
        else:
            return [0] * (len(value) + 1)
    return [*places, places[-1] + 1 if block and places else len(raw.rstrip()) if block else last]


def _given(piece: str, style: str) -> str:
    """The character that a piece of raw text stands for; "" for none."""
    if piece in _BREAKS:
        return "\n"
    if style == '"' and piece[0] == "\\":
        return chr(int(piece[2:], 16)) if piece[1] in "xuU" else _ESCAPES.get(piece[1], "")
    return "'" if piece == "''" else piece
