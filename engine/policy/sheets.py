"""CSV files as spreadsheets save them: quoted cells, `,` or `;` between, a byte order mark; every cell has a place.

    sheet = read_sheet(path, "lists/bins.csv", ("value", "reason"), diagnostics)
    for line, cells in sheet.rows(): cells[sheet.at["value"]]

A mistake costs the row that it is in, and reading goes on. A row is shown with a mistake only if whoever reads the
sheet puts its text among the sources: rows of lists hold what must not stand in a log.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.language import Diagnostics, Position, did_you_mean

MAX_BYTES = 500_000_000
_CELL = re.compile(r'\s*"(?:[^"]|"")*"|[^,;]*')
_LINE_END = re.compile(r"\r\n|\n|\r")
Row = tuple[int, list[str]]
"""The line where a row begins, from 1, and its cells, stripped, as many as the header has."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One file whose header is right."""

    name: str
    text: str
    separator: str
    at: Mapping[str, int]
    """Column → its index in a row's cells."""
    diagnostics: Diagnostics
    _lines: list[str] = field(default_factory=list, repr=False)

    def rows(self) -> Iterator[Row]:
        """The rows below the header; one of another length, or with broken quotes, is a mistake and left out."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.separator, strict=True)
        line, columns = 1, len(self.at)
        try:
            for cells in reader:
                if len(cells) == columns:
                    if line > 1 and any(cells):  # a spreadsheet may end with rows of nothing
                        yield line, list(map(str.strip, cells))
                elif any(cells):
                    hint = f"put a cell that contains `{self.separator}` into double quotes"
                    self.mistake(line, f"the row has {len(cells)} cells, the header {columns}", hint)
                line = reader.line_num + 1
        except csv.Error as problem:
            self.mistake(line, f"the quoting is broken: {problem}")

    def mistake(self, line: int, message: str, hint: str = "", column: int = 0, length: int = 1) -> None:
        """One mistake of the file's shape."""
        self.diagnostics.error("E510", message, self.position(line, column), length, hint=hint)

    def position(self, line: int, column: int) -> Position:
        """Where the text of a cell stands, in the row that begins at `line`."""
        if not self._lines:
            self._lines.extend(_LINE_END.split(self.text))
        row, start = self._lines[line - 1], 0
        for _ in range(column):
            found = _CELL.match(row, start)
            start = row.find(self.separator, found.end() if found else start) + 1
        blanks = len(row) - start - len(row[start:].lstrip(" "))
        return Position(self.name, line, start + blanks + (row[start + blanks :][:1] == '"') + 1)


def read_sheet(
    path: Path, name: str, columns: Collection[str], diagnostics: Diagnostics, optional: Collection[str] = ()
) -> Sheet | None:
    """Read a file with these columns in any order; None when it can't be read, lacks one or has others."""
    text = _text(path, name, diagnostics)
    if text is None:
        return None
    head = _LINE_END.split(text, 1)[0]
    separator = ";" if head.count(";") > head.count(",") else ","
    header = [cell.strip() for cell in next(csv.reader([head], delimiter=separator), [])]
    sheet = Sheet(name, text, separator, {column: index for index, column in enumerate(header)}, diagnostics)
    return sheet if _fits(sheet, header, columns, optional) else None


def _text(path: Path, name: str, diagnostics: Diagnostics) -> str | None:
    start = Position(name, 1, 1)
    try:
        if path.stat().st_size <= MAX_BYTES:
            return path.read_bytes().decode("utf-8-sig")
        diagnostics.error("E102", f"{name} is larger than {MAX_BYTES:,} bytes", start)
    except OSError as problem:
        diagnostics.error("E101", f"can't read {name}: {problem.strerror or problem}", start)
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        message = f"byte 0x{problem.object[problem.start]:02x} is not valid UTF-8"
        diagnostics.error("E103", message, Position(name, line, 1), hint="save the file as UTF-8")
    return None


def _fits(sheet: Sheet, header: list[str], columns: Collection[str], optional: Collection[str]) -> bool:
    """Whether every column is known, there once, and none is missing."""
    known, fits = [*columns, *optional], True
    for index, column in enumerate(header):
        unknown = column not in known
        if unknown or sheet.at[column] != index:
            fits = False
            hint = did_you_mean(column, known) or f"known here: {', '.join(known)}"
            problem = f"unknown column `{column}`" if unknown else f"column `{column}` is there twice"
            sheet.mistake(1, problem, hint, index, len(column))
    missing = [f"`{column}`" for column in columns if column not in sheet.at]
    if missing:
        sheet.mistake(1, f"the columns lack {', '.join(missing)}")
    return fits and not missing
