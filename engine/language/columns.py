"""The column backend: all rules on all rows of a table at once, on one thread.

    program = compile_columns([checked, …], lists)
    found = program.evaluate(table)              # Arrow, or a mapping of columns
    found.codes[rule]                            # int8 per row: engine.values.Result
    found.failing(rule)                          # first failing condition per row, computed when asked for
    found.by_rows[rule]                          # so many rows were left to the row function

What depends on one text, such as `matches` or a list, runs once per distinct text. Comparisons, arithmetic, `&&`, `?:`
and the like run on blocks of rows that fit into the processor's cache. A condition with anything else (macros, maps,
dyn) is left to the row function, and only for the rows that the rule's other conditions left undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.language.check import Checked
from engine.language.columns_forms import Block, Compiler, Make, RowsOnly, names_of, repeated_parts
from engine.language.columns_inputs import Inputs, Table
from engine.language.columns_values import DTYPES, Column, both, from_values, not_false
from engine.language.interpret import Lists
from engine.language.rows import compile_rows, compile_value
from engine.language.types import Type
from engine.values import Result

BLOCK = 65_536
"""Rows at once: few enough for the cache, many enough that NumPy's calls cost little beside them."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule's conditions as columns."""

    conditions: tuple[Make | None, ...]
    """In their order; None for one that has no column form."""
    makes: tuple[Make, ...]
    """Those that have one."""


@dataclass(frozen=True, slots=True)
class ColumnProgram:
    """A rule set for columns; immutable but for row functions that are compiled when first needed."""

    conditions: tuple[Checked, ...]
    lists: Lists
    _rules: tuple[_Rule, ...]
    _types: dict[str, Type]
    _rows: dict[int, Any] = field(default_factory=dict, compare=False)

    def evaluate(self, table: Table) -> ColumnResult:
        """All rules on all rows. ExpressionError for a column of another type than the rules read it as."""
        inputs = Inputs(table, self._types)
        codes = np.zeros((len(self._rules), inputs.size), np.int8)
        undecided: dict[int, list[npt.NDArray[Any]]] = {}
        with np.errstate(all="ignore"):
            for block in _blocks(inputs):
                for number, rule in enumerate(self._rules):
                    left = _decide(rule, block, codes[number, block.rows])
                    if left is not None:
                        undecided.setdefault(number, []).append(left)
        by_rows = [0] * len(self._rules)
        for number, parts in undecided.items():
            at = np.concatenate(parts)
            by_rows[number] = len(at)
            codes[number, at] = [code & 3 for code in self.by_row(number, inputs, at)]
        return ColumnResult(codes, tuple(by_rows), self, inputs)

    def by_row(self, number: int, inputs: Inputs, at: npt.NDArray[Any]) -> list[int]:
        """4 × first failing condition + result of one rule for some rows, by the row function."""
        if number not in self._rows:
            self._rows[number] = compile_rows([self.conditions[number]], self.lists)
        program = self._rows[number]
        return [program.evaluate(row).codes[0] for row in inputs.rows(program.names, at)]


@dataclass(frozen=True, slots=True)
class ColumnResult:
    """What became of each rule on each row."""

    codes: npt.NDArray[np.int8]
    """Rule × row: `engine.values.Result`."""
    by_rows: tuple[int, ...]
    """For each rule, the number of rows that were left to the row function."""
    _program: ColumnProgram
    _inputs: Inputs

    def failing(self, number: int) -> npt.NDArray[np.int32]:
        """Number of a rule's first failing condition for each row, as the row backend gives it; 0 for a hit."""
        rule, found = self._program._rules[number], np.zeros(self._inputs.size, np.int32)
        hard = [at for at, make in enumerate(rule.conditions) if make is None]
        with np.errstate(all="ignore"):
            for block in _blocks(self._inputs):
                found[block.rows] = _first_failing(rule, block, self.codes[number, block.rows])
        at = np.flatnonzero((found >= hard[0]) & (self.codes[number] != Result.HIT)) if hard else None
        if at is not None and at.size:
            found[at] = [code >> 2 for code in self._program.by_row(number, self._inputs, at)]
        return found


def compile_columns(conditions: Sequence[Checked], lists: Lists | None = None) -> ColumnProgram:
    """One program for conditions of type bool. The objects in `lists` are asked with `in` at each evaluation."""
    named = lists or {}
    compiler = Compiler(named, repeated_parts(conditions))
    made = [tuple([compiler.condition(checked, node) for node in checked.conjuncts]) for checked in conditions]
    rules = tuple([_Rule(parts, tuple([part for part in parts if part is not None])) for parts in made])
    types = names_of(*[condition.tree for condition in conditions])
    return ColumnProgram(tuple(conditions), named, rules, types)


def compile_value_columns(checked: Checked, lists: Lists | None = None) -> Callable[[Table], Column]:
    """A function from a table to the column of one expression's values; times are int64 µs, texts codes."""
    named, types = lists or {}, names_of(checked.tree)
    try:
        make = Compiler(named, frozenset()).column(checked, checked.tree)
    except RowsOnly:
        value = compile_value(checked, named)

        def by_row(table: Table) -> Column:
            inputs = Inputs(table, types)
            return from_values([value(row) for row in inputs.rows(types, np.arange(inputs.size))], checked.type)

        return by_row

    def whole(table: Table) -> Column:
        inputs = Inputs(table, types)
        with np.errstate(all="ignore"):
            return _spread(make(Block(inputs, slice(0, inputs.size))), inputs.size, DTYPES[checked.type])

    return whole


def _blocks(inputs: Inputs) -> Iterator[Block]:
    for start in range(0, inputs.size, BLOCK):
        yield Block(inputs, slice(start, min(start + BLOCK, inputs.size)))


def _spread(column: Column, size: int, dtype: Any) -> Column:
    """A column of arrays, also if it was a constant."""

    def whole(mask: Any) -> Any:
        return None if mask is None else np.broadcast_to(mask, (size,))

    values = np.broadcast_to(np.asarray(column.values, dtype), (size,))
    return Column(values, whole(column.unknown), whole(column.error), column.texts)


def _decide(rule: _Rule, block: Block, codes: npt.NDArray[np.int8]) -> npt.NDArray[Any] | None:
    """Write a rule's results for a block; returns the rows, in the table, that only the row function can decide."""
    whole: Column | None = None
    for make in rule.makes:
        column = make(block)
        whole = column if whole is None else both((whole, column))
        if not not_false(whole).any():
            return None
    if whole is None or len(rule.makes) < len(rule.conditions):
        maybe = True if whole is None else not_false(whole)
        at: npt.NDArray[Any] = np.flatnonzero(np.broadcast_to(maybe, (block.size,))) + block.rows.start
        return at
    codes[:] = whole.values
    for mask, code in ((whole.unknown, Result.UNKNOWN), (whole.error, Result.ERROR)):
        if mask is not None:
            codes |= mask.view(np.int8) * np.int8(code)  # a row is true, unknown or failed, never two of these
    return None


def _first_failing(rule: _Rule, block: Block, codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """The first condition with column form that made each row's result; the number of conditions if none did."""
    found = np.where(codes == Result.HIT, 0, len(rule.conditions)).astype(np.int32)
    for number in range(len(rule.conditions) - 1, -1, -1):
        make = rule.conditions[number]
        if make is not None:
            column = make(block)
            found[(codes == Result.MISS) & ~np.asarray(not_false(column), np.bool_)] = number
            for mask, code in ((column.unknown, Result.UNKNOWN), (column.error, Result.ERROR)):
                if mask is not None:
                    found[(codes == code) & mask] = number
    return found
