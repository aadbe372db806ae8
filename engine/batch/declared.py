"""What a mapping declares, as frozen values: the file, its columns, and what becomes of them.

`engine.batch.mapping` reads these from YAML, `engine.batch.bind` turns them into functions over rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Lookups
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from engine.errors import MappingError
from engine.language.diagnostics import Diagnostics, Position

FORMATS = ("csv", "jsonl", "parquet", "sequence")
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Time formats that are numbers → microseconds of one unit."""
ROW = "row"
"""The pseudo-column of a template: number of the record in its file, from 1."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How the bytes are to be read; `format` is "" when the file's name tells it."""

    format: str = ""
    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()
    """Names of the columns of a CSV file that has no header line."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same text for every row."""

    value: str


@dataclass(frozen=True, slots=True)
class Template:
    """Texts and columns in turn; `parts` holds (text before, column) pairs, `tail` what follows the last."""

    parts: tuple[tuple[str, str], ...]
    tail: str


@dataclass(frozen=True, slots=True)
class Column:
    """One column's value, then the part that `extract` matches, then its entry in `values` or `patterns`."""

    name: str
    extract: re.Pattern[str] | None = None
    values: Lookups[str, str] = field(default_factory=dict)
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()
    unmapped: str = "refuse"
    """refuse (the row is bad), drop (the field is absent) or keep (the value as it is)."""
    sign: str = "keep"
    """keep, drop or flip the sign of a number."""


Value = Constant | Template | Column


@dataclass(frozen=True, slots=True)
class Moment:
    """A time read from one column, or `start_us` + `step_us` × the column's whole number."""

    name: str
    format: str
    zone: str
    """IANA zone of times that name none; "" when the values must carry their own."""
    start_us: int
    step_us: int
    place: Position


@dataclass(frozen=True, slots=True)
class Amount:
    """Money: the column (times another one), in major or minor units of its currency."""

    name: str
    times: str
    unit: str
    sign: str
    currency: Value
    number: re.Pattern[str]
    """What a text must look like to be an amount, with the declared marks."""
    marks: tuple[str, str]
    """Decimal mark, thousands mark ("" for none)."""


Spec = Value | Moment


@dataclass(frozen=True, slots=True)
class Test:
    """One test on one column: equals, matches, missing, below or above, with its operand."""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    name: str
    how: str
    operand: str | float | bool | re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Skip:
    """Rows that pass all tests are left out on purpose, and counted under `reason`."""

    when: tuple[Test, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """Rows that pass all tests also tell what turned out to be true of their event."""

    when: tuple[Test, ...]
    kind: str
    delay_us: int
    """From the event's time until Arbiter could have known it."""
    id: Template | None
    known: Moment | None
    """A column that says when it was known, instead of the delay."""
    code: Value | None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows with the same value of `by` make one event; `scattered` rows are brought together by a sort first."""

    by: str
    scattered: bool


@dataclass(frozen=True, slots=True)
class CleanColumn:
    """What is done to one column's values, in this order."""

    name: str
    place: Position
    tidy: str
    """"" (nothing), true, upper or lower."""
    values: Lookups[str, str]
    """Spelling → the one that all get."""
    scale_by: str
    """The column whose text picks the factor; "" for one factor for all."""
    factors: Lookups[str, Decimal]
    """Text → what a number is multiplied with; the one for all stands under ""."""
    zone_by: str
    """The column that holds, or picks from `zones`, the zone of a time."""
    zones: Lookups[str, str]
    missing: str
    """"" (nothing), leave, default or median: all but nothing raise the flag `missing.NAME`."""
    default: str
    median_by: str
    """The column whose value makes the group; "" for all rows together."""
    outliers: str
    """"" (nothing), quantiles or mad; what lies beyond raises the flag `far.NAME`."""
    bounds: tuple[float, float]
    """Two shares, or how many deviations twice."""
    winsorise: bool
    """Whether it is also drawn in to the bound."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The columns of flags that it adds."""
        return ("missing." + self.name,) * bool(self.missing) + ("far." + self.name,) * bool(self.outliers)


@dataclass(frozen=True, slots=True)
class Reference:
    """A table beside the file, in which each row looks up what was known at its time."""

    name: str
    path: Path
    key: str
    """The file's column."""
    column: str
    """The table's column."""
    match: str
    """exact, prefix (the longest that the value begins with) or network (the smallest that holds the address)."""
    since: str
    until: str
    """The table's columns of validity, from … up to but not with; "" for always."""
    place: Position


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What happens to rows before they become events."""

    repeated: tuple[str, ...] | None = None
    """Columns in which a row must differ from all earlier ones; none for all columns; None keeps repetitions."""
    columns: tuple[CleanColumn, ...] = ()
    references: tuple[Reference, ...] = ()

    def __bool__(self) -> bool:
        return self.repeated is not None or bool(self.columns or self.references)

    @property
    def flags(self) -> tuple[str, ...]:
        """All columns of flags."""
        return tuple(flag for column in self.columns for flag in column.flags)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Everything that a mapping file declares, free of mistakes in itself."""

    name: str
    file: str
    digest: bytes
    """BLAKE2b-128 of the mapping file's bytes."""
    produces: str
    """events, or outcomes when each row tells what turned out to be true of an event known by its id."""
    format: FileFormat
    id: Value
    kind: Value
    time: Moment
    fields: Lookups[str, Spec]
    attributes: Lookups[str, Spec]
    amount: Amount | None
    skips: tuple[Skip, ...]
    outcomes: tuple[OutcomeRule, ...]
    group: Group | None
    missing: frozenset[str]
    """Texts that stand for no value, beside the empty one."""
    uses: Lookups[str, tuple[Position, int]]
    """Column → where the mapping first names it, and how many characters long."""
    text: str
    """The mapping file itself, for the excerpts in later messages."""
    clean: Cleaning = Cleaning()

    def added(self) -> tuple[str, ...]:
        """The columns that cleaning adds to those of the file: flags, and what is looked up."""
        names = {reference.name for reference in self.clean.references}
        return (*self.clean.flags, *(name for name in self.uses if name.partition(".")[0] in names))

    def problem(self, code: str, message: str, place: Position, length: int = 1, hint: str = "") -> MappingError:
        """An error that shows one place of the mapping file."""
        diagnostics = Diagnostics(sources={self.file: self.text})
        diagnostics.error(code, message, place, length, hint=hint)
        return MappingError(diagnostics.render())
