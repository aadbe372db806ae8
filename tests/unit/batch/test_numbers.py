"""Money, numbers and times out of a file are exact."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.batch import numbers
from engine.batch.mapping import parse_mapping

AMOUNT_TEXT = st.from_regex(r"-?[0-9]{1,13}(\.[0-9]{1,6})?", fullmatch=True)


def minor_by_fractions(text: str, digits: int) -> int:
    """An independent oracle: Python rounds a Fraction half-even."""
    return round(Fraction(text) * 10**digits)


@given(AMOUNT_TEXT, st.sampled_from([0, 2, 3]))
def test_text_becomes_exact_minor_units(text: str, digits: int) -> None:
    """A text amount rounds half-even to minor units, computed without floats."""
    assert numbers.to_minor(numbers.decimal_of(text), digits) == minor_by_fractions(text, digits)


@given(st.integers(-(10**12), 10**12))
def test_float_of_cents_gives_the_cents_back(cents: int) -> None:
    """A float64 that was written from whole cents gives exactly these cents."""
    assert numbers.to_minor(numbers.decimal_of(cents / 100), 2) == cents


@given(AMOUNT_TEXT, st.integers(-1000, 1000))
def test_line_amount_is_the_exact_product(text: str, pieces: int) -> None:
    """Quantity × price is exact before it is rounded once."""
    line = numbers.product(numbers.decimal_of(text), numbers.decimal_of(pieces))
    assert Fraction(line) == Fraction(text) * pieces


@given(st.integers(0, 10**9), st.integers(0, 99))
def test_european_marks_are_read(whole: int, cents: int) -> None:
    """1.234,56 with declared marks is 1234.56."""
    text = f"{whole:,}".replace(",", ".") + f",{cents:02}"
    mapping = "mapping: m\nid: '{i}'\nkind: payment\ntime: {column: t, zone: UTC}\n"
    mapping += "amount: {column: a, unit: major, currency: EUR, decimal: ',', thousands: '.'}\n"
    amount = parse_mapping(mapping.encode(), "m.yaml").amount
    assert amount is not None
    assert numbers.decimal_of(text, amount.number, amount.marks) == Decimal(f"{whole}.{cents:02}")


@pytest.mark.parametrize(
    "bad", ["", "1,50", "12abc", "NaN", "inf", "1.2.3", "+", "e5", "٣", "1" * 41, float("inf"), True, [1]]
)
def test_what_is_no_number_is_refused(bad: object) -> None:
    """Anything that is not a finite decimal number is refused, in words without the value."""
    with pytest.raises(ValueError, match=r"^(is not a number|must be finite)$"):
        numbers.decimal_of(bad)


def test_half_a_cent_in_minor_units_is_refused() -> None:
    """A fraction in a column of minor units is a unit mistake, never rounded."""
    assert numbers.whole_minor(Decimal("4990.0")) == 4990
    with pytest.raises(ValueError, match="major units"):
        numbers.whole_minor(Decimal("49.90"))


ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])


@given(st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1)), ZONES)
def test_declared_zone_is_applied(moment: datetime, zone: str) -> None:
    """A wall clock reading in a zone gives the instant that the zone data say, the first one where it is doubled."""
    expected = moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    assert numbers.microseconds(moment, zone) == expected // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("value", "unit_us", "expected"),
    [
        (1527768831, 10**6, 1527768831000000),
        ("1527768831.25", 10**6, 1527768831250000),
        ("1527768831000", 1000, 1527768831000000),
    ],
)
def test_epoch_times_are_exact(value: object, unit_us: int, expected: int) -> None:
    """Seconds, milliseconds and microseconds since 1970 are read without rounding."""
    assert numbers.epoch_us(value, unit_us) == expected


def test_time_without_zone_is_refused() -> None:
    """A text time that names no zone needs a declared one."""
    assert numbers.iso_us("2026-11-24T10:00:00+02:00", "") == numbers.iso_us("2026-11-24T08:00:00", "UTC")
    with pytest.raises(ValueError, match="no time zone"):
        numbers.iso_us("2026-11-24 10:00:00", "")


def test_whole_floats_are_whole_numbers() -> None:
    """12.0 is the whole number 12 and the text 12; 12.5 is neither."""
    assert numbers.integer_of(12.0) == numbers.integer_of("12.0") == 12
    assert numbers.text_of(31198705046.0) == "31198705046"
    with pytest.raises(ValueError, match="whole number"):
        numbers.integer_of(12.5)
