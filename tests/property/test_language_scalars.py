"""Whatever a YAML writer does to a text, each of its characters is found again in the file."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.language import Diagnostics, Scalar, parse_yaml
from engine.language.scalars import value_offsets
from engine.language.source import Table

TEXTS = st.text(st.sampled_from("ab xé日\n\t'\"\\:#-|>{}[]&*!%@`, .0")) | st.text(max_size=30)
STYLES = st.sampled_from([None, "'", '"', "|", ">"])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXTS, STYLES, st.integers(20, 80), st.integers(2, 6))
def test_places_rebuild_the_value(text: str, style: str | None, width: int, indent: int) -> None:
    """Offsets grow, point into the scalar, and the characters there are the value's, unless escaped or folded."""
    written = yaml.safe_dump({"k": text}, default_style=style, allow_unicode=True, width=width, indent=indent)
    root = parse_yaml(written, "f.yaml", diagnostics := Diagnostics())
    if root is None:  # a tab that stands where indentation could be is refused
        assert {item.code for item in diagnostics.items} <= {"E105", "E107"}, (written, diagnostics.render())
        return
    assert isinstance(root, Table)
    scalar = root.entries[0][1]
    assert isinstance(scalar, Scalar)
    assert scalar.value == text
    raw = written[scalar.start : scalar.end]
    places = value_offsets(raw, scalar.value, scalar.style)
    assert len(places) == len(text) + 1
    assert places == sorted(places)
    assert all(0 <= place <= len(raw) for place in places)
    if text.strip():
        assert any(places), "the value was rebuilt from its raw text"
    for character, place in zip(text, places, strict=False):
        assert raw[place] in (character, "\\", "\n") or character in "\n ", (raw, character, place)
