"""What stands about a person between events: the risk tier and the measures in force.

Both live as attributes of the user's profile. A tier rises at once and falls only after a hold, a confirmed good or a
release; a measure ends by its time or by what lifts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.policy.combine import Source
from engine.policy.rules import MeasureSpec, Outcome, Settings
from engine.values import Action, EntityState, Measure, Row, Tier, UserRisk

RISK = "risk"
MEASURE = "measure:"
LISTED = "list:"
"""`list:NAME:EVENT` is until when an outcome of that event puts an entity on a list, in µs; 0 = it was taken back."""
HOUR_US = 3_600_000_000
_LIMITED_KINDS: Mapping[str, frozenset[str]] = {
    "payments": frozenset({"payment"}),
    "refunds": frozenset({"refund_requested"}),
    "coupons": frozenset({"coupon_redeemed"}),
    "reviews": frozenset({"review"}),
}
"""What LIMIT_ACCOUNT may name → the event kinds that it stops; anything else stops payments."""


def risk_of(state: EntityState | None) -> UserRisk:
    """The stored standing of a user, LOW where nothing is known."""
    stored = attribute(state, RISK)
    return unpack_risk(stored) if stored else UserRisk(Tier.LOW, (), 0, 0, "")


def attribute(state: EntityState | None, name: str) -> Any:
    """The newest value of a profile attribute, or None."""
    entry = state.head.get("attr", {}).get(name) if state else None
    return entry[0] if entry else None


def pack_risk(risk: UserRisk) -> list[Any]:
    """The attribute value of a standing."""
    return [int(risk.tier), list(risk.reasons), risk.since_us, risk.until_us, risk.digest]


def unpack_risk(value: Sequence[Any]) -> UserRisk:
    """The inverse of `pack_risk`."""
    return UserRisk(Tier(value[0]), tuple(value[1]), value[2], value[3], value[4])


def next_risk(old: UserRisk, sources: Sequence[Source], now_us: int, hold_us: int, digest: str) -> UserRisk:
    """The standing after the `on: user` rules: up at once, down only when the hold has passed."""
    tier = max((s.outcome.tier for s in sources if s.outcome.tier), default=Tier.LOW)
    reasons = tuple(sorted({s.reason.code for s in sources if s.outcome.tier}))
    if tier > old.tier:
        return UserRisk(tier, reasons, now_us, now_us + hold_us, digest)
    if tier is old.tier:
        renewed = tier > Tier.LOW and now_us + hold_us - old.until_us > HOUR_US
        return UserRisk(tier, reasons, old.since_us, now_us + hold_us, digest) if renewed else old
    return UserRisk(tier, reasons, now_us, now_us + hold_us, digest) if now_us >= old.until_us else old


def measures_of(state: EntityState | None, now_us: int) -> tuple[Measure, ...]:
    """Measures in force for a user."""
    if state is None:
        return ()
    stored = (e[0] for name, e in sorted(state.head.get("attr", {}).items()) if name.startswith(MEASURE) and e[0])
    measures = (Measure(*value) for value in stored)
    return tuple(m for m in measures if m.from_us <= now_us and (not m.until_us or now_us < m.until_us))


def lists_of(states: Mapping[str, EntityState], entities: Iterable[str], at_us: int) -> list[str]:
    """Lists that outcomes put one of these entities on, as known at a time."""
    found = set()
    for state in (states[entity] for entity in entities if entity in states):
        for name, (until_us, known_us, _) in state.head.get("attr", {}).items():
            if name.startswith(LISTED) and known_us <= at_us < until_us:
                found.add(name.removeprefix(LISTED).rpartition(":")[0])
    return sorted(found)


def measure_name(measure: Measure) -> str:
    """The profile attribute that holds a measure."""
    return f"{MEASURE}{measure.kind}:{measure.source}"


def begin(given: Iterable[tuple[MeasureSpec, str]], now_us: int) -> tuple[Measure, ...]:
    """Measures with their life, from what the verdict gives."""
    return tuple(
        Measure(
            spec.kind, dict(spec.parameters), now_us, now_us + spec.life_us if spec.life_us else 0, source, spec.lift
        )
        for spec, source in given
    )


def lasting(measure: Measure) -> bool:
    """Whether a measure outlives its decision: it has an end, or is a limit that must be lifted."""
    return bool(measure.until_us) or measure.kind in {"LIMIT_ACCOUNT", "LIMIT_AMOUNT"}


def enforce_limits(kind: str, row: Row, measures: Iterable[Measure], settings: Settings) -> list[Source]:
    """What the measures in force say of this event: a limit that is exceeded gives the action it names."""
    sources = []
    for measure in measures:
        exceeded = _exceeds(row, measure) if measure.kind == "LIMIT_AMOUNT" else _stops(kind, measure)
        if exceeded:
            limit = settings.limit_reason
            action = Action[measure.parameters.get("action", "DECLINE")]
            reason = replace(limit, analyst=f"{limit.analyst} ({measure.source})", source=f"measure:{measure.kind}")
            sources.append(Source(Outcome(None, action), reason))
    return sources


def _exceeds(row: Row, measure: Measure) -> bool:
    """Above the limit for one order, or with what was spent in the last day; an unknown amount is above."""
    if row.get("event.kind") != "payment":
        return False
    amount = row.get("txn.amount_base", float("inf"))
    spent = row.get("user.spend_24h", 0.0) if measure.parameters.get("per") == "day" else 0.0
    return bool(amount + spent > measure.parameters.get("max", 0.0))


def _stops(kind: str, measure: Measure) -> bool:
    if measure.kind != "LIMIT_ACCOUNT":
        return False
    return kind in _LIMITED_KINDS.get(measure.parameters.get("what", "payments"), frozenset({"payment"}))


def notices(measures: Iterable[Measure], in_force: Iterable[Measure], row: Row, event_id: str) -> list[dict[str, Any]]:
    """What the outbox has to tell the shop: each measure once while it is in force.

    A notice to a user whose contact changed lately goes to the old address: the taker of an account must not get it.
    """
    known = {measure_name(m) for m in in_force}
    address = "previous" if row.get("user.contact_changes_30d", 0) else "current"
    return [
        {
            "id": f"{event_id}:{m.kind}:{m.source}", "event_id": event_id, "measure": m.kind,
            "parameters": m.parameters, "source": m.source, "user_id": row.get("user.id"),
            "address": address, "until_us": m.until_us,
        }
        for m in measures
        if m.kind in {"NOTIFY", "EDUCATE", "LIMIT_ACCOUNT", "LIMIT_AMOUNT"} and measure_name(m) not in known
    ]  # fmt: skip
