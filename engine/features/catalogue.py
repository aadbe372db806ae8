"""The catalogue of features: what each means, over which window of whose history, and who reads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from engine.features.spec import Aggregate, Derived, FeatureSet
from engine.schema import DISPOSITIONS

_UNITS: tuple[tuple[int, str], ...] = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"))
HEAD = "| feature | of | window | unit | meaning | read by |\n| --- | --- | --- | --- | --- | --- |"


Readers = Mapping[str, Sequence[str]]
"""Name → who reads it, such as `N101` or `model of payment`."""


def catalogue(
    features: FeatureSet, readers: Readers, before: Readers | None = None, names: Collection[str] | None = None
) -> str:
    """A Markdown table of every feature, or of some, by name; `before`: who reads it no longer."""
    every: list[Aggregate | Derived] = sorted((*features.aggregates, *features.derived), key=lambda f: f.name)
    chosen = [feature for feature in every if names is None or feature.name in names]
    lines = [_line(f, readers.get(f.name, ()), (before or {}).get(f.name, ())) for f in chosen]
    return "\n".join([HEAD, *lines]) + "\n"


def history_of(feature: Aggregate | Derived) -> tuple[str, str]:
    """What it is made of, and over which time."""
    return _history(feature) if isinstance(feature, Aggregate) else (f"`{feature.expression}`", "")


def _line(feature: Aggregate | Derived, readers: Sequence[str], before: Sequence[str]) -> str:
    of, window = history_of(feature)
    who = ", ".join(sorted(f"`{name}`" if "." in name else name for name in readers)) or "–"
    who += f"; no longer {', '.join(before)}" if before else ""
    cells = (f"`{feature.name}`", of.replace("|", "\\|"), window, feature.unit, feature.meaning, who)
    return f"| {' | '.join(cells)} |"


def _history(aggregate: Aggregate) -> tuple[str, str]:
    """What is folded, and over which time."""
    kinds = ", ".join(aggregate.filter.on) or "all events"
    what = f" of {aggregate.of}" if aggregate.of else ""
    where = f" where `{aggregate.filter.where}`" if aggregate.filter.where else ""
    stand = " or ".join(DISPOSITIONS[code] for code in aggregate.dispositions)
    rest = (
        f" on {kinds}{where}{stand and ', ' + stand}"
        if aggregate.measure not in {"age", "told", "count_received"}
        else ""
    )
    tiles = f" in tiles of {duration(aggregate.tile_us)}" if aggregate.tile_us else ""
    window = (
        duration(aggregate.window_us)
        + tiles
        + (f", {duration(aggregate.offset_us)} ago" if aggregate.offset_us else "")
    )
    return f"{aggregate.entity}: {aggregate.measure}{what}{rest}", window


def duration(microseconds: int) -> str:
    """`90d`, `24h`, `30m`; "" for 0."""
    for size, letter in _UNITS:
        if microseconds and microseconds % size == 0 and (letter != "d" or microseconds > size):
            return f"{microseconds // size}{letter}"
    return f"{microseconds}us" if microseconds else ""
