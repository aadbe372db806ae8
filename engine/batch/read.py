"""Reads CSV, JSON lines, Parquet and item sequences as streams of rows, in bounded memory.

    with open_source(path, mapping.format, workdir) as source:
        for chunk in source.chunks(("ORDER", "AMOUNT")):        # rows are (row, line, order, amount)

A file may be compressed with gzip, which its first bytes tell. Standard input (no path) is copied to a file in
`workdir` first: the digest that makes an import resumable needs all bytes, and Parquet needs to seek.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from engine.batch.declared import FileFormat
from engine.batch.files import BROKEN, CHUNK_ROWS, Chunk, Row, Source, SourceFile, Unreadable, copy_bytes
from engine.batch.parquet import Parquet
from engine.errors import MappingError

MAX_LINE = 4_000_000
"""Longest line in characters or bytes; a longer one is a bad row, whatever it holds."""
DOCUMENT = "document"
"""The format of `engine.batch.documents`; no mapping file can name it."""
_ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}


@contextmanager
def open_source(path: Path | None, form: FileFormat, workdir: Path, stdin: BinaryIO | None = None) -> Iterator[Source]:
    """Open a file, or copy `stdin` when there is no path; MappingError when it can't be read as declared."""
    spool = workdir / "input.spool"
    try:
        source = _open(path, form, spool, stdin)
    except OSError as error:
        spool.unlink(missing_ok=True)
        raise MappingError(f"can't read {path or 'standard input'}: {error.strerror or error}") from None
    try:
        yield source
    finally:
        spool.unlink(missing_ok=True)


def _open(path: Path | None, form: FileFormat, spool: Path, stdin: BinaryIO | None) -> Source:
    if path is not None:
        return _OPENERS[form.format or _kind_of(path)](SourceFile(str(path), path, spool), form)
    if stdin is None or not form.format:
        raise MappingError("standard input has no name that tells its format; declare `source: {format: …}`")
    copy_bytes(stdin, spool)
    return _OPENERS[form.format](SourceFile("standard input", spool, spool), form)


def _kind_of(path: Path) -> str:
    ending = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if ending.lower() not in _ENDINGS:
        raise MappingError(f"{path}: the ending tells no format; declare `source: {{format: csv}}`, or another")
    return _ENDINGS[ending.lower()]


class _Streamed(ABC):
    """A source read from its first byte to its last; each kind says how the bytes become records."""

    rows_total: int | None = None
    schema: Mapping[str, str] | None = None

    def __init__(self, file: SourceFile, form: FileFormat) -> None:
        self.name, self.size_bytes, self.digest = file.name, file.size_bytes, file.digest
        self._file, self._form = file, form

    @abstractmethod
    def _records(self, stream: BinaryIO, columns: Sequence[str]) -> Generator[Row | Unreadable]:
        """The rows and the bad ones of plain bytes, lazily."""

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """All records, in order."""
        done_rows = 0
        chunk = Chunk([], [], 0)
        with self._file.stream() as (stream, done), closing(self._records(stream, columns)) as records:
            try:
                for found in records:
                    if isinstance(found, tuple):
                        chunk.rows.append(found)
                    else:
                        chunk.unreadable.append(found)
                    if len(chunk.rows) + len(chunk.unreadable) >= CHUNK_ROWS:
                        done_rows += CHUNK_ROWS
                        yield Chunk(chunk.rows, chunk.unreadable, done())
                        chunk = Chunk([], [], 0)
            except BROKEN as error:
                raise self._file.broken(done_rows + len(chunk.rows), error) from None
        yield Chunk(chunk.rows, chunk.unreadable, self.size_bytes)


# --- lines ----------------------------------------------------------------------------------------------------------


class _Lines:
    """Text lines of bounded length with their numbers; what is wrong with a line stays until it is asked for."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self.stream, self.number, self._wrong = stream, 0, ""

    def __iter__(self) -> Iterator[str]:
        while line := self.stream.readline(MAX_LINE):
            self.number += 1
            if len(line) == MAX_LINE and line[-1] not in "\r\n":
                self._wrong = f"is longer than {MAX_LINE:,} characters"
                while (rest := self.stream.readline(MAX_LINE)) and rest[-1] not in "\r\n":
                    pass
                line = "\n"
            if not line.isascii() and any("\ud800" <= c <= "\udfff" for c in line):
                self._wrong = "is not valid text in the declared encoding"
            yield line

    def wrong(self) -> str:
        """What was wrong with the lines since the last call, or ""."""
        wrong, self._wrong = self._wrong, ""
        return wrong


class _Csv(_Streamed):
    """Delimited text with a header line, or with the declared header."""

    def __init__(self, file: SourceFile, form: FileFormat) -> None:
        super().__init__(file, form)
        self._header = list(form.header) or self._first()
        twice = sorted({name for name in self._header if self._header.count(name) > 1})
        if twice:
            raise MappingError(f"{self.name}:1: column {twice[0]!r} stands twice in the header")
        self.schema = dict.fromkeys(self._header, "text")

    def _first(self) -> list[str]:
        wrong = MappingError(f"{self.name}:1: no header line; declare `source: {{header: […]}}` if it has none")
        with self._file.stream() as (stream, _), self._lines(stream) as lines:
            try:
                header = next(self._reader(lines), None)
            except (*BROKEN, csv.Error):
                raise wrong from None
            if not header or lines.wrong():
                raise wrong
            return [name.strip() for name in header]

    @contextmanager
    def _lines(self, stream: BinaryIO) -> Iterator[_Lines]:
        encoding = "utf-8-sig" if self._form.encoding.lower() in ("utf-8", "utf8") else self._form.encoding
        text = io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")
        try:
            yield _Lines(text)
        finally:
            text.detach()  # the bytes are closed by who opened them

    def _reader(self, lines: _Lines) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._form.delimiter, quotechar=self._form.quote, strict=True)

    def _records(self, stream: BinaryIO, columns: Sequence[str]) -> Generator[Row | Unreadable]:
        pick, width = _picker([self._header.index(name) for name in columns]), len(self._header)
        with self._lines(stream) as lines:
            records = self._reader(lines)
            if not self._form.header:
                next(records, None)
            for row, (line, record, wrong) in enumerate(_numbered(records, lines), 1):
                if wrong:
                    yield Unreadable(row, line, wrong)
                elif len(record) != width:
                    yield Unreadable(row, line, f"has {len(record)} columns where the header has {width}")
                else:
                    yield (row, line, *pick(record))


def _numbered(records: Iterator[list[str]], lines: _Lines) -> Iterator[tuple[int, list[str], str]]:
    """Line, record and what is wrong with it; blank lines are no records."""
    while True:
        line = lines.number + 1
        try:
            record, wrong = next(records), ""
        except StopIteration:
            return
        except csv.Error:
            record, wrong = [], f"has a quote that is not closed or not doubled (lines {line} to {lines.number})"
        wrong = lines.wrong() or wrong
        if record or wrong:
            yield line, record, wrong


def _picker(places: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda record: tuple(record[place] for place in places)


class _JsonLines(_Streamed):
    """One JSON object a line; a column may name a value inside it by a dotted path."""

    def _records(self, stream: BinaryIO, columns: Sequence[str]) -> Generator[Row | Unreadable]:
        for row, (line, data) in enumerate(_byte_lines(stream), 1):
            found = _object(data)
            if isinstance(found, str):
                yield Unreadable(row, line, found)
            else:
                yield (row, line, *[self._value(found, name) for name in columns])

    def _value(self, found: dict[str, Any], name: str) -> Any:
        if name in found or "." not in name:
            return found.get(name)
        value: Any = found
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def names(self) -> tuple[str, ...]:
        """Every name, dotted inside objects, under which some line has a single value."""
        names: dict[str, None] = {}
        with self._file.stream() as (stream, _):
            for _, data in _byte_lines(stream):
                found = _object(data)
                names |= {} if isinstance(found, str) else dict.fromkeys(_leaves(found, ""))
        return tuple(names)


def _leaves(found: dict[str, Any], before: str) -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}.")
        elif not isinstance(value, list):
            yield before + name


def columns_of(source: Source) -> tuple[str, ...]:
    """The columns of a source that hold single values; JSON lines are read through to find theirs."""
    if source.schema is not None:
        return tuple(name for name, kind in source.schema.items() if kind != "nested")
    assert isinstance(source, _JsonLines)
    return source.names()


class _Documents(_JsonLines):
    """One JSON object a line, whole, and its time for the order."""

    schema: Mapping[str, str] | None = {"time": "text", "document": "nested"}

    def _value(self, found: dict[str, Any], name: str) -> Any:
        return found if name == "document" else found.get(name)


def _byte_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line number and bytes of each line that isn't blank; None for one that is too long."""
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) == MAX_LINE and line[-1:] != b"\n":
            while (rest := stream.readline(MAX_LINE)) and rest[-1:] != b"\n":
                pass
            yield number, None
        elif line.strip():
            yield number, line


def _object(data: bytes | None) -> dict[str, Any] | str:
    if data is None:
        return f"is longer than {MAX_LINE:,} bytes"
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return "is not JSON"
    return found if isinstance(found, dict) else "is not a JSON object"


class _Sequence(_Streamed):
    """Lines of `user item item …` in time order; a row for each item, with columns user, item and position from 1."""

    schema: Mapping[str, str] | None = {"user": "text", "item": "text", "position": "int"}

    def _records(self, stream: BinaryIO, columns: Sequence[str]) -> Generator[Row | Unreadable]:
        pick = _picker([("user", "item", "position").index(name) for name in columns])
        row = 0
        for line, data in _byte_lines(stream):
            words = data.decode("utf-8", "replace").split() if data is not None else []
            if len(words) < 2 or "\ufffd" in "".join(words):
                row += 1
                yield Unreadable(row, line, "is not `user item item …` in UTF-8")
                continue
            for position, item in enumerate(words[1:], 1):
                row += 1
                yield (row, line, *pick((words[0], item, position)))


_OPENERS: dict[str, Callable[[SourceFile, FileFormat], Source]] = {
    "csv": _Csv, "jsonl": _JsonLines, "sequence": _Sequence, "parquet": Parquet, DOCUMENT: _Documents,
}  # fmt: skip
