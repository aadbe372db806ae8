"""Typed reading of YAML mappings."""

from __future__ import annotations

from typing import Any

import pytest

from engine.language import Diagnostics, Fields, Reader, parse_duration_us, parse_timestamp_us, parse_yaml


def read(text: str, required: set[str] | None = None, optional: set[str] | None = None) -> tuple[Fields, Diagnostics]:
    """The fields of a text, and where its mistakes go."""
    diagnostics = Diagnostics()
    fields = Reader(diagnostics).fields(parse_yaml(text, "f.yaml", diagnostics), required or (), optional or ())
    return fields, diagnostics


def test_getters_read_each_type() -> None:
    """Every getter gives a typed value; an absent key gives the default."""
    text = "t: abc\ni: -1_000\nn: 2.5\nb: true\nd: 1h30m\nm: 2026-11-27T01:00+01:00\ns: 25%\nc: on\nl: [a, b]\nq: '5'\n"
    fields, diagnostics = read(text, set("tinbdmsclq"), {"x"})
    assert (fields.text("t"), fields.text("q"), fields.integer("i"), fields.number("n")) == ("abc", "5", -1000, 2.5)
    assert (fields.boolean("b"), fields.duration_us("d"), fields.share("s")) == (True, 5_400_000_000, 0.25)
    assert fields.timestamp_us("m") == 1_795_737_600_000_000
    assert (fields.choice("c", ("on", "off")), fields.texts("l")) == ("on", ("a", "b"))
    assert (fields.integer("x", 7), fields.text("x", None), "x" in fields) == (7, None, False)
    assert not diagnostics.items


@pytest.mark.parametrize(
    ("getter", "value", "code"),
    [
        ("text", "''", "E114"), ("text", "[a]", "E113"), ("text", "", "E114"), ("text", "null", "E114"),
        ("integer", "'5'", "E114"), ("integer", "5.0", "E114"), ("integer", "9" * 25, "E115"),
        ("integer", "9" * 5000, "E114"), ("number", "inf", "E114"), ("number", "1e999", "E114"),
        ("number", ".nan", "E114"), ("boolean", "yes", "E114"), ("boolean", "'true'", "E114"),
        ("duration_us", "30", "E114"), ("duration_us", "-1h", "E114"), ("timestamp_us", "2026-11-27", "E114"),
        ("timestamp_us", "2026-11-27T00:00", "E114"), ("timestamp_us", "2026-13-27T00:00Z", "E114"),
        ("share", "101%", "E115"), ("share", "0.25", "E114"),
    ],
)  # fmt: skip
def test_wrong_values_give_a_mistake_and_a_neutral_value(getter: str, value: str, code: str) -> None:
    """A wrong value is reported once, and reading goes on with something neutral."""
    fields, diagnostics = read(f"k: {value}\n", {"k"})
    got: Any = getattr(fields, getter)("k")
    assert not got
    assert [item.code for item in diagnostics.items] == [code]


def test_bounds_are_inclusive() -> None:
    """A number at its bound is right, beyond it is E115."""
    fields, diagnostics = read("a: 10\nb: 11\n", {"a", "b"})
    assert fields.integer("a", 0, 1, 10) == 10
    assert not diagnostics.failed
    fields.integer("b", 0, 1, 10)
    assert diagnostics.items[0].message == "11 is outside its range: at least 1 and at most 10"


def test_unknown_and_missing_keys_are_all_reported() -> None:
    """Each unknown key is a mistake; missing keys are one mistake at the mapping."""
    _, diagnostics = read("wheno: x\nzzz: 1\n", {"id", "when"}, {"from"})
    assert [(item.code, item.hint) for item in diagnostics.ordered()] == [
        ("E111", "did you mean `when`?"), ("E112", ""), ("E111", "known here: from, id, when"),
    ]  # fmt: skip
    assert diagnostics.ordered()[1].message == "missing `id`, `when`"


def test_a_missing_mapping_says_nothing_more() -> None:
    """After a mistake in the file itself, reading its fields adds no noise."""
    fields = Reader(Diagnostics()).fields(None, {"id"})
    assert (fields.text("id"), fields.items("rules"), fields.fields("x").text("y")) == ("", (), "")
    assert not fields.reader.diagnostics.items


def test_own_mistakes_stand_at_the_value() -> None:
    """A room reports its own rules' mistakes through the same fields."""
    fields, diagnostics = read("a: 5\n", {"a"})
    fields.mistake("E115", "a must be even", "a", hint="try 6")
    assert diagnostics.render() == "f.yaml:1:4: error[E115]: a must be even\n    a: 5\n       ^\n  help: try 6"
    with pytest.raises(KeyError, match="E999"):
        fields.mistake("E999", "no such code")


@pytest.mark.parametrize(
    ("text", "us"), [("30d", 30 * 86_400_000_000), ("90s", 90_000_000), ("250ms", 250_000), ("1w", 604_800_000_000),
                     ("5", None), ("d", None), ("1.5h", None), ("", None)],
)  # fmt: skip
def test_durations(text: str, us: int | None) -> None:
    """Whole numbers with units add up; anything else is none."""
    assert parse_duration_us(text) == us


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00Z", 0), ("1970-01-01 00:00:01.5+00:00", 1_500_000), ("1970-01-01T00:00", None),
        ("1970-01-01T00:00:00.1234567Z", None), ("0001-01-01T00:00+14:00", None),
    ],
)  # fmt: skip
def test_timestamps(text: str, us: int | None) -> None:
    """ISO 8601 with a zone and at most microseconds."""
    assert parse_timestamp_us(text) == us
