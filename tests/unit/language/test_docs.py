"""`docs/rules.md` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.language import Schema, check_text, compile_rows, evaluate
from engine.language.quantities import UNKNOWN, Failure
from engine.language.reference import functions_page, truth_page
from engine.language.truth import truth_table
from engine.values import Result

PAGE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
SCHEMA = Schema.of({"p": "bool", "q": "bool", "zero": "int"})
ROW = {"zero": 0}
OPERANDS = {"true": "true", "false": "false", "UNKNOWN": "p", "ERROR": "1 / zero == 1"}


def between(begin: str, end: str) -> str:
    """The generated part of the page between two comments."""
    found = re.search(rf"<!-- {begin}: [^>]*-->\n(.*?)\n<!-- {end} -->", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_generated_parts_are_fresh() -> None:
    """The truth table and the table of functions on the page are those of the code."""
    assert between("truth table", "end of truth table") == truth_page()
    assert between("functions", "end of functions") == functions_page()


def named(text: str) -> str:
    """What the reference interpreter gives for a condition, as a truth value's name."""
    value = evaluate(check_text(text, SCHEMA), ROW)
    return "UNKNOWN" if value is UNKNOWN else "ERROR" if isinstance(value, Failure) else str(value).lower()


@pytest.mark.parametrize("row", truth_table(), ids=" ".join)
def test_interpreter_follows_the_table(row: tuple[str, ...]) -> None:
    """The reference interpreter gives each cell of the table."""
    a, b = f"({OPERANDS[row[0]]})", f"({OPERANDS[row[1]]})"
    assert (named(f"{a} && {b}"), named(f"{a} || {b}"), named(f"!{a}"), named(f"{a} == {b}")) == row[2:]


@pytest.mark.parametrize("row", truth_table(), ids=" ".join)
def test_generated_code_follows_the_table(row: tuple[str, ...]) -> None:
    """So does the generated row function."""
    a, b = f"({OPERANDS[row[0]]})", f"({OPERANDS[row[1]]})"
    rules = [check_text(text, SCHEMA) for text in (f"{a} && {b}", f"{a} || {b}", f"!{a}", f"{a} == {b}")]
    names = {Result.HIT: "true", Result.MISS: "false", Result.UNKNOWN: "UNKNOWN", Result.ERROR: "ERROR"}
    assert tuple(names[Result(found)] for found in compile_rows(rules).evaluate(ROW).results) == row[2:]


def test_examples_on_the_page_run() -> None:
    """Each Python block on the page runs, and the value in its comment is what it gives."""
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        space: dict[str, object] = {}
        *lines, last = block.strip().split("\n")
        exec("\n".join(lines), space)
        code, _, wanted = last.rpartition("  # ")
        assert repr(eval(code, space)) == wanted
