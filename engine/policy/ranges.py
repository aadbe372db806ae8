"""Which values a condition leaves: the one mechanism behind implication, contradiction, duplicates and swallowing.

What is asked of one expression is a set of values, kept as spans between cuts. A cut lies just before or just after a
value, so that open and closed ends, points and their complements are all the same thing:

    x >= 5   → from before(5) to HIGH          x in ["a", "b"] → the spans of two points
    x > 5    → from after(5) to HIGH           !(x in ["a"])   → everything but one point

A condition is a set of atoms that all must hold. What is no comparison with a constant is an atom too, of a truth value
that must be true, so that equal texts are still found equal. Nothing here is guessed: a comparison of doubles that NaN
would pass is such an atom as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

from engine.language.expression import Binary, ListNode, Literal, Logic, Name, Node, Unary
from engine.language.functions import Function
from engine.language.types import BOOL, DOUBLE, INT, STRING, UINT

Cut = tuple[Any, ...]
Allowed = tuple[tuple[Cut, Cut], ...]
"""Spans, rising and apart."""
Region = Mapping[str, Allowed]
"""Key of an expression → the values that are left of it."""
LOW: Cut = (0,)
HIGH: Cut = (2,)
ALL: Allowed = ((LOW, HIGH),)
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_COMPARED = frozenset({BOOL, INT, UINT, DOUBLE, STRING})


@dataclass(frozen=True, slots=True)
class Atom:
    """What one part of a condition asks of one expression."""

    key: str
    subject: Node
    allowed: Allowed


@dataclass(frozen=True, slots=True)
class Demand:
    """What a region must hold to imply a condition: all of the atoms, and of each group of `either` one."""

    atoms: tuple[Atom, ...]
    either: tuple[tuple[Demand, ...], ...] = ()

    def met(self, region: Region) -> bool:
        """Whether the condition is surely true wherever the atoms of the region hold."""
        for atom in self.atoms:
            allowed = region.get(atom.key)
            if allowed is None or not within(allowed, atom.allowed):
                return False
        return all(any(one.met(region) for one in group) for group in self.either)

    def keys(self, rarity: Callable[[str], int]) -> set[str]:
        """Keys of which any region that meets this has at least one; as rare ones as can be."""
        single = [{atom.key} for atom in self.atoms]
        groups = [set[str]().union(*(one.keys(rarity) for one in group)) for group in self.either]
        return min(single + groups, key=lambda keys: sum(map(rarity, keys)), default=set())


def before(value: Any) -> Cut:
    """The cut just below a value."""
    return (1, value, 0)


def after(value: Any) -> Cut:
    """The cut just above a value; of a whole number it is the one before the next."""
    return (1, value + 1, 0) if type(value) is int else (1, value, 1)


def points(values: Iterable[Any]) -> Allowed:
    """Just these values."""
    return joined((before(value), after(value)) for value in values)


def joined(spans: Iterable[tuple[Cut, Cut]]) -> Allowed:
    """All that lies in any of the spans."""
    found: list[tuple[Cut, Cut]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def meet(one: Allowed, other: Allowed) -> Allowed:
    """What lies in both."""
    both = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return tuple((low, high) for low, high in both if low < high)


def outside(allowed: Allowed) -> Allowed:
    """Everything else."""
    cuts = [LOW, *chain.from_iterable(allowed), HIGH]
    return tuple((low, high) for low, high in zip(cuts[::2], cuts[1::2], strict=True) if low < high)


def within(one: Allowed, other: Allowed) -> bool:
    """Whether all of one lies in the other."""
    if len(one) == len(other) == 1:
        return other[0][0] <= one[0][0] and one[0][1] <= other[0][1]
    return meet(one, other) == one


def atoms(node: Node, want: bool = True) -> list[Atom]:
    """What must hold for a condition to be `want`."""
    match node:
        case Unary("!"):
            return atoms(node.operand, not want)
        case Logic() if (node.operator == "&&") == want:
            return [atom for operand in node.operands for atom in atoms(operand, want)]
        case Logic():
            either = [atoms(operand, want) for operand in node.operands]
            if all(len(found) == 1 for found in either) and len({found[0].key for found in either}) == 1:
                first = either[0][0]
                return [Atom(first.key, first.subject, joined(chain.from_iterable(f[0].allowed for f in either)))]
    return [_compared(node, want) or Atom(key_of(node), node, points([want]))]


def demand_of(node: Node, want: bool = True) -> Demand:
    """What must be known for a condition to be surely `want`."""
    if isinstance(node, Unary) and node.operator == "!":
        return demand_of(node.operand, not want)
    mine = tuple(atoms(node, want))
    if not isinstance(node, Logic):
        return Demand(mine)
    parts = tuple(demand_of(operand, want) for operand in node.operands)
    if (node.operator == "&&") == want:
        return Demand(tuple(chain.from_iterable(part.atoms for part in parts)),
                      tuple(chain.from_iterable(part.either for part in parts)))  # fmt: skip
    return Demand((), ((Demand(mine), *parts),))


def _compared(node: Node, want: bool) -> Atom | None:
    """A comparison of one expression with constants; None for anything else."""
    if not isinstance(node, Binary):
        return None
    left, right, operator = node.left, node.right, node.operator
    if isinstance(left, Literal) and operator in _TURNED:
        left, right, operator = right, left, _TURNED[operator]
    if left.type not in _COMPARED or isinstance(left, Literal):
        return None
    if left.type == DOUBLE and want == (operator == "!="):
        return None  # NaN passes
    if operator == "in" and isinstance(right, ListNode):
        values = [item.value for item in right.items if isinstance(item, Literal)]
        allowed = points(values) if len(values) == len(right.items) else None
    else:
        allowed = _SPANS[operator](right.value) if isinstance(right, Literal) and operator in _SPANS else None
    if allowed is None:
        return None
    return Atom(key_of(left), left, allowed if want else outside(allowed))


_SPANS: Mapping[str, Callable[[Any], Allowed]] = {
    "<": lambda value: ((LOW, before(value)),),
    "<=": lambda value: ((LOW, after(value)),),
    ">": lambda value: ((after(value), HIGH),),
    ">=": lambda value: ((before(value), HIGH),),
    "==": lambda value: points([value]),
    "!=": lambda value: outside(points([value])),
}


def key_of(part: Any) -> str:
    """One text for one meaning, however it was spaced: the declared name itself, else the shape of the tree."""
    if isinstance(part, Name):
        return part.path
    if isinstance(part, Node):
        own = [key_of(getattr(part, field.name)) for field in fields(part) if not field.kw_only]
        return f"{type(part).__name__}:{part.type}({','.join(own)})"
    if isinstance(part, tuple):
        return f"[{','.join(map(key_of, part))}]"
    return f"{part.name}/{part.receiver}" if isinstance(part, Function) else repr(part)
