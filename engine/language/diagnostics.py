"""Mistakes as data: each with a stable code, its exact place, what was found and wanted, and a way out.

A stage never stops at its first mistake. It adds each one to a `Diagnostics` and goes on; who started the work calls
`raise_if_failed()` once at the end. The text form is

    rules/risk/cards.yaml:7:11: error[E301]: unknown name `txn.amout_base`
        when: txn.amout_base > 500
              ^^^^^^^^^^^^^^
      help: did you mean `txn.amount_base`?
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.errors import PolicyError

Severity = Literal["error", "warning"]
MOST_ITEMS = 1000
_MOST_CHARACTERS = 300
_MOST_NAME = 80
"""Longer names are no slips of the pen, and comparing them takes quadratic time."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a file; `line` and `column` count characters from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that explains a mistake, such as where a name was first declared."""

    position: Position
    message: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake, `length` characters long from `position`; `found` and `wanted` name types or values."""

    code: str
    message: str
    position: Position
    length: int = 1
    severity: Severity = "error"
    hint: str = ""
    found: str = ""
    wanted: str = ""
    related: tuple[Related, ...] = ()


class DiagnosticsError(PolicyError):
    """Something written by people can't be used; `diagnostics` holds every mistake, and the text shows them all."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.diagnostics = diagnostics
        super().__init__(diagnostics.render())


@dataclass(slots=True)
class Diagnostics:
    """Collects mistakes and warnings while a stage goes on; `sources` keeps the text of each file for the carets."""

    items: list[Diagnostic] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    more: int = 0
    """How many came after the first `MOST_ITEMS`, which are enough for anyone to read."""
    doubted: dict[str, str] = field(default_factory=dict)
    """Pattern of messages → the file that can't be read, from which they may follow."""
    unsaid: Counter[str] = field(default_factory=Counter)
    """That file → mistakes which may only follow from it, and are not told."""

    def doubt(self, files: str, *messages: str, nothing_known: bool = True) -> None:
        """Leave out such messages (patterns) from now on, if one of these files (a path's beginning) can't be read."""
        for item in self.items if nothing_known else ():
            if item.severity == "error" and item.code <= "E113" and item.position.file.startswith(files):
                self.doubted |= dict.fromkeys(messages, item.position.file)

    def error(
        self, code: str, message: str, position: Position, length: int = 1, *, hint: str = "", found: str = "",
        wanted: str = "", related: Iterable[Related] = (), severity: Severity = "error",
    ) -> None:  # fmt: skip
        """Add one mistake; `code` must be one of `CODES`."""
        if code not in CODES:
            raise KeyError(f"diagnostic code {code} is not in codes.txt")
        for pattern, cause in self.doubted.items():
            if re.match(pattern, message):
                self.unsaid[cause] += 1
                return
        if self.full:
            self.more += 1
            return
        message = message if len(message) <= _MOST_CHARACTERS else message[: _MOST_CHARACTERS - 1] + "…"
        self.items.append(
            Diagnostic(code, message, position, max(1, length), severity, hint, found, wanted, tuple(related))
        )

    def warn(self, code: str, message: str, position: Position, length: int = 1, *, hint: str = "") -> None:
        """Add something that is suspicious but usable."""
        self.error(code, message, position, length, hint=hint, severity="warning")

    @property
    def full(self) -> bool:
        """Whether further items are only counted."""
        return len(self.items) >= MOST_ITEMS

    def did_you_mean(self, name: str, known: Iterable[str]) -> str:
        """A hint as by the function of this name; none once full, so that a broken file costs bounded time."""
        return "" if self.full else did_you_mean(name, known)

    @property
    def failed(self) -> bool:
        """Whether any item is an error."""
        return any(item.severity == "error" for item in self.items)

    def ordered(self) -> list[Diagnostic]:
        """All items by file, line and column; equal places keep the order in which they were found."""
        return sorted(self.items, key=lambda item: item.position)

    def render(self) -> str:
        """All items as text, in the order of their places."""
        lines = {file: re.split("\r\n|\r|\n", text) for file, text in self.sources.items()}
        shown = [render(item, lines) for item in self.ordered()]
        return "\n".join([*shown, f"and {self.more} more"] if self.more else shown)

    def raise_if_failed(self) -> None:
        """Raise `DiagnosticsError` with everything collected if there is an error; warnings alone pass."""
        for file, count in self.unsaid.items():
            many = "mistakes elsewhere are" if count > 1 else "mistake elsewhere is"
            message = f"{count} {many} not told, as what {file} declares is not known"
            self.warn("E117", message, Position(file, 1, 1), hint=f"check again when {file} is mended")
        self.unsaid.clear()
        if self.failed:
            raise DiagnosticsError(self)


def render(item: Diagnostic, sources: Mapping[str, list[str]]) -> str:
    """One item as text with its line, a caret under the very characters, hint and places; `sources` is file → lines."""
    lines = [f"{item.position}: {item.severity}[{item.code}]: {item.message}"]
    lines += _excerpt(item.position, item.length, sources)
    if item.found or item.wanted:
        lines.append(f"  found {item.found or 'nothing'}, wanted {item.wanted or 'nothing'}")
    if item.hint:
        lines.append(f"  help: {item.hint}")
    for place in item.related:
        lines.append(f"  {place.position}: {place.message}")
        lines += _excerpt(place.position, 1, sources)
    return "\n".join(lines)


def _excerpt(position: Position, length: int, sources: Mapping[str, list[str]]) -> list[str]:
    """The source line and the carets below it; a very long line is cut around the place."""
    rows = sources.get(position.file, [])
    if not 1 <= position.line <= len(rows) or not rows[position.line - 1].strip():
        return []
    row, start = rows[position.line - 1], position.column - 1
    left = max(0, start - 60)
    shown = row[left : left + 120]
    carets = "^" * max(1, min(length, len(shown) - (start - left)))
    pad = "".join("\t" if c == "\t" else " " * _cells(c) for c in shown[: start - left])
    return [f"    {shown}", f"    {pad}{carets}"]


def _cells(character: str) -> int:
    """How many terminal cells a character takes: 2 for wide ones, 0 for combining marks."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


# --- did you mean ---------------------------------------------------------------------------------------------------

_LOOK_ALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝАВЕКМНОРСТХІЈЅοανικρυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧɡı‘’“”‐‑–—−",
    "aeopcyxijshdqwABEKMHOPCTXIJSoavikpuxABEZHIKMNOPTYXgi''\"\"-----",
)  # fmt: skip
"""Letters of other alphabets, and typographic marks, that look like ASCII."""


def plain_letters(text: str) -> str:
    """The ASCII text that `text` looks like: letters of other alphabets and full-width forms replaced."""
    return unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKES)


def did_you_mean(name: str, known: Iterable[str], quote: str = "`") -> str:
    """A hint naming the nearest known names, or "" when nothing is near; look-alike letters are pointed out."""
    choices = list(known)
    if len(name) > _MOST_NAME:
        return ""
    twin = plain_letters(name)
    if twin != name and twin in choices:
        odd = next(c for c in name if ord(c) > 127)
        called = unicodedata.name(odd, f"U+{ord(odd):04X}")
        return f"{odd!r} is {called}, which only looks like ASCII; did you mean {quote}{twin}{quote}?"
    tail = twin.rpartition(".")[2]  # a dotted name may be written without its prefix, or with another
    near = difflib.get_close_matches(twin, choices, n=3, cutoff=0.7) or [
        choice for choice in choices if choice.rpartition(".")[2] == tail
    ]
    *others, last = [f"{quote}{each}{quote}" for each in near[:3]] or [""]
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if near else ""


# --- codes ----------------------------------------------------------------------------------------------------------

CODES = dict(
    line.split(" ", 1) for line in (Path(__file__).parent / "codes.txt").read_text(encoding="utf-8").splitlines()
)
"""Code → meaning: E1xx files, E2xx syntax of conditions, E3xx their types, E4xx features, E5xx policies, E7xx tests of
rules, L6xx lints. Each has a page `docs/errors/<code>.md`."""
