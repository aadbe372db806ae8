"""Judges a profile: what is wrong or strange in a file, with nothing known about it but what it says itself.

An error is what can't be right in any table; a warning is what a person should look at. Values in examples are masked:
no card number, no email address, nothing whole of a column that tells of people.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.batch import numbers
from engine.batch.files import Row
from engine.batch.numbers import masked
from engine.intake import SHORTEST_CARD, holds_card_number
from engine.quality.profile import DAY_US, EXAMPLES, MIN_DISTINCT, Column, Profile, weighted

SEVERITIES = ("info", "warning", "error")
RARE_NEGATIVE, RARE_ZERO, RARE_TIME = 0.10, 0.05, 0.05
NEAR_US = DAY_US
"""A value and its opposite that are so near in time are one thing undone."""
OLD_US = 631_152_000_000_000
"""1990-01-01: where most times are newer, an older one is a default or a unit mistake."""
_LETTERS, _DIGITS = re.compile("[A-Za-z]+"), re.compile("[0-9]+")
_BROKEN = re.compile("\ufffd|Ã[\u0080-\u00bf]|â€|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
with (Path(__file__).parent / "checks.csv").open(newline="", encoding="utf-8") as _table:
    CHECKS = {line["check"]: line for line in csv.DictReader(_table)}
"""Check → what `checks.csv` says of it: severity, dimension, says, mend."""

Held = tuple[Any, int, int]
"""Value, rows that have it, the first of them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know of the file."""

    severity: str
    dimension: str
    """completeness, validity, uniqueness, consistency or timeliness."""
    check: str
    """Its stable name, such as `repeated_rows`."""
    column: str
    """The column; "" when whole rows are meant."""
    count: int
    """Rows (days, for gaps); an estimate when `about`."""
    share: float
    """Of all rows, 0..1."""
    message: str
    mend: str
    """What to do about it."""
    examples: tuple[tuple[int, str], ...] = ()
    """(row, or 0 when no one row is meant; masked value)."""
    about: bool = False

    def shown(self, between: str) -> str:
        """The examples as people read them."""
        return between.join((f"row {row:,}: " if row else "") + text for row, text in self.examples)


def finding(
    check: str, column: str, count: int, rows: int, examples: Sequence[tuple[int, str]], detail: str = "",
    about: bool = False,
) -> Finding:  # fmt: skip
    """A finding of a check in the table."""
    said, shown, share = CHECKS[check], tuple(examples[:EXAMPLES]), count / max(1, rows)
    severity, dimension, message = said["severity"], said["dimension"], said["says"] + detail
    return Finding(severity, dimension, check, column, count, share, message, said["mend"], shown, about)


def moment(time_us: int) -> str:
    """A time as people write it."""
    return f"{numbers.moment_of(time_us):%Y-%m-%d %H:%M}"


def judge(profile: Profile, now_us: int) -> list[Finding]:
    """Everything that is wrong or strange, in no order."""
    found = [*_rows(profile), *_pairs(profile), *_days(profile)]
    for column in profile.columns:
        for rule in (_plain, _numbers, _codes, _spellings, _texts):
            found += rule(column)
        found += _times(column, now_us)
    return found


def _values(column: Column, check: str, held: Sequence[Held], detail: str = "") -> Iterator[Finding]:
    """A finding about some values of a column; none when there are none."""
    count = sum(rows for _, rows, _ in held) * column.tally.scale
    if count:
        times = column.kind == "time" and check in ("future", "too_old")
        often = sorted(held, key=lambda each: (-each[1], each[2]))[:EXAMPLES]
        shown = [
            (row, (moment(value) if times else masked(value, column.private)) + (f" × {rows:,}" if rows > 1 else ""))
            for value, rows, row in often
        ]
        yield finding(check, column.name, count, column.rows, shown, detail, column.tally.scale > 1)


# --- whole rows -------------------------------------------------------------------------------------------------------


def _rows(profile: Profile) -> Iterator[Finding]:
    total = profile.rows + profile.unreadable_rows
    if not total:
        yield finding("no_rows", "", 0, 0, ())
    if profile.unreadable_rows:
        shown = [(bad.row, bad.reason) for bad in profile.unreadable]
        yield finding("unreadable_rows", "", profile.unreadable_rows, total, shown)
    for check, name, count, pairs in (
        ("repeated_rows", "", profile.repeats, profile.repeated),
        *(("repeated_keys", column.name, column.repeats, column.repeated) for column in profile.columns),
    ):
        if count:
            yield finding(check, name, count, total, [(row, f"as row {first:,}") for row, first in pairs])


def _pairs(profile: Profile) -> Iterator[Finding]:
    """Numbers far from the rest that were undone at once by their opposite."""
    for column in profile.columns:
        by_size: defaultdict[float, list[Row]] = defaultdict(list)
        for row in column.far:
            by_size[abs(column.read(row[column.place]))].append(row)
        found = []
        for size, rows in sorted(by_size.items(), reverse=True):
            undone = [row for row in rows if column.read(row[column.place]) < 0]
            for row in (row for row in rows if column.read(row[column.place]) > 0):
                twin = next((other for other in undone if _twins(profile, column, row, other)), None)
                if twin is not None:
                    undone.remove(twin)
                    found.append((row[0], f"{size:,.10g}, and its opposite in row {twin[0]:,}"))
        if found:
            yield finding("undone_at_once", column.name, 2 * len(found), profile.rows, found)


def _twins(profile: Profile, column: Column, one: Row, other: Row) -> bool:
    """Whether two rows tell the same but for the sign, the time, and one more thing, such as a paper's number."""
    unlike = 0
    for each in profile.columns:
        mine, its = each.read(one[each.place]), each.read(other[each.place])
        if each is profile.clock and None not in (mine, its):
            if abs(mine - its) > NEAR_US:
                return False
        elif mine != its and each is not column:
            unlike += each.kind != "number" or None in (mine, its) or mine != -its
    return unlike <= 1


def _days(profile: Profile) -> Iterator[Finding]:
    """Days on which nothing happened, where usually something does."""
    clock, days = profile.clock, sorted(profile.days)
    if clock is None:
        return
    if 0 < profile.backwards <= 0.01 * profile.rows:
        yield finding("goes_back", clock.name, profile.backwards, profile.rows, ())
    if len(days) < 60:
        return
    steps = list(pairwise(days))
    usual = weighted([(later - day, 1) for day, later in steps], 0.95)[0]
    gaps = [(day, later) for day, later in steps if later - day > max(3, 5 * usual)]
    if gaps:
        shown = [(0, f"nothing after {moment(day * DAY_US)[:10]} until {moment(to * DAY_US)[:10]}") for day, to in gaps]
        yield finding("gaps", clock.name, sum(to - day - 1 for day, to in gaps), days[-1] - days[0] + 1, shown)


# --- columns ----------------------------------------------------------------------------------------------------------


def _plain(column: Column) -> Iterator[Finding]:
    """What the profile has counted already."""
    if column.missing:
        yield finding("missing", column.name, column.missing, column.rows, [(column.missing_row, "no value")])
    yield from _values(column, "words_for_missing", column.words)
    yield from _values(column, "unlike_the_rest", column.wrong, f": those are {column.kind}s")
    if len(column.tally.counts) == 1 and column.rows > 1 and not column.missing:
        yield from _values(column, "constant", [(value, *known) for value, known in column.tally.counts.items()])


def _numbers(column: Column) -> Iterator[Finding]:
    if column.kind != "number" or column.key or len(column.values) < MIN_DISTINCT:
        return
    rows = column.rows - column.missing
    for check, rare, chosen in (
        ("negative", RARE_NEGATIVE, [held for held in column.values if held[0] < 0]),
        ("zero", RARE_ZERO, [held for held in column.values if held[0] == 0]),
    ):
        if sum(count for _, count, _ in chosen) * column.tally.scale <= rare * rows:
            yield from _values(column, check, chosen)
    far = [held for held in column.values if abs(held[0]) > column.fence]
    yield from _values(column, "far", far, f", beyond ±{column.fence:,.6g}")


def _codes(column: Column) -> Iterator[Finding]:
    """Codes made in another way than nearly all."""
    if column.kind != "text" or len(column.values) < MIN_DISTINCT:
        return
    makes: defaultdict[str, list[Held]] = defaultdict(list)
    for held in column.values:
        makes[_DIGITS.sub("9", _LETTERS.sub("A", held[0]))].append(held)
    few, left, usual = 0.05 * len(column.values), len(column.values), list[str]()
    for make in sorted(makes, key=lambda make: (-len(makes[make]), make))[:4]:
        if left > few:
            left -= len(makes.pop(make))
            usual.append(make)
    if left <= few and all("9" in make for make in usual):
        odd = [held for group in makes.values() for held in group]
        yield from _values(column, "odd_codes", odd, f" ({len(odd)} codes unlike {', '.join(usual)})")


def _spellings(column: Column) -> Iterator[Finding]:
    if column.kind != "text":
        return
    yield from _values(column, "stray_spaces", [h for h in column.values if " ".join(h[0].split()) != h[0]])
    words: defaultdict[str, defaultdict[str, list[Held]]] = defaultdict(lambda: defaultdict(list))
    for held in column.values:
        text = unicodedata.normalize("NFKC", " ".join(held[0].split()))
        words[text.casefold()][text].append(held)
    rare = []
    for forms in words.values():
        ordered = sorted(forms.values(), key=lambda form: -sum(count for _, count, _ in form))
        rare += [held for form in ordered[1:] for held in form]
    yield from _values(column, "spellings", rare)


def _texts(column: Column) -> Iterator[Finding]:
    if column.kind == "time":
        return
    texts = [held for held in (*column.values, *column.wrong) if type(held[0]) is str]
    yield from _values(column, "broken_text", [held for held in texts if _BROKEN.search(held[0])])
    yield from _values(column, "addresses", [held for held in texts if _EMAIL.search(held[0])])
    cards = [(value, *known) for value, known in column.tally.counts.items() if holds_card_number(str(value))]
    # Of long numbers that are no cards one in ten passes the check by chance.
    if cards and len(cards) > 0.5 * sum(
        len(re.sub(r"\D", "", str(value))) >= SHORTEST_CARD for value in column.tally.counts
    ):
        yield from _values(column, "card_numbers", cards)


def _times(column: Column, now_us: int) -> Iterator[Finding]:
    if column.kind == "time" and column.values:
        low, high = weighted([(time, count) for time, count, _ in column.values], RARE_TIME, 1 - RARE_TIME)
        if high <= now_us:
            yield from _values(column, "future", [held for held in column.values if held[0] > now_us + DAY_US])
        if low >= OLD_US:
            yield from _values(column, "too_old", [held for held in column.values if held[0] < OLD_US])
