"""What became of every rule, in as few bytes as a record can spare: a decision is explained from it years later.

One byte a rule: the result in the lowest two bits, above them the number of its first failing condition. Of a rule set
with an index only the rules that did not miss are named, each as its number and such a byte, unless they are many. All
as hex digits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from engine.language import RowResult

MOST = 63
"""Conditions after this one count as this one."""
_SPARSE = "*"
_FEW = 100
"""So many rules are named at most, in less than 1 KB."""
_NAMED = struct.Struct("<IB")


def pack_trace(found: RowResult) -> str:
    """The trace of one rule set."""
    codes = found.codes
    if isinstance(codes, dict):
        if len(found.notable) <= _FEW:
            return _SPARSE + b"".join([_NAMED.pack(n, _byte(codes[n])) for n in found.notable]).hex()
        codes = [codes.get(rule, 0) for rule in range(len(found.results))]
    try:
        return bytes(codes).hex()
    except ValueError:  # a rule with more conditions than a byte can number
        return bytes(map(_byte, codes)).hex()


def unpack_trace(text: str) -> dict[int, tuple[int, int]]:
    """Rule → (result, first failing condition); of an indexed set a rule that is not named missed."""
    return {rule: (code & 3, code >> 2) for rule, code in _named(text)}


def _named(text: str) -> Iterator[tuple[int, int]]:
    if text.startswith(_SPARSE):
        return _NAMED.iter_unpack(bytes.fromhex(text[1:]))
    return enumerate(bytes.fromhex(text))


def _byte(code: int) -> int:
    return min(code >> 2, MOST) << 2 | code & 3
