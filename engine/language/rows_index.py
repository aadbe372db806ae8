"""The index of a large rule set: which rules can't simply miss a row, without asking each of them.

A rule whose condition `card.bin == "424242"` or `txn.amount > 500` is false misses, whatever else it says. So each
name has a table from its value to a bit mask of the rules that it doesn't rule out; the masks of all names are joined
with `&`, and only the rules whose bits are left are run. Equality finds its mask by hash, a range by bisection over
sorted thresholds. A mask may hold too many rules, never too few: the rules themselves decide.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.language import expression as ast
from engine.language.check import Checked
from engine.language.expression import Node
from engine.language.types import BOOL, INT, NUMBERS, STRING, UINT

GROUP = 8
"""Rules in one generated function, and bits in one byte of a mask."""
_MOST_MASKS = 256
"""Masks of one name; with more values or thresholds than this, neighbours share one."""
_LEAST_RULES = 16
"""A name that fewer rules ask costs more than it saves."""
_SOME = re.compile(rb"[^\0]")
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}


@dataclass(frozen=True, slots=True)
class Test:
    """A condition that one name decides: equal to one of `values`, or within `low` and `high`."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is outside."""

    @property
    def selective(self) -> bool:
        """Whether few values pass."""
        return bool(self.values) or self.low == self.high


@dataclass(frozen=True, slots=True)
class Index:
    """Masks by name, over rules in an order that brings alike ones together."""

    order: tuple[int, ...]
    """Position in the masks → index of the rule."""
    _values: tuple[tuple[str, Mapping[Any, int], int], ...]
    """Name, mask by value, and the mask of all other values."""
    _ranges: tuple[tuple[str, list[float], list[int]], ...]
    """Name, thresholds, and a mask for the values up to each and beyond the last."""

    def groups(self, row: Mapping[str, Any]) -> list[int]:
        """Numbers of the groups of `GROUP` rules in which some rule may not miss; an absent value rules out none."""
        size = len(self.order)
        mask = (1 << size) - 1
        for name, masks, other in self._values:
            value = row.get(name)
            if value is not None:
                try:
                    mask &= masks.get(value, other)
                except TypeError:  # a value against the schema: the rules know what to make of it
                    continue
        for name, thresholds, parts in self._ranges:
            value = row.get(name)
            if isinstance(value, int | float):
                mask &= parts[bisect_left(thresholds, value)]
        return [found.start() for found in _SOME.finditer(mask.to_bytes(size // GROUP + 1, "little"))]


def make_index(conditions: Sequence[Checked]) -> Index:
    """The index of all conditions of a rule set."""
    used = [_chosen(condition) for condition in conditions]
    order = sorted(range(len(used)), key=lambda rule: [_place(test) for test in used[rule][:1]])
    by_name: dict[str, list[tuple[int, Test]]] = {}
    for position, rule in enumerate(order):
        for test in used[rule]:
            by_name.setdefault(test.name, []).append((position, test))
    asked = {name: tests for name, tests in by_name.items() if len(tests) >= _LEAST_RULES}
    everything = (1 << len(order)) - 1
    values = [(name, *_by_value(tests, everything)) for name, tests in asked.items() if tests[0][1].values]
    ranges = [(name, *_by_range(tests, everything)) for name, tests in asked.items() if not tests[0][1].values]
    return Index(tuple(order), tuple(values), tuple(ranges))


def _place(test: Test) -> tuple[str, str, float]:
    return test.name, str(test.values), test.low if test.low > -math.inf else test.high


def _chosen(condition: Checked) -> list[Test]:
    """The tests of a rule that the index uses: those that few values pass, or else all."""
    tests = [test for node in condition.conjuncts if (test := _test(node)) is not None]
    return [test for test in tests if test.selective] or tests


def _test(node: Node) -> Test | None:
    """What a condition asks of one name, if it is of a form that the index knows."""
    match node:
        case ast.Name(path, False, type=kind) if kind == BOOL:
            return Test(path, (True,))
        case ast.Unary("!", ast.Name(path, False, type=kind)) if kind == BOOL:
            return Test(path, (False,))
        case ast.Binary("in", ast.Name(path, False, type=kind), ast.ListNode(items)) if kind == STRING:
            values = tuple([item.value for item in items if isinstance(item, ast.Literal)])
            return Test(path, values) if values and len(values) == len(items) else None
        case ast.Binary(operator, ast.Name(path, False), ast.Literal(value)) if operator in _FLIPPED:
            return _comparison(path, operator, value, node.left)
        case ast.Binary(operator, ast.Literal(value), ast.Name(path, False)) if operator in _FLIPPED:
            return _comparison(path, _FLIPPED[operator], value, node.right)
    return None


def _comparison(path: str, operator: str, value: Any, name: Node) -> Test | None:
    if name.type == STRING:
        return Test(path, (value,)) if operator == "==" else None
    if name.type not in NUMBERS or (name.type in (INT, UINT) and abs(value) >= 2**53):
        return None
    bound = float(value)
    low = bound if operator in (">", ">=", "==") else -math.inf
    high = bound if operator in ("<", "<=", "==") else math.inf
    return Test(path, (), low, high, operator == ">")


def _by_value(tests: Iterable[tuple[int, Test]], everything: int) -> tuple[dict[Any, int], int]:
    """Mask by value, and that of any other value."""
    rules: dict[Any, int] = {}
    asking: dict[int, set[Any]] = {}
    for position, test in tests:
        known = asking.get(position)
        asking[position] = set(test.values) if known is None else known & set(test.values)
    other = everything
    for position, values in asking.items():
        other &= ~(1 << position)
        for value in values:
            rules[value] = rules.get(value, 0) | 1 << position
    if True in rules or False in rules:  # what is neither is a mistake, which the rules find
        return {value: other | rules.get(value, 0) for value in (True, False)}, everything
    shared = math.ceil(len(rules) / _MOST_MASKS) or 1
    masks: dict[Any, int] = {}
    found = list(rules.items())
    for start in range(0, len(found), shared):
        mask = other
        for _, bits in found[start : start + shared]:
            mask |= bits
        masks |= dict.fromkeys([value for value, _ in found[start : start + shared]], mask)
    return masks, other


def _by_range(tests: Sequence[tuple[int, Test]], everything: int) -> tuple[list[float], list[int]]:
    """Thresholds, and the mask of the values above the one before and up to each."""
    bounds = sorted({bound for _, test in tests for bound in (test.low, test.high) if math.isfinite(bound)})
    step = math.ceil(len(bounds) / (_MOST_MASKS - 1)) or 1
    bounds = bounds[step - 1 :: step]
    parts: dict[int, tuple[int, int]] = {}
    for position, test in tests:
        first = (bisect_right if test.above else bisect_left)(bounds, test.low)
        last = bisect_left(bounds, test.high)
        low, high = parts.get(position, (0, len(bounds)))
        parts[position] = max(low, first), min(high, last)
    toggles = [0] * (len(bounds) + 2)
    mask = everything
    for position, (first, last) in parts.items():
        mask &= ~(1 << position)
        if first <= last:
            toggles[first] |= 1 << position
            toggles[last + 1] |= 1 << position
    masks = []
    for toggle in toggles[:-1]:
        mask ^= toggle
        masks.append(mask)
    return bounds, masks
