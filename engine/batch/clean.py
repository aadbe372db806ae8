"""Cleans rows as a mapping declares, before anything else looks at them; every change is counted.

    cleaner = Cleaner(mapping, source, workdir)
    cleaner.prepare(skipped)                      # reads the file once or twice more where that is needed
    row = cleaner.spelled(row)                    # tidied, harmonised, scaled; None for a repeated row
    row = cleaner.filled(row)                     # missing values, outliers, with flags

A cleaned row holds the file's columns and after them those that cleaning adds (`Mapping.added`).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from engine.batch import numbers
from engine.batch.bind import bind_time
from engine.batch.declared import CleanColumn, Mapping
from engine.batch.files import Row, Source, Told
from engine.batch.read import columns_of
from engine.batch.reference import lookup
from engine.batch.tally import Ranks, Repeats

_FIRST = 2
_NORMAL = 1.4826
"""Median absolute deviation → standard deviation, were the numbers normal; 1.2533 does it for the mean one."""
Step = Callable[[list[Any]], None]
"""Changes a row in place; ValueError when it can't."""


class Cleaner:
    """The cleaning of one file; does nothing where none is declared."""

    def __init__(self, mapping: Mapping, source: Source, workdir: Path) -> None:
        self.mapping, self.source, self.workdir = mapping, source, workdir
        self.active = bool(mapping.clean)
        self.added = mapping.added()
        self.columns = tuple(name for name in mapping.uses if name not in self.added)
        """What to ask the source for."""
        self.places = {name: place for place, name in enumerate((*self.columns, *self.added), _FIRST)}
        self.schema = None if source.schema is None else {**dict.fromkeys(self.added, "text"), **source.schema}
        """The file's columns with the added ones."""
        self.counts: Counter[str] = Counter()
        """What was done → rows."""
        self._missing = mapping.missing | {""}
        self._dropped: set[int] = set()
        self._spell: list[tuple[str, Step]] = []
        self._fill: list[Step] = []

    def prepare(self, skipped: Callable[[Row], str], told: Told) -> None:
        """Find what repeats and what is usual; called once, before the first row."""
        clean = self.mapping.clean
        self._spell = [(spec.name, self._speller(spec)) for spec in clean.columns]
        self._spell += [(each.key, self._joiner(each)) for each in clean.references]
        if clean.repeated is not None:
            repeats = Repeats(self.workdir, "repeated")
            names = clean.repeated or (columns_of(self.source) if self.source.schema is not None else self.columns)
            for chunk in self.source.chunks(names):
                repeats.add([row[0] for row in chunk.rows], [row[2:] for row in chunk.rows])
            self._dropped = {row for row, _ in repeats}
        ranks = [
            Ranks(self.workdir, f"ranks-{n}") if spec.missing == "median" or spec.outliers else None
            for n, spec in enumerate(clean.columns)
        ]
        if any(each is not None for each in ranks):
            self._learn(ranks, skipped, told)
        self._fill = [
            self._filler(spec, *self._usual(spec, each)) for spec, each in zip(clean.columns, ranks, strict=True)
        ]
        self.counts.clear()

    def spelled(self, row: Row) -> Row | None:
        """The row with values tidied, scaled and looked up; None for a repeated one; ValueError names the column."""
        if row[0] in self._dropped:
            self.counts["repeated rows left out"] += 1
            return None
        held = [*row, *([None] * len(self.added))]
        for name, step in self._spell:
            try:
                step(held)
            except ValueError as problem:
                raise ValueError(f"column `{name}` {problem}") from None
        return tuple(held)

    def passing(self, rows: Iterable[Row], refused: Callable[[Row, str], object]) -> Iterator[Row]:
        """The rows as `spelled` gives them; `refused` is told of each that can't be, and why."""
        for row in rows:
            try:
                spelled = self.spelled(row)
            except ValueError as problem:
                refused(row, str(problem))
                continue
            if spelled is not None:
                yield spelled

    def filled(self, row: Row) -> Row:
        """The row without gaps and extremes, as far as declared."""
        held = list(row)
        for step in self._fill:
            step(held)
        return tuple(held)

    def merged(self, rows: Sequence[Row]) -> Row:
        """The first row of a group, with the flags of all."""
        held = list(rows[0])
        for flag in self.mapping.clean.flags:
            held[self.places[flag]] = max(row[self.places[flag]] or "" for row in rows) or None
        return tuple(held)

    # --- values ------------------------------------------------------------------------------------------------------

    def _none(self, value: Any) -> bool:
        return value is None or numbers.text_of(value) in self._missing

    def _decimal(self, value: Any, name: str) -> Decimal:
        amount = self.mapping.amount
        if amount is None or amount.name != name:
            return numbers.decimal_of(value)
        return numbers.decimal_of(value, amount.number, amount.marks)

    def _written(self, number: Decimal, name: str) -> str:
        """As the file writes numbers of this column."""
        amount, text = self.mapping.amount, format(number, "f")
        return text.replace(".", amount.marks[0]) if amount is not None and amount.name == name else text

    def _speller(self, spec: CleanColumn) -> Step:
        at, name = self.places[spec.name], spec.name

        def step(row: list[Any]) -> None:
            value = row[at]
            if self._none(value):
                return
            if spec.tidy:
                value = self._counted(f"{name}: tidied", value, _tidy(numbers.text_of(value), spec.tidy))
            if spec.values:
                value = self._counted(f"{name}: harmonised", value, spec.values.get(numbers.text_of(value), value))
            if spec.factors:
                factor = _picked(spec.factors, row, self.places.get(spec.scale_by), "unit")
                value = self._written(numbers.product(self._decimal(value, name), factor), name)
                self.counts[f"{name}: scaled"] += 1
            if spec.zone_by:
                zone = _picked(spec.zones or None, row, self.places[spec.zone_by], "zone")
                value = _in_zone(value, zone)
                self.counts[f"{name}: put into its zone"] += 1
            row[at] = value

        return step

    def _counted(self, what: str, old: Any, new: Any) -> Any:
        self.counts[what] += old != new
        return new

    def _joiner(self, spec: Any) -> Step:
        names = [name for name in self.added if name.partition(".")[0] == spec.name]
        find = lookup(self.mapping, spec, [name.partition(".")[2] for name in names], self.workdir)
        at, to = self.places[spec.key], [self.places[name] for name in names]
        time_name, read = bind_time(self.mapping, self.source.schema)
        when = self.places[time_name]

        def step(row: list[Any]) -> None:
            if self._none(row[at]):
                return
            try:
                time_us = read((0, 0, row[when]))
            except ValueError:
                return  # the mapping refuses the row for its time
            found = find(numbers.text_of(row[at]), time_us)
            self.counts[f"{spec.name}: {'found' if found else 'not found'}"] += 1
            for place, value in zip(to, found, strict=False):
                row[place] = value

        return step

    # --- what is usual -----------------------------------------------------------------------------------------------

    def _learn(self, ranks: Sequence[Ranks | None], skipped: Callable[[Row], str], told: Told) -> None:
        """Take in the numbers of all rows that will become events."""
        rows = 0
        for chunk in self.source.chunks(self.columns):
            passing = self.passing(chunk.rows, lambda row, why: None)
            for row in (row for row in passing if not skipped(row)):
                for spec, each in zip(self.mapping.clean.columns, ranks, strict=True):
                    number = self._number(spec, row) if each is not None else None
                    if each is not None and number is not None:
                        each.add("", number)
                        if spec.median_by:
                            each.add(f"={row[self.places[spec.median_by]]}", number)
            rows += len(chunk.rows)
            told("looking for what is usual", rows, chunk.bytes_done)

    def _number(self, spec: CleanColumn, row: Sequence[Any]) -> float | None:
        value = row[self.places[spec.name]]
        try:
            return None if self._none(value) else float(self._decimal(value, spec.name))
        except ValueError:
            return None

    def _usual(self, spec: CleanColumn, ranks: Ranks | None) -> tuple[dict[str, float], tuple[float, float]]:
        """Group → its median ("" for all rows), and the bounds beyond which a number is far."""
        if ranks is None or not ranks.counts:
            return {}, (0.0, 0.0)
        medians = {group: found[0] for group, found in ranks.at(0.5).items()}
        low, high = spec.bounds
        if spec.outliers == "mad":
            spread = Ranks(self.workdir, f"spread-{spec.name}")
            for group, number in ranks:
                if not group:
                    spread.add("", abs(number - medians[""]))
            deviation = _NORMAL * spread.at(0.5)[""][0]
            deviation = deviation or 1.2533 * sum(number for _, number in spread) / ranks.counts[""]
            return medians, (medians[""] - low * deviation, medians[""] + high * deviation)
        bounds = ranks.at(low, high)[""]
        return medians, (bounds[0], bounds[1])

    def _filler(self, spec: CleanColumn, medians: dict[str, float], bounds: tuple[float, float]) -> Step:
        at, name = self.places[spec.name], spec.name
        missing, far = (self.places.get(f"{flag}.{name}") for flag in ("missing", "far"))
        by = self.places.get(spec.median_by, 0)

        def step(row: list[Any]) -> None:
            if self._none(row[at]):
                if missing is not None:
                    row[missing] = "true"
                    self.counts[f"{name}: missing, {spec.missing}"] += 1
                    median = medians.get(f"={row[by]}", medians.get(""))
                    row[at] = {"default": spec.default, "median": median}.get(spec.missing)
                return
            number = self._number(spec, row) if far is not None else None
            if far is not None and number is not None and not bounds[0] <= number <= bounds[1]:
                row[far] = "true"
                self.counts[f"{name}: far, {'drawn in' if spec.winsorise else 'flagged'}"] += 1
                row[at] = min(max(number, bounds[0]), bounds[1]) if spec.winsorise else row[at]

        return step


def _tidy(text: str, how: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return {"upper": text.upper(), "lower": text.lower()}.get(how, text)


def _picked(entries: Any, row: Sequence[Any], place: int | None, what: str) -> Any:
    """The entry for a row's text; the text itself where there are no entries."""
    text = "" if place is None else numbers.text_of(row[place]) if row[place] is not None else ""
    if entries is None:
        return text
    if text not in entries:
        raise ValueError(f"has a {what} that is not declared")
    return entries[text]


def _in_zone(value: Any, zone: str) -> Any:
    """A time without a zone → the same moment in UTC, of the same type."""
    try:
        return (
            numbers.wall_us(value, zone)
            if type(value) is int
            else numbers.moment_of(numbers.iso_us(value, zone)).isoformat()
        )
    except (KeyError, OSError):
        raise ValueError("has a zone that is not an IANA time zone") from None
