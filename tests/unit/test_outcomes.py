"""Outcomes find their event whichever comes first, by any way, and are taken back when a dispute is won."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.batch.documents import EVENTS, OUTCOMES
from engine.bootstrap import open_program, open_stores, rebuild
from engine.errors import InvalidInput
from engine.intake import read_outcome
from engine.keeper import Keeper
from engine.profiles.sqlite import SqliteProfiles
from engine.schema import DISPOSITIONS
from engine.values import Action
from tests.conftest import NOW_US, payment
from tests.unit.test_sink import imported

DAY_US = 86_400_000_000


def outcome(number, event_id, kind, at_us=DAY_US, **more):
    """An outcome that became known when it happened."""
    at_us += NOW_US
    document = {"id": f"o{number}", "event_id": event_id, "kind": kind, "time_us": at_us, **more}
    return read_outcome(document, now_us=2**62) | {"known_us": at_us}


async def card_of(engine, token="tok_1"):
    """The stored card."""
    key = engine.pipeline.live.program.identity.key("card", token)
    return (await engine.profiles.peek({"card": key}))["card"]


async def told(engine):
    """Kinds of outcomes that the card's profile has."""
    return [kind for _, kind, _, _ in (await card_of(engine)).head.get("out", [])]


# --- orphans


async def test_an_orphan_is_joined_when_its_event_comes(engine):
    """It was kept and said so; the profile has it as known when it was told; a later import or call adds nothing."""
    receipt = await engine.record_outcome(outcome(1, "e1", "chargeback"))
    assert receipt.flags == ("ORPHAN",)
    await engine.decide(payment(1))
    await engine.pipeline.drain()
    assert (await card_of(engine)).head["out"][0][1:] == ["chargeback", NOW_US + DAY_US, NOW_US + DAY_US]
    kinds = [s.record.kind for s in engine.journal.read(0)]
    assert kinds.count("joined") == 1
    assert (await engine.record_outcome(outcome(1, "e1", "chargeback"))).flags == ("ORPHAN",)
    await engine.record(payment(2))
    await engine.pipeline.drain()
    assert [s.record.kind for s in engine.journal.read(0)].count("joined") == 1


async def test_an_event_that_comes_between_look_and_commit_is_joined_too(engine, monkeypatch):
    """The outcome looks for its event, the event for outcomes, and each misses the other: the outcome looks again."""
    append = engine.journal.append
    came = []

    async def slow(record):
        if record.kind == "outcome" and not came:
            came.append(record)
            await engine.decide(payment(1))
            await engine.pipeline.drain()
        return await append(record)

    monkeypatch.setattr(engine.journal, "append", slow)
    await engine.record_outcome(outcome(1, "e1", "chargeback"))
    assert await told(engine) == ["chargeback"]


async def test_the_keeper_joins_what_a_dead_worker_could_not(engine, settings_of, monkeypatch):
    """The event is in the journal, its worker died before it joined: the pending entry brings it about."""
    await engine.record_outcome(outcome(1, "e1", "chargeback"))
    monkeypatch.setattr(engine.pipeline, "_settle", lambda event, changes, told: None)
    await engine.decide(payment(1))
    assert await told(engine) == []
    settings = settings_of()
    profiles, journal = open_stores(settings)
    program = engine.pipeline.live.program
    journal.open()
    profiles.open(program.layouts)
    await Keeper(program, profiles, journal, settings.state, {}).reconcile(2**62)
    assert await told(engine) == ["chargeback"]
    await profiles.close()
    await journal.close()


async def test_an_orphan_that_its_event_contradicts_is_not_joined(engine):
    """It stays in the journal, with what is wrong."""
    await engine.record_outcome(outcome(1, "e1", "chargeback", amount_minor=1_000_000, currency="EUR"))
    await engine.decide(payment(1))
    await engine.pipeline.drain()
    (joined,) = engine.journal.read(0, ("joined",))
    assert json.loads(joined.record.public)["contradicted"] == [
        "amount_minor: 1000000 is above the payment's 4990 EUR (minor units); tell what is lost of this payment alone"
    ]
    assert await told(engine) == []


# --- bad input


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"amount_minor": 4991, "currency": "EUR"}, "amount_minor", "4991 is above the payment's 4990 EUR"),
        ({"time_us": NOW_US - 2 * DAY_US}, "time", "lies before the event that it is about"),
        ({"event_id": "o0"}, "event_id", "is the id of an outcome, not of an event"),
    ],
)
async def test_what_contradicts_its_event_is_refused(engine, more, field, words):
    """Nothing of it is kept; amounts in another currency can't be compared, and dates alone may name the day."""
    await engine.decide(payment(1))
    await engine.record_outcome(outcome(0, "e1", "complaint_filed"))
    with pytest.raises(InvalidInput) as refused:
        await engine.record_outcome(outcome(1, "e1", "chargeback") | more)
    assert [(wrong.field, words in wrong.reason) for wrong in refused.value.violations] == [(field, True)]
    assert await engine.journal.find("o1") is None
    whole = {"amount_minor": 4990, "currency": "EUR", "time_us": NOW_US - DAY_US // 2}
    assert (await engine.record_outcome(outcome(1, "e1", "chargeback") | whole)).new
    other = {"amount_minor": 9_999, "currency": "JPY"}
    assert (await engine.record_outcome(outcome(2, "e1", "chargeback") | other)).new


def test_a_chargeback_is_what_its_code_says():
    """A code of goods makes it a service dispute, which remembers that; an unknown one changes nothing."""
    told = {"id": "o", "event_id": "e", "kind": "chargeback", "time_us": NOW_US}
    kinds = {code: read_outcome(told | {"code": code}, now_us=2**62)["kind"] for code in ("10.4", "13.1", "c08", "77")}
    assert kinds == {"10.4": "chargeback", "13.1": "service_dispute", "c08": "service_dispute", "77": "chargeback"}
    assert read_outcome(told | {"code": "4853"}, now_us=2**62)["told"] == "chargeback"
    assert read_outcome(told, now_us=2**62)["kind"] == "chargeback"


# --- what follows, and what is taken back


async def test_a_confirmed_fraud_lists_the_card_until_it_is_taken_back(engine):
    """As `lists.yaml` says: its next payment meets the list; a dispute that is won takes it off; so does time."""
    await engine.decide(payment(1))
    await engine.record_outcome(outcome(1, "e1", "confirmed_fraud"))

    async def lists(number, at_s):
        _, case = await engine.consider(payment(number, at_s=at_s))
        return case.row["event.lists"]

    day_s = 86_400.0
    assert await lists(2, day_s - 1) == []
    assert await lists(3, day_s + 1) == ["cards"]
    assert await lists(4, 32 * day_s) == []
    await engine.record_outcome(outcome(2, "e1", "dispute_won", 2 * DAY_US))
    assert await lists(5, 3 * day_s) == []
    await engine.decide(payment(6, at_s=3 * day_s))
    await engine.record_outcome(outcome(3, "e6", "confirmed_fraud", 4 * DAY_US))
    await engine.record_outcome(outcome(4, "e1", "confirmed_good", 5 * DAY_US))
    assert await lists(7, 6 * day_s) == ["cards"], "another payment's fraud stands"


async def test_counters_reverse_when_a_dispute_is_won(engine):
    """A rate counts the fraud from when it was known until the dispute was won; neither earlier answer changes."""
    await engine.decide(payment(1))
    await engine.record_outcome(outcome(1, "e1", "chargeback"))
    await engine.record_outcome(outcome(2, "e1", "dispute_won", 3 * DAY_US))
    rates = []
    for day in (0.5, 2, 4):
        _, case = await engine.consider(payment(9, at_s=day * 86_400))
        rates.append(case.row["user.fraud_rate_90d"])
    assert rates == [0.0, 1.0, 0.0]


async def test_an_issuer_decline_that_a_feed_tells_is_a_disposition(engine):
    """As a payment_result would have said."""
    await engine.decide(payment(1))
    await engine.record_outcome(outcome(1, "e1", "issuer_decline", code="51"))
    layout = engine.pipeline.live.program.layouts["card"]
    (row,) = layout.rows((await card_of(engine)).log)
    assert DISPOSITIONS[row[layout.disposition_at]] == "declined_by_issuer"


# --- files


def written(path: Path, *documents) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def iso(us: int) -> str:
    """As a file tells a time."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat()


def test_a_feed_is_judged_counted_and_joined(settings_of, tmp_path):
    """What contradicts its event is put away with its line; orphans are counted, and joined by a later import."""
    settings = settings_of()
    base = {"kind": "payment", "user.id": "u1", "device.id": "d1", "card.token": "tok_1", "time": iso(NOW_US)}
    money = {"txn.amount_minor": 4990, "txn.currency": "EUR"}
    first, second = ({"id": f"e{n}", "payment.id": f"p{n}", **base, **money} for n in (1, 2))
    imported(settings, written(tmp_path / "one.jsonl", first))
    at = {"time": iso(NOW_US + DAY_US)}
    rows = [
        {"id": "a", "event_id": "e1", "kind": "chargeback", "code": "13.1", **at},
        {"id": "b", "event_id": "e1", "kind": "chargeback", "amount_minor": 9_999, "currency": "EUR", **at},
        {"id": "c", "event_id": "e2", "kind": "fraud_warning", **at},
        {"id": "d", "event_id": "e1", "kind": "chargeback", "time": iso(NOW_US - 9 * DAY_US)},
        {"id": "e", "event_id": "e1", "kind": "charge_back", **at},
    ]
    feed = written(
        tmp_path / "feed.jsonl",
        *rows,
        *({"id": f"x{n}", "event_id": f"n{n}", "kind": "abuse", **at} for n in range(95)),
    )
    summary = imported(settings, feed, OUTCOMES)
    assert (summary.new, summary.orphans, summary.joined, summary.bad_rows) == (97, 96, 0, 3)
    fields = {reason.partition(":")[0] for reason in summary.reasons}
    assert fields == {"amount_minor", "time", "kind"}
    lines = [json.loads(line) for line in (settings.state / "quarantine").read_text().splitlines()]
    assert sorted(line["line"] for line in lines) == [2, 4, 5]
    assert imported(settings, feed, OUTCOMES).new == 0
    later = imported(settings, written(tmp_path / "two.jsonl", second), EVENTS)
    assert (later.new, later.joined) == (1, 1)
    assert states(settings)["card"]["out"] == states(rebuilt(settings))["card"]["out"]
    assert sorted(kind for _, kind, _, _ in states(settings)["card"]["out"]) == ["fraud_warning", "service_dispute"]


def states(settings):
    """Heads of user, device and card as they are stored."""
    program = open_program(settings, with_models=False)
    profiles: SqliteProfiles = open_stores(settings)[0]
    profiles.open(program.layouts)
    keys = {"user": "u1", "device": "d1", "card": "tok_1"}
    found = profiles.peek_now({entity: program.identity.key(entity, value) for entity, value in keys.items()})
    asyncio.run(profiles.close())
    return {entity: dict(state.head) for entity, state in found.items()}


def rebuilt(settings):
    """The same installation, its profiles derived anew."""
    rebuild(settings)
    return settings


async def test_a_declined_review_is_no_spend(engine):
    """What is declined by a person is declined by us, as the small policy's REVIEW is none."""
    decision = await engine.decide(payment(1, txn__amount_minor=60_000))
    assert decision.action is Action.REVIEW
    await engine.desk.take("ann", "e1")
    await engine.desk.decide("ann", "e1", Action.DECLINE, "ring")
    layout = engine.pipeline.live.program.layouts["card"]
    (row,) = layout.rows((await card_of(engine)).log)
    assert DISPOSITIONS[row[layout.disposition_at]] == "declined_by_us"
