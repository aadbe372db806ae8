"""An entity's event log as bytes: fixed-size rows, appended whole, read as strided typed columns.

A row is `time_us, id, number, attempt` (int64), one int64 for each value column, then one byte of disposition, one
byte for each flag column, and padding to eight. Rows stand in admission order. An append is one `struct.pack`; a
column is one slice of a memoryview; nothing is decoded that no feature asks for (docs/adr/0002).
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.values import EntityEvent

TIME, ID, NUMBER, ATTEMPT = range(4)
FIXED = 4
DISPOSITION = -1
"""Where the disposition stands, counted in flags."""
ABSENT = 0
"""Value of a hash column where the event lacked the field."""


def hash64(text: str) -> int:
    """Signed 64-bit hash of an id or a value, never 0; two of a million differ with odds of 3 in 10^8."""
    value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
    return value or 1


Cells = Mapping[str, Mapping[str, Sequence[Any]]]
"""Tile's name → number of the tile → [rows, sum, sum of squares]; what JSON has no numbers for is text."""


@dataclass(frozen=True)
class Tile:
    """Totals by fixed stretches of time of the rows that set a flag: what windows count that outlive the rows."""

    size_us: int
    window_us: int
    flag: str
    value: str
    """Value column that is summed, or ""."""

    @cached_property
    def name(self) -> str:
        """Its name in a head."""
        return f"{self.size_us}|{self.window_us}|{self.flag}|{self.value}"


Evaluate = Callable[[Mapping[str, Any]], Any]
"""A compiled condition or value: a row in; a value, UNKNOWN or a failure out."""


@dataclass(frozen=True)
class Filter:
    """Which events set one flag column of a log."""

    on: tuple[str, ...]
    """Event kinds; empty = all."""
    where: str
    """CEL over event fields, as written; "" = all."""
    of: str = ""
    """Field that must be present, or ""."""
    test: Evaluate | None = None
    """`where`, compiled."""
    names: frozenset[str] = frozenset()
    """Fields that `where` reads."""

    @cached_property
    def name(self) -> str:
        """The flag's name in the layout; equal filters share a column."""
        return f"{','.join(self.on)}|{self.where}|{self.of}"

    def passes(self, kind: str, row: Mapping[str, Any]) -> bool:
        """Whether an event sets the flag; UNKNOWN does not."""
        if (self.on and kind not in self.on) or (self.of and self.of not in row):
            return False
        return self.test is None or self.test(row) is True


@dataclass(frozen=True)
class LogLayout:
    """The columns of one entity kind's log, derived from the feature set."""

    entity: str
    flags: tuple[str, ...]
    """One name for each `on` + `where` + field presence, and for each pattern step."""
    values: tuple[str, ...]
    """`sum:FIELD` (scaled int64) or `hash:FIELD` (64-bit hash)."""
    keep: int = 1000
    """Rows that count: the newest by (time, id)."""
    told: tuple[str, ...] = ()
    """Fields whose newest value is kept beside the log."""
    tiles: tuple[Tile, ...] = ()
    """Totals that are kept beside the log."""

    @cached_property
    def digest(self) -> str:
        """Hex digest of the columns; a log written under another digest can't be read with this layout."""
        told = (self.told,) if self.told or self.tiles else ()
        text = repr((self.entity, self.flags, self.values, *told, *(tile.name for tile in self.tiles)))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def _struct(self) -> struct.Struct:
        bytes_used = 1 + len(self.flags)
        padding = -bytes_used % 8
        return struct.Struct(f"<{FIXED + len(self.values)}qB{len(self.flags)}s{padding}x")

    @cached_property
    def size(self) -> int:
        """Bytes of one row."""
        return self._struct.size

    @cached_property
    def disposition_at(self) -> int:
        """Offset of the disposition byte in a row; flag k is at `disposition_at + 1 + k`."""
        return 8 * (FIXED + len(self.values))

    def encode(self, entry: EntityEvent, number: int, *, counted: bool = True) -> bytes:
        """One row; an uncounted retry keeps its id and time, but sets no flag."""
        flags = entry.flags if counted else bytes(len(entry.flags))
        return self._struct.pack(entry.time_us, entry.id, number, entry.attempt, *entry.values, 0, flags)

    def position(self, log: bytes, column: int, value: int) -> int:
        """Row index of the first row whose fixed `column` equals `value`, or -1."""
        needle, offset, size = value.to_bytes(8, "little", signed=True), 8 * column, self.size
        found = log.find(needle)
        while found >= 0:
            if found % size == offset:
                return found // size
            found = log.find(needle, found + 1)
        return -1

    def keys(self, log: bytes) -> list[tuple[int, int]]:
        """(time_us, id) of every row, in row order."""
        words, step = memoryview(log).cast("q"), self.size // 8
        return list(zip(words[TIME::step].tolist(), words[ID::step].tolist(), strict=True))

    def rows(self, log: bytes) -> list[bytes]:
        """The rows one by one."""
        return [log[at : at + self.size] for at in range(0, len(log), self.size)]

    def tiled(self, cells: Cells, rows: Sequence[bytes], sign: int = 1) -> Cells:
        """Tile totals with some rows added, or taken away with `sign` -1; cells two windows old are left out."""
        found = {tile.name: dict(cells.get(tile.name, {})) for tile in self.tiles}
        for row in rows:
            time_us, *numbers, flags = self._struct.unpack(row)
            for tile in self.tiles:
                if flags[self.flags.index(tile.flag)]:
                    value = numbers[FIXED - 1 + self.values.index(tile.value)] if tile.value else 0
                    mine, at = found[tile.name], str(time_us // tile.size_us)
                    more = (1, value, value * value) if value else (1, 0, 0)
                    totals = [int(old) + sign * one for old, one in zip(mine.get(at, (0, 0, 0)), more, strict=True)]
                    known, mine[at] = at in mine, [one if -(2**63) < one < 2**63 else str(one) for one in totals]
                    if not known or not totals[0]:
                        found[tile.name] = _recent(tile, mine)
        return found

    def number_of(self, row: bytes) -> int:
        """Admission number of one row."""
        return int.from_bytes(row[8 * NUMBER : 8 * NUMBER + 8], "little", signed=True)

    def with_byte(self, log: bytes, row: int, offset: int, value: int) -> bytes:
        """The log with one byte of one row changed: a disposition or a flag."""
        at = row * self.size + offset
        return log[:at] + bytes((value,)) + log[at + 1 :]


def shape_of(digests: Mapping[str, str]) -> str:
    """One digest of each entity's layout digest: logs of one shape serve every program of that shape; "" for none."""
    return hashlib.blake2b(repr(sorted(digests.items())).encode(), digest_size=8).hexdigest() if digests else ""


class LogView:
    """A log read for windows: the newest `keep` rows in order of (time, number); only what is asked for is decoded."""

    __slots__ = ("_bytes", "_layout", "_words", "cut_us", "times")

    def __init__(self, layout: LogLayout, log: bytes, dropped_us: int = 0) -> None:
        self._layout, self.cut_us = layout, dropped_us
        words = memoryview(log).cast("q")
        times: list[int] = words[TIME :: layout.size // 8].tolist()
        cut, in_order = max(len(times) - layout.keep, 0), times == sorted(times)
        if not in_order or (cut and times[cut - 1] == times[cut]):
            log, self.cut_us = _newest_in_order(layout, log, dropped_us)
            words = memoryview(log).cast("q")
            times = words[TIME :: layout.size // 8].tolist()
        elif cut:  # the usual log: what is cut are its first rows
            self.cut_us = max(dropped_us, times[cut - 1])
            log, times = log[cut * layout.size :], times[cut:]
            words = memoryview(log).cast("q")
        self.times = times
        self._bytes, self._words = log, words

    def column(self, index: int, first: int = 0, last: int | None = None) -> list[int]:
        """A fixed column (TIME, ID …), from row `first` up to `last`."""
        step = self._layout.size // 8
        cells: list[int] = self._words[first * step + index : None if last is None else last * step : step].tolist()
        return cells

    def value(self, index: int) -> list[int]:
        """Value column `index` of the layout."""
        return self.column(FIXED + index)

    def flag(self, index: int, first: int = 0, last: int | None = None) -> bytes:
        """Flag column `index`: one byte 0|1 a row, or with `DISPOSITION` a code."""
        size = self._layout.size
        start = first * size + self._layout.disposition_at + 1 + index
        return self._bytes[start : None if last is None else last * size : size]

    def dispositions(self) -> bytes:
        """One disposition code a row."""
        return self.flag(DISPOSITION)


def _recent(tile: Tile, cells: dict[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    oldest = max(map(int, cells), default=0) - 2 * tile.window_us // tile.size_us - 1
    return {at: totals for at, totals in cells.items() if totals[0] and int(at) >= oldest}


def _newest_in_order(layout: LogLayout, log: bytes, dropped_us: int) -> tuple[bytes, int]:
    """Keep the newest rows by (time, id), order them by (time, number); also the newest time that was cut."""
    keyed = sorted(
        (time_us, event_id, layout.number_of(row), row)
        for (time_us, event_id), row in zip(layout.keys(log), layout.rows(log), strict=True)
    )
    cut, kept = keyed[: -layout.keep], keyed[-layout.keep :]
    kept.sort(key=lambda item: (item[0], item[2]))
    return b"".join(item[3] for item in kept), max(dropped_us, cut[-1][0] if cut else 0)


def split(log: bytes, layout: LogLayout, rows: int) -> list[bytes]:
    """Cut a log into chunks of at most `rows` rows."""
    width = rows * layout.size
    return [log[at : at + width] for at in range(0, len(log), width)] or [b""]


def droppable(layout: LogLayout, chunks: Sequence[bytes]) -> int:
    """How many of the oldest chunks hold only rows that no longer count: older than the newest `keep`."""
    keys = [layout.keys(chunk) for chunk in chunks]
    total = sum(map(len, keys))
    if total <= layout.keep:
        return 0
    bound = sorted(key for chunk in keys for key in chunk)[total - layout.keep]
    outdated = [max(chunk, default=bound) < bound for chunk in keys]
    return bisect_left([not old for old in outdated], True) if outdated[0] else 0
