"""The index of a large rule set: every comparison of one name with constants, decided for all rules at once.

Comparisons such as `card.bin == "424242"` or `txn.amount > 500` are *cells*, each once however many rules have it. The
cells of a name stand side by side, sorted by their constants, so that those which a number makes true are one stretch,
found by one bisection, and those of a text are found by hash. A rule's first failing condition is then a minimum over
its cells. A rule of nothing but cells is decided by that; of others it says which can't simply miss, and only they run.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.language import expression as ast
from engine.language.check import Checked
from engine.language.expression import Node
from engine.language.interpret import Row
from engine.language.types import BOOL, DOUBLE, INT, STRING, Type
from engine.values import Result

Codes = npt.NDArray[np.uint8]
Run = Callable[..., None]
Places = npt.NDArray[np.intp]
_UNKNOWN, _TRUE = 64, 128
"""What a cell is when it is not false, which is 0; the place of the condition in its rule is added to it."""
_MOST = 8
"""Cells of one rule; conditions beyond them are left to the rule's function."""
_first = itemgetter(0)
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}
CODES = [(low % 64) << 2 | (Result.MISS, Result.UNKNOWN)[low // 64] if low < _TRUE else Result.HIT.value
         for low in range(256)]  # fmt: skip
"""Minimum over the cells of a rule → 4 × first failing condition + result."""


@dataclass(frozen=True, slots=True)
class Test:
    """A comparison of one name: with a threshold (`<` `<=` `>` `>=`) or with any of some values (`==`)."""

    name: str
    kind: Type
    operator: str
    constants: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Named:
    """The cells of one name."""

    name: str
    python: type
    """What its values are: float, int, str or bool."""
    start: int
    end: int
    thresholds: list[Any]
    """Ascending, each once, after -inf; empty where there are none."""
    stretches: list[tuple[int, int]]
    """The cells that are true at and above each of these in turn: two stretches for each."""
    equal: Mapping[Any, list[int]]
    """Cells that a value makes true."""
    opens: Mapping[Any, list[int]]
    """Rules of which a value makes the key true; see `Index.keyless`."""
    keyed: list[int]
    """All rules whose key is of this name."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the index knows of a row."""

    states: Codes
    """By cell: false, unknown or true."""
    open: list[tuple[int, int]]
    """Of the rules without a false cell: index, and the code that the cells give."""
    odd: frozenset[str]
    """Names whose values contradict the schema: what asks them is left to the interpreter."""


@dataclass(frozen=True, slots=True)
class Index:
    """Cells by name and by rule; cell 0 is always true."""

    more: list[int]
    """Rules that are more than their cells."""
    names: tuple[_Named, ...]
    cells: Places
    """Shape (most cells of a rule, rules): which its first, second … is; 0 after its last."""
    keyless: Places
    """Rules without an equality. The first equality of the others is their key: hash finds those that may not miss."""
    keyless_cells: Places
    """Their columns of `cells`."""
    steps: Codes
    """Shape (most cells of a rule, 1): how far down the rule a cell stands."""
    true: bytes
    unknown: bytes
    """What stretches of cells are filled with."""

    def look(self, row: Mapping[str, Any]) -> Found:
        """Decide every cell for a row."""
        marks = bytearray(len(self.true))
        marks[0] = _TRUE
        odd, get, may = [], row.get, list[int]()
        for named in self.names:
            value = get(named.name)
            if value is None:
                marks[named.start : named.end] = self.unknown[: named.end - named.start]
                may += named.keyed
                continue
            if value.__class__ is not named.python:
                if named.python is not float or value.__class__ is not int:
                    odd.append(named.name)
                    continue
                value = float(value)
            if named.thresholds and value == value:  # noqa: PLR0124 - NaN is beside every threshold
                at = bisect_right(named.thresholds, value) - 1
                first, last = named.stretches[2 * at + (named.thresholds[at] != value)]
                marks[first:last] = self.true[: last - first]
            if named.equal:
                for cell in named.equal.get(value, ()):
                    marks[cell] = _TRUE
                may += named.opens.get(value, ())
        states = np.frombuffer(marks, np.uint8)
        found = self._open(self.keyless, states[self.keyless_cells])
        if may:
            rules = np.array(may)
            found += self._open(rules, states[self.cells[:, rules]])
        return Found(states, found, frozenset(odd))

    def codes(self, found: Found) -> Codes:
        """The code of every rule; of a rule that is more than its cells it may be another."""
        low: Codes = np.minimum.reduce(found.states[self.cells] + self.steps, axis=0)
        return np.array(CODES, np.uint8)[low]

    def _open(self, rules: Places, states: Codes) -> list[tuple[int, int]]:
        """Those of some rules without a false cell, by the states of all their cells."""
        low = np.minimum.reduce(states + self.steps, axis=0)
        left = np.flatnonzero(low >= _UNKNOWN)
        return [(rule, CODES[code]) for rule, code in zip(rules[left].tolist(), low[left].tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Indexed:
    """Rules behind an index."""

    index: Index
    names: tuple[frozenset[str], ...]
    """What each rule reads."""
    load: Callable[[Row], list[Any]]
    """Fetches the inputs of `functions`."""
    functions: dict[int, Run]
    """Rule → its function, where it is more than its cells."""
    slow: Run

    def evaluate(self, row: Row) -> tuple[dict[int, int], list[int], Callable[[], Any]]:
        """Codes of the notable rules at least, these rules, and what gives the codes of all as an array."""
        found, codes, notable = self.index.look(row), dict[int, int](), list[int]()
        inputs = None
        for rule, code in found.open:
            function = self.functions.get(rule)
            if function is None:
                codes[rule] = code
                notable.append(rule)
                continue
            if inputs is None:
                inputs = self.load(row)
            function(row, codes, notable.append, inputs)
        for rule in self.reading(found.odd) if found.odd else ():
            if rule not in codes:
                self.slow(rule, row, codes, notable.append)
        notable.sort()
        return codes, notable, partial(self.all_codes, found, row, codes)

    def reading(self, names: frozenset[str]) -> list[int]:
        """The rules that read any of some names."""
        return [rule for rule, own in enumerate(self.names) if own & names]

    def all_codes(self, found: Found, row: Row, known: Mapping[int, int]) -> Any:
        """The codes of all rules, when those of some are known."""
        codes, more = self.index.codes(found).astype(np.intp), dict[int, int]()
        inputs = self.load(row) if self.functions else []
        for rule, function in self.functions.items():
            codes[rule] = 0
            function(row, more, [].append, inputs)
        more |= known
        codes[list(more)] = list(more.values())
        return codes


def make_index(conditions: Sequence[Checked]) -> Index:
    """The index of all conditions of a rule set."""
    tests = [[_test(node) for node in condition.conjuncts] for condition in conditions]
    kept = [[test for test in row if test][:_MOST] for row in tests]
    by_name: dict[str, set[Test]] = {}
    for test in (test for row in kept for test in row):
        by_name.setdefault(test.name, set()).add(test)
    keys: dict[str, list[tuple[Test, int]]] = {}
    for rule, row in enumerate(kept):
        for test in [test for test in row if test.operator == "=="][:1]:
            keys.setdefault(test.name, []).append((test, rule))
    places: dict[Test, int] = {}
    names = tuple([_named(name, by_name[name], places, keys.get(name, ())) for name in sorted(by_name)])
    cells = np.zeros((max(map(len, kept), default=0) or 1, len(kept)), np.intp)
    for rule, row in enumerate(kept):
        cells[: len(row), rule] = [places[test] for test in row]
    more = [rule for rule, row in enumerate(tests) if len(kept[rule]) < len(row)]
    keyless = np.setdiff1d(np.arange(len(kept)), [rule for named in names for rule in named.keyed]).astype(np.intp)
    steps, size = np.arange(len(cells), dtype=np.uint8)[:, None], len(places) + 1
    filled = bytes([_TRUE]) * size, bytes([_UNKNOWN]) * size
    return Index(more, names, cells, keyless, np.ascontiguousarray(cells[:, keyless]), steps, *filled)


def _named(name: str, tests: set[Test], places: dict[Test, int], keys: Sequence[tuple[Test, int]]) -> _Named:
    """Give places to the cells of a name: upper bounds, then lower bounds, each ascending, then equalities.

    Whatever the number, the upper bounds that hold are the last of theirs and the lower bounds the first: one stretch.
    """
    start = len(places) + 1
    uppers, lowers = (sorted((_cut(test), test) for test in tests if test.operator in signs)
                      for signs in (("<", "<="), (">", ">=")))  # fmt: skip
    equal = sorted((test for test in tests if test.operator == "=="), key=lambda test: str(test.constants))
    for test in [*(test for _, test in (*uppers, *lowers)), *equal]:
        places[test] = len(places) + 1
    thresholds = sorted({cut[0] for cut, _ in (*uppers, *lowers)})
    stretches = []
    if thresholds:
        middle, thresholds = start + len(uppers), [-math.inf, *thresholds]
        ends = [end for bound in thresholds for end in ((bound, 0), (bound, 1))]
        stretches = [(start + bisect_right(uppers, end, key=_first), middle + bisect_right(lowers, end, key=_first))
                     for end in ends]  # fmt: skip
    values, opens = dict[Any, list[int]](), dict[Any, list[int]]()
    for found, pairs in ((values, [(test, places[test]) for test in equal]), (opens, keys)):
        for test, number in pairs:
            for value in dict.fromkeys(test.constants):
                found.setdefault(value, []).append(number)
    python = {STRING: str, BOOL: bool, INT: int, DOUBLE: float}[next(iter(tests)).kind]
    return _Named(name, python, start, len(places) + 1, thresholds, stretches, values, opens,
                  [rule for _, rule in keys])  # fmt: skip


def _cut(test: Test) -> tuple[Any, int]:
    """Where a bound turns over as the number grows: at its threshold, or just beyond it."""
    return test.constants[0], test.operator in ("<=", ">")


def _test(node: Node) -> Test | None:
    """What a condition asks of one name, if it is of a form that the index knows."""
    match node:
        case ast.Name(path, False, type=kind) if kind == BOOL:
            return Test(path, kind, "==", (True,))
        case ast.Unary("!", ast.Name(path, False, type=kind)) if kind == BOOL:
            return Test(path, kind, "==", (False,))
        case ast.Binary("in", ast.Name(path, False, type=kind), ast.ListNode(items)) if kind in (STRING, INT):
            values = tuple([item.value for item in items if isinstance(item, ast.Literal)])
            return Test(path, kind, "==", values) if values and len(values) == len(items) else None
        case ast.Binary(operator, ast.Name(path, False, type=kind), ast.Literal(value)) if operator in _FLIPPED:
            return _comparison(path, kind, operator, value)
        case ast.Binary(operator, ast.Literal(value), ast.Name(path, False, type=kind)) if operator in _FLIPPED:
            return _comparison(path, kind, _FLIPPED[operator], value)
    return None


def _comparison(path: str, kind: Type, operator: str, value: Any) -> Test | None:
    if kind == STRING:
        return Test(path, kind, operator, (value,)) if operator == "==" else None
    if kind not in (INT, DOUBLE) or type(value) not in (int, float):
        return None
    return Test(path, kind, operator, (float(value) if kind == DOUBLE else value,))
