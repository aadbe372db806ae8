"""What a decision leaves behind for the next ones, and a decision as a decided row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.program import Case, Program
from engine.records import DAY_US
from engine.rescore.decided import OBSERVED, PLAIN, RULE
from engine.standing import lasting, measure_name, pack_risk, unpack_risk
from engine.values import Decision, Measure, Tier, UserRisk

LOW = UserRisk(Tier.LOW, (), 0, 0, "")
"""How somebody stands of whom nothing is known."""
_POINTS = re.compile(r"(#\d+)[+-]\d+$")


class People:
    """What live keeps in profiles and journal between decisions: standing, challenges, the control group's budget."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.standing: dict[str, tuple[UserRisk, dict[str, Measure]]] = {}
        """User → risk and measures; who is not here stands LOW without any."""
        self._spent: dict[int, float] = {}
        self._challenges: dict[str, bool] = {}

    def of(self, case: Case) -> tuple[UserRisk, tuple[Measure, ...]]:
        """How the person of an event stands at its time; what the event says of a challenge is learnt."""
        payment, status = case.row.get("payment.id"), case.row.get("challenge.status")
        if case.event.kind == "challenge_result" and payment and status:
            self._challenges[payment] = status == "passed"
        risk, measures = self.standing.get(case.row.get("user.id", ""), (LOW, {}))
        now_us = case.as_of_us
        return risk, tuple(
            m for _, m in sorted(measures.items()) if m.from_us <= now_us and (not m.until_us or now_us < m.until_us)
        )

    def learn(self, case: Case, risk: UserRisk | None, given: Iterable[Measure]) -> None:
        """What a decision makes of the person."""
        user = case.row.get("user.id")
        if user is None or risk is None:
            return
        _, measures = self.standing.get(user, (LOW, {}))
        measures = {**measures, **{measure_name(m): m for m in given if lasting(m)}}
        if risk != LOW or measures:
            self.standing[user] = risk, measures

    def passed(self, case: Case) -> bool:
        """Whether the payment has passed a challenge; asked only at a stage after the checkout."""
        payment = case.row.get("payment.id")
        late = case.row.get("event.stage", "checkout") != "checkout"
        return bool(payment and late and self._challenges.get(payment))

    def spent(self, case: Case, amount_base: float) -> bool:
        """Whether the control group's budget of the day does not reach for this payment."""
        group = self._program.policy.settings.control
        day = self._spent.get(case.as_of_us // DAY_US, 0.0)
        return group is None or day + amount_base > group.daily_loss_base

    def spend(self, case: Case) -> None:
        """The control group let it through."""
        day = case.as_of_us // DAY_US
        self._spent[day] = self._spent.get(day, 0.0) + case.row["txn.amount_base"]

    def dump(self) -> dict[str, Any]:
        """All of it, for JSON."""
        standing = {user: (pack_risk(risk), measures) for user, (risk, measures) in self.standing.items()}
        spent = {str(day): amount for day, amount in self._spent.items()}
        return {"standing": standing, "spent": spent, "challenges": self._challenges}

    def load(self, body: Mapping[str, Any]) -> None:
        """Take up what was dumped."""
        for user, (risk, measures) in body["standing"].items():
            self.standing[user] = unpack_risk(risk), {name: Measure(**m) for name, m in measures.items()}
        self._spent = {int(day): amount for day, amount in body["spent"].items()}
        self._challenges = body["challenges"]


def as_row(decision: Decision, case: Case, known_us: int | None = None) -> dict[str, Any]:
    """A decision as a decided row; rules that missed are left out."""
    row: Mapping[str, Any] = case.row
    amount, risk = row.get("txn.amount_base"), decision.user_risk
    found: dict[str, Any] = {
        "event_id": decision.id, "kind": case.event.kind, "time_us": case.event.time_us, "known_us": known_us,
        "user": row.get("user.id"), "payment_id": row.get("payment.id"),
        "amount_base_micro": None if amount is None else round(amount * 1e6), "score": decision.score,
        "tier": int(decision.tier), "action": int(decision.action), "user_tier": int(risk.tier) if risk else None,
        "reasons": [reason.code for reason in decision.reasons],
        "sources": [reason.source for reason in decision.reasons],
        "measures": [f"{measure.kind}@{measure.source}" for measure in decision.measures],
        "lowered": [f"{lowered.kind}:{lowered.id}" for lowered in decision.lowered],
        "propensity": decision.propensity, "degraded": list(decision.degraded), "signals": list(decision.signals),
        "by_row": True,
    }  # fmt: skip
    assert found.keys() == PLAIN.keys()
    for hit in decision.hits:
        found[RULE + _POINTS.sub(r"\1", hit.rule)] = int(hit.result) + (0 if hit.enforced else OBSERVED)
    return found
