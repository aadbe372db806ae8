"""What makes a decision a case of the review desk, and in which order cases should be looked at."""

from __future__ import annotations

import math
from typing import Any

from engine.program import Case
from engine.values import HOUR_US, Action, Decision

UNSCORED = 0.5
"""Probability of fraud of an event without a score: a rule found it suspicious, and nobody knows more."""
UNPRICED = 1.0
"""Amount in base currency of an event without one."""
LEAST = 0.01


def opened_by(case: Case, decision: Decision) -> dict[str, Any] | None:
    """The case that a decision opens, as its record keeps it; None if nobody has to look.

    The rank is log2 of the expected loss less the hours until the deadline. So a case's priority doubles with each
    hour, and the order of two cases stays what it is, which an index can hold.
    """
    if decision.action is not Action.REVIEW:
        return None
    settings = case.program.policy.settings
    desk, opened_us = settings.review, decision.decided_us
    score = UNSCORED if decision.score is None else decision.score
    loss, due_us = score * case.row.get("txn.amount_base", UNPRICED), opened_us + desk.answer_us
    return {
        "currency": settings.base_currency, "loss": loss, "rank": math.log2(max(loss, LEAST)) - due_us / HOUR_US,
        "opened_us": opened_us, "due_us": due_us, "timeout_us": opened_us + desk.timeout_us if desk.timeout_us else 0,
        "timeout_action": desk.timeout_action,
    }  # fmt: skip
