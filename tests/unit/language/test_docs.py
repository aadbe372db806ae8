"""`docs/rules.md` says what the code does."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from engine.language import Schema, check_text, compile_rows, evaluate
from engine.language.quantities import UNKNOWN, Failure
from engine.language.reference import functions_page, truth_page
from engine.language.truth import truth_table
from engine.values import Result

FILE = Path(__file__).parents[3] / "docs" / "rules.md"
SCHEMA = Schema.of({"p": "bool", "q": "bool", "zero": "int"})
ROW = {"zero": 0}
OPERANDS = {"true": "true", "false": "false", "UNKNOWN": "p", "ERROR": "1 / zero == 1"}


@pytest.mark.parametrize(("part", "fresh"), [("truth table", truth_page()), ("functions", functions_page())])
def test_generated_parts_are_fresh(part: str, fresh: str) -> None:
    """The truth table and the table of functions on the page are those of the code."""
    page = FILE.read_text()
    found = re.search(rf"(<!-- {part}: [^>]*-->\n).*?(\n<!-- end of {part} -->)", page, re.DOTALL)
    assert found is not None
    wanted = page[: found.end(1)] + fresh + page[found.start(2) :]
    if os.environ.get("ARBITER_REWRITE_GOLDEN") == "1":
        FILE.write_text(wanted)
    assert FILE.read_text() == wanted


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
    for block in re.findall(r"```python\n(.*?)```", FILE.read_text(), re.DOTALL):
        space: dict[str, object] = {}
        *lines, last = block.strip().split("\n")
        exec("\n".join(lines), space)
        code, _, wanted = last.rpartition("  # ")
        assert repr(eval(code, space)) == wanted
