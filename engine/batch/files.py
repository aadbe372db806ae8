"""A source's bytes, and the chunks of rows that any reader makes of them."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa

from engine.errors import MappingError

CHUNK_ROWS = 8_192
BROKEN = (OSError, EOFError, zlib.error, UnicodeError, pa.ArrowException)

Row = tuple[Any, ...]
"""Row number from 1, line number from 1, then the wanted columns' values; None is no value."""
Told = Callable[[str, int, int], None]
"""Called with the stage, the rows read and the bytes done."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that can't even be split into columns."""

    row: int
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive rows."""

    rows: list[Row]
    unreadable: list[Unreadable]
    bytes_done: int
    """Bytes of the file (compressed as it is) that have been read so far; an estimate for Parquet."""


class Source(Protocol):
    """An open file of rows."""

    name: str
    size_bytes: int
    rows_total: int | None
    schema: Mapping[str, str] | None
    """Column → text, int, float, bool, timestamp (int µs, no zone), instant (int µs UTC); None: any column may come."""
    digest: bytes
    """BLAKE2b-128 of the bytes."""

    def chunks(self, columns: Sequence[str]) -> Iterator[Chunk]:
        """All rows from the beginning; may be called again."""


def copy_bytes(stream: BinaryIO, to: Path) -> None:
    """Copy a stream to a file in bounded memory."""
    with to.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)


class SourceFile:
    """The bytes of one source, gunzipped where needed, and how far they have been read."""

    def __init__(self, name: str, path: Path, spool: Path) -> None:
        self.name, self.path, self.spool = name, path, spool
        self.size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            self.gzipped = stream.read(2) == b"\x1f\x8b"
            stream.seek(0)
            self.digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()

    @contextmanager
    def stream(self) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
        """The plain bytes, and a function that tells how many bytes of the file have been taken."""
        with self.path.open("rb") as raw:
            yield (gzip.GzipFile(fileobj=raw) if self.gzipped else raw), raw.tell  # type: ignore[misc]

    def seekable(self) -> Path:
        """A plain file on disk: the file itself, or its gunzipped copy."""
        if not self.gzipped:
            return self.path
        unpacked = self.spool.with_suffix(".plain")
        with self.stream() as (stream, _):
            copy_bytes(stream, unpacked)
        unpacked.replace(self.spool)
        return self.spool

    def broken(self, row: int, error: Exception) -> MappingError:
        """The error of bytes that stop making sense after a row."""
        return MappingError(f"{self.name}: can't be read after row {row:,}: {error}")
