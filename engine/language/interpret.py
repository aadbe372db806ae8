"""The reference evaluator: a plain interpreter over the tree, in both modes.

A sub-expression is a value, UNKNOWN (a declared input is absent) or a Failure (ERROR). Generated code must always give
what this gives; where they differ, the generated code is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from engine.language import expression as ast
from engine.language.check import Checked
from engine.language.expression import Node
from engine.language.operators import MISSING, binary, find, item, kind_of, listed, make_map, negative
from engine.language.parser import parse
from engine.language.quantities import (
    INT_MAX,
    INT_MIN,
    UNKNOWN,
    Duration,
    ExpressionError,
    Failure,
    Timestamp,
    inward,
    outward,
)
from engine.language.resolve import Apply, Coalesce, InList, Present, resolve
from engine.language.truth import FALSE_WINS, TRUE_WINS, combine, negate, strict
from engine.language.types import DOUBLE, DURATION, TIMESTAMP, Type
from engine.values import Result

Lists = Mapping[str, Container[Any]]
Row = Mapping[str, Any]
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean: inputs, named lists, macro variables. In a row None is absent; in dynamic mode it is null."""

    values: Row
    lists: Lists = field(default_factory=dict)
    row: bool = True
    local: Mapping[str, Any] = field(default_factory=dict)


def evaluate(checked: Checked, row: Row, lists: Lists | None = None) -> Any:
    """The value of a checked expression for a row: a value, UNKNOWN or a Failure; times are Timestamp and Duration."""
    return run(checked.tree, Scope(row, lists or {}))


def outcome(checked: Checked, row: Row, lists: Lists | None = None) -> tuple[Result, int]:
    """What becomes of a rule, and the number of its first failing condition; 0 for a hit, which has none.

    It is the first false condition of a MISS, the first unknown one of UNKNOWN, the first failed one of ERROR.
    """
    scope = Scope(row, lists or {})
    values = [run(node, scope) for node in checked.conjuncts]
    whole = combine(FALSE_WINS, values)
    if whole is True:
        return Result.HIT, 0
    if whole is False:
        return Result.MISS, next(i for i, v in enumerate(values) if v is False)
    if whole is UNKNOWN:
        return Result.UNKNOWN, next(i for i, v in enumerate(values) if v is UNKNOWN)
    return Result.ERROR, next(i for i, v in enumerate(values) if v is not True)


def evaluate_expression(expr: str, bindings: Mapping[str, Any] | None = None, lists: Lists | None = None) -> Any:
    """Dynamic mode: parse and evaluate; plain Python in and out. ExpressionError for a syntax error and for ERROR.

    uint is `UInt`, a timestamp an aware datetime, a duration a timedelta; a result finer than a µs is an error.
    """
    try:
        values = {name: _admit(value, name) for name, value in (bindings or {}).items()}
        result = run(resolve(parse(expr), values.__contains__), Scope(values, lists or {}, row=False))
        if type(result) is Failure:
            raise ExpressionError(result.reason)
        return outward(result)
    except ValueError as error:
        raise ExpressionError(str(error)) from error
    except RecursionError:
        raise ExpressionError("the expression is nested too deeply") from None


def _admit(value: Any, name: str, depth: int = 0) -> Any:
    """A binding as a value of the language, or an ExpressionError that names the place."""
    if depth > _MAX_DEPTH:
        raise ExpressionError(f"{name} is nested too deeply")
    kind = kind_of(value)
    if kind == "list":
        return [_admit(part, f"{name}[{i}]", depth + 1) for i, part in enumerate(value)]
    if kind == "map":
        return {_admit(k, name, depth + 1): _admit(v, f"{name}[{k!r}]", depth + 1) for k, v in value.items()}
    if kind == "int" and not INT_MIN <= value <= INT_MAX:
        raise ExpressionError(f"{name}: {value} doesn't fit into a 64-bit int")
    if kind == "?" and type(value) not in (datetime, timedelta):
        raise ExpressionError(f"{name}: a {type(value).__name__} is no value of the rule language")
    return inward(value)


def from_row(value: Any, declared: Type) -> Any:
    """A row's value as the language sees it: times come as int µs or datetime, doubles may come as int."""
    if declared == DOUBLE:
        return float(value) if type(value) is int else value
    if declared in (TIMESTAMP, DURATION) and type(value) is int:
        return (Timestamp if declared == TIMESTAMP else Duration)(value * 1000)
    return inward(value)


def to_row(value: Any) -> Any:
    """A result as a row holds it: times as int µs, rounded down."""
    return value.ns // 1000 if isinstance(value, Timestamp | Duration) else value


# --- nodes ----------------------------------------------------------------------------------------------------------


def run(node: Node, scope: Scope) -> Any:
    """The value of any node."""
    return _RULES[type(node)](node, scope)


def _strictly(operation: Callable[..., Any], *values: Any) -> Any:
    """An operation that needs all its operands: UNKNOWN if any is, else the first Failure."""
    special = strict(values)
    return operation(*values) if special is None else special


def _name(node: ast.Name, scope: Scope) -> Any:
    if node.local:
        return scope.local[node.path]
    value = scope.values.get(node.path)
    if not scope.row:
        return value
    return UNKNOWN if value is None else from_row(value, node.type)


def _select(node: ast.Select, scope: Scope) -> Any:
    operand = run(node.operand, scope)
    return False if node.test and operand is UNKNOWN else _strictly(partial(_field, node), operand)


def _field(node: ast.Select, operand: Any) -> Any:
    if kind_of(operand) != "map":
        return Failure(f"{kind_of(operand)} has no field `{node.field}`")
    value = find(operand, node.field)
    if node.test:
        return value is not MISSING
    return Failure(f"no key `{node.field}`") if value is MISSING else inward(value)


def _conditional(node: ast.Conditional, scope: Scope) -> Any:
    condition = run(node.condition, scope)
    if condition is True or condition is False:
        return run(node.then if condition else node.otherwise, scope)
    return _no_bool(condition, "?:")


def _all_known(items: list[Any]) -> Any:
    special = strict(items)
    return items if special is None else special


def _map(node: ast.MapNode, scope: Scope) -> Any:
    pairs = [(run(key, scope), run(value, scope)) for key, value in node.entries]
    special = strict(part for pair in pairs for part in pair)
    return make_map(pairs) if special is None else special


def _apply(node: Apply, scope: Scope) -> Any:
    args = [run(arg, scope) for arg in node.args]
    special = strict(args)
    return node.function(args) if special is None else special


def _in_list(node: InList, scope: Scope) -> Any:
    value, entries = run(node.value, scope), scope.lists.get(node.list_name)
    unknown = Failure(f"unknown list `{node.list_name}`")
    return _strictly(lambda known: unknown if entries is None else listed(entries, known), value)


def _coalesce(node: Coalesce, scope: Scope) -> Any:
    last: Any = None
    for arg in node.args:
        value = run(arg, scope)
        if value is not UNKNOWN and value is not None:
            return value
        last = UNKNOWN if UNKNOWN in (value, last) else None
    return last


def _macro(node: ast.Macro, scope: Scope) -> Any:
    over = run(node.over, scope)
    if node.kind == "bind":
        return run(node.body, replace(scope, local={**scope.local, node.variables[0]: over}))
    special = strict((over,))
    if special is not None:
        return special
    if kind_of(over) not in ("list", "map"):
        return Failure(f"`{node.kind}` goes over a list or a map, not {kind_of(over)}")
    items = _items(over, len(node.variables) > 1)
    if node.kind in ("all", "exists"):
        return combine(FALSE_WINS if node.kind == "all" else TRUE_WINS, _bodies(node.body, node, items, scope))
    chosen = items
    test = node.body if node.kind in ("filter", "exists_one") else node.where
    if test is not None:
        flags = list(_bodies(test, node, items, scope))
        special = strict(flag if isinstance(flag, bool) else _no_bool(flag, node.kind) for flag in flags)
        if special is not None:
            return special
        chosen = [part for part, flag in zip(items, flags, strict=True) if flag]
    if node.kind == "exists_one":
        return len(chosen) == 1
    if node.kind == "filter":
        return [part for (part,) in chosen]
    made = _all_known(list(_bodies(node.body, node, chosen, scope)))
    if not isinstance(made, list) or not node.kind.startswith("transformMap"):
        return made
    if node.kind == "transformMap":
        return make_map([(key, value) for (key, _), value in zip(chosen, made, strict=True)])
    if any(kind_of(entry) != "map" for entry in made):
        return Failure("`transformMapEntry` makes maps, which together are its result")
    return make_map([pair for entry in made for pair in entry.items()])


def _items(over: Any, in_pairs: bool) -> list[tuple[Any, ...]]:
    """What a macro's variables stand for, one after another: items or keys, or each with its index or value."""
    if not in_pairs:
        return [(inward(part),) for part in over]
    pairs = over.items() if kind_of(over) == "map" else enumerate(over)
    return [(key, inward(part)) for key, part in pairs]


def _bodies(body: Node, node: ast.Macro, items: list[tuple[Any, ...]], scope: Scope) -> Iterator[Any]:
    for parts in items:
        yield run(body, replace(scope, local={**scope.local, **dict(zip(node.variables, parts, strict=True))}))


def _no_bool(value: Any, where: str) -> Any:
    return _strictly(lambda _: Failure(f"`{where}` needs true or false"), value)


_RULES: dict[type[Node], Callable[[Any, Scope], Any]] = {
    ast.Literal: lambda node, _: node.value, ast.Name: _name, ast.Select: _select, ast.Conditional: _conditional,
    ast.MapNode: _map, ast.Macro: _macro, Apply: _apply, InList: _in_list, Coalesce: _coalesce,
    Present: lambda node, scope: (
        scope.values.get(node.path) is not None or (not scope.row and node.path in scope.values)),
    ast.Index: lambda node, scope: _strictly(item, run(node.operand, scope), run(node.key, scope)),
    ast.Unary: lambda node, scope: (
        negate(run(node.operand, scope)) if node.operator == "!" else _strictly(negative, run(node.operand, scope))),
    ast.Binary: lambda node, scope: (
        _strictly(partial(binary, node.operator), run(node.left, scope), run(node.right, scope))),
    ast.Logic: lambda node, scope: combine(node.operator, (run(operand, scope) for operand in node.operands)),
    ast.ListNode: lambda node, scope: _all_known([run(part, scope) for part in node.items]),
    ast.Ident: lambda node, _: Failure(f"unknown name `{node.name}`"),
    ast.Call: lambda node, _: Failure(f"unknown function `{node.function}`"),
}  # fmt: skip
