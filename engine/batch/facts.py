"""What a policy's features and a history tell the lints: which values can be, and what is mostly not there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from engine.errors import InvalidInput, Violation
from engine.intake import FUTURE_LIMIT_US, read_event
from engine.policy.lint import Facts
from engine.program import Program
from engine.schema import ENTITIES, FIELDS
from engine.values import Event

COUNTED = frozenset({"count", "distinct", "repeats", "count_received", "since_last", "stddev"})
"""Measures that are never below 0."""


def facts_of(program: Program, history: Iterable[Event] = ()) -> Facts:
    """What is known of each feature, and, from a history, the share of each kind's events that have each input.

    A feature counts as there if its entity, or all that it is derived from, is; so a share is never too small.
    """
    aggregates, derived = program.feature_set.aggregates, program.feature_set.derived
    ranges = {a.name: (0, float("inf")) for a in aggregates if a.measure in COUNTED}
    ranges |= {a.name: (0, 1) for a in aggregates if a.measure == "rate" and 0 <= (a.default or 0) <= 1}
    events, there = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for event in history:
        found = set(program.open(event, event.time_us).row)
        found |= {a.name for a in aggregates if ENTITIES[a.entity] in found}
        for one in derived:
            if one.needs <= found or "has(" in one.expression or "coalesce(" in one.expression:
                found.add(one.name)
        events[event.kind] += 1
        there[event.kind].update(found)
    names = (*FIELDS, *program.feature_set.names)
    present = {kind: {name: there[kind][name] / count for name in names} for kind, count in events.items()}
    return Facts(ranges, present)


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file with one JSON document a line; InvalidInput that names the line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield read_event(orjson.loads(line), now_us=2**62 - FUTURE_LIMIT_US)
            except (InvalidInput, orjson.JSONDecodeError, AttributeError) as problem:
                raise InvalidInput([Violation(f"{path}:{number}", str(problem))]) from None
