"""Rows, indexed rows and columns give exactly what the reference interpreter gives."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.language import (
    UNKNOWN,
    Failure,
    RowResult,
    Type,
    check_text,
    columns,
    compile_rows,
    compile_value,
    evaluate,
    outcome,
    rows_index,
)
from engine.language.columns_values import Column
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
def small_sizes() -> Iterator[None]:
    """A few rows are several blocks, and a rule has more conditions than the index takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_index, "_MOST", 2)
        patch.setattr(columns, "BLOCK", 3)
        yield


@_SETTINGS
@given(st.lists(conditions(), min_size=RULES, max_size=RULES), st.lists(rows(), min_size=ROWS, max_size=ROWS))
def test_rule_sets_equal_the_interpreter(conditions: list[str], rows: list[dict[str, Any]]) -> None:
    """Result and first failing condition of each rule, for any row, and the list of rules that didn't miss."""
    first, second = conditions[0], conditions[1]
    checked = [check_text(text, SCHEMA) for text in (*conditions, f"!({first}) || ({second})", f"{second} && {first}")]
    plain, indexed = compile_rows(checked, LISTS), compile_rows(checked, LISTS, index_from=0)
    whole = columns.compile_columns(checked, LISTS).evaluate(table_of(rows))
    failing = [whole.failing(number) for number in range(len(checked))]
    for at, row in enumerate(rows):
        wanted = [outcome(rule, row, LISTS) for rule in checked]
        assert [(whole.codes[n, at], failing[n][at]) for n in range(len(checked))] == wanted, (conditions, row)
        answers(plain.evaluate(row), wanted, (conditions, row))
        answers(indexed.evaluate(row), wanted, (conditions, row))


def answers(found: RowResult, wanted: list[tuple[Result, int]], case: object) -> None:
    """A result is what the interpreter says of each rule."""
    assert found.notable == [index for index, (result, _) in enumerate(wanted) if result], case
    assert found.results == [result for result, _ in wanted], case
    assert found.failing == [failing for _, failing in wanted], case


ARROW: dict[str, pa.DataType] = {
    "int": pa.int64(), "uint": pa.uint64(), "double": pa.float64(), "bool": pa.bool_(), "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"), "list(string)": pa.list_(pa.string()), "list(int)": pa.list_(pa.int64()),
    "map(string, string)": pa.map_(pa.string(), pa.string()),
}  # fmt: skip


def table_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows as Arrow columns; a name that no row has is no column, and dyn is a list."""
    columns: dict[str, Any] = {}
    for name, kind in SCHEMA.names.items():
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            columns[name] = pa.array(values, ARROW[str(kind)]) if str(kind) in ARROW else values
    return columns or {"nothing": [None] * len(rows)}


def at_row(column: Column, at: int, kind: Type) -> Any:
    """The value of a column at a row, as the row function gives it."""
    if column.unknown is not None and column.unknown[at]:
        return UNKNOWN
    if column.error is not None and column.error[at]:
        return Failure("")
    value = column.values[at]
    if column.texts is not None:
        return column.texts[value]
    return value.item() if isinstance(value, np.generic) else value


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
        column = columns.compile_value_columns(checked, LISTS)(table_of(rows))
        for at, row in enumerate(rows):
            wanted = to_row(evaluate(checked, row, LISTS))
            assert same(compiled(row), wanted), (text, row)
            assert same(at_row(column, at, checked.type), wanted), (text, row)


@pytest.mark.parametrize("text", ["user.age > 1 && txn.amount > 2", '!user.vip && (user.age > 1 || card.bin == "a")'])
def test_wrong_python_types_fall_back(text: str) -> None:
    """A row that breaks its schema raises nothing and gives the interpreter's answer."""
    checked = check_text(text, SCHEMA)
    row = {"user.age": "old", "txn.amount": [], "user.vip": False, "card.bin": "b"}
    found = compile_rows([checked]).evaluate(row)
    assert (found.results[0], found.failing[0]) == outcome(checked, row)
