"""Patterns over events in order: steps are told in columns, and only events that set a flag are looked at singly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from engine.eventlog import hash64
from engine.features.load import event_types
from engine.language import Schema, check_text
from engine.language.columns import compile_columns
from engine.policy.patterns import MAX_FACTS, Fact, History
from engine.policy.signals import PatternMatcher
from engine.program import Program
from engine.rescore.judge import texts_at, where
from engine.schema import ENTITIES
from engine.values import Result


class Signals:
    """What patterns remember of the events so far, and what they say of the next."""

    def __init__(self, program: Program) -> None:
        self._plan, self.facts = program.policy.plan, dict[str, list[list[Any]]]()
        """`ENTITY|VALUE` → its newest events that set a flag: number, time, flags in the log as hex, keys."""
        self._tests = [(entity, test) for entity, tests in self._plan.tests.items() for test in tests]
        schema = Schema.of(event_types() | program.feature_set.types)
        conditions = [check_text(test.filter.where or "true", schema) for _, test in self._tests]
        self._program = compile_columns(conditions) if conditions else None
        self._matcher = PatternMatcher(self._plan.patterns)

    def close(self) -> None:
        """End the matcher's process."""
        self._matcher.close()

    def raised(self, seen: pa.Table, decided: Any) -> dict[int, tuple[str, ...]]:
        """Row → signals that its event raises; the events of the table become part of what is remembered."""
        found: dict[int, tuple[str, ...]] = {}
        histories: list[History] = []
        marked = sorted(self._marked(seen))
        for place, (row, entity, bits, kept, value, keys) in enumerate(marked):
            facts = self.facts.setdefault(f"{entity}|{value}", [])
            time_us, number = int(seen["event_time"].cast(pa.int64())[row].as_py()), self.count + row
            if decided[row] and bits & self._plan.patterns.last_mask(entity):
                before = [Fact(at, then_us, int(flags, 16), tuple(joined)) for at, then_us, flags, joined in facts]
                histories.append(History(entity, (*before, Fact(number, time_us, bits, keys))))
            facts.append([number, time_us, f"{kept:x}", list(keys)])
            del facts[:-MAX_FACTS]
            if place + 1 == len(marked) or marked[place + 1][0] != row:
                signals = self._matcher.match_now(histories) if histories else ()
                if signals:
                    found[row] = tuple(sorted(signals))
                histories = []
        self.count += len(seen)
        return found

    count = 0
    """Events so far."""

    def _marked(self, seen: pa.Table) -> Iterator[tuple[int, str, int, int, str, tuple[int | None, ...]]]:
        """(row, entity, flags, those that its log keeps, entity's value, keys) of events that set a flag."""
        if self._program is None:
            return
        codes = self._program.evaluate(seen).codes
        columns = {name: seen[name] for name in seen.column_names}
        retried = where(columns, "payment.retry_of", bool)
        for entity in self._plan.tests:
            bits, kept = np.zeros(len(seen), object), np.zeros(len(seen), object)
            for (own, test), result in zip(self._tests, codes, strict=True):
                if own == entity:
                    passed = (result == Result.HIT) & where(columns, "event.kind", partial(_is_on, test.filter.on))
                    bits[passed] |= 1 << test.bit
                    kept[passed & ~retried if test.at_admission else passed] |= 1 << test.bit
            rows = np.flatnonzero(bits != 0)
            values = texts_at(columns, ENTITIES[entity], rows)
            joins = [texts_at(columns, name, rows) for name in self._plan.patterns.fields(entity)]
            for row, value, *joined in zip(rows.tolist(), values, *joins, strict=True):
                if value is not None:
                    keys = tuple(None if key is None else hash64(str(key)) for key in joined)
                    yield row, entity, bits[row], kept[row], value, keys


def _is_on(kinds: tuple[str, ...], kind: str) -> bool:
    return not kinds or kind in kinds
