"""Expectations of a file, declared in YAML, and which rows of it disappoint them.

    items = load_expectations(Path("orders.expect.yaml"), columns, workdir)    # MappingError: mistakes at file:line:col
    watch = Watch(items[0], columns, Repeats(workdir, "expected"))
    watch.see(rows); watch.findings(rows_total, now_us)

Each is told exactly, over all rows; a row without a value passes everything but `not_null`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from engine.batch import numbers
from engine.batch.declared import FileFormat
from engine.batch.files import Row
from engine.batch.read import columns_of, open_source
from engine.batch.tally import Repeats
from engine.errors import MappingError
from engine.language.diagnostics import Diagnostics, Position, did_you_mean
from engine.language.reader import Fields, Reader
from engine.language.source import Scalar, parse_yaml
from engine.quality.findings import SEVERITIES, Finding, moment
from engine.quality.profile import EXAMPLES, Column

_DIMENSIONS = {"not_null": "completeness", "unique": "uniqueness", "refers_to": "consistency", "monotone": "timeliness",
               "fresh": "timeliness"}  # fmt: skip
Test = Callable[[Any], bool]
"""Raw value → whether it is as expected; ValueError is no."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that a column should be."""

    column: str
    check: str
    severity: str
    allow: float
    """Share of rows 0..1 that may disappoint."""
    said: str
    """In words."""
    place: Position
    test: Test | None = None
    """Where single values tell."""
    beside: tuple[str, ...] = ()
    """unique: the columns that are unique together with this one."""
    within_us: int = 0
    """fresh: how old the newest may be."""


def load_expectations(path: Path, columns: Sequence[str], workdir: Path) -> list[Expectation]:
    """Read expectations of a file with these columns; MappingError with every mistake at its place."""
    diagnostics = Diagnostics()
    try:
        node = parse_yaml(path.read_bytes(), str(path), diagnostics)
    except OSError as error:
        raise MappingError(f"can't read the expectations {path}: {error.strerror or error}") from None
    items: list[Expectation] = []
    reader = Reader(diagnostics)
    for key, listed in reader.fields(node, ("columns",)).entries("columns"):
        if key.value not in columns:
            hint = did_you_mean(key.value, columns) or "it has: " + ", ".join(columns[:20])
            diagnostics.error("E301", f"column `{key.value}` is not in the file", key.position(), key.length, hint=hint)
        items += [_expectation(reader.fields(item, (), (*_PARSE, "severity", "allow")), key.value, path.parent, workdir)
                  for item in reader.items(listed)]  # fmt: skip
    if diagnostics.failed:
        raise MappingError(diagnostics.render())
    return items


def _expectation(spec: Fields, column: str, folder: Path, workdir: Path) -> Expectation:
    named = [check for check in _PARSE if check in spec]
    severity, allow = spec.choice("severity", SEVERITIES, "error"), spec.share("allow")
    if len(named) != 1:
        spec.mistake("E112", "say exactly one of " + ", ".join(_PARSE))
        named = ["not_null"]
    made = Expectation(column, named[0], severity, allow, "", spec.position())
    return _PARSE[named[0]](spec, made, folder, workdir)


def _plain(said: str) -> Callable[[Fields, Expectation, Path, Path], Expectation]:
    def parsed(spec: Fields, made: Expectation, folder: Path, workdir: Path) -> Expectation:
        if not spec.boolean(made.check, True):
            spec.mistake("E114", "false expects nothing; leave the line out", made.check)
        return replace(made, said=said)

    return parsed


def _unique(spec: Fields, made: Expectation, folder: Path, workdir: Path) -> Expectation:
    if isinstance(spec.get("unique"), Scalar):
        return _plain("new in every row")(spec, made, folder, workdir)
    beside = spec.fields("unique", ("with",)).texts("with")
    return replace(made, said="new in every row, together with " + ", ".join(beside), beside=beside)


def _in_set(spec: Fields, made: Expectation, folder: Path, workdir: Path) -> Expectation:
    words = dict.fromkeys(spec.texts("in_set"))
    if not words:
        spec.mistake("E114", "a list of the values is wanted", "in_set", "such as [a, b]")
    said = f"one of {', '.join(list(words)[:6])}" + (" …" if len(words) > 6 else "")
    return replace(made, said=said, test=lambda value: numbers.text_of(value) in words)


def _range(spec: Fields, made: Expectation, folder: Path, workdir: Path) -> Expectation:
    bounds = spec.fields("range", (), ("from", "to"))
    if not bounds.values:
        bounds.mistake("E112", "say `from`, `to`, or both")
    low, high = bounds.number("from", -inf), bounds.number("to", inf)
    said = [f"{word} {bound:,.10g}" for word, bound in (("at least", low), ("at most", high)) if abs(bound) < inf]
    return replace(made, said=" and ".join(said), test=lambda value: low <= numbers.double_of(value) <= high)


def _regex(spec: Fields, made: Expectation, folder: Path, workdir: Path) -> Expectation:
    try:
        pattern = re.compile(spec.text("regex"))
    except re.error as error:
        spec.mistake("E114", f"not a regular expression: {error.msg}", "regex")
        return made
    said = f"written like {pattern.pattern}"
    return replace(made, said=said, test=lambda value: pattern.fullmatch(numbers.text_of(value)) is not None)


def _refers_to(spec: Fields, made: Expectation, folder: Path, workdir: Path) -> Expectation:
    other = spec.fields("refers_to", ("file", "column"))
    file, name, held = other.text("file"), other.text("column"), set[str]()
    try:
        with open_source(folder / file, FileFormat(), workdir) as source:
            names = columns_of(source)
            if name not in names:
                other.mistake("E301", f"column `{name}` is not in {file}", "column", did_you_mean(name, names))
                return made
            for chunk in source.chunks((name,)):
                held.update(numbers.text_of(row[2]) for row in chunk.rows if not _none(row[2]))
    except MappingError as error:
        other.mistake("E114", str(error), "file")
    return replace(made, said=f"one of {file}, column {name}", test=lambda value: numbers.text_of(value) in held)


_PARSE: Mapping[str, Callable[[Fields, Expectation, Path, Path], Expectation]] = {
    "not_null": _plain("a value in every row"), "unique": _unique, "in_set": _in_set, "range": _range, "regex": _regex,
    "monotone": _plain("never below the row above"), "refers_to": _refers_to,
    "fresh": lambda spec, made, *_: replace(
        made, said=f"the newest at most {spec.text('fresh')} old", within_us=spec.duration_us("fresh")),
}  # fmt: skip


class Watch:
    """One expectation while the rows of its file go by."""

    def __init__(self, item: Expectation, columns: Mapping[str, Column], repeats: Repeats) -> None:
        self.item, self.column, self.repeats = item, columns[item.column], repeats
        self.places = [columns[name].place for name in (item.column, *item.beside)]
        self.holds = lru_cache(50_000)(self._holds)
        self.count = 0
        self.shown: list[tuple[int, str]] = []
        self.last: Any = None
        """The value above, and of `fresh` the newest."""

    def see(self, rows: Sequence[Row]) -> None:
        """Check some rows."""
        at, check = self.places[0], self.item.check
        held = [row for row in rows if not _none(row[at])]
        if check == "not_null":
            self._note([row for row in rows if _none(row[at])])
        elif check == "unique":
            self.repeats.add([row[0] for row in held], [[row[place] for place in self.places] for row in held])
        elif check == "fresh":
            times = [us for row in held if self.column.kind == "time" and (us := self.column.read(row[at])) is not None]
            self.last = max(times, default=None) if self.last is None else max([self.last, *times])
        else:
            self._note([row for row in held if not (self._follows if check == "monotone" else self.holds)(row[at])])

    def findings(self, rows: int, now_us: int) -> Iterator[Finding]:
        """What disappointed, unless no more rows did than are allowed."""
        item = self.item
        if item.check == "unique":
            pairs = list(self.repeats)
            self.count, self.shown = len(pairs), [(row, f"as row {first:,}") for row, first in sorted(pairs)[:EXAMPLES]]
        elif item.check == "fresh":
            self.count = int(self.last is None or now_us - self.last > item.within_us)
            self.shown = [(0, "no time" if self.last is None else f"newest {moment(self.last)}")]
        if self.count > item.allow * rows:
            said = f"expected: {item.said}" + (f" (allowed: {item.allow:.2%})" if item.allow else "")
            mend, share = f"mend the rows, or the expectation at {item.place}", self.count / max(1, rows)
            dimension, check = _DIMENSIONS.get(item.check, "validity"), f"expected_{item.check}"
            yield Finding(
                item.severity, dimension, check, item.column, self.count, share, said, mend, tuple(self.shown)
            )

    def _holds(self, value: Any) -> bool:
        try:
            return self.item.test is None or self.item.test(value)
        except ValueError:
            return False

    def _follows(self, value: Any) -> bool:
        above, read = self.last, self.column.read(value)
        self.last = above if read is None else read
        return read is not None and (above is None or bool(read >= above))

    def _note(self, bad: Sequence[Row]) -> None:
        at, column = self.places[0], self.column
        self.count += len(bad)
        for row in bad[: EXAMPLES - len(self.shown)]:
            time_us = column.read(row[at]) if column.kind == "time" else None
            shown = numbers.masked(row[at], column.private) if time_us is None else moment(time_us)
            self.shown.append((row[0], "no value" if _none(row[at]) else shown))


def _none(value: Any) -> bool:
    return value is None or (type(value) is str and not value.strip())
