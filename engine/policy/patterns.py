"""Patterns: rules over several events of one entity, in order and in time, that raise a signal.

`PatternSet` is what a policy declares, checked and frozen. It knows which events matter and when nothing can match; all
else is asked of `engine/policy/matcher.py`, the only place that runs durable_rules, by the `PatternMatcher` of
`engine/policy/signals.py`. `docs/patterns.md` gives the exact meaning.

The conditions of the steps are CEL and are evaluated by others: an event reaches this module as one bit per condition.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import Final

from engine.errors import PolicyError
from engine.policy import matcher

MAX_FACTS: Final = 50
"""Events of one entity that a pattern can reach back over: the newest that set a flag, the current one included."""
MAX_WITHIN_US: Final = 3660 * 86_400_000_000
"""About ten years."""
MOST_STEPS: Final = 12
MOST_SAME: Final = 4
MOST_FLAGS: Final = 1024


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a pattern."""

    name: str
    flag: int
    """Bit number of its condition in `Fact.flags`, 0..1023; steps with one condition share it."""
    absent: bool = False
    """No such event may lie between the steps on either side."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Steps of one entity's events, strictly one after the other; the last is the event that is being decided."""

    id: str
    entity: str
    steps: tuple[Step, ...]
    """Oldest first; 2..8 present ones, first and last among them; absent ones in at most two places, 12 in all."""
    within_us: int
    """Longest time from the first step to the last, inclusive."""
    same: tuple[str, ...]
    """Names of the fields that all steps, absent ones too, have in common; an event without one takes no part."""
    signal: str
    """Raised when the pattern matches; several patterns may raise one signal."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What patterns know of one event."""

    number: int
    """Order of admission in this entity's log: smaller was seen earlier. Breaks ties of `time_us`."""
    time_us: int
    flags: int
    """Bit `Step.flag` is set where that step's condition is true of the event."""
    keys: tuple[int | None, ...] = ()
    """One int (an interned value or a 64-bit hash) for each of `PatternSet.fields(entity)`; None where missing."""


@dataclass(frozen=True, slots=True)
class History:
    """One entity's events as they were at admission: the current event is the last, the others in any order."""

    entity: str
    facts: tuple[Fact, ...]


class _Entity:
    """The patterns of one entity, as masks."""

    def __init__(self, patterns: Sequence[tuple[int, Pattern]], flag_bytes: int) -> None:
        self.patterns = patterns
        self.fields = tuple(sorted({name for _, each in patterns for name in each.same}))
        self.reach_us = max(each.within_us for _, each in patterns)
        self.mask = _bits(step for _, each in patterns for step in each.steps)
        self.last_mask = _bits(each.steps[-1] for _, each in patterns)
        self.row = matcher.row_format(flag_bytes, len(self.fields))
        self.same = [tuple(self.fields.index(name) for name in each.same) for _, each in patterns]
        self._needs = [
            (number, 1 << each.steps[-1].flag, _bits(step for step in each.steps[:-1] if not step.absent), same)
            for (number, each), same in zip(patterns, self.same, strict=True)
        ]

    def candidates(self, earlier: Sequence[Fact], current: Fact) -> list[int]:
        """Patterns that the current event could complete: it sets the last flag, and each step was set before."""
        seen = reduce(or_, [fact.flags for fact in earlier], 0)
        return [
            number
            for number, last, before, same in self._needs
            if current.flags & last and not before & ~seen and all(current.keys[key] is not None for key in same)
        ]

    def earlier(self, facts: Sequence[Fact]) -> list[Fact]:
        """Events before the current one that matter: the newest that set a flag, no older than the longest pattern."""
        current = facts[-1]
        oldest_us, now = current.time_us - self.reach_us, (current.time_us, current.number)
        kept = [fact for fact in facts[:-1] if fact.flags & self.mask and (fact.time_us, fact.number) < now]
        kept.sort(key=lambda fact: (fact.time_us, fact.number))
        return [fact for fact in kept[-(MAX_FACTS - 1) :] if fact.time_us >= oldest_us]


class PatternSet:
    """All patterns of one policy, in declared order; raises PolicyError that names every impossible one."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self.patterns = tuple(patterns)
        problems = list(_problems(self.patterns))
        if problems:
            raise PolicyError("\n".join(problems))
        spoken = json.dumps([asdict(each) for each in self.patterns], sort_keys=True)
        self.digest = hashlib.blake2b(spoken.encode(), digest_size=16).hexdigest()
        """Equal for equal patterns, and only for them."""
        top = max((step.flag for each in self.patterns for step in each.steps), default=0)
        self._flag_bytes = top // 8 + 1
        names = dict.fromkeys(each.entity for each in self.patterns)
        self._entities = {name: _Entity(self._of(name), self._flag_bytes) for name in names}
        self._places = {name: place for place, name in enumerate(names)}

    def _of(self, entity: str) -> list[tuple[int, Pattern]]:
        return [(number, each) for number, each in enumerate(self.patterns) if each.entity == entity]

    @property
    def entities(self) -> tuple[str, ...]:
        """Entities that have patterns."""
        return tuple(self._entities)

    def fields(self, entity: str) -> tuple[str, ...]:
        """Join fields, in the order of `Fact.keys`."""
        return self._entities[entity].fields

    def mask(self, entity: str) -> int:
        """Flags of this entity's patterns: an event of its log with none of them need not be handed in."""
        return self._entities[entity].mask

    def last_mask(self, entity: str) -> int:
        """Flags of last steps: a current event with none of them completes nothing, and its log need not be read."""
        return self._entities[entity].last_mask

    def reach_us(self, entity: str) -> int:
        """The longest `within_us`: older events need not be handed in."""
        return self._entities[entity].reach_us

    def spec(self) -> bytes:
        """The patterns as the child process reads them."""
        entities = [
            {
                "keys": len(entity.fields),
                "patterns": [
                    {
                        "number": number,
                        "within_us": each.within_us,
                        "same": same,
                        "steps": [(step.flag, step.absent) for step in each.steps],
                    }
                    for (number, each), same in zip(entity.patterns, entity.same, strict=True)
                ],
            }
            for entity in self._entities.values()
        ]
        return json.dumps({"flag_bytes": self._flag_bytes, "entities": entities}).encode()

    def question(self, histories: Iterable[History]) -> bytes | None:
        """What to ask the child, without the deadline before it; None when no pattern can match."""
        parts = [part for part in map(self._part, histories) if part]
        return bytes([len(parts)]) + b"".join(parts) if parts else None

    def _part(self, history: History) -> bytes | None:
        """One history on the wire; None when none of its patterns can match."""
        entity = self._entities.get(history.entity)
        if entity is None or not history.facts or not history.facts[-1].flags & entity.last_mask:
            return None
        current, earlier = history.facts[-1], entity.earlier(history.facts)
        if len(current.keys) != len(entity.fields):
            raise ValueError(f"history of {history.entity}: {len(current.keys)} keys, but join fields {entity.fields}")
        candidates = entity.candidates(earlier, current)
        if not candidates:
            return None
        start_us, room = earlier[0].time_us, (1 << 8 * self._flag_bytes) - 1
        interned: dict[int | None, int] = {None: 0}
        rows = [
            entity.row.pack(
                fact.time_us - start_us,
                (fact.flags & room).to_bytes(self._flag_bytes, "little"),
                *[interned.setdefault(key, len(interned)) for key in fact.keys],
            )
            for fact in (*earlier, current)
        ]
        head = matcher.HISTORY.pack(self._places[history.entity], len(rows), len(candidates))
        return head + struct.pack(f"<{len(candidates)}H", *candidates) + b"".join(rows)

    def signals(self, fired: bytes) -> frozenset[str]:
        """The signals of the patterns that the child names."""
        return frozenset(self.patterns[number].signal for (number,) in struct.iter_unpack("<H", fired))


def _bits(steps: Iterable[Step]) -> int:
    return reduce(or_, [1 << step.flag for step in steps], 0)


def problems_of(pattern: Pattern) -> Iterator[tuple[str, str]]:
    """Every reason why a pattern can't be used, with the key that states it."""
    steps, present = pattern.steps, sum(not step.absent for step in pattern.steps)
    if not 2 <= present <= matcher.MAX_STEPS or len(steps) > MOST_STEPS:
        yield "steps", f"a pattern has 2 to 8 steps, {MOST_STEPS} with those of `not`; here {present}, {len(steps)}"
    elif steps[0].absent or steps[-1].absent:
        yield "steps", "`not` stands first or last; it says what may not lie between two steps"
    if sum(a.absent and not b.absent for a, b in pairwise(steps)) > 2:
        yield "steps", "`not` stands in more than two places; split the pattern"
    if not 1 <= pattern.within_us <= MAX_WITHIN_US:
        yield "within", f"`within` is from 1us to {MAX_WITHIN_US // 86_400_000_000}d"
    if len(set(pattern.same)) != len(pattern.same) or len(pattern.same) > MOST_SAME:
        yield "same", f"`same` names one thing twice, or more than {MOST_SAME} beside the entity"
    if any(not 0 <= step.flag < MOST_FLAGS for step in steps):
        yield "steps", f"all patterns together have more than {MOST_FLAGS} different conditions"


def _problems(patterns: Sequence[Pattern]) -> Iterator[str]:
    """Every reason why these patterns can't be used, each with the pattern's id."""
    for name, count in Counter(each.id for each in patterns).items():
        if count > 1:
            yield f"pattern {name!r}: this id is used {count} times; give each pattern its own"
    for each in patterns:
        for _, problem in problems_of(each):
            yield f"pattern {each.id!r}: {problem}"
