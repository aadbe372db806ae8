"""Whatever is written, parser, loader and checker answer with mistakes, never with a Python exception."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.language import Diagnostics, ExpressionError, Snippet, check, evaluate_expression, parse_yaml
from engine.language.lexer import SyntaxMistake
from engine.language.parser import parse
from tests.unit.language.mistakes import report
from tests.unit.language.strategies import SCHEMA, conditions

_FAST = settings(max_examples=300, deadline=None, derandomize=True)
WORDS = st.sampled_from(
    "a¦user.age¦txn.amount¦1¦2.5¦'x'¦true¦null¦(¦)¦[¦]¦{¦}¦&&¦||¦!¦-¦+¦*¦/¦%¦<¦==¦in¦?¦:¦.¦,¦has(¦size(¦5u¦é"
    "¦.all(x, ¦b'\\xff'¦\n¦\\".split("¦")
)
SOUP = st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=40)
YAML_WORDS = st.sampled_from(
    "rules:¦  ¦- ¦id: ¦when: ¦x¦'¦\"¦|¦>¦&a¦*a¦!t¦{¦}¦[¦]¦#¦,¦: ¦---¦? ¦é¦%¦@¦user.vip¦\n¦\t¦\ufeff¦\x00".split("¦")
)


@_FAST
@given(SOUP)
def test_any_text_parses_or_is_a_mistake(text: str) -> None:
    """The parser gives a tree or a SyntaxMistake whose place lies in the text."""
    found = None
    try:
        parse(text)
    except SyntaxMistake as mistake:
        found = mistake
    assert found is None or 0 <= found.start <= len(text)


@_FAST
@given(SOUP)
def test_any_text_is_checked_or_refused_with_a_place(text: str) -> None:
    """The checker gives a Checked, or at least one mistake inside the text."""
    diagnostics = Diagnostics()
    checked = check(Snippet(text), SCHEMA, diagnostics)
    assert (checked is None) == diagnostics.failed
    for item in diagnostics.items:
        assert 1 <= item.position.line <= text.count("\n") + 1
    assert bool(diagnostics.render()) == diagnostics.failed


@_FAST
@given(SOUP)
def test_dynamic_mode_only_raises_its_own_error(text: str) -> None:
    """A value comes out, or an ExpressionError."""
    said = "a value"
    try:
        evaluate_expression(text, {"a": 1})
    except ExpressionError as error:
        said = str(error)
    assert said


@_FAST
@given(st.lists(YAML_WORDS, max_size=30).map("".join) | st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_is_read_or_refused(text: str | bytes) -> None:
    """The loader gives a tree or a mistake, and the reader on top does so too."""
    diagnostics = Diagnostics()
    root = parse_yaml(text, "f.yaml", diagnostics)
    assert (root is None) == diagnostics.failed
    assert isinstance(report(text).render(), str)


@_FAST
@given(conditions(), st.integers(0, 200), WORDS)
def test_damaged_conditions_are_refused_or_right(text: str, at: int, word: str) -> None:
    """A right condition with a piece put in is checked or refused, at a place inside it."""
    damaged = text[: at % (len(text) + 1)] + word + text[at % (len(text) + 1) :]
    diagnostics = Diagnostics()
    assert (check(Snippet(damaged), SCHEMA, diagnostics) is None) == diagnostics.failed
