"""The types of the rule language: what a name is declared as and what an expression gives."""

from __future__ import annotations

import ast
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Type:
    """A type by name; `list` has one argument, `map` two (keys, values). `dyn` fits everything."""

    name: str
    args: tuple[Type, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.args))})" if self.args else self.name


BOOL, INT, UINT, DOUBLE = Type("bool"), Type("int"), Type("uint"), Type("double")
STRING, BYTES, NULL, DYN = Type("string"), Type("bytes"), Type("null"), Type("dyn")
TIMESTAMP, DURATION = Type("timestamp"), Type("duration")
IP, CIDR, TYPE = Type("ip"), Type("cidr"), Type("type")
NUMBERS = frozenset({INT, UINT, DOUBLE})
ORDERED = NUMBERS | {BOOL, STRING, BYTES, TIMESTAMP, DURATION}

_SIMPLE = {
    t.name: t for t in (BOOL, INT, UINT, DOUBLE, STRING, BYTES, NULL, DYN, TIMESTAMP, DURATION, IP, CIDR, TYPE)
}  # fmt: skip
_HOLDING = {"list": (DYN,), "map": (STRING, DYN)}
"""What a bare `list` or `map` holds."""


def list_of(item: Type) -> Type:
    """The type of lists with such items."""
    return Type("list", (item,))


def map_of(key: Type, value: Type) -> Type:
    """The type of maps from such keys to such values."""
    return Type("map", (key, value))


def parse_type(text: str) -> Type:
    """Read `double`, `list(string)`, `map(string, dyn)`; bare `list` and `map` hold dyn. ValueError if it isn't one."""
    try:
        return _parsed(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError) as problem:
        why = f": {problem}" if type(problem) is ValueError else ""
        raise ValueError(f"{text!r} is not a type{why}") from None


def _parsed(node: ast.expr) -> Type:
    name, given = (ast.unparse(node.func), node.args) if isinstance(node, ast.Call) else (ast.unparse(node), None)
    if name in _SIMPLE and given is None:
        return _SIMPLE[name]
    if name not in _HOLDING:
        raise ValueError(f"{name!r} is unknown; use {', '.join(_SIMPLE)}, list(…) or map(…)")
    if given is not None and len(given) != len(_HOLDING[name]):
        raise ValueError(f"{name} takes {len(_HOLDING[name])}")
    return Type(name, _HOLDING[name] if given is None else tuple(map(_parsed, given)))


def fits(given: Type, wanted: Type) -> bool:
    """Whether a value of `given` may stand where `wanted` is asked for; `dyn` fits on either side, at any depth."""
    if DYN in (given, wanted) or given == wanted:
        return True
    return (
        given.name == wanted.name
        and len(given.args) == len(wanted.args)
        and bool(given.args)
        and all(map(fits, given.args, wanted.args))
    )


def join(first: Type, second: Type) -> Type:
    """The narrowest type that holds values of both; `dyn` when they have nothing in common."""
    if first == second:
        return first
    if first.name == second.name and first.args and len(first.args) == len(second.args):
        return Type(first.name, tuple(map(join, first.args, second.args)))
    return DYN
