"""The review desk over real stores: cases open with their decisions, and each step is a record."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from engine.bootstrap import open_related, open_stores
from engine.errors import CaseDecided, CaseHeld, InvalidInput, LeaseEnded, NotFound
from engine.keeper import Keeper
from engine.records import review_of, told_of
from engine.review.desk import Desk
from engine.values import HOUR_US, Action
from tests.conftest import NOW_US, payment

MINUTE_US = 60_000_000
BIG = 90_000
"""Above what the small policy wants looked at, in cents."""


class Clock:
    """The desk's time, which a test moves on."""

    def __init__(self):
        self.now_us = NOW_US

    def __call__(self):
        """Now."""
        return self.now_us


@pytest.fixture
def clock():
    """A clock that starts with the events'."""
    return Clock()


@pytest.fixture
def desk(engine, settings_of, clock):
    """The desk of a running engine."""
    related = open_related(settings_of())
    yield Desk(engine.journal, engine.profiles, lambda: engine.pipeline.live.program, related, clock)
    related.close()


async def big(engine, number, amount=BIG, **fields):
    """A payment that is to be looked at."""
    decision = await engine.decide(payment(number, txn__amount_minor=amount, **fields))
    assert decision.action is Action.REVIEW
    return decision


def queue(engine):
    """Every row of the queue."""
    return engine.journal._read.execute("SELECT * FROM review ORDER BY id").fetchall()


async def test_a_review_opens_a_case_and_nothing_else_does(engine, desk):
    """Its loss is half the amount where no model scores; it is due four hours after it was decided."""
    await engine.decide(payment(1))
    await big(engine, 2)
    ((case,), more) = desk.cases("open", 10)
    assert (case.id, case.loss, case.currency, more) == ("e2", 450.0, "EUR", "")
    assert (case.due_us, case.payment_id) == (NOW_US + 4 * HOUR_US, "p2")
    assert case.priority(case.due_us) == pytest.approx(case.loss)
    assert case.priority(case.due_us - HOUR_US) == pytest.approx(case.loss / 2)


async def test_a_near_deadline_outweighs_a_loss_and_the_order_is_the_priority(engine, desk):
    """Each hour doubles: 800 that are due three hours later come after 200, whenever one looks."""
    await big(engine, 1, 160_000, txn__currency="EUR", at_s=3 * 3600)
    await big(engine, 2, 60_000)
    await big(engine, 3, 400_000, at_s=60)
    cases, _ = desk.cases("open", 10)
    assert [case.id for case in cases] == ["e3", "e2", "e1"]
    for later_us in (0, HOUR_US, 50 * HOUR_US):
        priorities = [case.priority(NOW_US + later_us) for case in cases]
        assert priorities == sorted(priorities, reverse=True)


async def test_a_case_is_taken_looked_at_noted_and_decided(engine, desk, clock):
    """Who did what when is in the journal; the checkout is told; the decision becomes an outcome."""
    await big(engine, 1)
    assert (await desk.take("ann")).held_us == NOW_US + 15 * MINUTE_US
    assert desk.cases("waiting", 10)[0] == []
    clock.now_us += MINUTE_US
    await desk.note("ben", "e1", "called, no answer")
    await desk.view("e1", "ann")
    done = await desk.decide("ann", "e1", Action.ALLOW, "known for years")
    assert (done.action, done.decided_by, done.decided_us, done.notes) == (Action.ALLOW, "ann", clock.now_us, 1)
    steps = [orjson.loads(s.record.public) for s in await engine.journal.of_payment(review_of("e1"))]
    assert [(step["step"], step["by"]) for step in steps] == [
        ("take", "ann"), ("note", "ben"), ("look", "ann"), ("decide", "ann"),
    ]  # fmt: skip
    (notice,) = [n for n in engine.journal.due(2**62) if n.body.get("kind") == "review_decided"]
    assert (notice.body["id"], notice.body["event_id"], notice.body["action"]) == ("e1:REVIEW", "e1", "ALLOW")
    (told,) = await engine.journal.of_payment(told_of("e1"))
    assert orjson.loads(told.record.public)["outcome"]["kind"] == "confirmed_good"
    program = engine.pipeline.live.program
    user = (await engine.profiles.peek({"user": program.identity.key("user", "u1")}))["user"]
    assert [kind for _, kind, _, _ in user.head["out"]] == ["confirmed_good"]
    view = await desk.view("e1")
    assert (view.outcomes, view.steps[1].text) == (["confirmed_good"], "called, no answer")


async def test_a_declined_payment_is_declined_by_us_and_its_card_is_listed(engine, desk):
    """Profiles learn the disposition and the outcome, and what `lists.yaml` lists; the next payment is stopped."""
    await big(engine, 1)
    await desk.take("ann", "e1")
    await desk.decide("ann", "e1", Action.DECLINE, "parcel shop ring")
    key = engine.pipeline.live.program.identity.key("card", "tok_1")
    card = (await engine.profiles.peek({"card": key}))["card"]
    assert [kind for _, kind, _, _ in card.head["out"]] == ["confirmed_fraud"]
    assert [name.split(":")[1] for name in card.head["attr"] if name.startswith("list:")] == ["cards"]


async def test_unsure_tells_the_checkout_and_becomes_no_outcome(engine, desk):
    """The action stands; nothing is said of the event."""
    await big(engine, 1)
    await desk.take("ann", "e1")
    await desk.decide("ann", "e1", Action.DECLINE, "goods go out today", "unsure")
    assert await engine.journal.of_payment(told_of("e1")) == []
    assert [n.body["action"] for n in engine.journal.due(2**62) if n.body.get("kind")] == ["DECLINE"]


async def test_what_cannot_be_done_says_why_and_the_way_out(engine, desk, clock):
    """Taken by another, never taken, lease over, decided twice, unknown: each its own error with the value in it."""
    await big(engine, 1)
    with pytest.raises(LeaseEnded, match="'e1' is not yours; take it first"):
        await desk.decide("ann", "e1", Action.ALLOW, "why")
    await desk.take("ann", "e1")
    with pytest.raises(CaseHeld, match=r"'ann' has case 'e1' until 2026-11-24T10:15:00Z; take another one"):
        await desk.take("ben", "e1")
    with pytest.raises(CaseHeld, match="'ann' has case"):
        await desk.release("ben", "e1")
    with pytest.raises(NotFound, match="no case waits"):
        await desk.take("ben")
    clock.now_us += 16 * MINUTE_US
    with pytest.raises(LeaseEnded, match=r"your lease of case 'e1' ended at 2026-11-24T10:15:00Z; take it again"):
        await desk.decide("ann", "e1", Action.ALLOW, "why")
    assert (await desk.take("ben")).holder == "ben"
    with pytest.raises(CaseHeld, match="'ben' has case"):
        await desk.decide("ann", "e1", Action.ALLOW, "why")
    done = await desk.decide("ben", "e1", Action.ALLOW, "why")
    assert await desk.decide("ben", "e1", Action.ALLOW, "sent again") == done
    with pytest.raises(CaseDecided, match=r"'e1' was decided ALLOW by 'ben' at 2026-11-24T10:16:00Z, which is final"):
        await desk.decide("ben", "e1", Action.DECLINE, "changed my mind")
    with pytest.raises(CaseDecided):
        await desk.take("ann", "e1")
    with pytest.raises(NotFound, match="no review case 'nothing'; `arbiter review list`"):
        await desk.take("ann", "nothing")


@pytest.mark.parametrize(
    ("by", "text", "field"),
    [("", "why", "reviewer"), ("policy", "why", "reviewer"), ("ann", " ", "reason"), ("a" * 65, "why", "reviewer"),
     ("ann", "paid with 4111 1111 1111 1111", "reason"), ("ann", "x" * 2001, "reason")],
)  # fmt: skip
async def test_bad_texts_are_refused(desk, by, text, field):
    """Names and reasons are kept for good, so they are checked before anything is done."""
    with pytest.raises(InvalidInput) as refused:
        await desk.decide(by, "e1", Action.ALLOW, text)
    assert {wrong.field for wrong in refused.value.violations} == {field}
    with pytest.raises(InvalidInput):
        desk.cases("open", 0)
    with pytest.raises(InvalidInput):
        desk.cases("open", 5, "not a place")


async def test_the_policy_decides_where_nobody_looked(engine, desk, clock):
    """After the timeout, once; a case that somebody has is left to him until his lease ends."""
    settings = engine.pipeline.live.program.policy.settings
    object.__setattr__(
        settings, "review", replace(settings.review, timeout_us=HOUR_US * 5, timeout_action=Action.DECLINE)
    )
    await big(engine, 1)
    await big(engine, 2)
    clock.now_us += 5 * HOUR_US - 1
    assert await desk.time_out() == 0
    await desk.take("ann", "e2")
    clock.now_us += 1
    assert [await desk.time_out() for _ in range(2)] == [1, 0]
    case = desk.case("e1")
    assert (case.action, case.decided_by, case.reason) == (Action.DECLINE, "policy", "nobody looked at it in time")
    assert await engine.journal.of_payment(told_of("e1")) == []
    await desk.decide("ann", "e2", Action.ALLOW, "in time")
    assert [n.body["event_id"] for n in engine.journal.due(2**62) if n.body.get("kind")] == ["e1", "e2"]


async def test_related_events_share_card_device_mail_or_address(engine, desk):
    """The newest first, with what they share, what was decided and what turned out."""
    street = {"address__street": "Lindenweg 5", "address__postcode": "06108", "address__country": "DE"}
    await engine.decide(payment(1, user__id="u9", device__id="d9", card__token="tok_9", email__address="a.b@gmail.com"))
    await engine.decide(payment(2, user__id="u8", device__id="d8", card__token="tok_8", **street))
    await engine.record_outcome({"id": "o", "event_id": "e2", "kind": "chargeback", "time_us": NOW_US + 1})
    await engine.decide(payment(3, user__id="u7", device__id="d7", card__token="tok_7"))
    await big(engine, 4, email__address="ab@gmail.com", at_s=5, **(street | {"address__street": "LINDENWEG 5"}))
    await engine.decide(payment(5, user__id="u5", device__id="d1", card__token="tok_1", at_s=9))
    while desk._related.follow(engine.journal, 2):
        pass
    view = await desk.view("e4", "ann")
    found = {one.event.id: (list(one.shares), one.action.name, list(one.outcomes)) for one in view.related}
    assert found == {
        "e5": (["card", "device"], "ALLOW", []), "e2": (["address"], "ALLOW", ["chargeback"]),
        "e1": (["email"], "ALLOW", []),
    }  # fmt: skip
    assert next(iter(found)) == "e5"
    (look,) = (await desk.view("e4")).steps
    assert (look.what, look.by, sorted(look.shown)) == ("look", "ann", ["e1", "e2", "e5"])


async def test_the_queue_is_what_the_records_say(engine, desk, clock):
    """After every kind of step a queue that is derived anew is the one that was kept."""
    for number in range(1, 7):
        await big(engine, number, BIG + number * 1000)
    for by, case_id in (("ann", "e1"), ("ben", "e2"), ("ann", "e3"), ("eve", "e4")):
        await desk.take(by, case_id)
    await desk.decide("ann", "e1", Action.ALLOW, "fine")
    await desk.decide("ben", "e2", Action.DECLINE, "ring")
    await desk.release("ann", "e3")
    await desk.note("dan", "e5", "odd")
    kept = queue(engine)
    assert engine.journal.reviews.rebuild() == 6
    assert queue(engine) == kept
    figures = desk.figures(NOW_US)
    assert (figures.waiting, figures.taken, figures.overdue) == (3, 1, 0)
    assert [row[:3] for row in figures.reviewers] == [("ann", 1, 0), ("ben", 0, 1)]
    assert [c.id for c in desk.cases("taken", 5)[0]] == ["e4"]
    assert {c.id for c in desk.cases("decided", 5)[0]} == {"e1", "e2"}


async def test_lists_go_on_where_they_ended(engine, desk):
    """Page by page every case comes once."""
    for number in range(7):
        await big(engine, number, BIG + number % 3)
    seen, after = [], ""
    while True:
        cases, after = desk.cases("open", 3, after)
        seen += [case.id for case in cases]
        if not after:
            break
    assert sorted(seen) == sorted(f"e{n}" for n in range(7))


async def test_the_keeper_applies_what_a_dead_reviewer_process_committed(engine, desk, settings_of, monkeypatch):
    """A process that dies between the commit and the profiles leaves nothing undone."""
    await big(engine, 1)
    await desk.take("ann", "e1")

    async def dies(changes):
        raise asyncio.CancelledError

    monkeypatch.setattr(engine.profiles, "settle", dies)
    with pytest.raises(asyncio.CancelledError):
        await desk.decide("ann", "e1", Action.DECLINE, "ring")
    monkeypatch.undo()
    profiles, journal = open_stores(settings_of())
    program = engine.pipeline.live.program
    journal.open()
    profiles.open(program.layouts)
    await Keeper(program, profiles, journal, settings_of().state, {}).checkpoint()
    card = (await profiles.peek({"card": program.identity.key("card", "tok_1")}))["card"]
    assert [kind for _, kind, _, _ in card.head["out"]] == ["confirmed_fraud"]
    await profiles.close()
    await journal.close()
