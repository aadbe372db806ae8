"""What an event, a decision or an outcome changes in profiles, beside its row in the logs.

Every change is written into the journal record that caused it, so that a reconciliation or a rebuild replays the same
changes without asking why. Profile state is an idempotent, commutative merge of them, keyed by event id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from engine.eventlog import hash64
from engine.policy.rules import OutcomeList
from engine.profiles.store import Change
from engine.program import Program
from engine.schema import DISPOSITIONS
from engine.standing import LISTED, MEASURE, RISK, lasting, measure_name, pack_risk
from engine.values import Action, Decision, EntityEvent, Event, Stored, Tier, UserRisk

_RESULTS: Mapping[tuple[str, str], str] = {
    ("payment_result", "approved"): "approved",
    ("payment_result", "declined"): "declined_by_issuer",
    ("challenge_result", "failed"): "challenge_failed",
    ("challenge_result", "abandoned"): "abandoned",
}
"""(event kind, its status) → what became of the payment it speaks of."""


def disposition_of(decision: Decision) -> int:
    """Code of what our decision makes of a payment; 0 = it stays pending until its result comes."""
    return DISPOSITIONS.index("declined_by_us") if decision.action is Action.DECLINE else 0


def result_of(event: Event) -> int:
    """Code of what an event says became of its payment; 0 = nothing."""
    for name in ("result.status", "challenge.status"):
        word = _RESULTS.get((event.kind, event.fields.get(name, "")))
        if word:
            return DISPOSITIONS.index(word)
    return 0


def speaks_of(result: Event, card: str | None) -> bool:
    """Whether a result is about the attempt with this card: a second card on one payment id is another attempt."""
    own = result.fields.get("card.token")
    return own is None or own == card


def disposition_changes(entries: Iterable[EntityEvent], code: int) -> list[Change]:
    """The disposition of one event, in each of its logs."""
    return [Change(e.entity, e.key, "disposition", e.id, "", code, e.time_us) for e in entries] if code else []


def flag_changes(program: Program, entries: Iterable[EntityEvent], step_flags: Mapping[str, int]) -> list[Change]:
    """Pattern steps that only the features could tell."""
    plan = program.policy.plan
    return [
        Change(e.entity, e.key, "flag", e.id, program.layouts[e.entity].flags[index], None, e.time_us)
        for e in entries
        for index in plan.later_flags(e.entity, program.layouts[e.entity], step_flags.get(e.entity, 0))
    ]


def standing_changes(
    user: EntityEvent | None, risk: UserRisk | None, old: UserRisk | None, decision: Decision | None
) -> list[Change]:
    """A person's new tier, and the measures that outlive the decision."""
    if user is None:
        return []
    changes = []
    if risk is not None and risk != old:
        changes.append(Change("user", user.key, "attribute", user.id, RISK, pack_risk(risk), user.time_us))
    for measure in decision.measures if decision else ():
        if lasting(measure):
            value = [
                measure.kind, measure.parameters, measure.from_us, measure.until_us, measure.source, measure.lift,
            ]  # fmt: skip
            changes.append(Change("user", user.key, "attribute", user.id, measure_name(measure), value, user.time_us))
    return changes


def outcome_changes(
    entries: Iterable[EntityEvent],
    outcome: Mapping[str, Any],
    known_us: int,
    attributes: Mapping[str, Any],
    listings: Iterable[OutcomeList] = (),
) -> list[Change]:
    """An outcome in each of its event's logs, and on the lists that follow it; it ends what it lifts.

    `attributes` are the user's, so that the measures which this outcome lifts are found. What changes an attribute is
    ordered by when it was known, so that outcomes may be told in any order.
    """
    kind, at_us, said = outcome["kind"], outcome["time_us"], hash64(outcome["id"])
    changes = [Change(e.entity, e.key, "outcome", e.id, kind, known_us, at_us) for e in entries]
    if kind == "issuer_decline":
        changes += disposition_changes(entries, DISPOSITIONS.index("declined_by_issuer"))
    for entry in entries:
        for listing in listings:
            if listing.entity == entry.entity and kind in (*listing.on, *listing.undo):
                end_us = known_us + listing.life_us if kind in listing.on else 0
                name = f"{LISTED}{listing.list}:{entry.id}"
                changes.append(Change(entry.entity, entry.key, "attribute", said, name, end_us, known_us))
    for user in (e for e in entries if e.entity == "user"):
        for name, (value, _, _) in attributes.items():
            if name.startswith(MEASURE) and value and value[5] == kind:
                ended = [*value[:3], known_us, *value[4:]]  # it keeps what lifts it: an earlier lift may yet be told
                changes.append(Change("user", user.key, "attribute", said, name, ended, known_us))
        if kind == "confirmed_good" and RISK in attributes:
            low = pack_risk(UserRisk(Tier.LOW, ("confirmed_good",), known_us, 0, ""))
            changes.append(Change("user", user.key, "attribute", said, RISK, low, known_us))
    return changes


def stored_changes(public: bytes) -> Sequence[Change]:
    """Changes that a record itself holds, as `pack_changes` wrote them."""
    return [Change(entity, bytes.fromhex(key), *rest) for entity, key, *rest in orjson.loads(public).get("changes", ())]


def changes_about(stored: Stored, of_payment: Iterable[Stored]) -> list[Change]:
    """All changes of a record's event: its own, and what later records of its payment made of it."""
    own, event_id = stored_changes(stored.record.public), hash64(stored.record.id)
    later = [change for s in of_payment if s.seq > stored.seq for change in stored_changes(s.record.public)]
    return [*own, *(change for change in later if change.id == event_id)]


def pack_changes(changes: Iterable[Change]) -> list[list[Any]]:
    """Changes as JSON, for records that must be replayed without the features that caused them."""
    return [[c.entity, c.key.hex(), c.kind, c.id, c.name, c.value, c.time_us] for c in changes]
