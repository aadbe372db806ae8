"""The catalogue of features: what each means, over which window of whose history, and who reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.features.spec import Aggregate, Derived, FeatureSet

_UNITS: tuple[tuple[int, str], ...] = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"))
HEAD = "| feature | of | window | unit | meaning | read by |\n| --- | --- | --- | --- | --- | --- |"


def catalogue(features: FeatureSet, readers: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table of every feature by name; `readers`: name → who reads it, such as `N101` or `model`."""
    every: list[Aggregate | Derived] = sorted((*features.aggregates, *features.derived), key=lambda f: f.name)
    return "\n".join([HEAD, *(_line(feature, readers.get(feature.name, ())) for feature in every)]) + "\n"


def _line(feature: Aggregate | Derived, readers: Sequence[str]) -> str:
    of, window = _history(feature) if isinstance(feature, Aggregate) else (f"`{feature.expression}`", "")
    who = ", ".join(readers) or "–"
    cells = (f"`{feature.name}`", of.replace("|", "\\|"), window, feature.unit, feature.meaning, who)
    return f"| {' | '.join(cells)} |"


def _history(aggregate: Aggregate) -> tuple[str, str]:
    """What is folded, and over which time."""
    kinds = ", ".join(aggregate.filter.on) or "all events"
    what = f" of {aggregate.of}" if aggregate.of else ""
    where = f" where `{aggregate.filter.where}`" if aggregate.filter.where else ""
    rest = f" on {kinds}{where}" if aggregate.measure not in {"age", "told", "count_received"} else ""
    window = duration(aggregate.window_us) + (f", {duration(aggregate.offset_us)} ago" if aggregate.offset_us else "")
    return f"{aggregate.entity}: {aggregate.measure}{what}{rest}", window


def duration(microseconds: int) -> str:
    """`90d`, `24h`, `30m`; "" for 0."""
    for size, letter in _UNITS:
        if microseconds and microseconds % size == 0 and (letter != "d" or microseconds > size):
            return f"{microseconds // size}{letter}"
    return f"{microseconds}us" if microseconds else ""
