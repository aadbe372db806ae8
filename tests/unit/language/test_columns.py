"""The column backend: what it takes, what it leaves to rows, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.language import ExpressionError, Schema, check_text
from engine.language.columns import compile_columns, compile_value_columns
from engine.values import Result

SCHEMA = Schema.of(
    {"a": "int", "b": "double", "s": "string", "t": "timestamp", "m": "map(string, string)", "l": "list(int)"},
    lists={"bins": "string"},
)  # fmt: skip


def found(text: str, table: Any, lists: Any = None) -> tuple[list[str], list[int], int]:
    """Results, first failing conditions, and the rows left to the row function, of one rule."""
    result = compile_columns([check_text(text, SCHEMA)], lists).evaluate(table)
    names = [Result(code).name for code in result.codes[0]]
    return names, result.failing(0).tolist(), result.by_rows[0]


@pytest.mark.parametrize("make", [pa.table, pa.RecordBatch.from_pydict, dict])
def test_arrow_and_mappings(make: Any) -> None:
    """A table, a record batch and a mapping of arrays; null is absent, NaN is not, a missing column is all absent."""
    columns = {
        "a": pa.array([1, None, 3, 3]),
        "b": pa.array([float("nan"), 2.0, None, 1.0]),
        "other": pa.array([0] * 4),
    }
    assert found("a > 1 && b < 2", make(columns)) == (["MISS", "MISS", "UNKNOWN", "HIT"], [0, 1, 1, 0], 0)
    assert found("b < 2 || b >= 2", make(columns))[0] == ["MISS", "HIT", "UNKNOWN", "HIT"]
    assert found("s == 'x'", make(columns))[0] == ["UNKNOWN"] * 4


def test_texts_once_each() -> None:
    """A list is asked once per distinct text, however many rows have it; dictionaries are taken as they are."""
    asked: list[str] = []

    class Bins:
        def __contains__(self, value: str) -> bool:
            asked.append(value)
            return value == "x"

    table = pa.table({"s": pa.array(["x", "y", "x", None] * 100).dictionary_encode()})
    names, _, by_rows = found("in_list('bins', lower(s))", table, {"bins": Bins()})
    assert names == ["HIT", "MISS", "HIT", "UNKNOWN"] * 100
    assert (sorted(asked), by_rows) == (["x", "y"], 0)


def test_only_undecided_rows_are_left_to_the_row_function() -> None:
    """A map has no columns; the rows that another condition decides never come to it."""
    table = pa.table(
        {"a": [0, 1, 1, 1], "m": pa.array([None, {"k": "x"}, {"k": "y"}, {}], pa.map_(pa.string(), pa.string()))}
    )
    assert found("m.k == 'x' && a > 0", table) == (["MISS", "HIT", "MISS", "ERROR"], [1, 0, 0, 0], 3)


def test_whole_numbers_overflow_and_divide_as_the_language_says() -> None:
    """Overflow and division by zero are ERROR, and division goes toward zero."""
    table = pa.table({"a": pa.array([2**63 - 1, -(2**63), -7, 0])})
    assert found("a + 1 > 0", table)[0] == ["ERROR", "MISS", "MISS", "HIT"]
    assert found("a * 2 < 0", table)[0] == ["ERROR", "ERROR", "HIT", "MISS"]
    assert found("-a > 0", table)[0] == ["MISS", "ERROR", "HIT", "MISS"]
    assert found("7 / a == -1", table)[0] == ["MISS", "MISS", "HIT", "ERROR"]
    assert found("a % 4 == -3", table)[0] == ["MISS", "MISS", "HIT", "MISS"]


def test_constants_stand_for_all_rows() -> None:
    """What needs no row, or never comes to one, is a column all the same."""
    table = pa.table({"a": [1, None]})
    assert found("coalesce(0, a) in [0, 1]", table)[0] == ["HIT", "HIT"]
    assert found("coalesce(9223372036854775807, a) + 1 > 0", table)[0] == ["ERROR", "ERROR"]
    assert found("1 / 0 > 0 && a > 0", table)[0] == ["ERROR", "UNKNOWN"]
    failed = compile_value_columns(check_text("coalesce(9223372036854775807, a) + 1", SCHEMA, want="int"))(table)
    assert failed.error.tolist() == [True, True]


def test_values() -> None:
    """Columns of values: numbers, texts as codes, times as µs, and lists by the row function."""
    table = pa.table({"a": [1, 0, None], "s": ["A", "b", "A"], "t": pa.array([1, 2, 3], pa.timestamp("s", "UTC"))})

    def value(text: str) -> Any:
        return compile_value_columns(check_text(text, SCHEMA, want=None))(table)

    whole = value("6 / a")
    assert (whole.values[0], whole.error.tolist(), whole.unknown.tolist()) == (
        6,
        [False, True, False],
        [False, False, True],
    )
    lower = value("lower(s)")
    assert [lower.texts[code] for code in lower.values] == ["a", "b", "a"]
    assert value("t + duration('1s')").values.tolist() == [2_000_000, 3_000_000, 4_000_000]
    assert value("[s, s]").values.tolist() == [["A", "A"], ["b", "b"], ["A", "A"]]
    assert np.array_equal(value("1.5").values, [1.5, 1.5, 1.5])


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ({"a": pa.array(["1"])}, "a > 0", "column `a` is string, but the rules read it as int"),
        ({"t": pa.array([1], pa.timestamp("us"))}, "t > t", "give int64 µs or a timestamp with a zone"),
        ({"t": pa.array([2**62])}, "t > t", "a time is outside its range"),
        ({"a": pa.array([1, 2]), "b": pa.array([1.0])}, "a > 0", "different lengths: 1, 2"),
    ],
)
def test_wrong_columns_are_refused(column: Any, text: str, said: str) -> None:
    """A column that can't be what the rules read is named, with what was wanted."""
    with pytest.raises(ExpressionError, match=said):
        compile_columns([check_text(text, SCHEMA)]).evaluate(column)


def test_workers_do_not_pay_for_columns() -> None:
    """The room imports neither NumPy nor Arrow until columns are asked for."""
    code = "import sys, engine.language; print('numpy' in sys.modules, 'pyarrow' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
