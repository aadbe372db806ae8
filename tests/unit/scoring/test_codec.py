"""Dataclasses to YAML and back."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ModelError
from engine.scoring.codec import Span, decode, encode


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    share: float


@dataclass(frozen=True, slots=True)
class _Whole:
    text: str
    count: int
    on: bool
    numbers: dict[str, float]
    parts: tuple[_Part, ...] = ()
    span: Span | None = None
    notes: dict[str, str] = field(default_factory=dict)


_text = st.text(min_size=1).filter(str.strip)
_number = st.floats(allow_nan=False, allow_infinity=False)


@given(_text, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.dictionaries(_text, _number, min_size=1),
       st.lists(st.builds(_Part, _text, _number)))  # fmt: skip
def test_what_is_written_is_read_again(text, count, on, numbers, parts):
    """Any text, number and nesting comes back as it was, bits included."""
    whole = _Whole(text, count, on, numbers, tuple(parts), Span(0, 1), {"a: b": "#c"})
    assert decode(_Whole, encode(whole), "f.yaml") == whole


def test_every_mistake_is_told_at_once():
    """An unknown key, a wrong type and a missing key of one file are all named, with their lines."""
    with pytest.raises(ModelError) as caught:
        decode(_Whole, b'text: "x"\ncount: many\non: true\nnumbres: {}\nspan: 2018/2019\n', "f.yaml")
    said = str(caught.value)
    for part in ("f.yaml:2:8", "f.yaml:4:1", "did you mean `numbers`", "missing `numbers`", "f.yaml:5:7"):
        assert part in said


@pytest.mark.parametrize("text", ["", "2018-07-25T00:00Z", "2018-07-25T00:00/2018-07-26T00:00", "a/b",
                                  "2018-07-26T00:00Z/2018-07-25T00:00Z"])  # fmt: skip
def test_an_interval_needs_two_zoned_times_in_order(text):
    """What is no forward interval in UTC is refused."""
    with pytest.raises(ValueError, match="is not an interval"):
        Span.of(text)


def test_an_interval_is_written_in_iso():
    """Microseconds show only where there are any."""
    span = Span.of("2018-07-25T00:00Z/2018-08-01T02:00:00.5+02:00")
    assert str(span) == "2018-07-25T00:00:00Z/2018-08-01T00:00:00.500000Z"
