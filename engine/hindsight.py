"""The journal looked back on: what a stored decision came from, and whether it would come out so again.

past = Hindsight(activations, journal)
past.explain("e1")                → Explanation, with the program of then
past.again(stored)                → Again: the same, or differs because
past.again(stored, draft)         → Again: what a draft makes of it
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from engine.activation import Activations
from engine.errors import ArbiterError, NotFound
from engine.explaining import read_record
from engine.explanation import Explanation, explain_stored
from engine.journal.sqlite import SqliteJournal
from engine.policy.trace import pack_trace, unpack_trace
from engine.program import Case, Program
from engine.records import decision_of, pack_decision
from engine.snapshot import canonical, recall
from engine.values import Bundle, Decision, Result, RuleHit, Stored

KEPT = 4
"""So many programs of then are kept ready; each takes the memory of a policy."""
Kept = Mapping[str, Any]
"""Aggregate → its value."""


@dataclass(frozen=True, slots=True)
class Again:
    """A stored decision, and what it is when it is made again."""

    stored: Decision
    made: Decision | None
    """None when it can't be made."""
    why: str
    """The first difference, in words; "" = the same, byte for byte."""


class Hindsight:
    """Stored decisions with the programs that made them."""

    def __init__(self, activations: Activations, journal: SqliteJournal) -> None:
        self._activations, self.journal = activations, journal
        self._programs: OrderedDict[str, Program] = OrderedDict()

    def stored(self, event_id: str) -> Stored:
        """The record of a decision; `NotFound` when there is none."""
        stored = self.journal.find_now(event_id)
        if stored is None:
            raise NotFound(f"no decision with id {event_id!r}")
        return stored

    def since(self, known_us: int) -> Iterator[Stored]:
        """The records of decisions that became known since a time."""
        return (stored for stored in self.journal.read(0, ("decision",)) if stored.known_us >= known_us)

    def bundle(self, digest: str | None = None) -> Bundle:
        """A bundle by the beginning of its digest, or what is live; NotFound without one."""
        newest = self._activations.store.newest() if digest is None else None
        if digest is None and newest is None:
            raise NotFound("nothing has gone live yet; name a policy's folder")
        return self._activations.bundle(newest.digest if newest else digest or "")

    def explain(self, event_id: str) -> Explanation:
        """A stored decision, explained; `NotFound` without it or without its program."""
        stored = self.stored(event_id)
        found, kept = explain_stored(stored, self.program_of(stored)), self.journal.explanation_of(event_id)
        return replace(found, score_reasons=read_record(kept.record).reasons) if kept else found

    def program_of(self, stored: Stored) -> Program:
        """The program that made a decision, as it was then."""
        digest = decision_of(stored).program
        if digest not in self._programs:
            self._programs[digest] = self._activations.of(self._activations.bundle(digest))
            if len(self._programs) > KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(digest)
        return self._programs[digest]

    def draft(self, folder: Path) -> Program:
        """The program of a folder."""
        return self._activations.load(folder)

    def again(self, stored: Stored, draft: Program | None = None, features: Kept | None = None) -> Again:
        """Make a decision again from its record, with the program of then or with a draft.

        `features`: aggregates to take instead of those in the record.
        """
        decided = decision_of(stored)
        try:
            program = draft or self.program_of(stored)
            case = recall(stored, program, features)
            made = program.conclude(case, decided.signals, decided.decided_us, dry_run=False)
        except ArbiterError as problem:
            return Again(decided, None, str(problem))
        if canonical(made) == canonical(decided):
            return Again(decided, made, "" if draft else _other_trace(stored, case))
        return Again(decided, made, next(differing(decided, made)))


def differing(one: Decision, other: Decision) -> Iterator[str]:
    """What differs between two decisions, causes before what follows from them."""
    if one.score != other.score:
        yield f"score {one.score} → {other.score}"
    old, new = ({hit.rule: hit for hit in decision.hits} for decision in (one, other))
    for rule in dict.fromkeys((*old, *new)):
        if old.get(rule) != new.get(rule):
            yield f"rule {rule}: {_said(old.get(rule))} → {_said(new.get(rule))}"
    before, after = pack_decision(one), pack_decision(other)
    for name in {**before, **after}:
        if name not in {"hits", "score"} and before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)} → {after.get(name)}"


def _said(hit: RuleHit | None) -> str:
    return f"{hit.result.name}{'' if hit.enforced else ' (observed)'}" if hit else Result.MISS.name


def _other_trace(stored: Stored, case: Case) -> str:
    """The first rule that missed as before, but by another condition; "" when there is none."""
    policy = case.program.policy
    sets = [rules for kind in (case.event.kind, "user") if (rules := policy.by_kind.get(kind))]
    told = orjson.loads(stored.record.public)["trace"]
    for rules, found, before in zip(sets, case.found, told, strict=True):
        old, new = unpack_trace(before), unpack_trace(pack_trace(found))
        for index in old if old != new else ():
            if old[index] != new.get(index):
                return f"rule {rules.rules[index].id} fails another condition first"
    return ""
