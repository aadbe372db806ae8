"""Feature definitions, frozen: what `rules/features.yaml` says, read by `load.py`, computed by `online.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.eventlog import Evaluate, Filter, LogLayout, Tile

MEASURES: tuple[str, ...] = (
    "count", "sum", "mean", "min", "max", "stddev", "median", "ratio", "distinct", "repeats", "first", "last",
    "since_last", "gap_mean", "gap_stddev", "age", "told", "rate", "count_received",
)  # fmt: skip
UNITS: tuple[str, ...] = (
    "events", "money", "pieces", "seconds", "days", "hours", "degrees", "km/h", "share", "ratio", "score", "text",
    "yes-no",
)  # fmt: skip
HEADS = frozenset({"age", "told"})
"""Measures that read what is kept beside the log: they have no window."""
TILED = frozenset({"count", "sum", "mean", "stddev"})
"""Measures of totals, from which single rows can be taken away: those that `precision: tiled` has."""
_MINUTE_US, _HOUR_US, _DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000
MICRO = 1_000_000


@dataclass(frozen=True)
class Aggregate:
    """A window aggregate over one entity's log."""

    name: str
    entity: str
    measure: str
    filter: Filter
    of: str
    """Field that is summed, counted distinct …; "" for count."""
    window_us: int
    offset_us: int
    include_current: bool
    dispositions: tuple[int, ...]
    """Codes of `DISPOSITIONS` that count; empty = all."""
    outcomes: tuple[str, ...]
    """Outcome kinds of rate and count_received."""
    default: float | None
    type: str
    unit: str
    meaning: str
    tile_us: int = 0
    """0 = exact; else the window begins where the tile of its first moment begins, and reaches beyond the kept rows."""

    @property
    def tile(self) -> Tile:
        """The totals that it reads."""
        return Tile(self.tile_us, self.window_us, self.filter.name, value_column(self))

    def definition(self, keep: int) -> tuple[object, ...]:
        """All that its value depends on; `keep`: how many events its log counts."""
        return (
            self.entity, self.measure, self.filter.name, self.of, self.window_us, self.offset_us, self.include_current,
            self.dispositions, self.outcomes, self.default, keep, *([self.tile_us] if self.tile_us else ()),
        )  # fmt: skip


@dataclass(frozen=True)
class Derived:
    """A feature computed from event fields and other features by one CEL expression."""

    name: str
    expression: str
    evaluate: Evaluate
    needs: frozenset[str]
    type: str
    unit: str
    meaning: str

    def value(self, row: Mapping[str, Any]) -> Any:
        """Its value for a row; None where that can't be known."""
        value = self.evaluate(row)
        return value if isinstance(value, (int, float, str)) else None


@dataclass(frozen=True)
class FeatureSet:
    """All features of a policy, derived ones in the order in which they can be computed."""

    aggregates: tuple[Aggregate, ...]
    derived: tuple[Derived, ...]
    keep: Mapping[str, int]
    """Entity → how many events its log counts."""
    digest: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every feature, in the order of computation."""
        return (*(a.name for a in self.aggregates), *(d.name for d in self.derived))

    def digest_of(self, names: Iterable[str]) -> str:
        """Digest of what these features mean, with all that they are derived from; a remark or another unit is none."""
        meanings: dict[str, object] = {a.name: a.definition(self.keep.get(a.entity, 0)) for a in self.aggregates}
        derived = {d.name: d for d in self.derived}
        waiting, used = set(names), set[str]()
        while waiting - used:
            name = min(waiting - used)
            used.add(name)
            if name in derived:
                meanings[name] = derived[name].expression
                waiting |= derived[name].needs
        text = repr([(name, meanings.get(name)) for name in sorted(used)])
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def types(self) -> dict[str, str]:
        """Feature name → CEL type."""
        return {a.name: a.type for a in self.aggregates} | {d.name: d.type for d in self.derived}


def scale_of(field_type: str) -> int:
    """Units of a summed field in a log: doubles are kept in millionths, whole numbers as they are."""
    return MICRO if field_type == "double" else 1


def tile_of(window_us: int) -> int:
    """How fine the older end of a tiled window is: a minute up to an hour, an hour up to a day, else a day."""
    return _MINUTE_US if window_us <= _HOUR_US else _HOUR_US if window_us <= _DAY_US else _DAY_US


def value_column(aggregate: Aggregate) -> str:
    """Name of the value column that an aggregate reads, or ""."""
    if aggregate.measure in {"sum", "mean", "min", "max", "stddev", "median", "ratio", "first", "last"}:
        return f"sum:{aggregate.of}"
    if aggregate.measure in {"distinct", "repeats"}:
        return f"hash:{aggregate.of}"
    return ""


def layouts(
    features: FeatureSet, steps: Mapping[str, tuple[str, ...]], joins: Mapping[str, tuple[str, ...]]
) -> dict[str, LogLayout]:
    """Log columns of each entity, derived from the features and from the patterns' steps and join fields."""
    entities = sorted({a.entity for a in features.aggregates} | steps.keys())
    result = {}
    for entity in entities:
        mine = [a for a in features.aggregates if a.entity == entity]
        flags = sorted({a.filter.name for a in mine if a.measure not in HEADS})
        values = sorted({value_column(a) for a in mine} - {""} | {f"hash:{field}" for field in joins.get(entity, ())})
        result[entity] = LogLayout(
            entity, (*flags, *steps.get(entity, ())), tuple(values), features.keep.get(entity, 1000),
            tuple(sorted({a.of for a in mine if a.measure == "told"})),
            tuple(sorted({a.tile for a in mine if a.tile_us}, key=lambda tile: tile.name)),
        )  # fmt: skip
    return result
