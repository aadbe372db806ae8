"""Records of the journal: how decisions, events and outcomes are written, and read back as the values they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from engine.errors import NotFound
from engine.intake import event_from_body, event_from_fields
from engine.schema import PERSONAL
from engine.values import (
    Action,
    Decision,
    Event,
    Lowered,
    Measure,
    Reason,
    Receipt,
    Record,
    Result,
    RuleHit,
    Stored,
    Tier,
    UserRisk,
)

DAY_US = 86_400_000_000
CANONICAL = orjson.OPT_SORT_KEYS


def event_record(
    kind: str,
    event: Event,
    number: int,
    extra: Mapping[str, Any],
    notices: Sequence[Mapping[str, Any]] = (),
    known_us: int = 0,
    opens: Mapping[str, Any] | None = None,
) -> Record:
    """A record that carries an event: personal fields apart, `extra` (decision, snapshot) beside the public ones."""
    public: dict[str, Any] = {}
    personal: dict[str, Any] = {}
    for name, value in event.fields.items():
        (personal if name in PERSONAL else public)[name] = value
    body = orjson.dumps({"kind": event.kind, "fields": public, **extra})
    apart = orjson.dumps(personal) if personal else b""
    payment = public.get("payment.id", "")
    return Record(kind, event.id, event.digest, event.time_us, payment, body, apart, number, notices, known_us, opens)


def attempt_body(event: Event, changes: Sequence[Any], *, late: bool) -> bytes:
    """What an admission leaves with the profiles, so that it can be journaled if no decision follows."""
    if not late and not changes:
        return event.body
    return event.body + b"\n" + orjson.dumps({"late": late, "changes": changes})


def attempt_record(body: bytes, number: int) -> Record:
    """The record of an admission that was given up; it holds the verdict and the changes that were applied with it."""
    event, _, extra = body.partition(b"\n")
    return event_record(
        "undecided", event_from_body(event), number, orjson.loads(extra) if extra else {"late": False, "changes": []}
    )


def settle_record(event: Event, number: int) -> Record:
    """The number under which the changes of an event's record were applied."""
    body = orjson.dumps({"number": number})
    return Record("settle", event.id, b"", event.time_us, event.fields.get("payment.id", ""), body, b"", number)


def control_day(at_us: int) -> str:
    """What the journal keeps the control group's payments of one day in UTC under, in place of a payment id."""
    return f"control_group:{at_us // DAY_US}"


def control_record(event: Event, at_us: int, amount_base: float) -> Record:
    """A payment that the control group lets through; written before its decision, so that none goes uncounted."""
    body = orjson.dumps({"amount_base": amount_base})
    return Record("control", event.id, b"", event.time_us, control_day(at_us), body, b"", 0)


def control_spent(records: Iterable[Stored]) -> float:
    """The sum of a day's payments; one that was sent again counts once."""
    bodies = {stored.record.id: orjson.loads(stored.record.public) for stored in records}
    return float(sum(body["amount_base"] for body in bodies.values()))


def event_of(record: Record) -> Event:
    """The event that a record carries."""
    body = orjson.loads(record.public)
    fields = body["fields"] | (orjson.loads(record.personal) if record.personal else {})
    return event_from_fields(record.id, body["kind"], record.event_us, fields)


def outcome_record(
    outcome: Mapping[str, Any], digest: bytes, known_us: int, changes: Sequence[Any], *, orphan: bool
) -> Record:
    """A record of what turned out to be true of an event; an orphan speaks of an id that is not known (yet)."""
    body = orjson.dumps({"outcome": outcome, "orphan": orphan, "changes": changes}, option=CANONICAL)
    payment = told_of(outcome["event_id"])
    return Record("outcome", outcome["id"], digest, outcome["time_us"], payment, body, b"", 0, (), known_us)


def told_of(event_id: str) -> str:
    """What the journal keeps the outcomes of one event under, in place of a payment id."""
    return f"outcome:{event_id}"


def review_of(case_id: str) -> str:
    """What the journal keeps the steps of one review case under, in place of a payment id."""
    return f"review:{case_id}"


def joined_record(outcome: Mapping[str, Any], changes: Sequence[Any], contradicted: Sequence[str]) -> Record:
    """That an orphan found its event, once for all: no id of a caller holds a blank.

    What contradicts the event changes nothing.
    """
    said = {"outcome": outcome["id"], "changes": changes} | ({"contradicted": contradicted} if contradicted else {})
    body, record_id = orjson.dumps(said), f"joined {outcome['id']}"
    payment = told_of(outcome["event_id"])
    return Record("joined", record_id, outcome_digest(outcome), outcome["time_us"], payment, body, b"", 0)


def receipt_of(stored: Stored, *, new: bool) -> Receipt:
    """The receipt of a record: the same whenever it is asked for."""
    body = orjson.loads(stored.record.public)
    flags = [*body.get("flags", ()), *(("ORPHAN",) if body.get("orphan") else ())]
    return Receipt(new, stored.known_us, tuple(flags))


def pack_decision(decision: Decision) -> dict[str, Any]:
    """A decision as its record holds it: by the names of its fields; a reason or a rule's result is a row of values.

    There may be fifty of these, and as objects they took four times as long to write and two thirds of the record.
    """
    packed = {
        "id": decision.id, "tier": decision.tier, "action": decision.action, "measures": decision.measures,
        "score": decision.score,
        "reasons": [(r.code, r.analyst, r.customer, r.source, r.category) for r in decision.reasons],
        "hits": [(h.rule, h.result, h.failing, h.enforced) for h in decision.hits], "signals": decision.signals,
        "degraded": decision.degraded, "flags": decision.flags, "user_risk": decision.user_risk,
        "program": decision.program, "decided_us": decision.decided_us, "dry_run": decision.dry_run,
    }  # fmt: skip
    if decision.lowered or decision.propensity:
        packed |= {"lowered": decision.lowered, "propensity": decision.propensity}
    return packed


def decision_of(stored: Stored) -> Decision:
    """The decision that a record holds; `NotFound` for a record of another kind."""
    if stored.record.kind != "decision":
        raise NotFound(f"{stored.record.id!r} was recorded, not decided")
    return _decision(orjson.loads(stored.record.public)["decision"])


def _decision(body: Mapping[str, Any]) -> Decision:
    risk = body["user_risk"]
    return Decision(
        id=body["id"], tier=Tier(body["tier"]), action=Action(body["action"]),
        measures=tuple(Measure(**m) for m in body["measures"]), score=body["score"],
        reasons=tuple(Reason(*reason) for reason in body["reasons"]),
        hits=tuple(RuleHit(rule, Result(result), *rest) for rule, result, *rest in body["hits"]),
        signals=tuple(body["signals"]), degraded=tuple(body["degraded"]), flags=tuple(body["flags"]),
        user_risk=UserRisk(**{**risk, "tier": Tier(risk["tier"]), "reasons": tuple(risk["reasons"])}) if risk else None,
        program=body["program"], decided_us=body["decided_us"], dry_run=body["dry_run"],
        lowered=tuple(_lowered(one) for one in body.get("lowered", ())), propensity=body.get("propensity", 0.0),
    )  # fmt: skip


def _lowered(body: Mapping[str, Any]) -> Lowered:
    typed = {"cancelled": tuple(body["cancelled"]), "tier": Tier(body["tier"]), "action": Action(body["action"])}
    return Lowered(**{**body, **typed})


def outcome_digest(outcome: Mapping[str, Any]) -> bytes:
    """Body digest of an outcome as it was told: BLAKE2b-128 of its canonical JSON."""
    told = {name: value for name, value in outcome.items() if name != "told"} | {
        "kind": outcome.get("told", outcome["kind"])
    }
    return hashlib.blake2b(orjson.dumps(told, option=CANONICAL), digest_size=16).digest()
