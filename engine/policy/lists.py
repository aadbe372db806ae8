"""Typed lists: CSV files of values with reason, author and end; rules ask them with `in_list("name", value)`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import PolicyError
from engine.intake import timestamp_us

MAX_ENTRIES = 1_000_000
COLUMNS = ("value", "reason", "author", "until")


@dataclass(frozen=True, slots=True)
class ValueList:
    """One list: `value in list` is a look-up in a dict; an entry past its end is not in it."""

    name: str
    entries: dict[str, int]
    """Value → end of the entry in µs, 0 = no end."""
    clock: Callable[[], int]
    """Now in µs, as the program that holds the list counts it."""

    def __contains__(self, value: object) -> bool:
        end = self.entries.get(value) if isinstance(value, str) else None
        return end is not None and (end == 0 or self.clock() < end)


def load_lists(folder: Path, clock: Callable[[], int]) -> dict[str, ValueList]:
    """Every `*.csv` of a folder by its name; `PolicyError` names file and line of the first mistake."""
    return {path.stem: ValueList(path.stem, _load(path), clock) for path in sorted(folder.glob("*.csv"))}


def _load(path: Path) -> dict[str, int]:
    entries: dict[str, int] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise PolicyError(f"{path}:1: the columns must be {', '.join(COLUMNS)}")
        for line, row in enumerate(rows, 2):
            value = (row["value"] or "").strip()
            if not value or not row["reason"] or not row["author"]:
                raise PolicyError(f"{path}:{line}: every entry needs a value, a reason and an author")
            try:
                entries[value] = timestamp_us(row["until"]) if row["until"] else 0
            except ValueError as problem:
                raise PolicyError(f"{path}:{line}: until {problem}") from None
            if len(entries) > MAX_ENTRIES:
                raise PolicyError(f"{path}:{line}: more than {MAX_ENTRIES:,} entries; split the list")
    return entries
