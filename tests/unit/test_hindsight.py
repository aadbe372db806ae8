"""Stored decisions looked back on: explained and made again with the program that was live, whatever is live now."""

import asyncio
import shutil
import sqlite3
import time

import orjson
import pytest

from engine.bootstrap import looking_back, open_engine
from engine.errors import NotFound
from engine.explanation import as_document
from engine.language import parse_timestamp_us
from engine.policy.trace import pack_trace
from engine.records import decision_of
from engine.snapshot import canonical, recall
from engine.values import Action, Result
from tests.conftest import NOW_US, POLICY, payment


@pytest.fixture
def installation(settings_of, tmp_path):
    """Settings with a policy of their own, which a test may change."""
    shutil.copytree(POLICY, tmp_path / "rules")
    return settings_of(rules=str(tmp_path / "rules"))


def change(settings, old, new, name="risk/payments.yaml"):
    """Save a policy file with one text replaced."""
    path = settings.rules / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def decided(settings, *events):
    """Decide with a server's engine, and close it."""
    engine = open_engine(settings)
    await engine.start()
    answers = [await engine.decide(event) for event in events]
    await engine.close()
    return answers


async def looked(settings, what):
    """What a look back gives; it may not run on a loop."""

    def look():
        with looking_back(settings) as past:
            return what(past)

    return await asyncio.to_thread(look)


async def test_an_old_decision_is_explained_with_the_policy_of_then(installation):
    """After the threshold has moved the explanation still shows the old one, with values, near misses and flips."""
    await decided(installation, payment(1, txn__amount_minor=60_000))
    change(installation, "txn.amount_base > param.large", "txn.amount_base > 700")
    await decided(installation, payment(2, txn__amount_minor=60_000))
    old, new = await looked(installation, lambda past: (past.explain("e1"), past.explain("e2")))
    views = {view.rule.id: view for view in old.rules}
    assert (views["big"].result, views["big"].conditions[0].text) == (Result.HIT, "txn.amount_base > param.large")
    assert views["big"].conditions[0].inputs == {"txn.amount_base": 600.0, "param.large": 500}
    assert {view.rule.id: view for view in new.rules}["big"].result is Result.MISS
    flip = old.flips[0]
    assert (flip.action, flip.condition, flip.value) == (Action.ALLOW, "txn.amount_base <= 500", 600.0)
    assert as_document(old)["flips"][0]["if"] == "txn.amount_base <= 500"
    assert old.decision.program != new.decision.program


async def test_a_flip_is_proven_by_deciding_with_it(installation):
    """What is said to lead to another action does: with counts on either side of a threshold, and one event fewer."""
    engine = open_engine(installation)
    await engine.start()
    for number in range(4):
        await engine.decide(payment(number, at_s=number, user__id=f"u{number}", device__id=f"d{number}"))
    await engine.close()
    last, first = await looked(installation, lambda past: (past.explain("e3"), past.explain("e2")))
    assert (last.decision.action, first.decision.action) == (Action.CHALLENGE, Action.ALLOW)
    (flip,) = [flip for flip in last.flips if flip.condition.startswith("card.payments_1h")]
    assert (flip.action, flip.condition, flip.value) == (Action.ALLOW, "card.payments_1h <= 2", 3)
    assert {view.rule.id: view.failing for view in first.rules}["velocity"] == 0


async def test_what_each_rule_gave_is_read_not_guessed(installation):
    """The results that are shown are those in the record, even where the policy of then would say otherwise now."""
    await decided(installation, payment(1, txn__amount_minor=60_000))
    (trace, *rest) = await looked(installation, lambda past: orjson.loads(past.stored("e1").record.public)["trace"])
    tamper(installation, "e1", trace=["01" + trace[2:], *rest])
    view = (await looked(installation, lambda past: past.explain("e1"))).rules[0]
    assert (view.rule.id, view.result) == ("velocity", Result.HIT)


def tamper(settings, event_id, **parts):
    """Change a record in the file, which nothing in the engine does."""
    with sqlite3.connect(settings.state / "journal.sqlite") as db:
        (public,) = db.execute("SELECT public FROM record WHERE kind = 'decision' AND id = ?", (event_id,)).fetchone()
        body = orjson.loads(public)
        for name, value in parts.items():
            body[name] = body[name] | value if isinstance(value, dict) else value
        db.execute("UPDATE record SET public = ? WHERE id = ?", (orjson.dumps(body), event_id))


async def test_a_replay_says_same_or_why_it_differs(installation):
    """The first difference is named by its cause: a rule, the conditions of one, or the program that is missing."""
    events = [payment(n, at_s=n, txn__amount_minor=4_990) for n in range(5)]
    await decided(installation, *events)
    change(installation, "card.payments_1h >= 3", "card.payments_1h >= 2")
    await decided(installation, payment(9, at_s=9))
    tamper(installation, "e1", features={"card.payments_1h": 7})
    tamper(installation, "e2", decision={"tier": 2})
    with sqlite3.connect(installation.state / "journal.sqlite") as db:
        last = db.execute("SELECT digest FROM bundle ORDER BY created_us DESC LIMIT 1").fetchone()[0]
        db.execute("DELETE FROM bundle WHERE digest = ?", (last,))
    why = await looked(
        installation, lambda past: {again.stored.id: again.why for again in map(past.again, past.since(0))}
    )
    assert why["e0"] == why["e3"] == why["e4"] == ""
    assert why["e1"] == "rule velocity: MISS → HIT"
    assert why["e2"] == "tier: 2 → 1"
    assert why["e9"].startswith(f"no bundle begins with '{last}'")


async def test_a_list_is_asked_as_of_then(installation):
    """An entry that ends after the decision has not ended in its replay."""
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    with (installation.rules / "lists" / "cards.csv").open("a") as file:
        file.write(f"tok_soon,stolen,analyst,2026-11-01,{until}\n")
    live = installation.model_copy(update={"clock": "wall"})
    (answer,) = await decided(live, payment(1, card__token="tok_soon"))
    assert answer.action is Action.DECLINE
    time.sleep(2.5)
    again = await looked(live, lambda past: past.again(past.stored("e1")))
    assert again.why == ""
    assert again.made.action is Action.DECLINE


async def test_lists_and_snoozes_are_asked_as_of_the_event(installation):
    """Of events of another time, live and looked back on: an entry or snooze that has ended since holds for them."""
    with (installation.rules / "lists" / "cards.csv").open("a") as file:
        file.write("tok_then,stolen,analyst,2020-01-01,2020-03-01\n")
    (installation.rules / "snoozes.yaml").write_text(
        "snoozes:\n  - {id: s1, rule: big, user: u1, reason: r, author: ann, "
        "from: 2020-02-01T00:00Z, until: 2020-02-20T00:00Z}\n"
    )
    feb_10_s, day_s = (parse_timestamp_us("2020-02-10T00:00Z") - NOW_US) // 1_000_000, 86_400
    blocked = [payment(n, at_s=feb_10_s + days * day_s, card__token="tok_then") for n, days in ((1, 0), (2, 30))]
    big = [
        payment(n, at_s=feb_10_s + days * day_s, txn__amount_minor=60_000, card__token=f"c{n}")
        for n, days in ((3, 0), (4, 15))
    ]
    answers = await decided(installation, *blocked, *big)
    assert [answer.action.name for answer in answers] == ["DECLINE", "ALLOW", "ALLOW", "REVIEW"]
    replayed = await looked(installation, lambda past: [past.again(stored).why for stored in past.since(0)])
    assert replayed == [""] * 4
    drafted = await looked(
        installation,
        lambda past: [past.again(stored, past.draft(installation.rules)).made.action.name for stored in past.since(0)],
    )
    assert drafted == ["DECLINE", "ALLOW", "ALLOW", "REVIEW"]
    listed = await looked(installation, lambda past: past.explain("e1"))
    (condition,) = next(view for view in listed.rules if view.rule.id == "blocked-card").conditions
    assert condition.result == "true"


async def test_live_dry_run_replay_and_a_rules_test_are_one_evaluator(installation):
    """The same events give the same decision by every road, but for what only says which road it was."""
    engine = open_engine(installation)
    await engine.start()
    roads = []
    for number in range(12):
        event = payment(number, at_s=number * 7, txn__amount_minor=[900, 60_000, 600_000][number % 3])
        tried, case = await engine.consider(event)
        case.found.clear()
        tested = case.program.conclude(case, tried.signals, tried.decided_us, dry_run=True)
        dry = await engine.decide(event, dry_run=True)
        live = await engine.decide(event)
        await engine.pipeline.drain()
        roads.append((live, dry, tested))
    program = engine.pipeline.live.program
    for (live, *others), stored in zip(roads, engine.journal.read(0, ("decision",)), strict=True):
        case = recall(stored, program)
        again = program.conclude(case, live.signals, live.decided_us, dry_run=False)
        assert canonical(again) == canonical(live) == canonical(decision_of(stored))
        for other in others:
            assert canonical(other).replace(b'"dry_run":true', b'"dry_run":false') == canonical(live)
        assert orjson.loads(stored.record.public)["trace"] == [pack_trace(found) for found in case.found]
    await engine.close()


async def test_what_is_not_there_is_said(installation):
    """An id that nobody decided, and a folder without a journal."""
    with pytest.raises(NotFound, match="no journal"):
        await looked(installation, lambda past: past.explain("e1"))
    await decided(installation, payment(1))
    with pytest.raises(NotFound, match="'e2'"):
        await looked(installation, lambda past: past.explain("e2"))
