"""Looks through a whole file, twice, and keeps what can be said about its columns and rows; it judges nothing.

    profile = look_through(source, columns_of(source), mapping, …)    # `findings` then says what is wrong

The first reading counts the values of each column, which tells their kinds; the second looks at whole rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from heapq import nsmallest
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.batch import numbers
from engine.batch.declared import Mapping as Declared
from engine.batch.files import Row, Source, Told, Unreadable
from engine.batch.tally import Repeats, Tally

ROOM = 500_000
"""Different values that are kept, over all columns."""
MAX_FAR = 5_000
"""Rows with numbers far from the rest that are kept for a closer look, for each column."""
MIN_DISTINCT = 20
"""Different values below which a column is a list of words or marks, in which nothing is far or odd."""
EXAMPLES = 5
DAY_US = 86_400_000_000
NO_VALUE = frozenset(
    "na|n/a|#n/a|nan|null|none|nil|-|--|?|??|unknown|unspecified|undefined|missing|tbd|not available".split("|")
)
"""Words that people and programs write where there is no value."""
KEYS = frozenset("id no nr num number code key upc ean sku isbn token uuid guid zip postcode phone bin".split())
PEOPLE = frozenset("customer client user member household person name email phone address card account iban".split())
_FORMATS = "%d.%m.%Y %H:%M:%S|%d.%m.%Y %H:%M|%d.%m.%Y|%d/%m/%Y %H:%M|%d/%m/%Y|%m/%d/%Y %H:%M|%m/%d/%Y".split("|")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PARSES = 0.95
_FAR = 3

Read = Callable[[Any], Any]


@dataclass(slots=True)
class Column:
    """One column, counted."""

    name: str
    place: int
    tally: Tally
    rows: int = 0
    missing: int = 0
    missing_row: int = 0
    """The first row without a value; 0 when all have one."""
    kind: str = "text"
    """number, time (µs) or text."""
    read: Read = lambda value: value
    """Raw value → text, float or µs; None when it can't be read as the column's kind."""
    values: list[tuple[Any, int, int]] = field(default_factory=list)
    """(value as `read` gives it, rows, first row), by value."""
    words: list[tuple[Any, int, int]] = field(default_factory=list)
    """Raw values that stand for none."""
    wrong: list[tuple[Any, int, int]] = field(default_factory=list)
    """Raw values that can't be read."""
    repeated: list[tuple[int, int]] = field(default_factory=list)
    repeats: int = 0
    """Rows whose value came before, counted only in columns that are `unique` but for a few; the first of them."""
    fence: float = float("inf")
    """Numbers beyond it, either way, are far: in ratio, three times as far from the middle as 95 % of all."""
    far: list[Row] = field(default_factory=list)
    """Rows with a number beyond the fence."""

    @property
    def parts(self) -> frozenset[str]:
        """The words of its name."""
        return frozenset(part.lower() for part in _PART.findall(self.name))

    @property
    def key(self) -> bool:
        """Whether its name says that it names things or people, so that its numbers are not sizes."""
        return bool(self.parts & (KEYS | PEOPLE))

    @property
    def private(self) -> bool:
        """Whether its name says that it tells of people."""
        return bool(self.parts & PEOPLE)

    @property
    def distinct(self) -> int:
        """Different values; an estimate when the tally was thinned."""
        return len(self.tally.counts) * self.tally.scale

    @property
    def unique(self) -> bool:
        """A key in which hardly any value comes twice."""
        nearly = self.distinct >= 0.95 * max(1, self.rows - self.missing)
        return bool(self.parts & KEYS) and self.kind != "time" and nearly


@dataclass(slots=True)
class Profile:
    """All that the two readings found."""

    name: str
    rows: int
    columns: list[Column]
    unreadable: list[Unreadable]
    unreadable_rows: int
    repeats: int = 0
    """Rows that are equal to an earlier one in every column."""
    repeated: list[tuple[int, int]] = field(default_factory=list)
    """Some of them, each with the row that it repeats."""
    clock: Column | None = None
    """The column that tells when a row happened."""
    days: Counter[int] = field(default_factory=Counter)
    """Day since 1970 → rows, by the clock."""
    backwards: int = 0
    """Rows that lie before the row above them."""


def weighted(held: Sequence[tuple[float, int]], *shares: float) -> list[float]:
    """The numbers at some shares 0..1 of all, each counted as often as it says."""
    ordered = sorted(held)
    sums = np.cumsum([count for _, count in ordered])
    return [ordered[int(np.searchsorted(sums, share * sums[-1]))][0] for share in shares]


def look_through(
    source: Source, names: Sequence[str], mapping: Declared | None, workdir: Path, told: Told,
    begin: Callable[[Sequence[Column]], object], see: Callable[[Sequence[Row]], object],
) -> Profile:  # fmt: skip
    """Both readings; `begin` is called between them, and `see` with all rows in the second."""
    room = max(1_000, ROOM // max(1, len(names)))
    profile = Profile(source.name, 0, [Column(name, place, Tally(room)) for place, name in enumerate(names, 2)], [], 0)
    _count(profile, source, names, mapping.missing if mapping else frozenset(), told)
    for column in profile.columns:
        _tell_kind(column, (source.schema or {}).get(column.name, ""), mapping)
    begin(profile.columns)
    _Rows(profile, mapping, workdir).read(source, names, told, see)
    return profile


def single(value: Any) -> Any:
    """A value that can be counted: what holds others becomes text."""
    return orjson.dumps(value).decode() if type(value) in (list, dict) else value


def _count(profile: Profile, source: Source, names: Sequence[str], blank: frozenset[str], told: Told) -> None:
    for chunk in source.chunks(names):
        profile.rows += len(chunk.rows)
        profile.unreadable_rows += len(chunk.unreadable)
        profile.unreadable += chunk.unreadable[: EXAMPLES - len(profile.unreadable)]
        if chunk.rows:
            rows, _, *held = zip(*chunk.rows, strict=True)
            for column, values in zip(profile.columns, held, strict=True):
                _add(column, values, rows, blank)
        told("counting", profile.rows, chunk.bytes_done)


def _add(column: Column, values: Sequence[Any], rows: Sequence[int], blank: frozenset[str]) -> None:
    column.rows += len(values)
    try:
        different = set(values)
    except TypeError:
        values = [single(value) for value in values]
        different = set(values)
    none = {each for each in different if each is None or (type(each) is str and (not each.strip() or each in blank))}
    if none:
        column.missing_row = column.missing_row or next(r for v, r in zip(values, rows, strict=True) if v in none)
        kept = [(value, row) for value, row in zip(values, rows, strict=True) if value not in none]
        column.missing += len(values) - len(kept)
        values, rows = zip(*kept, strict=True) if kept else ((), ())
    column.tally.add(values, rows)


# --- kinds ------------------------------------------------------------------------------------------------------------


def _tell_kind(column: Column, schema: str, mapping: Declared | None) -> None:
    """What the column holds, and its values read as that."""
    held = [(value, count, row) for value, (count, row) in column.tally.counts.items()]
    column.words = [each for each in held if str(each[0]).strip().casefold() in NO_VALUE]
    rest = [each for each in held if str(each[0]).strip().casefold() not in NO_VALUE]
    for kind, read in _readers(column, schema, mapping, [value for value, _, _ in rest[:100]]):
        good = [(value, count, row) for raw, count, row in rest if (value := read(raw)) is not None]
        if sum(count for _, count, _ in good) >= _PARSES * sum(count for _, count, _ in rest):
            column.kind, column.read, column.values = kind, read, sorted(good)
            column.wrong = [each for each in rest if read(each[0]) is None]
            break
    sizes = [(abs(value), count) for value, count, _ in column.values if value] if column.kind == "number" else []
    if len(sizes) >= MIN_DISTINCT and not column.key:
        middle, high = weighted(sizes, 0.5, 0.95)
        column.fence = middle * max(high / middle, 2) ** _FAR


def _readers(
    column: Column, schema: str, mapping: Declared | None, first: Sequence[Any]
) -> list[tuple[str, Read]]:  # fmt: skip
    """The kinds that the column may be of, the likeliest first; everything can be text."""
    text = "text", _or_none(lambda value: value if type(value) is str else numbers.text_of(value))
    number = "number", _or_none(numbers.double_of)
    if schema in ("timestamp", "instant"):
        return [("time", lambda value: value)]
    if schema in ("int", "float"):
        return [number]
    if schema == "bool" or not first:
        return [text]
    if mapping and mapping.amount and mapping.amount.name == column.name:
        pattern, marks = mapping.amount.number, mapping.amount.marks
        return [("number", _or_none(lambda value: float(numbers.decimal_of(value, pattern, marks)))), text]
    times = [_or_none(_iso), *(_or_none(partial(numbers.strptime_us, form=form, zone="UTC")) for form in _FORMATS)]
    likely = [each for each in times if sum(each(value) is not None for value in first) >= 0.9 * len(first)]
    found = [number] * (not column.key) + [("time", each) for each in likely[:1] if not column.parts & KEYS]
    return [*found, text]


def _iso(value: Any) -> int:
    if type(value) is not str or len(value) < len("2026-01-01"):
        raise ValueError("is not an ISO 8601 time")
    return numbers.iso_us(value, "UTC")


def _or_none(read: Read) -> Read:
    """The same, remembered, giving None for what can't be read."""

    @lru_cache(50_000)
    def given(value: Any) -> Any:
        try:
            return None if value is None else read(value)
        except ValueError:
            return None

    return given


# --- rows -------------------------------------------------------------------------------------------------------------


class _Rows:
    """The second reading."""

    def __init__(self, profile: Profile, mapping: Declared | None, workdir: Path) -> None:
        self.profile, columns = profile, profile.columns
        self.whole = Repeats(workdir, "rows")
        self.keys = [(column, Repeats(workdir, f"key-{column.place}")) for column in columns if column.unique]
        times = [column for column in columns if column.kind == "time"]
        named = [column for column in times if mapping and column.name == mapping.time.name]
        profile.clock = next(iter(named + times), None)
        self.last_us = -(2**63)

    def read(self, source: Source, names: Sequence[str], told: Told, see: Callable[[Sequence[Row]], object]) -> None:
        """Everything, and then what repeats."""
        done, profile = 0, self.profile
        for chunk in source.chunks(names):
            rows = [tuple(map(single, row)) for row in chunk.rows] if source.schema is None else chunk.rows
            self.whole.add([row[0] for row in rows], [row[2:] for row in rows])
            for column, repeats in self.keys:
                held = [row for row in rows if row[column.place] is not None]
                repeats.add([row[0] for row in held], [row[column.place : column.place + 1] for row in held])
            for column in profile.columns:
                if column.fence < float("inf"):
                    _keep_far(column, rows)
            if profile.clock:
                self._times(profile.clock, rows)
            see(rows)
            done += len(rows)
            told("comparing rows", done, chunk.bytes_done)
        profile.repeats, profile.repeated = _first(self.whole)
        for column, repeats in self.keys:
            column.repeats, column.repeated = _first(repeats)

    def _times(self, clock: Column, rows: Sequence[Row]) -> None:
        times = [time_us for row in rows if (time_us := clock.read(row[clock.place])) is not None]
        for time_us in times:
            self.profile.backwards += time_us < self.last_us
            self.last_us = time_us
        self.profile.days.update(time_us // DAY_US for time_us in times)


def _keep_far(column: Column, rows: Sequence[Row]) -> None:
    place, fence, read = column.place, column.fence, column.read
    column.far += [row for row in rows if (value := read(row[place])) is not None and abs(value) > fence]
    if len(column.far) > 2 * MAX_FAR:
        column.far = nsmallest(MAX_FAR, column.far, key=lambda row: -abs(read(row[place])))


def _first(repeats: Repeats) -> tuple[int, list[tuple[int, int]]]:
    """How many rows repeat others, and the first few."""
    count = 0

    def counted() -> Iterator[tuple[int, int]]:
        nonlocal count
        for pair in repeats:
            count += 1
            yield pair

    first = nsmallest(EXAMPLES, counted())
    return count, first
