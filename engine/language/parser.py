"""The parser of conditions: the whole CEL grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

from engine.language import expression as ast
from engine.language.expression import Node
from engine.language.lexer import SyntaxMistake, Token, tokens
from engine.language.quantities import INT_MAX, INT_MIN

T = TypeVar("T")
MAX_DEPTH = 50
RESERVED = frozenset(
    "as break const continue else for function if import let loop package namespace return var void while".split()
)
_PRECEDENCE = {
    "||": 1, "&&": 2, "<": 3, "<=": 3, ">": 3, ">=": 3, "==": 3, "!=": 3, "in": 3, "+": 4, "-": 4, "*": 5, "/": 5,
    "%": 5,
}  # fmt: skip
_CONSTANTS = {"true": True, "false": False, "null": None}
_NO_NAMES = frozenset({*_CONSTANTS, "in"})
MACROS: dict[tuple[str, int], int] = {
    ("all", 2): 1, ("exists", 2): 1, ("exists_one", 2): 1, ("filter", 2): 1, ("map", 2): 1, ("map", 3): 1,
    ("all", 3): 2, ("exists", 3): 2, ("exists_one", 3): 2, ("existsOne", 3): 2, ("transformList", 3): 2,
    ("transformList", 4): 2, ("transformMap", 3): 2, ("transformMap", 4): 2, ("transformMapEntry", 3): 2,
    ("transformMapEntry", 4): 2,
}  # fmt: skip
"""Name and number of arguments → how many of them name variables: an item, or an index or key and what stands there."""


def parse(text: str) -> Node:
    """The tree of an expression; SyntaxMistake (an ExpressionError) at the first place that is wrong."""
    parser = _Parser(tokens(text))
    node = parser.expression()
    if parser.next.kind != "end":
        raise parser.unexpected("an operator or the end")
    return node


class _Parser:
    """Recursive descent with precedence climbing; `depth` bounds both nesting and the height of the tree."""

    def __init__(self, found: list[Token]) -> None:
        self.tokens, self.i, self.depth = found, 0, 0

    @property
    def next(self) -> Token:
        return self.tokens[self.i]

    @property
    def end(self) -> int:
        """Where the last token that was taken ends."""
        return self.tokens[self.i - 1].end

    def take(self) -> Token:
        token = self.tokens[self.i]
        self.i += 1
        return token

    def at(self, *signs: str) -> bool:
        token = self.next
        return token.text in signs and token.kind in ("sign", "name")

    def expect(self, sign: str) -> Token:
        if not self.at(sign):
            raise self.unexpected(f"`{sign}`")
        return self.take()

    def unexpected(self, wanted: str) -> SyntaxMistake:
        token = self.next
        found = f"`{token.text[:20]}`" if token.text else "the end"
        hint = {"and": "`and` is `&&`", "or": "`or` is `||`", "not": "`not` is `!`"}.get(token.text, "")
        return SyntaxMistake("E205", f"expected {wanted}, found {found}", token.start, token.end - token.start, hint)

    def expression(self) -> Node:
        self.deeper()
        node = self.binary(1)
        if self.at("?"):
            self.take()
            then = self.binary(1)
            self.expect(":")
            otherwise = self.expression()
            node = ast.Conditional(node, then, otherwise, start=node.start, end=otherwise.end)
        self.depth -= 1
        return node

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels"
            raise SyntaxMistake("E207", message, self.next.start, 1, "split the condition, or name a part as a feature")

    def binary(self, least: int) -> Node:
        left = self.unary()
        entered = self.depth
        while self.at(*_PRECEDENCE) and _PRECEDENCE[self.next.text] >= least:
            operator = self.next.text
            if operator in ("&&", "||"):
                operands, self.depth = [left], entered
                while self.at(operator):
                    self.take()
                    operands.append(self.binary(_PRECEDENCE[operator] + 1))
                left = ast.Logic(operator, tuple(operands), start=left.start, end=self.end)
            else:
                self.take()
                self.deeper()  # each operator of a chain makes the tree one higher
                right = self.binary(_PRECEDENCE[operator] + 1)
                left = ast.Binary(operator, left, right, start=left.start, end=right.end)
        self.depth = entered
        return left

    def unary(self) -> Node:
        signs = []
        while self.at("!", "-"):
            signs.append(self.take())
            if signs[0].text != signs[-1].text:
                self.i -= 1
                raise self.unexpected("a value; put parentheses around it")
        if signs and signs[0].text == "-" and isinstance(self.next.value, int | float) and self.next.kind == "literal":
            self.negate_literal(signs.pop())
        node = self.member()
        if len(signs) > 2:  # pairs of signs cancel out, but the last two keep the error for a wrong operand
            signs = signs[: 2 - len(signs) % 2]
        for sign in reversed(signs):
            node = ast.Unary(sign.text, node, start=sign.start, end=node.end)
        return node

    def negate_literal(self, sign: Token) -> None:
        """Put the minus into the number, so that -9223372036854775808 is an int."""
        token = self.next
        if type(token.value) in (int, float):
            self.tokens[self.i] = Token("literal", "-" + token.text, sign.start, token.end, -token.value)
        else:
            self.i -= 1
            raise SyntaxMistake("E204", "an unsigned number can't be negative", sign.start, token.end - sign.start)

    def member(self) -> Node:
        node = self.primary()
        entered = self.depth
        while self.at(".", "[", "{"):
            self.deeper()
            sign = self.take()
            if sign.text == "[":
                key = self.expression()
                node = ast.Index(node, key, start=node.start, end=self.expect("]").end)
            elif sign.text == "{":
                self.refuse_message(node)
            else:
                node = self.selected(node)
        self.depth = entered
        return node

    def selected(self, node: Node) -> Node:
        name = self.take()
        if name.kind not in ("name", "quoted") or name.text in _NO_NAMES:
            self.i -= 1
            raise self.unexpected("a field name")
        if self.at("(") and name.kind == "name":
            return self.receiver_call(node, name, self.arguments())
        return ast.Select(node, name.text.strip("`"), start=node.start, end=name.end)

    def receiver_call(self, target: Node, name: Token, args: tuple[Node, ...]) -> Node:
        binds = name.text == "bind" and isinstance(target, ast.Ident) and target.name == "cel" and len(args) == 3
        count = 1 if binds else MACROS.get((name.text, len(args)), 0)
        if not count:
            return ast.Call(name.text, target, args, start=target.start, end=self.end)
        variables = self.variables(name.text, args[:count])
        if binds:
            return ast.Macro("bind", args[1], variables, args[2], start=target.start, end=self.end)
        where = args[count] if len(args) == count + 2 else None
        kind = "exists_one" if name.text == "existsOne" else name.text
        return ast.Macro(kind, target, variables, args[-1], where, start=target.start, end=self.end)

    def variables(self, macro: str, args: tuple[Node, ...]) -> tuple[str, ...]:
        """The names that a macro gives to what it goes over."""
        names: list[str] = []
        for arg in args:
            if not isinstance(arg, ast.Ident) or arg.rooted or arg.name in names:
                one, two = "the first argument of `{}` is the name", "the first two arguments of `{}` are the names"
                message = f"{(one if len(args) == 1 else two).format(macro)} of its variable{'s' * (len(args) > 1)}"
                raise SyntaxMistake("E208", message, arg.start, arg.end - arg.start)
            names.append(arg.name)
        return tuple(names)

    def refuse_message(self, node: Node) -> NoReturn:
        """`Name{field: value}`, which has no place here."""
        if (name := ast.dotted(node)) is None:
            self.i -= 1
            raise self.unexpected("an operator or the end")
        self.separated("}", self.entry)
        message = f"`{name}{{…}}` makes a protobuf message, which don't exist here"
        raise SyntaxMistake("E310", message, node.start, self.end - node.start)

    def separated(self, closing: str, item: Callable[[], T]) -> tuple[T, ...]:
        """Items between commas, up to and with the closing sign; only arguments may not end with a comma."""
        found: list[T] = []
        while not self.at(closing):
            found.append(item())
            if not self.at(closing):
                self.expect(",")
                if self.at(closing) and closing == ")":
                    raise self.unexpected("an argument")
        self.take()
        return tuple(found)

    def arguments(self) -> tuple[Node, ...]:
        self.expect("(")
        return self.separated(")", self.expression)

    def primary(self) -> Node:
        token = self.next
        if token.kind == "literal":
            self.take()
            if type(token.value) is int and not INT_MIN <= token.value <= INT_MAX:
                raise SyntaxMistake("E204", f"{token.text} doesn't fit into 64 bits", token.start, len(token.text))
            return ast.Literal(token.value, start=token.start, end=token.end)
        if token.kind == "name" or self.at("."):
            return self.name()
        if self.at("("):
            self.take()
            node = self.expression()
            self.expect(")")
            return node
        if self.at("["):
            self.take()
            return ast.ListNode(self.separated("]", self.expression), start=token.start, end=self.end)
        if self.at("{"):
            self.take()
            return ast.MapNode(self.separated("}", self.entry), start=token.start, end=self.end)
        raise self.unexpected("a value")

    def entry(self) -> tuple[Node, Node]:
        key = self.expression()
        self.expect(":")
        return key, self.expression()

    def name(self) -> Node:
        first = self.next
        rooted = self.at(".")
        if rooted:
            self.take()
        token = self.take()
        if token.kind != "name":
            self.i -= 1
            raise self.unexpected("a name")
        if token.text in _CONSTANTS and not rooted:
            return ast.Literal(_CONSTANTS[token.text], start=token.start, end=token.end)
        if token.text in RESERVED or token.text in _NO_NAMES:
            raise SyntaxMistake("E206", f"`{token.text}` is a reserved word", token.start, len(token.text))
        if not self.at("("):
            return ast.Ident(token.text, rooted, start=first.start, end=token.end)
        args = self.arguments()
        if token.text == "has" and not rooted:
            return self.has(token, args)
        return ast.Call(token.text, None, args, start=first.start, end=self.end)

    def has(self, token: Token, args: tuple[Node, ...]) -> Node:
        if len(args) != 1 or not isinstance(args[0], ast.Select):
            hint = "such as has(user.mean_amount)"
            raise SyntaxMistake("E208", "has() takes one field", token.start, self.end - token.start, hint)
        chosen = args[0]
        return ast.Select(chosen.operand, chosen.field, True, start=token.start, end=self.end)
