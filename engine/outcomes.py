"""How what turned out to be true finds its event, whichever of the two comes first.

    heard(outcome, target, program, …)      → the record of an outcome, and what it changes in profiles
    joins(event, program, told)             → the records of orphans that find their event now, and what they change

An outcome of an id that is not known yet is an orphan: a record that changes nothing. When its event comes, a second
record joins them, once for all. Live calls, imports and the keeper after a crash all come through here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from engine.errors import InvalidInput, Violation
from engine.journal.journal import Journal
from engine.profiles.store import Change, ProfileStore
from engine.program import Program
from engine.projection import outcome_changes, pack_changes
from engine.records import event_of, joined_record, outcome_digest, outcome_record
from engine.values import Event, Record, Stored

SPEAKS_OF = frozenset({"decision", "event", "undecided"})
"""Kinds of records that hold an event, of which an outcome may be told."""
DAY_US = 86_400_000_000
Heard = tuple[Record, list[Change]]


def contradictions(outcome: Mapping[str, Any], event: Event) -> list[Violation]:
    """What an outcome says that can't be true of its event; feeds of dates alone may name the day of the event."""
    found = []
    if outcome["time_us"] + DAY_US < event.time_us:
        found.append(Violation("time", "lies before the event that it is about; is it the right event, and the year?"))
    paid, same = event.fields.get("txn.amount_minor"), event.fields.get("txn.currency") == outcome.get("currency")
    if paid is not None and same and outcome.get("amount_minor", 0) > paid:
        reason = f"{outcome['amount_minor']} is above the payment's {paid} {outcome['currency']} (minor units)"
        found.append(Violation("amount_minor", f"{reason}; tell what is lost of this payment alone"))
    return found


def heard(
    outcome: Mapping[str, Any], target: Stored | None, program: Program, known_us: int, attributes: Mapping[str, Any]
) -> Heard:
    """The record of an outcome and what it changes; `InvalidInput` where it contradicts its event.

    `target`: what claimed the id that it speaks of. `attributes`: those of the event's user (`user_key`).
    """
    if target is not None and target.record.kind not in SPEAKS_OF:
        raise InvalidInput([Violation("event_id", f"is the id of an {target.record.kind}, not of an event")])
    changes: list[Change] = []
    if target is not None:
        event = event_of(target.record)
        if wrong := contradictions(outcome, event):
            raise InvalidInput(wrong)
        entries = program.open(event, event.time_us).entries
        changes = outcome_changes(entries, outcome, known_us, attributes, program.policy.settings.listings)
    digest = outcome_digest(outcome)
    return outcome_record(outcome, digest, known_us, pack_changes(changes), orphan=target is None), changes


def user_key(target: Stored | None, program: Program) -> dict[str, bytes]:
    """The profile of the user that an outcome's event names, if it names one: {"user": key}."""
    if target is None or target.record.kind not in SPEAKS_OF or "user" not in program.layouts:
        return {}
    user = event_of(target.record).fields.get("user.id")
    return {"user": program.identity.key("user", user)} if user else {}


def joins(event: Event, program: Program, told: Iterable[Stored]) -> list[Heard]:
    """What orphans among the records told of an event make of it; those that were joined before make nothing."""
    bodies = [(stored, orjson.loads(stored.record.public)) for stored in told]
    done = {body["outcome"] for stored, body in bodies if stored.record.kind == "joined"}
    orphans = [(s, b["outcome"]) for s, b in bodies if b.get("orphan") and s.record.id not in done]
    found = []
    for stored, outcome in orphans:
        wrong = contradictions(outcome, event)
        entries = () if wrong else program.open(event, event.time_us).entries
        changes = outcome_changes(entries, outcome, stored.known_us, {}, program.policy.settings.listings)
        reasons = [f"{violation.field}: {violation.reason}" for violation in wrong]
        found.append((joined_record(outcome, pack_changes(changes), reasons), changes))
    return found


async def join(
    event: Event, program: Program, told: Sequence[Stored], journal: Journal, profiles: ProfileStore
) -> None:
    """Join orphans with the event that has come, in the journal and then in profiles; repeatable.

    If profiles are down, the keeper applies later what the journal holds.
    """
    for record, changes in joins(event, program, told):
        stored = await journal.append(record)
        if stored.record is record and changes:
            await profiles.settle(changes)
