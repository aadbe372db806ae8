"""Generated row code gives exactly what the reference interpreter gives."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.language import Failure, RowResult, check_text, compile_rows, compile_value, evaluate, outcome, rows_index
from engine.language.interpret import to_row
from engine.values import Result
from tests.unit.language.strategies import LISTS, SCHEMA, bools, conditions, doubles, ints, rows, texts

PAIRS = 200_000 if os.environ.get("ARBITER_LONG") == "1" else 5_000
"""Pairs of expression and row; 200,000 in the long run."""
RULES, ROWS = 4, 5
_SETTINGS = settings(
    max_examples=max(1, PAIRS // (2 * RULES * ROWS)),
    deadline=None,
    derandomize=PAIRS <= 5000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def same(left: Any, right: Any) -> bool:
    """Equal with equal types; NaN is NaN, -0.0 isn't 0.0, any ERROR is any ERROR."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Failure):
        return True
    if isinstance(left, float):
        return math.isnan(right) if math.isnan(left) else repr(left) == repr(right)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.fixture(scope="module", autouse=True)
def index_of_few_rules() -> Iterator[None]:
    """An index asks a name even if only one rule does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_index, "_LEAST_RULES", 1)
        yield


@_SETTINGS
@given(st.lists(conditions(), min_size=RULES, max_size=RULES), st.lists(rows(), min_size=ROWS, max_size=ROWS))
def test_rule_sets_equal_the_interpreter(conditions: list[str], rows: list[dict[str, Any]]) -> None:
    """Result and first failing condition of each rule, for any row, and the list of rules that didn't miss."""
    first, second = conditions[0], conditions[1]
    checked = [check_text(text, SCHEMA) for text in (*conditions, f"!({first}) || ({second})", f"{second} && {first}")]
    eight = [rule for rule in checked for _ in range(rows_index.GROUP)]  # so that a rule ruled out is really not run
    plain, indexed = compile_rows(checked, LISTS), compile_rows(eight, LISTS, index_from=0)
    for row in rows:
        wanted = [outcome(rule, row, LISTS) for rule in checked]
        answers(plain.evaluate(row), wanted, (conditions, row))
        answers(indexed.evaluate(row), [both for both in wanted for _ in range(rows_index.GROUP)], (conditions, row))


def answers(found: RowResult, wanted: list[tuple[Result, int]], case: object) -> None:
    """A result is what the interpreter says of each rule."""
    assert found.notable == [index for index, (result, _) in enumerate(wanted) if result], case
    assert found.results == [result for result, _ in wanted], case
    assert found.failing == [failing for _, failing in wanted], case


@_SETTINGS
@given(
    st.lists(st.one_of(bools(2), ints(2), doubles(2), texts(2)), min_size=RULES, max_size=RULES),
    st.lists(rows(), min_size=ROWS, max_size=ROWS),
)
def test_values_equal_the_interpreter(expressions: list[str], rows: list[dict[str, Any]]) -> None:
    """The value of any expression, UNKNOWN and ERROR included."""
    for text in expressions:
        checked = check_text(text, SCHEMA, want=None)
        compiled = compile_value(checked, LISTS)
        for row in rows:
            assert same(compiled(row), to_row(evaluate(checked, row, LISTS))), (text, row)


@pytest.mark.parametrize("text", ["user.age > 1 && txn.amount > 2", '!user.vip && (user.age > 1 || card.bin == "a")'])
def test_wrong_python_types_fall_back(text: str) -> None:
    """A row that breaks its schema raises nothing and gives the interpreter's answer."""
    checked = check_text(text, SCHEMA)
    row = {"user.age": "old", "txn.amount": [], "user.vip": False, "card.bin": "b"}
    found = compile_rows([checked]).evaluate(row)
    assert (found.results[0], found.failing[0]) == outcome(checked, row)
