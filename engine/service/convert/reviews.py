"""Review cases: requests read, replies built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from engine.errors import InvalidInput, Violation
from engine.review.desk import CaseView
from engine.service._generated.arbiter.v1 import decision_pb2, event_pb2, policy_pb2, review_pb2
from engine.service.convert.decisions import decision_bytes
from engine.service.convert.outgoing import decide_request
from engine.service.convert.places import choice_of, time_us, timestamp
from engine.values import Action, DeskFigures, Event, ReviewCase

_STATES = choice_of(review_pb2.CaseState.DESCRIPTOR)
_FINDINGS = choice_of(review_pb2.Finding.DESCRIPTOR)
DEFAULT_LIMIT = 50


def case_message(case: ReviewCase, now_us: int) -> review_pb2.Case:
    """A case as it is at a time."""
    state = "decided" if case.action else "taken" if case.held(now_us) else "waiting"
    held = state == "taken"
    return review_pb2.Case(
        id=case.id, payment_id=case.payment_id, state=cast(review_pb2.CaseState.ValueType, _STATES.numbers[state]),
        priority=case.priority(now_us), expected_loss=case.loss, currency=case.currency,
        opened_at=timestamp(case.opened_us), due_at=timestamp(case.due_us), timeout_at=_time(case.timeout_us),
        timeout_action=_action(case.timeout_action), holder=case.holder if held else "",
        held_until=_time(case.held_us if held else 0), action=_action(case.action), decided_by=case.decided_by,
        decided_at=_time(case.decided_us), reason=case.reason, notes=case.notes,
    )  # fmt: skip


def cases_message(cases: Sequence[ReviewCase], after: str, now_us: int) -> review_pb2.ListCasesReply:
    """A list of cases, and where it goes on."""
    return review_pb2.ListCasesReply(cases=[case_message(case, now_us) for case in cases], next=after)


def view_message(view: CaseView, now_us: int) -> review_pb2.CaseView:
    """All that a reviewer is shown."""
    steps = [
        review_pb2.CaseStep(what=s.what, reviewer=s.by, at=timestamp(s.at_us), text=s.text, shown=s.shown)
        for s in view.steps
    ]
    related = [
        review_pb2.RelatedEvent(
            id=one.event.id, kind=one.event.kind, time=timestamp(one.event.time_us), shares=one.shares,
            action=_action(one.action), outcomes=one.outcomes, amount=_money(one.event),
        )
        for one in view.related
    ]  # fmt: skip
    event = view.event
    return review_pb2.CaseView(
        case=case_message(view.case, now_us), steps=steps, related=related, outcomes=view.outcomes,
        event=decide_request({"id": event.id, "kind": event.kind, "time_us": event.time_us, **event.fields}).event,
        decision=decision_pb2.Decision.FromString(decision_bytes(view.decision)),
    )  # fmt: skip


def stats_message(figures: DeskFigures) -> review_pb2.ReviewStats:
    """How the desk is doing."""
    return review_pb2.ReviewStats(
        waiting=figures.waiting, taken=figures.taken, overdue=figures.overdue, expected_loss=figures.loss,
        oldest=_time(figures.oldest_us),
        reviewers=[
            review_pb2.ReviewerStats(reviewer=name, allowed=allowed, declined=declined, median_minutes=minutes)
            for name, allowed, declined, minutes in figures.reviewers
        ],
    )  # fmt: skip


def list_asked(request: review_pb2.ListCasesRequest) -> tuple[str, int, str]:
    """State, limit and place that a list goes on from."""
    return _word(_STATES.words, request.state, "state", "open"), request.limit or DEFAULT_LIMIT, request.after


def decided_in(request: review_pb2.DecideCaseRequest) -> tuple[Action, str]:
    """What is to be done, and what it says about the event, "" where the action says it."""
    finding = _word(_FINDINGS.words, request.finding, "finding", "")
    if int(request.action) not in (Action.ALLOW, Action.DECLINE):
        raise InvalidInput([Violation("action", "is required: ACTION_ALLOW or ACTION_DECLINE")])
    return Action(request.action), finding


def since_us(request: review_pb2.GetReviewStatsRequest) -> int:
    """Since when; 0 where it is not said."""
    return time_us(request.since) if request.HasField("since") else 0


def _word(words: dict[int, str], number: int, field: str, otherwise: str) -> str:
    if number and number not in words:
        raise InvalidInput([Violation(field, "must be one of " + ", ".join(words.values()))])
    return words.get(number, otherwise)


def _action(action: Action) -> policy_pb2.Action.ValueType:
    return cast(policy_pb2.Action.ValueType, int(action))


def _time(time_us: int) -> Timestamp | None:
    return timestamp(time_us) if time_us else None


def _money(event: Event) -> event_pb2.Money | None:
    amount, currency = event.fields.get("txn.amount_minor"), event.fields.get("txn.currency", "")
    return None if amount is None else event_pb2.Money(minor_units=amount, currency=currency)
