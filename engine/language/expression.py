"""The tree of a condition, with the place of every part; `engine.language.parser` makes it.

Nodes are frozen; `start` and `end` are character offsets into the text, and `type` is what the checker found (`dyn`
until then). Chains of `&&` and of `||` are one node with many operands, so long conditions stay shallow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from engine.language.types import DYN, Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What all nodes have: the place in the text and the type."""

    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    type: Type = DYN


N = TypeVar("N", bound=Node)
_PLACED = 3
"""Fields that all nodes have: start, end, type."""


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A constant."""

    value: Any


@dataclass(frozen=True, slots=True)
class Ident(Node):
    """A name of one word: a variable, or the beginning of a dotted name; `rooted` if written with a leading dot."""

    name: str
    rooted: bool = False


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A declared dotted name, or a macro's variable; only after resolution."""

    path: str
    local: bool = False


@dataclass(frozen=True, slots=True)
class Select(Node):
    """`operand.field`, or `has(operand.field)` if `test`."""

    operand: Node
    field: str
    test: bool = False


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`operand[key]`."""

    operand: Node
    key: Node


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`function(args)`, or `target.function(args)` if there is a target."""

    function: str
    target: Node | None
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`!operand` or `-operand`."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Arithmetic, comparison or `in`."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """Two or more operands joined by `&&` or by `||`."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Conditional(Node):
    """`condition ? then : otherwise`."""

    condition: Node
    then: Node
    otherwise: Node


@dataclass(frozen=True, slots=True)
class ListNode(Node):
    """`[items]`."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MapNode(Node):
    """`{key: value}`."""

    entries: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Macro(Node):
    """`over.kind(variables, body)`; what maps or transforms may have a `where` before it, which chooses the items.

    `cel.bind(name, value, body)` is one too, of kind `bind`, over the value.
    """

    kind: str
    over: Node
    variables: tuple[str, ...]
    body: Node
    where: Node | None = None


_FIELDS: dict[type[Node], tuple[str, ...]] = {}


def parts(node: Node) -> tuple[str, ...]:
    """Names of a node's fields: its own ones first, then place and type."""
    kind = type(node)
    if kind not in _FIELDS:
        names = [part.name for part in fields(kind)]  # those that all nodes have come first
        _FIELDS[kind] = (*names[_PLACED:], *names[:_PLACED])
    return _FIELDS[kind]


def own_parts(node: Node) -> tuple[str, ...]:
    """Names of a node's own fields."""
    return parts(node)[:-_PLACED]


def changed(node: N, **values: Any) -> N:
    """The node with some fields changed: `dataclasses.replace`, at a third of its cost."""
    fresh = object.__new__(type(node))
    for name in parts(node):
        object.__setattr__(fresh, name, values[name] if name in values else getattr(node, name))
    return fresh


def dotted(node: Node) -> str | None:
    """The dotted name that a chain of selections spells, or None."""
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.test:
        prefix = dotted(node.operand)
        return None if prefix is None else f"{prefix}.{node.field}"
    return None
