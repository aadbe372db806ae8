"""Turns typed expressions into Python text: the part of the row backend that knows values, not rules.

An operand becomes a Python expression plus the variables that must be known for it (`Code`). Operators that need all
their operands become one plain expression behind one test of these; `&&`, `||`, `?:` and `coalesce` become statements
that leave their value, or UNKNOWN, in a variable. ERROR is an exception in generated code: whoever runs it asks the
interpreter again, which knows the reason. What is not worth generating calls the interpreter for that node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.language import expression as ast
from engine.language.check import Checked
from engine.language.expression import Node
from engine.language.functions import Overload
from engine.language.functions_texts import regex
from engine.language.interpret import Lists, Scope, from_row, run
from engine.language.operators import ARITHMETIC, binary, equals, negative
from engine.language.quantities import UNKNOWN, ExpressionError, Failure
from engine.language.resolve import Apply, Coalesce, InList, Present, children
from engine.language.truth import negate
from engine.language.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    NUMBERS,
    ORDERED,
    STRING,
    TIMESTAMP,
    Type,
)

_TEXT_METHODS = {"startsWith": "{0}.startswith({1})", "endsWith": "{0}.endswith({1})", "contains": "({1} in {0})"}
ABSENT = float("nan")
"""Stands in a variable for an absent number: every comparison with it is false, so only the false road asks `is`."""
UNSET = object()
"""Stands in the variable of a shared part until some rule needs it."""
Part = tuple[str, Type]
"""A part of a condition, as it is written, and its type: alike in all conditions of one schema."""
_MOST_INDENTED = 90
"""Python's own limit is 100."""


def _sound(value: Any) -> Any:
    """The value, unless it is ERROR."""
    if type(value) is Failure:
        raise ExpressionError(value.reason)
    return value


BUILTINS: dict[str, Any] = {
    "UNKNOWN": UNKNOWN, "ABSENT": ABSENT, "UNSET": UNSET, "sound": _sound, "run": run, "Scope": Scope,
    "from_row": from_row, "binary": binary, "equals": equals, "negate": negate, "negative": negative,
}  # fmt: skip
"""What generated code may call."""


@dataclass(frozen=True, slots=True)
class Code:
    """A Python expression, and the variables that must be known before it may be evaluated.

    `quiet`: with an unknown variable it is just false, without an exception. `denied`: it stands for `not text`.
    `partial`: it may be true although a variable is unknown.
    """

    text: str
    needs: tuple[str, ...] = ()
    quiet: bool = False
    denied: bool = False
    partial: bool = False


def plain(code: Code) -> str:
    """The expression itself, with its denial written out."""
    return f"(not {code.text})" if code.denied else code.text


def union(*codes: Code) -> tuple[str, ...]:
    """All needed variables, each once."""
    return tuple(dict.fromkeys(name for code in codes for name in code.needs))


class TooDeep(Exception):
    """More levels than Python can indent: the caller lets the interpreter do it."""


@dataclass(slots=True)
class Generator:
    """Collects statements, variables for inputs and shared parts, and constants for generated functions."""

    lists: Lists
    variable: str = "v{}"
    """How the variable of an input or a shared part is written: a local one, or an item of a list."""
    shared: Set[Part] = frozenset()
    """Parts that several rules have: the first that needs one computes it for all."""
    source: str = ""
    """The text of the rule at hand."""
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    inputs: dict[str, tuple[str, Type]] = field(default_factory=dict)
    parts: dict[Part, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    markers: dict[str, str] = field(default_factory=dict)
    temporaries: int = 0

    # --- text

    def emit(self, line: str) -> None:
        """One statement at the present depth."""
        self.lines.append("\t" * self.depth + line)

    def block(self, head: str, body: Callable[[], None]) -> None:
        """A compound statement; an empty body becomes `pass`."""
        self.emit(head)
        if self.depth >= _MOST_INDENTED:
            raise TooDeep
        self.depth += 1
        before = len(self.lines)
        body()
        if len(self.lines) == before:
            self.emit("pass")
        self.depth -= 1

    def constant(self, value: Any) -> str:
        """A name for a value that generated code can't spell."""
        fresh = f"k{len(self.constants)}"
        name = next((name for name, known in self.constants.items() if known is value), fresh)
        self.constants[name] = value
        return name

    def temporary(self) -> str:
        """A fresh variable whose absence is the object UNKNOWN."""
        self.temporaries += 1
        name = f"t{self.temporaries}"
        self.markers[name] = "UNKNOWN"
        return name

    def is_unknown(self, needs: Iterable[str]) -> str:
        """A test that some of these variables are unknown."""
        return " or ".join(f"{name} is {self.markers[name]}" for name in needs)

    def is_known(self, needs: Iterable[str]) -> str:
        """A test that all of these variables are known."""
        return " and ".join(f"{name} is not {self.markers[name]}" for name in needs)

    def loads(self) -> list[str]:
        """The statements that fetch every input once."""
        lines = ["\tget = row.get"]
        for path, (name, kind) in self.inputs.items():
            lines.append(f"\t{name} = get({path!r})")
            if kind in NUMBERS:
                lines.append(f"\tif {name} is None: {name} = ABSENT")
                if kind == DOUBLE:
                    lines.append(f"\telif {name}.__class__ is int: {name} = float({name})")
            elif kind in (TIMESTAMP, DURATION, DYN):
                lines.append(f"\tif {name} is not None: {name} = from_row({name}, {self.constant(kind)})")
        return [*lines, *(f"\t{name} = UNSET" for name in self.parts.values())]

    def slot(self) -> str:
        """A fresh variable for an input or a shared part."""
        return self.variable.format(len(self.inputs) + len(self.parts))

    # --- nodes

    def code(self, node: Node) -> Code:
        """A node as an expression; statements that it needs first are emitted."""
        if self.shared and costly(node, self.lists):
            part = self.source[node.start : node.end], node.type
            if part in self.shared:
                return self.once(part, node)
        return self.fresh(node)

    def once(self, part: Part, node: Node) -> Code:
        """A shared part: its value, or UNKNOWN, is left in a variable by whoever comes first."""
        if part not in self.parts:
            self.parts[part] = self.slot()
            self.markers[self.parts[part]] = "UNKNOWN"
        name = self.parts[part]

        def compute() -> None:
            code = self.fresh(node)
            self.emit(f"{name} = {self.or_unknown(code)}")

        self.block(f"if {name} is UNSET:", compute)
        return Code(name, (name,))

    def or_unknown(self, code: Code) -> str:
        """An expression that is UNKNOWN if something it needs is."""
        unknown = self.is_unknown(code.needs)
        return f"UNKNOWN if {unknown} else {plain(code)}" if unknown else plain(code)

    def fresh(self, node: Node) -> Code:
        """The node's own code."""
        match node:
            case ast.Literal():
                return Code(self.literal(node.value))
            case ast.Name() if not node.local:
                return self.name(node)
            case Present():
                name = self.name(ast.Name(node.path, type=node.type)).text
                return Code(f"({name} is not {self.markers[name]})")
            case ast.Select() if node.test and isinstance(node.operand, ast.Name) and node.operand.type.name == "map":
                name = self.name(node.operand).text
                return Code(f"({name} is not None and {node.field!r} in {name})")
            case ast.Select() if _plain_field(node):
                code = self.code(node.operand)
                return Code(f"{code.text}[{node.field!r}]", code.needs)
            case ast.Unary():
                return self.unary(node)
            case ast.Binary():
                return self.binary(node)
            case InList():
                return self.in_list(node)
            case Apply():
                return self.apply(node)
            case ast.Logic() | ast.Conditional() | Coalesce():
                return self.held(node)
        return self.interpreted(node)

    def literal(self, value: Any) -> str:
        """A constant as Python text."""
        if value is None or type(value) in (bool, str, bytes):
            return repr(value)
        if type(value) is int or (type(value) is float and math.isfinite(value)):
            return f"({value!r})" if value < 0 or str(value).startswith("-") else repr(value)
        return self.constant(value)

    def name(self, node: ast.Name) -> Code:
        """An input's variable."""
        if node.path not in self.inputs:
            name = self.slot()
            self.inputs[node.path] = (name, node.type)
            self.markers[name] = "ABSENT" if node.type in NUMBERS else "None"
        name, kind = self.inputs[node.path]
        return Code(name, (name,), quiet=kind == BOOL)

    def unary(self, node: ast.Unary) -> Code:
        """`!` and `-`."""
        if node.operator == "!":
            inner = self.code(node.operand)
            if node.operand.type == BOOL:
                return Code(inner.text, inner.needs, inner.quiet, not inner.denied)
            return Code(f"sound(negate({inner.text}))", inner.needs)
        inner = self.code(node.operand)
        if node.type == DOUBLE:
            return Code(f"(-{plain(inner)})", inner.needs)
        return Code(f"sound(negative({plain(inner)}))", inner.needs)

    def binary(self, node: ast.Binary) -> Code:
        """Arithmetic, comparison, `in`; what Python does alike for the types at hand is left to Python."""
        left_type, right_type, operator = node.left.type, node.right.type, node.operator
        same = left_type == right_type and left_type in ORDERED
        if operator in ("<", "<=", ">", ">=", "==", "!=") and same:
            return self.comparison(node)
        if operator == "in":
            fast = self.membership(node)
            if fast is not None:
                return fast
        left, right = self.code(node.left), self.code(node.right)
        needs = union(left, right)
        a, b = plain(left), plain(right)
        if same and left_type in (INT, DOUBLE, STRING, BYTES) and operator in "+-*/%":
            if left_type == INT or operator == "/":
                run = ARITHMETIC[operator, left_type.name, right_type.name][1]
                return Code(f"{self.constant(run)}({a}, {b})", needs)
            return Code(f"({a} {operator} {b})", needs)
        if operator in ("==", "!="):
            return Code(f"equals({a}, {b})", needs, denied=operator == "!=")
        return Code(f"sound(binary({operator!r}, {a}, {b}))", needs)

    def comparison(self, node: ast.Binary) -> Code:
        """Two values of one scalar type. With ABSENT numbers, and with None == constant, it is quietly false."""
        left, right = self.code(node.left), self.code(node.right)
        numbers = node.left.type in NUMBERS
        simple = all(isinstance(side, ast.Name | ast.Literal) for side in (node.left, node.right))
        constant = isinstance(node.left, ast.Literal) or isinstance(node.right, ast.Literal)
        needs = union(left, right)
        quiet = simple and bool(needs) and (numbers or (constant and node.operator in ("==", "!=")))
        operator = "==" if node.operator == "!=" else node.operator
        return Code(f"({plain(left)} {operator} {plain(right)})", needs, quiet, node.operator == "!=")

    def membership(self, node: ast.Binary) -> Code | None:
        """`in` a constant list, or a list of texts; None where Python's `in` would mean something else."""
        kind = node.left.type
        right = node.right
        if kind not in (STRING, INT, DOUBLE) or right.type.args[:1] != (kind,):
            return None
        if isinstance(right, ast.ListNode) and _constant_list(right):
            left = self.code(node.left)
            constant = self.constant(frozenset(item.value for item in right.items if isinstance(item, ast.Literal)))
            return Code(f"({plain(left)} in {constant})", left.needs, isinstance(node.left, ast.Name))
        if kind == STRING and right.type.name in ("list", "map"):
            left, other = self.code(node.left), self.code(right)
            return Code(f"({plain(left)} in {plain(other)})", union(left, other))
        return None

    def in_list(self, node: InList) -> Code:
        """Membership in a named list."""
        entries = self.lists.get(node.list_name)
        value = self.code(node.value)
        if entries is None:
            return self.interpreted(node)
        quiet = isinstance(node.value, ast.Name) and isinstance(entries, frozenset | set | dict)
        return Code(f"({plain(value)} in {self.constant(entries)})", value.needs, quiet)

    def apply(self, node: Apply) -> Code:
        """A function: the one form that fits the static types, or a choice at run time."""
        args = [self.code(arg) for arg in node.args]
        needs = union(*args)
        texts = [plain(arg) for arg in args]
        name, types = node.function.name, [arg.type for arg in node.args]
        if types == [STRING, STRING] and name in _TEXT_METHODS:
            return Code(_TEXT_METHODS[name].format(*texts), needs)
        if name == "size" and types[0] != DYN:
            return Code(f"len({texts[0]})", needs)
        if name == "matches" and isinstance(node.args[1], ast.Literal):
            search = self.constant(regex(node.args[1].value).search)
            return Code(f"({search}({texts[0]}) is not None)", needs)
        form = _static_form(node.function.overloads, types)
        if form is not None:
            return Code(f"{self.constant(form.run)}({', '.join(texts)})", needs)
        return Code(f"sound({self.constant(node.function)}(({', '.join(texts)},)))", needs)

    def interpreted(self, node: Node) -> Code:
        """Anything else, by the interpreter."""
        name = self.temporary()
        self.interpret(name, node)
        return Code(name, (name,))

    def interpret(self, name: str, node: Node) -> None:
        """A statement that leaves what the interpreter says in a variable."""
        self.emit(f"{name} = sound(run({self.constant(node)}, Scope(row, lists)))")

    # --- statements

    def held(self, node: Node) -> Code:
        """A node whose value, or UNKNOWN, statements leave in a variable."""
        name = self.temporary()
        self.assign(name, node)
        return Code(name, (name,))

    def assign(self, name: str, node: Node) -> None:
        """Statements that leave the node's value, or UNKNOWN, in a variable."""
        match node:
            case ast.Logic() if all(operand.type == BOOL for operand in node.operands):
                self.assign_logic(name, node)
            case ast.Conditional() if node.condition.type == BOOL:
                self.assign_conditional(name, node)
            case Coalesce() if not any(arg.type in (DYN, NULL) for arg in node.args):
                self.assign(name, node.args[0])
                for arg in node.args[1:]:
                    self.block(f"if {name} is UNKNOWN:", partial(self.assign, name, arg))
            case ast.Logic() | ast.Conditional() | Coalesce():
                self.interpret(name, node)
            case _:
                self.emit(f"{name} = {self.or_unknown(self.code(node))}")

    def assign_logic(self, name: str, node: ast.Logic) -> None:
        """Operands in order until one decides; an unknown one is remembered."""
        decides = "False" if node.operator == "&&" else "True"
        unknown = self.temporary()
        self.emit(f"{unknown} = False")
        self.operand(name, unknown, node.operands[0])
        for operand in node.operands[1:]:
            self.block(f"if {name} is not {decides}:", partial(self.operand, name, unknown, operand))
        self.emit(f"if {unknown} and {name} is not {decides}: {name} = UNKNOWN")

    def operand(self, name: str, unknown: str, node: Node) -> None:
        """One operand of `&&` or `||`; that it was unknown is remembered."""
        self.assign(name, node)
        self.emit(f"if {name} is UNKNOWN: {unknown} = True")

    def assign_conditional(self, name: str, node: ast.Conditional) -> None:
        """Only the chosen branch is evaluated."""
        condition = self.temporary()
        self.assign(condition, node.condition)
        self.block(f"if {condition} is True:", lambda: self.assign(name, node.then))
        self.block(f"elif {condition} is False:", lambda: self.assign(name, node.otherwise))
        self.emit(f"else: {name} = UNKNOWN")

    # --- conditions

    def condition(self, node: Node) -> Code:
        """A condition of a rule: also `a || b` and `!a && !b` of quiet parts are quiet, and true without all inputs.

        Only a rule's ifs may use such code: they ask whether it holds before they ask whether inputs are there.
        """
        if isinstance(node, ast.Logic) and all(map(_may_be_quiet, node.operands)):
            wanted = node.operator == "&&"
            parts = [self.condition(operand) for operand in node.operands]
            if all(part.quiet and part.denied is wanted for part in parts):
                return Code(f"({' or '.join(part.text for part in parts)})", union(*parts), True, wanted, not wanted)
        return self.code(node)


def shared_parts(conditions: Iterable[Checked], lists: Lists) -> set[Part]:
    """What several rules have, or one rule twice, and is worth a variable."""
    seen: set[Part] = set()
    shared: set[Part] = set()
    for condition in conditions:
        for node in _costly_parts(condition.tree, lists):
            part = condition.text[node.start : node.end], node.type
            (shared if part in seen else seen).add(part)
    return shared


def _costly_parts(node: Node, lists: Lists) -> Iterator[Node]:
    if costly(node, lists):
        yield node
    if not isinstance(node, ast.Macro):  # the interpreter does what stands inside
        for child in children(node):
            yield from _costly_parts(child, lists)


def costly(node: Node, lists: Lists) -> bool:
    """Whether it pays to remember the value: a call, checked arithmetic, or what takes statements."""
    match node:
        case ast.Binary():
            slow = node.operator in "*/%+-" and node.type != BOOL and (node.type != DOUBLE or node.operator == "/")
            return slow and not isinstance(node.left, ast.Literal | ast.ListNode)
        case InList():
            return not isinstance(lists.get(node.list_name), frozenset | set | dict)
        case ast.Logic():
            return not _may_be_quiet(node)
        case Apply():
            return node.function.name != "size"
    return isinstance(node, ast.Conditional | Coalesce | ast.Macro | ast.Index)


def _plain_field(node: ast.Select) -> bool:
    """A field of a map input whose values Python may use as they are."""
    kind = node.operand.type
    known = kind.name == "map" and kind.args[1] in (STRING, INT, BOOL) and not node.test
    return known and isinstance(node.operand, ast.Name) and not node.operand.local


def _constant_list(node: Node) -> bool:
    return isinstance(node, ast.ListNode) and all(isinstance(item, ast.Literal) for item in node.items)


def _may_be_quiet(node: Node) -> bool:
    """Whether making its code emits no statements."""
    if isinstance(node, ast.Unary) and node.operator == "!":
        return _may_be_quiet(node.operand)
    if isinstance(node, ast.Logic):
        return all(map(_may_be_quiet, node.operands))
    simple = (ast.Name, ast.Literal)
    if isinstance(node, ast.Binary):
        return isinstance(node.left, simple) and (_constant_list(node.right) or isinstance(node.right, simple))
    return isinstance(node, simple) or (isinstance(node, InList) and isinstance(node.value, simple))


def _static_form(forms: list[Overload], types: list[Type]) -> Overload | None:
    """The form that the run-time choice would take for values of these static types; None if they don't tell."""
    if DYN in types:
        return None
    return next(
        (f for f in forms if len(f.params) == len(types) and all(
            p.name in (t.name, "dyn") for p, t in zip(f.params, types, strict=True))), None,
    )  # fmt: skip
