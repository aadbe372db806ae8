"""YAML files: places that survive every way of writing a value, and what is refused."""

from __future__ import annotations

import pytest

from engine.language import Diagnostics, Node, Scalar, parse_yaml
from engine.language.source import MAX_BYTES, Listing

TEXT = """\
plain: one two
single: 'it''s "x"'
double: "a\\tb \\u00e9 \\
  joined
  folded

  twice"
literal: |
  first
    more
  last
folded: >-
  one
  two

  three
    four
  five
several: lines of
  plain text
list: [x, {y: z}]
wide: "日本 x"
indented: |2
    lead
"""


def scalars(node: Node) -> list[Scalar]:
    """All single values of a tree."""
    if isinstance(node, Scalar):
        return [node]
    if isinstance(node, Listing):
        return [scalar for item in node.items for scalar in scalars(item)]
    return [scalar for pair in node.entries for part in pair for scalar in scalars(part)]


@pytest.mark.parametrize("variant", ["as written", "CR LF", "byte order mark"])
def test_each_character_has_its_place(variant: str) -> None:
    """Every character of every value is found at its line and column, also with CR LF and a byte order mark."""
    text = {"as written": TEXT, "CR LF": TEXT.replace("\n", "\r\n"), "byte order mark": "\ufeff" + TEXT}[variant]
    diagnostics = Diagnostics()
    root = parse_yaml(text.encode(), "file.yaml", diagnostics)
    assert root is not None, diagnostics.render()
    lines = [line + "\n" for line in TEXT.split("\n")]
    for scalar in scalars(root):
        for offset, character in enumerate(scalar.value):
            place = scalar.position(offset)
            there = lines[place.line - 1][place.column - 1]
            folded = "\n" if character == " " else "\\"
            assert there in (character, "\\", folded), (scalar.value, offset)


def test_values_stay_the_text_that_was_written() -> None:
    """A country NO is no boolean and 012 is not ten."""
    root = parse_yaml("a: NO\nb: 012\nc: 1e3\n", "file.yaml", Diagnostics())
    assert root is not None
    assert [scalar.value for scalar in scalars(root)][1::2] == ["NO", "012", "1e3"]


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", "E108", (3, 1)),
        ("a: &x 1\nb: 2\n", "E106", (1, 4)),
        ("a: 1\nb: *a\n", "E106", (2, 4)),
        ("a: {<<: {b: 1}}\n", "E106", (1, 5)),
        ("a:\n\tb: 1\n", "E105", (2, 1)),
        ("a: [1, 2\n", "E104", (2, 1)),
        ("a: !!python/object/apply:os.system [ls]\n", "E107", (1, 4)),
        ("a: 1\n---\nb: 2\n", "E109", (2, 1)),
        ("[" * 200 + "]" * 200, "E110", (1, 61)),
        ("a: \x07\n", "E104", (1, 4)),
        ("? [a]\n: b\n", "E113", (1, 3)),
        ("# nothing\n", "E109", (1, 1)),
        (b"a: \xff\n", "E103", (1, 4)),
    ],
)
def test_refused(text: str | bytes, code: str, place: tuple[int, int]) -> None:
    """What is refused is reported with its code at its place."""
    diagnostics = Diagnostics()
    assert parse_yaml(text, "file.yaml", diagnostics) is None
    first = diagnostics.items[0]
    assert (first.code, (first.position.line, first.position.column)) == (code, place)


def test_all_duplicates_are_found() -> None:
    """Reading goes on after a duplicate key, so that two are two mistakes."""
    diagnostics = Diagnostics()
    parse_yaml("a: 1\na: 2\nb: {c: 1, c: 2}\n", "file.yaml", diagnostics)
    assert [item.code for item in diagnostics.items] == ["E108", "E108"]


def test_large_files_end_at_the_limit() -> None:
    """A file just below the limit is read whole, and one above isn't read at all."""
    row = "- {id: abcdefgh, when: 'txn.amount_base > 500'}\n"
    diagnostics = Diagnostics()
    root = parse_yaml(row * (MAX_BYTES // len(row)), "file.yaml", diagnostics)
    assert isinstance(root, Listing)
    assert len(root.items) == MAX_BYTES // len(row)
    assert parse_yaml(row * (MAX_BYTES // len(row) + 1), "file.yaml", diagnostics) is None
    assert [item.code for item in diagnostics.items] == ["E102"]
