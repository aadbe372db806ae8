"""A column's text → the part that is wanted → what the mapping says it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from engine.batch.declared import Column

_MANY_DIGITS = re.compile(r"(?:\d\D?){6}")


def look_up(spec: Column) -> Callable[[str], str | None]:
    """Text → extracted part → its entry; remembered, since most columns hold few different texts."""

    @lru_cache(maxsize=10_000)
    def entry_of(value: str) -> str | None:
        if spec.extract:
            match = spec.extract.fullmatch(value)
            if match is None or match.group(1) is None:
                return _unmapped(spec, value, "does not look like the declared `extract`")
            value = match.group(1)
        if not (spec.values or spec.patterns):
            return value
        if value in spec.values:
            return spec.values[value]
        for pattern, entry in spec.patterns:
            if pattern.fullmatch(value):
                return entry
        return _unmapped(spec, value, "has no entry in the mapping")

    return entry_of


def _unmapped(spec: Column, value: str, reason: str) -> str | None:
    if spec.unmapped == "refuse":
        safe = len(value) <= 40 and value.isprintable() and "@" not in value and not _MANY_DIGITS.search(value)
        shown = f" (`{value}`)" if safe else ""
        raise ValueError(f"column `{spec.name}` {reason}{shown}")
    return value if spec.unmapped == "keep" else None
