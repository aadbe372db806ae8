"""The reference evaluator: UNKNOWN and ERROR in checked mode, plain Python in dynamic mode."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.language import UNKNOWN, ExpressionError, Failure, Schema, UInt, check_text, evaluate, outcome
from engine.language.interpret import evaluate_expression, to_row
from engine.language.lexer import SyntaxMistake
from engine.language.parser import parse
from engine.language.quantities import Timestamp
from engine.values import Result

SCHEMA = Schema.of(
    {
        "a": "int", "b": "int", "d": "double", "s": "string", "p": "bool", "q": "bool", "t": "timestamp",
        "items": "list(int)", "m": "map(string, int)", "any": "dyn", "u.n": "int",
    },
    lists={"bins": "string"},
)  # fmt: skip
ERROR = "ERROR"


def value(text: str, **row: Any) -> Any:
    """The value of an expression in checked mode, ERROR as text."""
    got = evaluate(check_text(text, SCHEMA, want=None), row, {"bins": {"x"}})
    return ERROR if isinstance(got, Failure) else got


@pytest.mark.parametrize(
    ("text", "row", "wanted"),
    [
        ("a > 1", {}, UNKNOWN),
        ("a > 1", {"a": None}, UNKNOWN),
        ("a > 1 && false", {}, False),
        ("a > 1 || true", {}, True),
        ("a > 1 && 1 / 0 > 0", {}, UNKNOWN),
        ("1 / 0 > 0 && a > 1", {}, UNKNOWN),
        ("1 / 0 > a", {}, UNKNOWN),
        ("1 / 0 > 0 || a > 1", {"a": 0}, ERROR),
        ("!(a > 1)", {}, UNKNOWN),
        ("p ? a : 1 / 0", {"p": True, "a": 5}, 5),
        ("p ? a : 1 / 0", {"p": False, "a": 5}, ERROR),
        ("p ? a : b", {"a": 1, "b": 2}, UNKNOWN),
        ("p ? a : b", {"p": True, "b": 2}, UNKNOWN),
        ("p ? a : b", {"p": False, "b": 2}, 2),
        ("has(u.n)", {}, False),
        ("has(u.n)", {"u.n": 0}, True),
        ("has(m.x)", {}, False),
        ("has(m.x)", {"m": {"x": 1}}, True),
        ("m.x", {"m": {}}, ERROR),
        ("m.x", {}, UNKNOWN),
        ("coalesce(a, b, 7)", {}, 7),
        ("coalesce(a, b)", {}, UNKNOWN),
        ("coalesce(1 / 0, 2)", {}, ERROR),
        ("coalesce(any, null)", {}, UNKNOWN),
        ("items.all(i, i > a)", {"items": [1, 2]}, UNKNOWN),
        ("items.all(i, i > 1 && i > a)", {"items": [1, 2]}, False),
        ("items.exists(i, i == 2 || i > a)", {"items": [1, 2]}, True),
        ("items.all(i, 6 / (2 - i) == 6)", {"items": [1, 2, 3]}, False),
        ("items.exists_one(i, i > a)", {"items": [1]}, UNKNOWN),
        ("items.exists_one(i, 1 / i > 0)", {"items": [0, 1]}, ERROR),
        ("items.filter(i, i > 1)", {}, UNKNOWN),
        ("items.map(i, i > 1, i / (i - 2))", {"items": [1, 2]}, ERROR),
        ("items.map(i, i > 1, i * 2)", {"items": [1, 2]}, [4]),
        ("items[a]", {"items": [1], "a": 1}, ERROR),
        ("in_list('bins', s)", {}, UNKNOWN),
        ("in_list('bins', s)", {"s": "x"}, True),
        ("d < 5", {"d": math.nan}, False),
        ("!(d < 5)", {"d": math.nan}, True),
        ("d >= 5", {"d": math.nan}, False),
        ("d / 0 > 1", {"d": 1.0}, True),
        ("d / 0 < 1", {"d": -1}, True),
        ("a / b", {"a": -7, "b": 2}, -3),
        ("a % b", {"a": -7, "b": 2}, -1),
        ("a % b", {"a": -(2**63), "b": -1}, ERROR),
        ("a + 1", {"a": 2**63 - 1}, ERROR),
        ("-a", {"a": -(2**63)}, ERROR),
        ("t > timestamp('1970-01-01T00:00:00Z')", {"t": 1}, True),
        ("t.getFullYear()", {"t": datetime(2026, 5, 1, tzinfo=UTC)}, 2026),
    ],
)
def test_unknown_and_error(text: str, row: dict[str, Any], wanted: Any) -> None:
    """Three-valued evaluation, exactly as the language says."""
    got = value(text, **row)
    assert (got, type(got)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("text", "row", "wanted"),
    [
        ("p && q", {"p": True, "q": True}, (Result.HIT, 0)),
        ("p && q", {"p": True, "q": False}, (Result.MISS, 1)),
        ("p && q", {"q": False}, (Result.MISS, 1)),
        ("p && q", {"p": True}, (Result.UNKNOWN, 1)),
        ("p && q && 1 / a > 0", {"p": True, "q": True, "a": 0}, (Result.ERROR, 2)),
        ("1 / a > 0 && p", {"a": 0}, (Result.UNKNOWN, 1)),
        ("p || q", {"p": False}, (Result.UNKNOWN, 0)),
        ("any", {"any": 5}, (Result.ERROR, 0)),
    ],
)
def test_outcome_names_the_first_failing_condition(text: str, row: dict[str, Any], wanted: tuple[Result, int]) -> None:
    """The first false, unknown or failed condition, whichever made the result."""
    assert outcome(check_text(text, SCHEMA), row) == wanted


def test_times_go_back_to_rows_as_microseconds() -> None:
    """A row holds times as int µs, so a derived time is given back so."""
    assert to_row(value("t + duration('1s')", t=5)) == 1_000_005
    assert isinstance(value("t", t=5), Timestamp)


@pytest.mark.parametrize(
    ("text", "bindings", "wanted"),
    [
        ("x.y + 1", {"x": {"y": 1}}, 2),
        ("x.y.z + 1", {"x.y": {"z": 1}, "x": 5}, 2),
        (".x", {"x": 3}, 3),
        ("[1, 2].map(x, x + x)", {"x": 50}, [2, 4]),
        ("x == null", {"x": None}, True),
        ("has(x.a)", {"x": {"a": None}}, True),
        ("x", {"x": UInt(5)}, UInt(5)),
        ("x + duration('1h')", {"x": datetime(2026, 1, 1, tzinfo=UTC)}, datetime(2026, 1, 1, 1, tzinfo=UTC)),
        ("x * 2 / 2 == x", {"x": 3}, True),
        ("[x, -x]", {"x": timedelta(seconds=1).total_seconds()}, [1.0, -1.0]),
        ("x - x", {"x": datetime(2026, 1, 1, tzinfo=UTC)}, timedelta(0)),
        ("type(x) == int && type(1.0) == double", {"x": 1}, True),
        ("{1: 'a', 'b': [true]}", {}, {1: "a", "b": [True]}),
        ("true == 1", {}, False),
        ("{true: 'yes'}[true]", {}, "yes"),
        ("1 in {true: 1}", {}, False),
        ("[7, 8][1.0]", {}, 8),
        ("{1: 'a'}[1u]", {}, "a"),
        ("math.least(3, 1u, 2.5) == 1", {}, True),
        ("size(x)", {"x": (1, 2)}, 2),
    ],
)
def test_dynamic_mode(text: str, bindings: dict[str, Any], wanted: Any) -> None:
    """Names are the bindings', None is null, and results are plain Python."""
    got = evaluate_expression(text, bindings)
    assert (got, type(got)) == (wanted, type(wanted))


@pytest.mark.parametrize(
    ("text", "bindings", "said"),
    [
        ("nope", {}, "unknown name `nope`"),
        ("nope(1)", {}, "unknown function `nope`"),
        ("1 +", {}, "expected a value"),
        ("x", {"x": 2**63}, "doesn't fit into a 64-bit int"),
        ("x", {"x": object()}, "object is no value"),
        ("x", {"x": [{"y": {1, 2}}]}, r"x\[0\]\['y'\]: a set is no value"),
        ("x", {"x": datetime(2026, 1, 1)}, "time zone"),
        ("timestamp('2026-01-01T00:00:00.000000001Z')", {}, "finer than a microsecond"),
        ("int", {}, "type int"),
        ("1 + 1.0", {}, "can't take int and double"),
        ("'a' && true", {}, "needs true or false"),
        ("{'a': 1, 'a': 2}", {}, "given twice"),
        ("{1.5: 2}", {}, "double can't be a key"),
        ("Foo{a: 1}", {}, "protobuf message"),
        ("[1].all(x, 5)", {}, "needs true or false"),
        ("5.all(x, true)", {}, "goes over a list"),
        ("1 in 2", {}, "needs a list or a map"),
        ("in_list('a', 1)", {}, "unknown list"),
        ("'x'.matches('(')", {}, "regular expression"),
    ],
)
def test_dynamic_errors(text: str, bindings: dict[str, Any], said: str) -> None:
    """Every ERROR, and every binding that is no value, is an ExpressionError with its reason."""
    with pytest.raises(ExpressionError, match=said):
        evaluate_expression(text, bindings)


def test_deep_bindings_end_in_an_error() -> None:
    """A binding that holds itself is refused."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ExpressionError, match="nested too deeply"):
        evaluate_expression("x", {"x": loop})


def test_the_deepest_tree_that_parses_can_be_evaluated() -> None:
    """Nested kinds of node as deep as the parser lets them leave room on Python's stack."""
    text = deepest = "1"
    while True:
        text = f"[true || false ? -(1 + ({text})) : 2].map(x, x)[0]"
        try:
            parse(text)
        except SyntaxMistake:
            break
        deepest = text
    assert isinstance(evaluate_expression(deepest), int)
