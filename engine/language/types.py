"""The types of the rule language: what a name is declared as and what an expression gives."""

from __future__ import annotations

import re
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


def list_of(item: Type) -> Type:
    """The type of lists with such items."""
    return Type("list", (item,))


def map_of(key: Type, value: Type) -> Type:
    """The type of maps from such keys to such values."""
    return Type("map", (key, value))


def parse_type(text: str) -> Type:
    """Read `double`, `list(string)`, `map(string, dyn)`; bare `list` and `map` hold dyn. ValueError if it isn't one."""
    tokens = re.findall(r"\w+|[(),]", text)
    if "".join(tokens) != re.sub(r"\s", "", text):
        raise ValueError(f"{text!r} is not a type")
    found, rest = _parse(tokens, text)
    if rest:
        raise ValueError(f"{text!r} is not a type: unexpected {rest[0]!r}")
    return found


def _parse(tokens: list[str], text: str) -> tuple[Type, list[str]]:
    name, rest = (tokens[0], tokens[1:]) if tokens else ("", [])
    if name in _SIMPLE:
        return _SIMPLE[name], rest
    if name not in ("list", "map"):
        raise ValueError(f"{text!r} is not a type: {name!r} is unknown; use {', '.join(_SIMPLE)}, list(…) or map(…)")
    args: list[Type] = []
    if rest[:1] == ["("]:
        while rest and rest[0] != ")":
            item, rest = _parse(rest[1:], text)
            args.append(item)
        if not rest:
            raise ValueError(f"{text!r} is not a type: `)` is missing")
        rest = rest[1:]
    wanted = 1 if name == "list" else 2
    if args and len(args) != wanted:
        raise ValueError(f"{text!r} is not a type: {name} takes {wanted}")
    filled = args or ([DYN] if name == "list" else [STRING, DYN])
    return Type(name, tuple(filled)), rest


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
