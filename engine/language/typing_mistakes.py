"""How the checker reports: places, carets and words for what is wrong with a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from engine.language.diagnostics import Diagnostics, Position, Related
from engine.language.expression import Binary, Call, Name, Node, Unary, changed
from engine.language.resolve import Apply
from engine.language.types import DYN, Type


@dataclass(slots=True)
class Mistakes:
    """Reports mistakes of one expression; `declared` are the places where names were declared, if they are known."""

    place: Callable[[int], Position]
    diagnostics: Diagnostics
    text: str
    declared: Mapping[str, Position] = field(default_factory=dict)
    failed: bool = False

    def mistake(
        self, node: Node, code: str, message: str, hint: str = "", found: str = "", wanted: str = "",
        about: Node | None = None,
    ) -> Node:  # fmt: skip
        """Report at a node; gives it back as dyn, so that it is reported once. Names in `about` get their place."""
        self.failed = True
        newline = self.text.find("\n", node.start, node.end)
        length = (node.end if newline < 0 else newline) - node.start
        related = [
            Related(self.declared[name.path], f"`{name.path}` is declared here as {name.type}")
            for name in dict.fromkeys(_names(about or node))
            if name.path in self.declared
        ]
        self.diagnostics.error(
            code, message, self.place(node.start), length, hint=hint, found=found, wanted=wanted, related=related
        )
        return changed(node, type=DYN)

    def wrong_type(self, node: Node, wanted: Type, code: str, hint: str = "") -> Node:
        """Report that a node has another type than the one wanted."""
        message = f"`{self.source(node)}` is {node.type}, but {wanted} is wanted here"
        return self.mistake(node, code, message, hint, str(node.type), str(wanted))

    def at_word(self, node: Node, word: str) -> Node:
        """The node narrowed to a word that stands in it, such as the name of the function that is called."""
        inner = (
            node.target if isinstance(node, Call) else node.args[0] if isinstance(node, Apply) and node.args else None
        )
        start = inner.end if inner is not None and inner.start == node.start else node.start
        found = self.text.find(word, start, node.end)
        return node if found < 0 else changed(node, start=found, end=found + len(word))

    def source(self, node: Node) -> str:
        """The node as written, cut when long."""
        text = " ".join(self.text[node.start : node.end].split())
        return text if len(text) <= 40 else text[:37] + "…"


def _names(node: Node) -> Iterator[Name]:
    """The declared names in the simple nodes that mistakes are mostly about."""
    if isinstance(node, Name) and not node.local:
        yield node
    elif isinstance(node, Binary):
        yield from (*_names(node.left), *_names(node.right))
    elif isinstance(node, Unary):
        yield from _names(node.operand)
