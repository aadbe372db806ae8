"""Scorecards: points for each condition that holds, added up, and bands of the sum that say something.

    scorecards:
      - id: stranger
        lines:
          - {when: user.is_guest, points: 20}
          - {when: ip.proxy, points: 20, unknown: 5}
        bands:
          - {from_points: 40, tier: MEDIUM, action: CHALLENGE, reason: P101}

A line that can't be known or computed adds its `unknown` points, 0 unless it says otherwise. A rule of the same kind
of event reads the sum as `scorecard.stranger`; a band is the rule `stranger@40`, and a line that counted is seen as
`stranger#1+20`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.language import (
    Checked,
    Diagnostics,
    Fields,
    RowProgram,
    Schema,
    Snippet,
    check,
    compile_rows,
)
from engine.values import Result, Row, RuleHit

MOST_POINTS = 1_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Line:
    """One condition and what it is worth."""

    condition: Checked
    points: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One scorecard of some kinds of event."""

    name: str
    on: tuple[str, ...]
    lines: tuple[Line, ...]
    enforced: bool


@dataclass(frozen=True, slots=True)
class Adder:
    """A scorecard, compiled."""

    name: str
    """Of its sum, as rules read it."""
    program: RowProgram
    hits: Mapping[tuple[int, int], tuple[RuleHit, int]]
    """Line and result → how it is seen, and the points that it adds."""

    def add_up(self, row: Row) -> list[RuleHit]:
        """Put the sum into the row; returns the lines that counted, or couldn't be known."""
        found = self.program.evaluate(row)
        counted = [self.hits[index, found.codes[index] & 3] for index in found.notable]
        row[self.name] = sum(points for _, points in counted)
        return [hit for hit, _ in counted]


def adder(card: Scorecard, lists: Mapping[str, Any]) -> Adder:
    """Compile a scorecard."""
    hits = {}
    for index, line in enumerate(card.lines):
        for result in (Result.HIT, Result.UNKNOWN, Result.ERROR):
            points = line.points if result is Result.HIT else line.unknown
            rule, failing = f"{card.name}#{index + 1}{points:+d}", -1 if result is Result.HIT else 0
            hits[index, result.value] = RuleHit(rule, result, failing, card.enforced), points
    return Adder(sum_name(card.name), compile_rows([line.condition for line in card.lines], lists), hits)


def sum_name(name: str) -> str:
    """How rules read the sum of a scorecard."""
    return f"scorecard.{name}"


def read_card(item: Fields, on: tuple[str, ...], schema: Schema, diagnostics: Diagnostics) -> Scorecard:
    """A scorecard's lines; its bands are rules."""
    name = item.text("id")
    if name and not _NAME.fullmatch(name):
        item.mistake(
            "E523", f"`{name}` can't be read by rules", "id", "small letters, digits and `_`, as in `first_order`"
        )
    lines = []
    for line in item.fields_list("lines", {"when", "points"}, {"unknown", "note"}):
        condition = line.scalar("when")
        checked = check(condition, schema, diagnostics) if condition is not None else None
        points, unknown = (line.integer(key, 0, -MOST_POINTS, MOST_POINTS) for key in ("points", "unknown"))
        if checked is not None:
            lines.append(Line(checked, points, unknown))
    return Scorecard(
        name, on, tuple(lines), item.choice("status", ("enforce", "observe", "off"), "enforce") == "enforce"
    )


def bands_of(item: Fields, schema: Schema, diagnostics: Diagnostics) -> Iterator[tuple[Fields, int, Checked]]:
    """Each band with its first point, and the condition that the sum lies in it."""
    bands = item.fields_list("bands", {"from_points", "reason"}, {"tier", "action", "measures"})
    starts = [band.integer("from_points") for band in bands]
    name = sum_name(item.text("id"))
    for index, (band, start) in enumerate(zip(bands, starts, strict=True)):
        end = starts[index + 1] if index + 1 < len(starts) else None
        if end is not None and end <= start:
            bands[index + 1].mistake("E523", "bands must rise", "from_points")
        text = f"{name} >= {start}" + (f" && {name} < {end}" if end is not None else "")
        checked = check(Snippet(text), schema, diagnostics)
        if checked is not None:
            yield band, start, checked
