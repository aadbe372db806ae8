"""The generated row function: its answers where roads fork, and its shape."""

from __future__ import annotations

from typing import Any

import pytest

from engine.language import UNKNOWN, Failure, Schema, check_text, compile_rows, compile_value
from engine.values import Result

SCHEMA = Schema.of(
    {"a": "int", "b": "double", "s": "string", "p": "bool", "t": "timestamp", "m": "map(string, string)"},
    lists={"bins": "string"},
)  # fmt: skip


def found(text: str, row: dict[str, Any]) -> tuple[str, int]:
    """Result and first failing condition of one rule."""
    result = compile_rows([check_text(text, SCHEMA)], {"bins": frozenset({"x"})}).evaluate(row)
    return Result(result.results[0]).name, result.failing[0]


@pytest.mark.parametrize(
    ("text", "row", "wanted"),
    [
        ("a > 1 && b > 2 && s == 'x'", {"a": 2, "b": 3.0, "s": "x"}, ("HIT", 0)),
        ("a > 1 && b > 2 && s == 'x'", {"a": 2, "b": 3.0, "s": "y"}, ("MISS", 2)),
        ("a > 1 && b > 2 && s == 'x'", {"b": 3.0, "s": "y"}, ("MISS", 2)),
        ("a > 1 && b > 2 && s == 'x'", {"b": 3.0, "s": "x"}, ("UNKNOWN", 0)),
        ("a > 1 && b > 2 && s == 'x'", {"a": 2, "b": None, "s": "x"}, ("UNKNOWN", 1)),
        ("a > 1 && b > 2", {"b": 1.0}, ("MISS", 1)),
        ("a != 1 && !p", {"a": 2, "p": False}, ("HIT", 0)),
        ("a != 1 && !p", {"p": True}, ("MISS", 1)),
        ("!p && a != 1", {"a": 1}, ("MISS", 1)),
        ("b != 1", {"b": float("nan")}, ("HIT", 0)),
        ("b < 1 || b >= 1", {"b": float("nan")}, ("MISS", 0)),
        ("b < 1 || a > 1", {"a": 2}, ("HIT", 0)),
        ("b < 1 || a > 1", {"a": 0}, ("UNKNOWN", 0)),
        ("!(p && a > 1)", {"a": 0}, ("HIT", 0)),
        ("1 / a > 0", {"a": 0}, ("ERROR", 0)),
        ("p && 1 / a > 0", {"a": 0, "p": False}, ("MISS", 0)),
        ("m.k == 'x'", {"m": {}}, ("ERROR", 0)),
        ("has(m.k) && m.k == 'x'", {"m": {}}, ("MISS", 0)),
        ("has(m.k) && m.k == 'x'", {}, ("MISS", 0)),
        ("in_list('bins', s)", {"s": "x"}, ("HIT", 0)),
        ("in_list('bins', s)", {}, ("UNKNOWN", 0)),
        ("s in ['x', 'y'] && s.startsWith('x')", {"s": "x"}, ("HIT", 0)),
        ("t > timestamp('1970-01-01T00:00:01Z')", {"t": 1_000_001}, ("HIT", 0)),
    ],
)
def test_roads(text: str, row: dict[str, Any], wanted: tuple[str, int]) -> None:
    """Each way through a rule ends with the right result and condition."""
    assert found(text, row) == wanted


def test_rules_beyond_one_function() -> None:
    """More rules than one generated function holds, in order, with each input fetched once in each function."""
    rules = [check_text(f"a == {i}", SCHEMA) for i in range(600)]
    program = compile_rows(rules, index_from=601)
    assert program.evaluate({"a": 599}).notable == [599]
    assert program.source.count("get('a')") == 3
    assert program.names == {"a"}
    assert compile_rows([]).evaluate({}).results == []


def test_long_and_wide_rules_are_right_too() -> None:
    """More conditions, or alternatives, than are unrolled."""
    many = " && ".join(f"a > {i}" for i in range(30))
    assert found(many, {"a": 20}) == ("MISS", 20)
    wide = " || ".join(f"(a == {i} && p)" for i in range(300))
    assert found(wide, {"a": 299, "p": True}) == ("HIT", 0)
    assert found(wide, {"a": 299}) == ("UNKNOWN", 0)


def test_deep_conditions_are_left_to_the_interpreter() -> None:
    """What Python can't indent is still right."""
    deep = "p"
    for _ in range(45):
        deep = f"(p ? {deep} : false)"
    assert found(f"{deep} || ({deep} && a > 1)", {"p": True}) == ("HIT", 0)
    assert compile_value(check_text(f"{deep} || a > 1", SCHEMA))({"p": False, "a": 0}) is False


def test_a_live_list_is_asked_each_time() -> None:
    """The object given as a list is asked at evaluation, so that it may change."""
    bins: set[str] = set()
    program = compile_rows([check_text("in_list('bins', s)", SCHEMA)], {"bins": bins})
    assert program.evaluate({"s": "x"}).notable == []
    bins.add("x")
    assert program.evaluate({"s": "x"}).notable == [0]


def test_values() -> None:
    """A value, UNKNOWN or a Failure with its reason; times as int µs."""
    assert compile_value(check_text("a * 2", SCHEMA, "int"))({"a": 4}) == 8
    assert compile_value(check_text("a * 2", SCHEMA, "int"))({}) is UNKNOWN
    assert compile_value(check_text("1 / a", SCHEMA, "int"))({"a": 0}) == Failure("division by zero")
    assert compile_value(check_text("t + duration('1s')", SCHEMA, "timestamp"))({"t": 5}) == 1_000_005
    assert compile_value(check_text("coalesce(b, 0)", SCHEMA, "double"))({}) == 0.0


def test_a_shared_part_is_computed_once() -> None:
    """A call that several rules make runs once for a row, and not at all when no rule comes to it."""
    asked: list[object] = []

    class Bins:
        def __contains__(self, value: object) -> bool:
            asked.append(value)
            return True

    rules = [check_text(f"a > {i} && in_list('bins', s)", SCHEMA) for i in range(3)]
    program = compile_rows(rules, {"bins": Bins()})
    assert program.evaluate({"a": 2, "s": "x"}).notable == [0, 1]
    assert program.evaluate({"a": 0, "s": "x"}).notable == []
    assert [Result(result).name for result in program.evaluate({"a": 3}).results] == ["UNKNOWN"] * 3
    assert asked == ["x"]


def test_an_index_runs_few_rules_and_knows_all() -> None:
    """Of many rules only those that may not miss are run; the conditions of the others are filled in when asked for."""
    rules = [check_text(f"s == 'k{i}' && a > 1", SCHEMA) for i in range(600)]
    rules += [check_text(f"b > {i} && a > 1", SCHEMA) for i in range(600)]
    indexed, plain = compile_rows(rules), compile_rows(rules, index_from=len(rules) + 1)
    for row in ({"s": "k7", "a": 2, "b": 3.0}, {"s": "k7", "a": 1, "b": -1.0}, {"a": 2}, {}, {"s": [], "b": "x"}):
        found, wanted = indexed.evaluate(row), plain.evaluate(row)
        assert found.notable == wanted.notable
        if row.get("s") == "k7":
            assert len(found.codes) < 50
        assert (found.results, found.failing) == (wanted.results, wanted.failing)
