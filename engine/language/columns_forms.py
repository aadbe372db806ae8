"""From expressions to columns: functions from a block of rows to a column, for the forms that have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from engine.language import expression as ast
from engine.language.check import Checked
from engine.language.columns_inputs import Inputs
from engine.language.columns_values import (
    ARITHMETIC,
    COMPARISONS,
    DTYPES,
    Column,
    both,
    chosen,
    denied,
    either,
    extreme,
    first_known,
    from_values,
    joined,
    strict,
    whole_part,
)
from engine.language.expression import Node
from engine.language.interpret import Lists, Scope, run
from engine.language.quantities import Duration, Failure, Timestamp
from engine.language.resolve import Apply, Coalesce, InList, Present, children
from engine.language.rows import compile_value
from engine.language.types import BOOL, DOUBLE, DURATION, DYN, INT, STRING, TIMESTAMP, UINT, Type

_NUMERIC = (INT, UINT, DOUBLE, TIMESTAMP, DURATION)


class RowsOnly(Exception):
    """An expression that has no column form."""


@dataclass(slots=True)
class Block:
    """Some rows of the inputs, and what was computed on them and is needed again."""

    inputs: Inputs
    rows: slice
    kept: dict[Any, Column] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(self.rows.stop - self.rows.start)


Make = Callable[[Block], Column]


def names_of(*nodes: Node) -> dict[str, Type]:
    """Inputs that expressions read, with their types; dyn if they only ask whether it is there."""
    found: dict[str, Type] = {}
    for node in nodes:
        if isinstance(node, Present):
            found.setdefault(node.path, DYN)
        elif isinstance(node, ast.Name) and not node.local:
            found[node.path] = node.type
        for name, kind in names_of(*children(node)).items():
            if found.get(name, DYN) == DYN:
                found[name] = kind
    return found


def repeated_parts(conditions: Sequence[Checked]) -> frozenset[tuple[str, Type]]:
    """Parts that stand more than once in the rules: their columns are kept for the block."""
    seen: set[tuple[str, Type]] = set()
    twice: set[tuple[str, Type]] = set()

    def visit(text: str, node: Node) -> None:
        if isinstance(node, ast.Name | ast.Literal | ast.Macro):
            return
        part = text[node.start : node.end], node.type
        (twice if part in seen else seen).add(part)
        for child in children(node):
            visit(text, child)

    for condition in conditions:
        visit(condition.text, condition.tree)
    return frozenset(twice)


@dataclass(frozen=True, slots=True)
class Compiler:
    """Makes functions from a block to a column; RowsOnly where there is none."""

    lists: Lists
    repeated: frozenset[tuple[str, Type]]

    def condition(self, checked: Checked, node: Node) -> Make | None:
        """A condition of a rule, or None."""
        try:
            return self.column(checked, node) if node.type == BOOL else None
        except RowsOnly:
            return None

    def column(self, checked: Checked, node: Node) -> Make:
        """Any expression."""
        make = self.fresh(checked, node)
        part = checked.text[node.start : node.end], node.type
        if part not in self.repeated or isinstance(node, ast.Name | ast.Literal):
            return make

        def kept(block: Block) -> Column:
            if part not in block.kept:
                block.kept[part] = make(block)
            return block.kept[part]

        return kept

    def fresh(self, checked: Checked, node: Node) -> Make:
        """A constant, a function of one text, a form of the language, or a function of one other input."""
        names = names_of(node)
        if not names and not _asks_list(node):
            return _constant(run(node, Scope({}, self.lists)), node.type)
        if isinstance(node, ast.Name):
            return _input(node)
        single = next(iter(names)) if len(names) == 1 and node.type in (*_PLAIN, STRING) else None
        if single is not None and names[single] == STRING:
            return self.distinct(checked, node, single)
        try:
            return self.form(checked, node)
        except RowsOnly:
            if single is None or names[single] not in DTYPES:
                raise
            return self.distinct(checked, node, single)

    def distinct(self, checked: Checked, node: Node, name: str) -> Make:
        """An expression that reads one input, computed once for each of its values."""
        value = compile_value(replace(checked, tree=node, type=node.type), self.lists)

        def make(block: Block) -> Column:
            codes, values = block.inputs.coded(name)
            key = node.start, node.end, checked.text
            if key not in block.inputs.kept:
                found = [value({} if one is None else {name: one}) for one in values]
                block.inputs.kept[key] = from_values(found, node.type)
            column: Column = block.inputs.kept[key]
            return column.take(codes[block.rows])

        return make

    def form(self, checked: Checked, node: Node) -> Make:
        """The forms of the language that have columns."""
        column = partial(self.column, checked)
        match node:
            case Present():
                return partial(_present, node)
            case ast.Unary("!"):
                operand = column(node.operand)
                return lambda block: denied(operand(block))
            case ast.Unary("-"):
                zero: Make = lambda _: Column(np.float64(-0.0) if node.type == DOUBLE else np.int64(0))  # noqa: E731
                return _arithmetic("-", node.type, node.type, zero, column(node.operand))
            case ast.Binary("in", left, ast.ListNode(items)) if left.type in _NUMERIC:
                return _one_of(column(left), [_literal(item, left.type) for item in items])
            case ast.Binary(operator, left, right) if operator in COMPARISONS:
                return _comparison(operator, left, right, column(left), column(right))
            case ast.Binary(operator, left, right):
                return _arithmetic(operator, left.type, right.type, column(left), column(right))
            case ast.Logic(operator, operands) if all(operand.type == BOOL for operand in operands):
                parts = [column(operand) for operand in operands]
                fold = both if operator == "&&" else either
                return lambda block: fold([part(block) for part in parts])
            case ast.Conditional(condition, then, otherwise) if condition.type == BOOL and node.type in _PLAIN:
                _same(node.type, then, otherwise)
                three = [column(part) for part in (condition, then, otherwise)]
                return lambda block: chosen(*[part(block) for part in three], is_bool=node.type == BOOL)
            case Coalesce(args) if node.type in _PLAIN:
                _same(node.type, *args)
                parts = [column(arg) for arg in args]
                return lambda block: first_known([part(block) for part in parts])
            case Apply():
                return _function(node, [column(arg) for arg in node.args])
        raise RowsOnly


_PLAIN = (BOOL, INT, UINT, DOUBLE)
"""Types whose values a function of one input may give; times would lose what is finer than a µs."""


def _asks_list(node: Node) -> bool:
    return isinstance(node, InList) or any(map(_asks_list, children(node)))


def _same(kind: Type, *nodes: Node) -> None:
    if any(node.type != kind for node in nodes):
        raise RowsOnly


def _constant(value: Any, kind: Type) -> Make:
    if type(value) is Failure:
        return lambda block: Column(DTYPES.get(kind, np.int64)(0), None, np.ones(block.size, np.bool_))
    if isinstance(value, Timestamp | Duration):
        if value.ns % 1000:
            raise RowsOnly
        value = value.ns // 1000
    if kind not in DTYPES or kind == STRING:
        raise RowsOnly
    made = Column(DTYPES[kind](value))
    return lambda block: made


def _literal(node: Node, kind: Type) -> Any:
    if not isinstance(node, ast.Literal) or node.type != kind:
        raise RowsOnly
    return int(node.value) if kind in (INT, UINT) else node.value


def _input(node: ast.Name) -> Make:
    if node.local or node.type not in DTYPES:
        raise RowsOnly
    path = node.path

    def make(block: Block) -> Column:
        found = block.kept.get(path)
        if found is None:
            found = block.kept[path] = block.inputs.column(path).take(block.rows)
        return found

    return make


def _present(node: Present, block: Block) -> Column:
    if node.path not in block.inputs.sources:
        return Column(np.bool_(False))
    source = block.inputs.sources[node.path]
    if isinstance(source, list | tuple):
        return Column(np.array([value is not None for value in source[block.rows]], np.bool_))
    array = block.inputs.array(node.path)
    return Column(array.is_valid().to_numpy(zero_copy_only=False)[block.rows])


def _comparison(operator: str, left: Node, right: Node, first: Make, second: Make) -> Make:
    if left.type != right.type or left.type not in DTYPES:
        raise RowsOnly
    compare = COMPARISONS[operator]
    if left.type == STRING:
        return partial(_texts_compared, compare, first, second)

    def make(block: Block) -> Column:
        a, b = first(block), second(block)
        return strict((a, b), compare(a[0], b[0]), is_bool=True)

    return make


def _texts_compared(compare: Callable[[Any, Any], Any], first: Make, second: Make, block: Block) -> Column:
    """Two columns of texts, by the rank of each text among all of both."""
    a, b = first(block), second(block)
    left, right = a.texts or (), b.texts or ()
    key = id(left), id(right)
    if key not in block.inputs.kept:
        rank = {text: number for number, text in enumerate(sorted({*left, *right}))}
        block.inputs.kept[key] = [np.array([rank[text] for text in texts] or [0]) for texts in (left, right)]
    ranks = block.inputs.kept[key]
    return strict((a, b), compare(ranks[0][a.values], ranks[1][b.values]), is_bool=True)


def _one_of(operand: Make, items: Sequence[Any]) -> Make:
    def make(block: Block) -> Column:
        column = operand(block)
        found = joined([column.values == item for item in items])
        return strict((column,), np.zeros(block.size, np.bool_) if found is None else found, is_bool=True)

    return make


def _arithmetic(operator: str, left: Type, right: Type, first: Make, second: Make) -> Make:
    compute = ARITHMETIC.get((operator, left.name, right.name))
    if compute is None:
        raise RowsOnly

    def make(block: Block) -> Column:
        a, b = first(block), second(block)
        return strict((a, b), *compute(a.values, b.values))

    return make


def _function(node: Apply, args: Sequence[Make]) -> Make:
    """Conversions between numbers, and the greatest or least of some."""
    name, types = node.function.name, [arg.type for arg in node.args]

    def make(block: Block) -> Column:
        columns = [arg(block) for arg in args]
        values = [column.values for column in columns]
        if name == "double":
            return strict(columns, np.asarray(values[0], np.float64))
        if name == "int":
            return strict(columns, *whole_part(values[0]))
        if name == "math.abs":
            return strict(columns, np.abs(values[0]))
        return strict(columns, extreme(name, values))

    extremes = name in ("math.greatest", "math.least") and types[0] in (INT, DOUBLE) and len(set(types)) == 1
    if extremes or (name, types) in (("double", [INT]), ("int", [DOUBLE]), ("math.abs", [DOUBLE])):
        return make
    raise RowsOnly
