"""Reads `patterns/*.yaml`: the steps' conditions become flags of the entity's log, the order and time a `PatternSet`.

A step that reads event fields alone is flagged at admission; one that reads features is flagged afterwards, by a
change that costs nothing while it is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.eventlog import NUMBER, TIME, Filter, LogLayout, LogView, hash64
from engine.language import (
    Diagnostics,
    Fields,
    Position,
    Reader,
    Schema,
    check,
    compile_value,
    load_yaml,
)
from engine.policy.patterns import Fact, History, Pattern, PatternSet, Step, problems_of
from engine.schema import ENTITIES, FIELDS, KINDS
from engine.values import EntityEvent, EntityState, Row


@dataclass(frozen=True, slots=True)
class StepTest:
    """One condition of a step: the bit it has for the matcher, and the flag column that remembers it."""

    bit: int
    column: str
    filter: Filter
    at_admission: bool


@dataclass(frozen=True)
class PatternPlan:
    """A policy's patterns with what they ask of the logs."""

    patterns: PatternSet
    tests: Mapping[str, tuple[StepTest, ...]]
    """Entity → its steps' conditions."""
    signals: tuple[str, ...] = ()
    """Names that the patterns may raise, also those that can't be used; rules read them as `signal.NAME`."""

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Flag columns that each entity's log needs."""
        return {entity: tuple(test.column for test in tests) for entity, tests in self.tests.items()}

    @property
    def joins(self) -> dict[str, tuple[str, ...]]:
        """Fields whose hash each entity's log needs."""
        return {entity: self.patterns.fields(entity) for entity in self.patterns.entities}

    @property
    def admission_filters(self) -> dict[str, Filter]:
        """Column → filter of the steps that are flagged at admission."""
        return {t.column: t.filter for tests in self.tests.values() for t in tests if t.at_admission}

    def flags(self, entity: str, kind: str, row: Row) -> int:
        """The steps that the current event satisfies, as bits."""
        return sum(1 << test.bit for test in self.tests.get(entity, ()) if test.filter.passes(kind, row))

    def later_flags(self, entity: str, layout: LogLayout, flags: int) -> list[int]:
        """Flag columns to set after features are known, of the bits that the event satisfies."""
        return [
            layout.flags.index(test.column)
            for test in self.tests.get(entity, ())
            if not test.at_admission and flags >> test.bit & 1
        ]

    def history(
        self, entry: EntityEvent, state: EntityState, layout: LogLayout, row: Row, flags: int, number: int
    ) -> History | None:
        """What the matcher must see, or None when the event can't be the last step of anything."""
        entity = entry.entity
        if entity not in self.tests or not flags & self.patterns.last_mask(entity):
            return None
        view = LogView(layout, state.log)
        marked = [0] * len(view.times)
        for test in self.tests[entity]:
            for at, flag in enumerate(view.flag(layout.flags.index(test.column))):
                marked[at] |= flag << test.bit
        fields = self.patterns.fields(entity)
        joins = [view.value(layout.values.index(f"hash:{field}")) for field in fields]
        numbers, times = view.column(NUMBER), view.column(TIME)
        facts = [
            Fact(numbers[at], times[at], bits, tuple(column[at] or None for column in joins))
            for at, bits in enumerate(marked)
            if bits
        ]
        keys = tuple(hash64(str(row[field])) if field in row else None for field in fields)
        return History(entity, (*facts, Fact(number, entry.time_us, flags, keys)))


def load_patterns(
    folder: Path, types: Mapping[str, str], event_names: frozenset[str], diagnostics: Diagnostics
) -> PatternPlan:
    """Every pattern of `patterns/*.yaml`; `types` are the names that a condition may read."""
    reader = Reader(diagnostics)
    loader = _Loader(Schema.of(types), event_names, diagnostics)
    patterns = []
    for path in sorted((folder / "patterns").glob("*.yaml")):
        name = f"patterns/{path.name}"
        top = reader.fields(load_yaml(path, diagnostics, name), {"patterns"}, {"note"})
        patterns += [loader.pattern(item) for item in top.fields_list("patterns", _KEYS)]
    signals = tuple(sorted({pattern.signal for pattern in patterns}))
    return PatternPlan(PatternSet(() if diagnostics.failed else patterns), loader.tests, signals)


_KEYS = frozenset({"id", "same", "within", "steps", "signal", "meaning"})
_CONDITION = frozenset({"on", "when"})


class _Loader:
    def __init__(self, schema: Schema, event_names: frozenset[str], diagnostics: Diagnostics) -> None:
        self._schema, self._event_names, self._diagnostics = schema, event_names, diagnostics
        self._places: dict[str, Position] = {}
        self.tests: dict[str, tuple[StepTest, ...]] = {}

    def pattern(self, item: Fields) -> Pattern:
        """One pattern; its conditions join the entity's tests."""
        name, (entity, *joined) = item.text("id"), item.choices("same", (*ENTITIES, *FIELDS)) or ("",)
        if name in self._places:
            item.mistake("E508", f"the id `{name}` is used twice", "id", f"first at {self._places[name]}")
        self._places.setdefault(name, item.position("id"))
        if entity not in ENTITIES and "same" in item:
            item.mistake(
                "E508", "`same` begins with whose events are looked at", "same", f"one of {', '.join(ENTITIES)}"
            )
        steps = [self._step(entity, step) for step in item.fields_list("steps", (), {"name", "not", *_CONDITION})]
        same = tuple(ENTITIES.get(field, field) for field in joined)
        pattern = Pattern(name, entity, tuple(steps), item.duration_us("within", -1), same, item.text("signal"))
        for key, problem in problems_of(pattern):
            if key != "within" or pattern.within_us >= 0:  # else it is no length of time, which is told
                item.mistake("E508", problem, key)
        return pattern

    def _step(self, entity: str, step: Fields) -> Step:
        absent = "not" in step
        item = step.fields("not", {"name"}, _CONDITION) if absent else step
        if absent and len(step.values) > 1:
            step.mistake("E508", "what is not to happen stands wholly below `not`", "not")
        elif "name" not in item and not absent:
            step.mistake("E112", "missing `name`")
        if not item.values.keys() & _CONDITION and item.node is not None:
            item.mistake("E508", "a step without `on` and `when` would be every event")
        when = item.scalar("when")
        checked = check(when, self._schema, self._diagnostics) if when else None
        on = item.choice("on", KINDS, "")
        wanted = Filter(
            (on,) if on else (), when.value if when else "", "", compile_value(checked) if checked else None
        )
        bit = self._bit(entity, wanted, checked is None or checked.names <= self._event_names)
        return Step(item.text("name"), bit, absent)

    def _bit(self, entity: str, wanted: Filter, at_admission: bool) -> int:
        """Steps of one entity with one condition share a bit and a column."""
        mine = self.tests.get(entity, ())
        for test in mine:
            if test.filter.name == wanted.name:
                return test.bit
        bit = sum(map(len, self.tests.values()))
        self.tests[entity] = (*mine, StepTest(bit, f"step:{wanted.name}", wanted, at_admission))
        return bit
