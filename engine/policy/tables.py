"""Decision tables: a CSV file whose columns are expressions, whose cells are tests, and whose rows are rules.

    tables:
      - id: first-order
        file: first_order.csv                    # in rules/tables
        hit: unique                              # unique: no two rows can hit | first: the upper one | collect: all
        columns: {age: user.account_age_days, amount: txn.amount_base, country: card.country}

A cell is empty (anything), a value, several (`DE, AT`), `not DE, AT`, `< 7`, `<= 7`, `> 7`, `>= 7` or `7..30` (from 7,
below 30); a value may be `param.NAME`. A row becomes the rule `first-order#LINE` with a condition made from its cells.
Whether rows overlap or leave a gap is decided by one value for each range that the cells tell apart.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from engine.language import Checked, Diagnostics, Fields, Position, Related, Schema, check
from engine.policy.reasons import Reasons
from engine.policy.rules import Outcome, Rule
from engine.policy.sheets import Row, Sheet
from engine.schema import FIELDS
from engine.values import Action, Tier

MAX_ROWS = 1_000
MOST_STEPS = 100_000
GIVEN = ("tier", "action", "reason", "note")
HIT_POLICIES = ("unique", "first", "collect")
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Column:
    """One input of a table."""

    name: str
    text: str
    """Its expression, as part of a condition."""
    type: str
    """int, double, string or bool."""
    values: tuple[Any, ...]
    """All values that it can have, where they are few and known."""


@dataclass(frozen=True, slots=True)
class Test:
    """What one cell asks."""

    text: str
    """As part of a condition; empty for anything."""
    holds: Callable[[Any], bool]
    values: tuple[Any, ...] = ()
    """Where its answer may change."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The condition of a row, whose parts stand in cells."""

    value: str
    places: tuple[tuple[int, Position], ...]
    """Where in the text each cell's part begins, and where the cell stands; the first is that of the row."""

    def position(self, offset: int = -1) -> Position:
        """The place of the cell that character `offset` comes from."""
        return next(place for start, place in reversed(self.places) if start <= max(offset, 0))


@dataclass(slots=True)
class TableReader:
    """Reads one table: `rule` holds what its rows share."""

    rule: Rule
    sheet: Sheet
    columns: Sequence[Column]
    hit: str
    schema: Schema
    reasons: Reasons
    diagnostics: Diagnostics

    def read(self, gaps_allowed: bool) -> Iterator[tuple[Rule, Checked]]:
        """Its rows as rules, in their order."""
        rows: list[Row] = []
        tests: list[list[Test]] = []
        mistakes = len(self.diagnostics.items)
        for row in self.sheet.rows():
            if len(rows) == MAX_ROWS:
                self._mistake(row, self.columns[0].name, "E517", f"more than {MAX_ROWS:,} rows; split the table")
                break
            rows.append(row)
            tests.append([self._test(row, column) for column in self.columns])
            checked = check(self._condition(row, tests[-1]), self.schema, self.diagnostics)
            if checked is not None:
                yield self._rule(row), checked
        if len(self.diagnostics.items) > mistakes:
            return
        segments = [_segments(column, [row[at] for row in tests]) for at, column in enumerate(self.columns)]
        if self.hit == "unique":
            self._overlaps(rows, segments)
        if not gaps_allowed:
            self._gaps(segments, len(rows))

    def _cell(self, row: Row, name: str) -> str:
        return row[1][self.sheet.at[name]] if name in self.sheet.at else ""

    def _mistake(
        self, row: Row, name: str, code: str, message: str, hint: str = "", related: tuple[Related, ...] = ()
    ) -> None:
        place, length = self.sheet.position(row[0], self.sheet.at.get(name, 0)), len(self._cell(row, name))
        self.diagnostics.error(code, message, place, length, hint=hint, related=related)

    def _rule(self, row: Row) -> Rule:
        rule, code = self.rule, self._cell(row, "reason")
        tier, action = self._choice(row, "tier", Tier), self._choice(row, "action", Action)
        given = rule.outcome
        outcome = Outcome(
            Tier[tier] if tier else given.tier, Action[action] if action else given.action, given.measures
        )
        if outcome == Outcome(None, None):
            self._mistake(row, "tier", "E518", "the row needs a tier or an action")
        reason, rule_id = rule.reason, f"{rule.id}#{row[0]}"
        if code in self.reasons.known:
            reason = self.reasons.known[code]
        elif code or not reason.code:
            hint = self.diagnostics.did_you_mean(code, self.reasons.known)
            self._mistake(row, "reason", "E515", f"unknown reason `{code}`" if code else "the row needs a reason", hint)
        return replace(
            rule, id=rule_id, outcome=outcome, reason=replace(reason, source=f"rule:{rule_id}"),
            place=f"{self.sheet.name}:{row[0]}", first=rule.id if self.hit == "first" else "",
        )  # fmt: skip

    def _choice(self, row: Row, name: str, words: type[Tier | Action]) -> str:
        text = self._cell(row, name).upper()
        known = [word.name for word in words if word]
        if text and text not in known:
            hint = self.diagnostics.did_you_mean(text, known)
            self._mistake(row, name, "E518", f"`{text}` is not one of {', '.join(known)}", hint)
        return text if text in known else ""

    def _condition(self, row: Row, tests: Sequence[Test]) -> Generated:
        text, places = "", [(0, Position(self.sheet.name, row[0], 1))]
        for column, test in zip(self.columns, tests, strict=True):
            if test.text:
                text += " && " if text else ""
                places.append((len(text), self.sheet.position(row[0], self.sheet.at[column.name])))
                text += test.text
        return Generated(text or "true", tuple(places))

    # --- cells

    def _test(self, row: Row, column: Column) -> Test:
        """What a cell asks; one that can't be read is a mistake, and asks nothing."""
        cell = self._cell(row, column.name)
        if not cell:
            return Test("", lambda _: True)
        try:
            return self._compared(cell, column) or self._among(cell, column)
        except ValueError as problem:
            self._mistake(row, column.name, "E518", f"`{cell}` {problem}")
            return Test("", lambda _: True)

    def _compared(self, cell: str, column: Column) -> Test | None:
        """`< 7` or `7..30`."""
        sign = next((sign for sign in _COMPARE if cell.startswith(sign)), "")
        low, dots, high = cell.partition("..")
        if not (sign or dots) or column.type not in ("int", "double"):
            return None
        if sign:
            bound, compare = self._value(cell.removeprefix(sign), column), _COMPARE[sign]
            return Test(f"{column.text} {sign} {bound}", lambda value: compare(value, bound), (bound,))
        least, limit = self._value(low, column), self._value(high, column)
        if least >= limit:
            raise ValueError(f"holds nothing: it goes from {least} to below {limit}")
        text = f"{column.text} >= {least} && {column.text} < {limit}"
        return Test(text, lambda value: least <= value < limit, (least, limit))

    def _among(self, cell: str, column: Column) -> Test:
        """`DE`, `DE, AT` or `not DE, AT`."""
        denied = cell.startswith("not ")
        values = tuple(self._value(part, column) for part in cell.removeprefix("not ").split(","))
        texts = [json.dumps(value, ensure_ascii=False) for value in values]
        text = f"{column.text} in [{', '.join(texts)}]" if len(texts) > 1 else f"{column.text} == {texts[0]}"
        return Test(f"!({text})" if denied else text, lambda value: (value in values) is not denied, values)

    def _value(self, text: str, column: Column) -> Any:
        """A value of the column's type."""
        text = text.strip()
        if text.startswith("param."):
            value = self.schema.constants.get(text)
            wanted = {"int": (int,), "double": (int, float), "string": (str,), "bool": (bool,)}[column.type]
            if type(value) not in wanted:
                raise ValueError(f"is not a parameter of the type {column.type}")
            return value
        if column.type == "bool":
            if text.lower() not in ("true", "false"):
                raise ValueError("is neither true nor false")
            return text.lower() == "true"
        if column.type == "string":
            if not text or (column.values and text not in column.values):
                raise ValueError(f"is not one of {', '.join(column.values)}" if column.values else "has an empty part")
            return text
        if not _NUMBER.fullmatch(text) or (column.type == "int" and "." in text):
            raise ValueError(f"is no test of {'a whole number' if column.type == 'int' else 'a number'}")
        return int(text) if "." not in text else float(text)

    # --- overlap and gaps

    def _overlaps(self, rows: Sequence[Row], segments: Sequence[Mapping[int, str]]) -> None:
        """Two rows overlap if in each column some value fits both."""
        for index, row in enumerate(rows):
            both = (1 << index) - 1
            for masks in segments:
                together = 0
                for mask in masks:
                    together |= mask if mask >> index & 1 else 0
                both &= together
            if both:
                first = rows[(both & -both).bit_length() - 1][0]
                place = Position(self.sheet.name, first, 1)
                message = f"this row and that of line {first} can hit together"
                self._mistake(row, self.columns[0].name, "E519", message, related=(Related(place, "the other row"),))

    def _gaps(self, segments: Sequence[Mapping[int, str]], rows: int) -> None:
        """Look for values of the columns that no row is for."""
        closed: set[tuple[int, int]] = set()
        """Rows that are left at a column, and found to leave no gap from there on."""

        def search(at: int, mask: int, path: tuple[str, ...]) -> tuple[str, ...] | None:
            if not mask or at == len(segments) or len(closed) > MOST_STEPS:
                return None if mask else path
            for other, label in segments[at].items():
                if (at, mask & other) not in closed:
                    gap = search(at + 1, mask & other, (*path, label))
                    if gap is not None:
                        return gap
                    closed.add((at, mask & other))
            return None

        gap = search(0, (1 << rows) - 1, ())
        hint, place = "add a row, or say `gaps: allowed` if nothing shall be said then", Position(self.sheet.name, 1, 1)
        if gap is not None:
            self.diagnostics.error("E520", f"no row is for {' and '.join(gap) or 'anything'}", place, hint=hint)
        elif len(closed) > MOST_STEPS:
            message = "the columns have too many combinations to tell whether there is a gap"
            self.diagnostics.error("E520", message, place, hint="say `gaps: allowed`, or split the table")


def read_columns(table: Fields, schema: Schema, diagnostics: Diagnostics) -> list[Column]:
    """The inputs that a table declares: names of its file's columns with their expressions."""
    columns = []
    for name, node in table.entries("columns"):
        scalar = table.reader.scalar(node)
        checked = check(scalar, schema, diagnostics, None) if scalar is not None else None
        kind = str(checked.type) if checked else ""
        if kind == "dyn" and diagnostics.failed:
            continue  # what it reads is wrong itself
        if checked and kind not in ("int", "double", "string", "bool"):
            message = f"a column can't be of the type {kind}; use int, double, string or bool"
            diagnostics.error("E517", message, node.position(), node.length)
        elif name.value in GIVEN:
            diagnostics.error("E517", f"`{name.value}` says what a row gives", name.position(), name.length)
        elif checked:
            field = FIELDS.get(checked.text)
            values: tuple[Any, ...] = (False, True) if kind == "bool" else field.choices if field else ()
            plain = re.fullmatch(r"[\w.]+", checked.text)
            columns.append(Column(name.value, checked.text if plain else f"({checked.text})", kind, values))
    return columns


def _segments(column: Column, tests: Sequence[Test]) -> dict[int, str]:
    """Which rows hold for each range of values that the tests tell apart, as bits → the range in words."""
    found: dict[int, str] = {}
    for value, label in _representatives(column, {value for test in tests for value in test.values}):
        mask = sum(1 << index for index, test in enumerate(tests) if test.holds(value))
        found.setdefault(mask, f"{column.name} {label}")
    return found


def _representatives(column: Column, values: set[Any]) -> Iterator[tuple[Any, str]]:
    """One value of each range, with the range in words."""
    if column.type in ("string", "bool"):
        yield from ((value, f"= {value}") for value in column.values or sorted(values))
        if not column.values:
            yield "\0", "= another"
        return
    ordered = sorted(values) or [0]
    yield ordered[0] - 1, f"< {ordered[0]}"
    yield from ((value, f"= {value}") for value in ordered)
    for low, high in pairwise(ordered):
        if column.type == "double" or high - low > 1:
            yield (low + 1 if column.type == "int" else (low + high) / 2), f"between {low} and {high}"
    yield ordered[-1] + 1, f"> {ordered[-1]}"
