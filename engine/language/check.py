"""Checked mode: every name declared, every type right, all mistakes at once, each under the very characters.

    schema = Schema.of({"txn.amount_base": "double", "user.payments_1h": "int"}, lists={"bins": "string"})
    checked = check(scalar, schema, diagnostics)      # scalar: a YAML Scalar, or Snippet("txn.amount_base > 500")

One extension to CEL: a whole-number literal beside a double takes its type, so `txn.amount_base > 500` is right. A
fractional literal beside an int is a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.language.diagnostics import Diagnostics, Position
from engine.language.expression import Logic, Node
from engine.language.lexer import SyntaxMistake
from engine.language.parser import parse
from engine.language.quantities import ExpressionError
from engine.language.resolve import resolve
from engine.language.types import Type, fits, parse_type
from engine.language.typing_rules import Typer


class Located(Protocol):
    """A text whose characters have places in a file; a YAML `Scalar` is one."""

    @property
    def value(self) -> str:
        """The text."""

    def position(self, offset: int = -1) -> Position:
        """The place of character `offset`."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """An expression that stands in no file, as a Located."""

    value: str
    file: str = "<expression>"

    def position(self, offset: int = -1) -> Position:
        """Line and column inside the text itself."""
        before = self.value[: max(offset, 0)]
        return Position(self.file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


@dataclass(frozen=True, slots=True)
class Schema:
    """What conditions may speak of: dotted names with their types, and lists with the type of their entries."""

    names: Mapping[str, Type]
    lists: Mapping[str, Type] = field(default_factory=dict)
    places: Mapping[str, Position] = field(default_factory=dict)
    """Where names were declared, for the messages; names without a place are fine."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Dotted name → the value that stands for it, a tuple for a list. Such a name is among `names` too."""

    @classmethod
    def of(
        cls,
        names: Mapping[str, str | Type],
        lists: Mapping[str, str | Type] | None = None,
        places: Mapping[str, Position] | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> Schema:
        """From types as text, such as `double` or `list(string)`; ValueError if one isn't a type."""
        return cls(
            {n: parse_type(t) if isinstance(t, str) else t for n, t in names.items()},
            {n: parse_type(t) if isinstance(t, str) else t for n, t in (lists or {}).items()},
            places or {},
            constants or {},
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """An expression that is right: its typed tree and what it reads. Evaluate it with `interpret` or `rows`."""

    text: str
    tree: Node
    type: Type
    names: frozenset[str]
    """Declared inputs that it reads, also by has()."""
    lists: frozenset[str]
    constants: frozenset[str] = frozenset()
    """Names of the schema's constants that it speaks of."""
    located: Located | None = field(default=None, repr=False, compare=False)
    """Where its text stands."""

    @property
    def conjuncts(self) -> tuple[Node, ...]:
        """The conditions joined by `&&` at the top; a failing condition is counted among these, from 0."""
        if isinstance(self.tree, Logic) and self.tree.operator == "&&":
            return self.tree.operands
        return (self.tree,)

    def conjunct_text(self, index: int) -> str:
        """A condition as it was written."""
        node = self.conjuncts[index]
        return self.text[node.start : node.end]


def check(
    located: Located, schema: Schema, diagnostics: Diagnostics, want: str | Type | None = "bool"
) -> Checked | None:
    """Parse and type an expression; None after a mistake, then in `diagnostics`. `want` None takes any type."""
    text = located.value
    diagnostics.sources.setdefault(located.position().file, text)
    try:
        parsed = parse(text)
    except SyntaxMistake as mistake:
        place = located.position(mistake.start)
        diagnostics.error(mistake.code, mistake.message, place, mistake.length, hint=mistake.hint)
        return None
    typer = Typer(located.position, diagnostics, text, schema.places, names=schema.names, lists=schema.lists)
    constants: set[str] = set()
    tree = typer.typed(resolve(parsed, schema.names.__contains__, schema.constants, constants.add))
    wanted = parse_type(want) if isinstance(want, str) else want
    if wanted is not None and not typer.failed:
        tree = typer.literal_as(tree, wanted)
        if not fits(tree.type, wanted):
            typer.wrong_type(tree, wanted, "E307", "a condition must be true or false" if wanted.name == "bool" else "")
    if typer.failed:
        return None
    return Checked(
        text, tree, tree.type, frozenset(typer.used), frozenset(typer.used_lists), frozenset(constants), located
    )


def check_text(text: str, schema: Schema, want: str | Type | None = "bool") -> Checked:
    """Check an expression that stands in no file; ExpressionError with all mistakes as text."""
    diagnostics = Diagnostics()
    checked = check(Snippet(text), schema, diagnostics, want)
    if checked is None:
        raise ExpressionError(diagnostics.render())
    return checked
