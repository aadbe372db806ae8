"""A table beside the file, such as BINs, networks, holidays: what it said of a key at a time."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.batch import numbers
from engine.batch.declared import FileFormat, Mapping, Reference
from engine.batch.read import columns_of, open_source
from engine.errors import MappingError

_ALWAYS = (-(2**63), 2**63 - 1)
Entry = tuple[int, int, tuple[str | None, ...]]
"""Valid from and until (µs, UTC), and the wanted columns."""
_NONE: tuple[str | None, ...] = ()


def lookup(
    mapping: Mapping, spec: Reference, wanted: Sequence[str], workdir: Path
) -> Callable[[str, int], Sequence[str | None]]:
    """(key, time) → the wanted columns as the table has them then; none when it has no such key.

    The table is held in memory. MappingError when it lacks a column, or holds a key or a time that can't be read.
    """
    entries: dict[Any, list[Entry]] = {}
    with open_source(spec.path, FileFormat(), workdir) as source:
        held, names = columns_of(source), [spec.column, *filter(None, (spec.since, spec.until)), *wanted]
        for name in names:
            if name not in held:
                hint = "it has: " + ", ".join(held[:20])
                raise mapping.problem(
                    "E301", f"column `{name}` is not in {spec.path}", spec.place, len(spec.name), hint
                )
        for chunk in source.chunks(names):
            for row in chunk.rows:
                try:
                    key, entry = _entry(spec, row)
                except ValueError as problem:
                    raise MappingError(f"{spec.path}:{row[1]}: {problem}") from None
                entries.setdefault(key, []).append(entry)
    for found in entries.values():
        found.sort(key=lambda entry: entry[0])
    keys = _KEYS[spec.match]({key[0] if spec.match == "network" else len(key) for key in entries})
    return _as_of(entries, keys)


def _entry(spec: Reference, row: tuple[Any, ...]) -> tuple[Any, Entry]:
    text, rest = numbers.text_of(row[2]), list(row[3:])
    times = [
        numbers.iso_us(rest.pop(0), "UTC") if name else end
        for name, end in zip((spec.since, spec.until), _ALWAYS, strict=True)
    ]
    key: Any = text
    if spec.match == "network":
        network = ipaddress.ip_network(text)
        key = ((network.version, network.prefixlen), int(network.network_address))
    return key, (times[0], times[1], tuple(None if value in (None, "") else numbers.text_of(value) for value in rest))


def _as_of(
    entries: dict[Any, list[Entry]], keys: Callable[[str], Iterator[Any]]
) -> Callable[[str, int], Sequence[str | None]]:
    tried = lru_cache(10_000)(lambda value: [entries[key] for key in keys(value) if key in entries])

    def found(value: str, time_us: int) -> Sequence[str | None]:
        for held in tried(value):
            at = bisect_right(held, time_us, key=lambda entry: entry[0]) - 1
            if at >= 0 and time_us < held[at][1]:
                return held[at][2]
        return _NONE

    return found


def _prefixes(lengths: set[Any]) -> Callable[[str], Iterator[Any]]:
    longest = sorted(lengths, reverse=True)
    return lambda value: (value[:length] for length in longest)


def _networks(lengths: set[Any]) -> Callable[[str], Iterator[Any]]:
    smallest = sorted(lengths, reverse=True)

    def keys(value: str) -> Iterator[Any]:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return
        for version, length in smallest:
            if version == address.version:
                shift = address.max_prefixlen - length
                yield (version, length), int(address) >> shift << shift

    return keys


_KEYS: dict[str, Callable[[set[Any]], Callable[[str], Iterator[Any]]]] = {
    "exact": lambda _: lambda value: iter((value,)), "prefix": _prefixes, "network": _networks,
}  # fmt: skip
