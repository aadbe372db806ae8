"""The parser: the whole grammar, with places, and bounds on what people may write."""

from __future__ import annotations

import pytest

from engine.language import UInt
from engine.language.expression import Binary, Call, Conditional, Literal, Logic, Macro, Node, Select, Unary
from engine.language.lexer import MAX_LENGTH, SyntaxMistake
from engine.language.parser import parse


def shape(node: Node) -> str:
    """The tree as text with every operator in parentheses."""
    match node:
        case Binary():
            return f"({shape(node.left)} {node.operator} {shape(node.right)})"
        case Logic():
            return "(" + f" {node.operator} ".join(map(shape, node.operands)) + ")"
        case Unary():
            return f"{node.operator}{shape(node.operand)}"
        case Conditional():
            return f"({shape(node.condition)} ? {shape(node.then)} : {shape(node.otherwise)})"
        case Select():
            return f"{'has ' if node.test else ''}{shape(node.operand)}.{node.field}"
        case Call():
            target = f"{shape(node.target)}." if node.target else ""
            return f"{target}{node.function}({', '.join(map(shape, node.args))})"
        case Macro():
            return f"{shape(node.over)}.{node.kind}[{', '.join(node.variables)}: {shape(node.body)}]"
        case Literal():
            return repr(node.value)
    return getattr(node, "name", type(node).__name__)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a || b && c || d", "(a || (b && c) || d)"),
        ("a && b && c", "(a && b && c)"),
        ("1 + 2 * 3 - 4", "((1 + (2 * 3)) - 4)"),
        ("a - b - c", "((a - b) - c)"),
        ("a < b == c", "((a < b) == c)"),
        ("x in [1] && y", "((x in ListNode) && y)"),
        ("!a.b && -c < 1", "(!a.b && (-c < 1))"),
        ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
        ("has(a.b.c)", "has a.b.c"),
        ("a.b.f(1).g()", "a.b.f(1).g()"),
        ("a.all(x, x > 1)", "a.all[x: (x > 1)]"),
        ("all(a, b)", "all(a, b)"),
        ("a.all(b)", "a.all(b)"),
        ("a.`b-c`", "a.b-c"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("--5", "--5"),
        ("// why\n a // that\n", "a"),
    ],
)
def test_precedence_and_forms(text: str, wanted: str) -> None:
    """Operators bind as CEL says, and macros are recognised by their form."""
    assert shape(parse(text)).replace("--5", "--5") == wanted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("0x1F", 31), ("7u", UInt(7)), ("1.5e3", 1500.0), (".5", 0.5), ("1e2", 100.0), ("true", True),
        ("null", None), ("'a'", "a"), ('"a\\n\\x41\\u00e9\\U0001F431\\101"', "a\nAé🐱A"), ("r'\\n'", "\\n"),
        ("'''a'b\nc'''", "a'b\nc"), ("b'\\xff\\377é'", b"\xff\xff\xc3\xa9"), ("rb'\\x'", b"\\x"), ("Br'a'", b"a"),
    ],
)  # fmt: skip
def test_literals(text: str, value: object) -> None:
    """Each kind of literal has its value and its type."""
    node = parse(text)
    assert isinstance(node, Literal)
    assert (node.value, type(node.value)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "code", "start", "length"),
    [
        ("a = 1", "E201", 2, 1), ("a # b", "E201", 2, 1), ("'abc", "E202", 0, 1), ("'a\nb'", "E202", 0, 1),
        ("'\\q'", "E203", 1, 2), ("'\\ud800'", "E203", 1, 6), ("b'\\u0041'", "E203", 2, 2), ("12ab", "E204", 0, 4),
        ("9223372036854775808", "E204", 0, 19), ("18446744073709551616u", "E204", 0, 21), ("-5u", "E204", 0, 3),
        ("9" * 500, "E204", 0, 500), ("1 +", "E205", 3, 1), ("f(1,)", "E205", 4, 1), ("(a", "E205", 2, 1),
        ("a b", "E205", 2, 1), ("[1, 2", "E205", 5, 1), ("a.1", "E205", 1, 2), ("a.true", "E205", 2, 4),
        ("{1 2}", "E205", 3, 1), ("-!a", "E205", 1, 1), ("", "E205", 0, 1), ("while", "E206", 0, 5),
        ("f(in)", "E206", 2, 2), ("has(a)", "E208", 0, 6), ("[1].map(x.y, 1)", "E208", 8, 3),
    ],
)  # fmt: skip
def test_mistakes_have_their_place(text: str, code: str, start: int, length: int) -> None:
    """A syntax error has a code, the offset of the wrong characters, and their number."""
    with pytest.raises(SyntaxMistake) as caught:
        parse(text)
    assert (caught.value.code, caught.value.start, caught.value.length) == (code, start, length)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 1000 + "1" + ")" * 1000, "[" * 1000, "-(" * 1000, "f(" * 1000, "a" + ".b" * 1000, "a" + "[0]" * 1000,
        "a ? b : " * 1000 + "c", "1" + " + 1" * 1000, "1 + (" * 1000, "{1: " * 1000, "x.all(x, " * 1000,
        "a" * (MAX_LENGTH + 1),
    ],
)  # fmt: skip
def test_depth_and_length_are_bounded(text: str) -> None:
    """Whatever is nested, the answer is a mistake, never a RecursionError."""
    with pytest.raises(SyntaxMistake) as caught:
        parse(text)
    assert caught.value.code in ("E207", "E205")


def test_long_conditions_of_one_level_are_fine() -> None:
    """A chain of a thousand alternatives is one node, and signs cancel out."""
    node = parse(" || ".join(f"x == {i}" for i in range(1000)))
    assert isinstance(node, Logic)
    assert len(node.operands) == 1000
    assert shape(parse("!" * 1001 + "a")) == "!a"


def test_places_of_nodes() -> None:
    """Start and end of each node cut out the text it came from."""
    text = "a.b > 1 && f(x, 'é')"
    node = parse(text)
    assert isinstance(node, Logic)
    assert [text[part.start : part.end] for part in node.operands] == ["a.b > 1", "f(x, 'é')"]
