"""Gives the names in a tree their meaning: dotted inputs, macro variables, functions in namespaces, type names.

`a.b.c` is the longest dotted name that is known, and fields are read from what it holds. Both modes go through here:
checked mode knows the schema's names, dynamic mode those of the bindings. What has no meaning stays as it was parsed:
the checker reports it, and the interpreter makes it ERROR.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.language import functions_format, functions_moments, functions_places, functions_texts, functions_values
from engine.language.expression import (
    Call,
    Ident,
    ListNode,
    Literal,
    Macro,
    Name,
    Node,
    Select,
    changed,
    dotted,
    own_parts,
)
from engine.language.functions import FUNCTIONS, Function

TYPE_NAMES = functions_values.TYPE_NAMES
LIBRARIES = (functions_values, functions_texts, functions_moments, functions_places, functions_format)
"""Importing them fills the table of functions."""


@dataclass(frozen=True, slots=True)
class Apply(Node):
    """A call of a known function; a receiver is the first of `args`."""

    function: Function
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class InList(Node):
    """`in_list("name", value)`."""

    list_name: str
    value: Node


@dataclass(frozen=True, slots=True)
class Coalesce(Node):
    """`coalesce(a, b, …)`: the first that is neither UNKNOWN nor null."""

    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Present(Node):
    """`has(a.b)` of a declared input: whether it is there."""

    path: str


def children(node: Node) -> list[Node]:
    """The nodes directly below a node."""
    found: list[Node] = []

    def add(part: Any) -> None:
        if isinstance(part, Node):
            found.append(part)
        elif isinstance(part, tuple):
            for inner in part:
                add(inner)

    for name in own_parts(node):
        add(getattr(node, name))
    return found


def _rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with each node directly below it changed."""

    def altered(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple([altered(inner) for inner in part])
        return change(part) if isinstance(part, Node) else part

    if type(node) is Literal:
        return node
    return changed(node, **{name: altered(getattr(node, name)) for name in own_parts(node)})


def resolve(
    tree: Node,
    known: Callable[[str], bool],
    constants: Mapping[str, Any] | None = None,
    used: Callable[[str], None] = lambda _: None,
) -> Node:
    """The tree with names resolved; `known` tells whether a dotted name is an input.

    A name among `constants` becomes its value, as though that were written there; `used` is told of each.
    """
    return _Resolver(known, constants or {}, used).node(tree, frozenset())


@dataclass(frozen=True, slots=True)
class _Resolver:
    known: Callable[[str], bool]
    constants: Mapping[str, Any]
    used: Callable[[str], None]

    def node(self, node: Node, local: frozenset[str]) -> Node:
        """One node with the macro variables `local` in sight."""
        match node:
            case Ident() | Select():
                return self.name(node, local)
            case Call():
                return self.call(node, local)
            case Macro():
                inner = local.union(node.variables)
                where = self.node(node.where, inner) if node.where else None
                return changed(node, over=self.node(node.over, local), body=self.node(node.body, inner), where=where)
        return _rebuilt(node, lambda child: self.node(child, local))

    def all(self, nodes: tuple[Node, ...], local: frozenset[str]) -> tuple[Node, ...]:
        return tuple([self.node(item, local) for item in nodes])

    def name(self, node: Ident | Select, local: frozenset[str]) -> Node:
        """A name or a field: the longest known dotted name wins over reading a field."""
        path, root = dotted_anywhere(node), root_of(node)
        shadowed = root is not None and root.name in local and not root.rooted
        if path is not None and not shadowed:
            if path in self.constants:
                self.used(path)
                return _constant(True if isinstance(node, Select) and node.test else self.constants[path], node)
            if self.known(path):
                if isinstance(node, Select) and node.test:
                    return Present(path, start=node.start, end=node.end)
                return Name(path, start=node.start, end=node.end)
            if path in TYPE_NAMES and not (isinstance(node, Select) and node.test):
                return Literal(TYPE_NAMES[path], start=node.start, end=node.end)
        if isinstance(node, Select):
            return changed(node, operand=self.node(node.operand, local))
        if shadowed:
            return Name(node.name, True, start=node.start, end=node.end)
        return node

    def call(self, node: Call, local: frozenset[str]) -> Node:
        args = self.all(node.args, local)
        if node.target is None:
            special = self.special(node, args)
            if special is not None:
                return special
            function = FUNCTIONS.get((node.function, False))
            return _apply(function, args, node) if function else changed(node, args=args)
        space = dotted(node.target)
        if space is not None and space not in local and not self.known(space):
            function = FUNCTIONS.get((f"{space}.{node.function}", False))
            if function:
                return _apply(function, args, node)
        target = self.node(node.target, local)
        function = FUNCTIONS.get((node.function, True))
        return _apply(function, (target, *args), node) if function else changed(node, target=target, args=args)

    def special(self, node: Call, args: tuple[Node, ...]) -> Node | None:
        """The calls that are no ordinary functions."""
        if node.function == "coalesce" and args:
            return Coalesce(args, start=node.start, end=node.end)
        if node.function == "in_list" and len(args) == 2:
            name = args[0]
            if isinstance(name, Literal) and isinstance(name.value, str):
                return InList(name.value, args[1], start=node.start, end=node.end)
        return None


def _constant(value: Any, node: Node) -> Node:
    """A value, or a list of values, as though it were written where `node` stands."""
    if isinstance(value, tuple):
        return ListNode(tuple(_constant(item, node) for item in value), start=node.start, end=node.end)
    return Literal(value, start=node.start, end=node.end)


def _apply(function: Function, args: tuple[Node, ...], node: Node) -> Apply:
    return Apply(function, args, start=node.start, end=node.end)


def dotted_anywhere(node: Node) -> str | None:
    """The dotted name that a chain spells, also inside has(); None for anything else."""
    return dotted(changed(node, test=False) if isinstance(node, Select) and node.test else node)


def root_of(node: Node) -> Ident | None:
    """The word that a chain of fields begins with."""
    while isinstance(node, Select):
        node = node.operand
    return node if isinstance(node, Ident) else None
