"""The online path with profiles in memory: events are admitted one by one, as the service does, without its stores."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.profiles.state import Entity
from engine.profiles.store import Change
from engine.program import Case, Program
from engine.projection import disposition_changes, flag_changes, outcome_changes, result_of, speaks_of
from engine.values import Admission, EntityEvent, EntityState, Event
from tests.conftest import NOW_US, POLICY


def program_of(folder: Path, features: str) -> Program:
    """A program that is hardly more than its features: the small policy's settings and labels, and no rules."""
    (folder / "tables").mkdir(parents=True)
    (folder / "features.yaml").write_text(features)
    for name in ("labels.yaml", "tables/fx.csv"):
        if (POLICY / name).exists():
            shutil.copy(POLICY / name, folder / name)
    (folder / "policy.yaml").write_text(
        "{name: features, base_currency: EUR, markets: {DE: Europe/Berlin, FR: Europe/Paris}, lateness: 30d, bands: {},"
        " default_actions: {LOW: ALLOW, MEDIUM: CHALLENGE, HIGH: REVIEW}}\n"
    )
    return load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False)


class MemoryProfiles:
    """Entities by (kind, key); ids that came before are refused, as the journal refuses them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.number = 0
        self._entities: dict[tuple[str, bytes], Entity] = {}
        self._entries: dict[str, tuple[EntityEvent, ...]] = {}
        self._attempts: defaultdict[str, list[tuple[str | None, tuple[EntityEvent, ...]]]] = defaultdict(list)

    def admit(self, event: Event, now_us: int) -> Case | None:
        """The event's case with all features, or None for an id that is known."""
        if event.id in self._entries:
            return None
        case = self.program.open(event, now_us)
        self.number += 1
        case.admission = Admission(self.number, {e.entity: self._append(e) for e in case.entries}, True)
        self._entries[event.id] = case.entries
        self._settle(event, case.entries)
        self.program.see(case)
        self.apply(flag_changes(self.program, case.entries, case.step_flags))
        return case

    def learn(self, outcome: Mapping[str, Any]) -> None:
        """An outcome of an event that is known."""
        known_us = outcome.get("known_us") or outcome["time_us"]
        listings = self.program.policy.settings.listings
        self.apply(outcome_changes(self._entries.get(outcome["event_id"], ()), outcome, known_us, {}, listings))

    def apply(self, changes: Iterable[Change]) -> None:
        """Change entities."""
        for change in changes:
            self._entity(change.entity, change.key).apply(change)

    def _append(self, entry: EntityEvent) -> EntityState:
        return self._entity(entry.entity, entry.key).append(entry, self.number)[0]

    def _entity(self, entity: str, key: bytes) -> Entity:
        if (entity, key) not in self._entities:
            self._entities[entity, key] = Entity(self.program.layouts[entity], key)
        return self._entities[entity, key]

    def _settle(self, event: Event, entries: tuple[EntityEvent, ...]) -> None:
        payment, code = event.fields.get("payment.id"), result_of(event)
        if payment and event.kind == "payment":
            self._attempts[payment].append((event.fields.get("card.token"), entries))
        elif payment and code:
            for card, attempt in self._attempts[payment]:
                if speaks_of(event, card):
                    self.apply(disposition_changes(attempt, code))


def replayed(program: Program, arrivals: Iterable[Event | Mapping[str, Any]]) -> Iterator[Case]:
    """The case of every event that is new, in turn; outcomes on the way are learnt."""
    profiles = MemoryProfiles(program)
    for arrival in arrivals:
        if isinstance(arrival, Event):
            case = profiles.admit(arrival, arrival.time_us)
            if case is not None:
                yield case
        else:
            profiles.learn(arrival)
