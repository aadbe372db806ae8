"""What has to be known of a whole file: how often values occur, which repeat, and what stands at a rank.

All three hold bounded memory, whatever the file's size: a `Tally` thins out, `Repeats` and `Ranks` use the disk.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.batch.stage import ExternalSort

_RUN_BYTES, _PARTS = 16_000_000, 32
_NUMBER = struct.Struct(">d")
_TOP, _MIX = 1 << 63, 0x9E37_79B9


class Tally:
    """Value → how many rows have it, and the first that does.

    When more different values come than there is `room` for, only those stay whose checksum ends in enough zero bits:
    the same share of all values in whatever order they come, each still counted exactly. Spellings of one word stay or
    go together.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.scale = 1
        """How many values of the file stand behind each that is kept; 1 while all are."""
        self.counts: dict[Any, list[int]] = {}
        """Value → [rows, first row]."""

    def add(self, values: Sequence[Any], rows: Sequence[int]) -> None:
        """Count some rows."""
        first = dict(zip(reversed(values), reversed(rows), strict=True))
        for value, count in Counter(values).items():
            known = self.counts.get(value)
            if known is not None:
                known[0] += count
            elif self._stays(value):
                self.counts[value] = [count, first[value]]
        while len(self.counts) > self.room:
            self.scale *= 2
            self.counts = {value: known for value, known in self.counts.items() if self._stays(value)}

    def _stays(self, value: Any) -> bool:
        if self.scale == 1:
            return True
        whole = type(value) is int
        mixed = value * _MIX >> 20 if whole else zlib.crc32(str(value).strip().casefold().encode(errors="replace"))
        return bool(mixed % self.scale == 0)


class Repeats:
    """Finds the rows that repeat earlier ones in all the values they are given with.

    Digests are dealt out over files by their first bits; equal ones meet in the same, which fits in memory.
    """

    def __init__(self, workdir: Path, prefix: str) -> None:
        self._files = [workdir / f"{prefix}-{part}" for part in range(_PARTS)]
        self._held = [bytearray() for _ in range(_PARTS)]
        self._held_bytes = 0

    def add(self, rows: Sequence[int], values: Iterable[Sequence[Any]]) -> None:
        """Note some rows with their values."""
        digests = b"".join([blake2b(orjson.dumps(each), digest_size=16).digest() for each in values])
        records = np.empty((len(rows), 3), np.uint64)
        records[:, :2], records[:, 2] = np.frombuffer(digests, np.uint64).reshape(-1, 2), rows
        parts = records[:, 0] % _PARTS
        for part in np.unique(parts):
            self._held[int(part)] += records[parts == part].tobytes()
        self._held_bytes += records.nbytes
        if self._held_bytes > _RUN_BYTES:
            for file, held in zip(self._files, self._held, strict=True):
                with file.open("ab") as out:
                    out.write(held)
                held.clear()
            self._held_bytes = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(row, first row with the same values) of every repetition, in no order of rows. Nothing is added after."""
        for file, held in zip(self._files, self._held, strict=True):
            data = (file.read_bytes() if file.exists() else b"") + held
            records = np.frombuffer(data, np.uint64).reshape(-1, 3)
            records = records[np.lexsort((records[:, 2], records[:, 1], records[:, 0]))]
            same = np.zeros(len(records), np.bool_)
            same[1:] = (records[1:, :2] == records[:-1, :2]).all(axis=1)
            first = np.maximum.accumulate(np.where(same, 0, np.arange(len(records))))
            yield from zip(records[same, 2].tolist(), records[first[same], 2].tolist(), strict=True)


class Ranks:
    """Numbers by group, and those that stand at a share of the way from the smallest to the largest: real ones."""

    def __init__(self, workdir: Path, prefix: str) -> None:
        self.sort = ExternalSort(workdir, _RUN_BYTES, prefix)
        self.counts: Counter[str] = Counter()

    def add(self, group: str, number: float) -> None:
        """Take one number."""
        bits = int.from_bytes(_NUMBER.pack(number), "big")
        ordered = (bits ^ (2 * _TOP - 1) if bits & _TOP else bits | _TOP).to_bytes(8, "big")
        self.counts[group] += 1
        key = group.replace("\0", "").encode(errors="replace") + b"\0" + ordered
        self.sort.add(key + self.sort.records.to_bytes(8, "big"), _NUMBER.pack(number) + group.encode(errors="replace"))

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """(group, number) by group, then by number. Nothing is added after."""
        with closing(self.sort.sorted()) as records:
            for _, payload in records:
                yield payload[8:].decode(), _NUMBER.unpack(payload[:8])[0]

    def at(self, *shares: float) -> dict[str, list[float]]:
        """Group → the number at each share 0..1 (0.5: the median, of two the lower)."""
        found = {}
        for group, numbers in groupby(self, lambda pair: pair[0]):
            places = [max(0, ceil(share * self.counts[group]) - 1) for share in shares]
            asked = set(places)
            wanted = {place: number for place, (_, number) in enumerate(numbers) if place in asked}
            found[group] = [wanted[place] for place in places]
        return found
