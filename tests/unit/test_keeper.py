"""The keeper: reconciliation, rebuilds, the outbox. Each step may be repeated at any time."""

import http.server
import threading
from pathlib import Path

import orjson
import pytest

from engine.bootstrap import open_engine, open_program, open_stores, rebuild
from engine.bulk import replay
from engine.errors import ProfilesUnavailable, Unavailable
from engine.keeper import Keeper
from engine.profiles.store import Admit
from engine.service.outbox_sinks import FileSink, WebhookSink
from tests.conftest import NOW_US, payment

LATER_US = 2**60


@pytest.fixture
def keeper(engine, tmp_path):
    """A keeper over the stores of the running engine, without sinks."""
    live = engine.pipeline.live
    return Keeper(live.program, engine.profiles, engine.journal, tmp_path, {})


def dump(profiles) -> list[tuple]:
    """Every stored part of every profile."""
    return profiles._db.execute("SELECT key, n, body FROM part ORDER BY key, n").fetchall()


async def admit_only(engine, event):
    """Admit an event as a worker that died before its journal commit would have."""
    case = engine.pipeline.live.program.open(event, event.time_us)
    return await engine.profiles.admit(Admit(event.id, event.digest, event.body, case.entries), None)


async def test_an_admission_without_a_record_becomes_an_undecided_attempt(engine, keeper):
    """It stays counted, is journaled once, and is no longer pending."""
    await admit_only(engine, payment(1))
    assert await keeper.reconcile(LATER_US) == 1
    assert await keeper.reconcile(LATER_US) == 0
    assert [s.record.kind for s in engine.journal.read(0)] == ["undecided"]
    assert (await engine.consider(payment(2, at_s=1)))[1].row["card.payments_1h"] == 1


async def test_a_retry_of_an_undecided_attempt_is_decided_from_its_first_admission(engine, keeper):
    """The retry sees what the first admission saw, counts once, and its decision takes the id."""
    await admit_only(engine, payment(1))
    await engine.decide(payment(2, at_s=1))
    await keeper.reconcile(LATER_US)
    decision = await engine.decide(payment(1))
    stored = await engine.journal.find("e1")
    features = orjson.loads(stored.record.public)["features"]
    assert features["card.payments_1h"] == 0
    assert await engine.get_decision("e1") == decision
    assert (await engine.consider(payment(3, at_s=2)))[1].row["card.payments_1h"] == 2


async def test_a_record_that_was_not_settled_is_settled(engine, keeper, monkeypatch):
    """A decline whose worker died after the commit is counted as declined by the reconciliation."""
    monkeypatch.setattr(engine.pipeline, "_settle", lambda event, changes, told: None)
    await engine.decide(payment(1, card__token="tok_blocked"))
    assert (await engine.consider(payment(2, at_s=1)))[1].row["user.declined_24h"] == 0
    assert await keeper.reconcile(LATER_US) == 1
    assert (await engine.consider(payment(2, at_s=1)))[1].row["user.declined_24h"] == 1


async def test_a_decision_without_profiles_is_admitted_later(engine, keeper, monkeypatch):
    """What was decided while profiles were down is counted afterwards, once."""
    with monkeypatch.context() as patched:

        async def down(request, deadline):
            raise ProfilesUnavailable("down")

        patched.setattr(engine.profiles, "admit", down)
        await engine.decide(payment(1))
    assert (await engine.consider(payment(2, at_s=1)))[1].row["card.payments_1h"] == 0
    assert await keeper.reconcile(LATER_US) == 1
    again = Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, Path(), {})
    assert await again.reconcile(LATER_US) == 0
    assert (await engine.consider(payment(2, at_s=1)))[1].row["card.payments_1h"] == 1


async def live_a_little(engine):
    """Decisions, records, results, outcomes, a takeover, a decline, a retry: everything that changes profiles."""
    for number in range(40):
        await engine.decide(payment(number, at_s=number, user__id=f"u{number % 3}", txn__amount_minor=1000 + number))
    await engine.decide(payment(50, at_s=50, card__token="tok_blocked"))
    await engine.decide(payment(51, at_s=51, txn__amount_minor=60_000))
    await engine.record(payment(60, kind="payment_result", result__status="declined", payment__id="p3", at_s=60))
    await engine.record(payment(61, kind="password_change", device__id=None, at_s=61))
    await engine.record(payment(62, kind="login", device__id="d9", at_s=62))
    await engine.record(payment(63, kind="account_created", user__id="u9", at_s=63))
    await engine.pipeline.drain()
    await engine.decide(payment(64, device__id="d9", at_s=64))
    await engine.decide(payment(65, payment__id="p5", at_s=65))
    await engine.record_outcome({"id": "o1", "event_id": "e4", "kind": "chargeback", "time_us": NOW_US + 70_000_000})
    await engine.decide(payment(66, user__id="u1", at_s=75))
    await engine.pipeline.drain()


async def test_a_rebuild_gives_the_same_profiles(settings_of):
    """Deriving every profile anew from the journal gives the very bytes that live admission gave."""
    settings = settings_of()
    engine = open_engine(settings)
    await engine.start(watch=False)
    await live_a_little(engine)
    live = dump(engine.profiles)
    await engine.close()
    assert rebuild(settings) > 40
    profiles, journal = open_stores(settings)
    profiles.open(open_program(settings, with_models=False).layouts)
    assert dump(profiles) == live
    journal.open()
    replay(journal, profiles, open_program(settings, with_models=False), 0, settings.state)
    assert dump(profiles) == live


async def test_lost_profiles_come_back(settings_of):
    """An installation that lost its profiles entirely recovers them at the next start of the keeper."""
    settings = settings_of()
    engine = open_engine(settings)
    await engine.start(watch=False)
    await live_a_little(engine)
    live = dump(engine.profiles)
    await engine.close()
    for path in settings.state.glob("profiles.sqlite*"):
        path.unlink()
    profiles, journal = open_stores(settings)
    program = open_program(settings, with_models=False)
    profiles.open(program.layouts)
    journal.open()
    Keeper(program, profiles, journal, settings.state, {}).recover()
    assert dump(profiles) == live


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers 503 the first time, then takes what comes."""

    refusals = 1
    got: list[tuple[str, bytes]]

    def do_POST(self):
        """One delivery."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if type(self).refusals:
            type(self).refusals -= 1
            self.send_response(503)
        else:
            self.got.append((self.headers["Idempotency-Key"], body))
            self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


async def test_notices_are_delivered_once_and_retried(engine, tmp_path):
    """A webhook that fails first gets its notice later, with the notice's id; a file gets it too; then it is gone."""
    handler = type("Here", (Receiver,), {"got": [], "refusals": 1})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sinks = {
        "webhook": WebhookSink(f"http://127.0.0.1:{server.server_port}/", 5.0),
        "file": FileSink(tmp_path / "n.jsonl"),
    }
    keeper = Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, tmp_path, sinks)
    await engine.decide(payment(1, txn__amount_minor=60_000))
    assert await keeper.dispatch() == 0
    (waiting,) = engine.journal.due(2**62)
    assert waiting.attempts == 1
    engine.journal.postpone(waiting.id, 0)
    assert await keeper.dispatch() == 1
    assert await keeper.dispatch() == 0
    server.shutdown()
    server.server_close()
    ((key, body),) = handler.got
    notice = orjson.loads(body)
    assert key == notice["id"] == "e1:NOTIFY:rule:big"
    assert (notice["measure"], notice["user_id"], notice["address"]) == ("NOTIFY", "u1", "current")
    assert orjson.loads((tmp_path / "n.jsonl").read_bytes()) == notice


async def test_one_bad_sink_does_not_lose_a_notice(engine, tmp_path):
    """A notice stays in the outbox while any sink refuses it."""

    class Broken:
        def deliver(self, notice):
            raise Unavailable("broken")

    keeper = Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, tmp_path, {"broken": Broken()})
    await engine.decide(payment(1, txn__amount_minor=60_000))
    assert await keeper.dispatch() == 0
    assert len(engine.journal.due(2**62)) == 1


async def test_a_notice_after_a_contact_change_goes_to_the_old_address(engine):
    """Who took an account over and changed its address must not get the warning."""
    await engine.record(payment(10, kind="contact_changed"))
    await engine.decide(payment(1, txn__amount_minor=60_000, at_s=1))
    assert engine.journal.due(2**62)[0].body["address"] == "previous"


async def test_checkpoints_move_the_logs_on(engine, keeper):
    """After a checkpoint the profiles' file holds all that the journal held before."""
    for number in range(20):
        await engine.decide(payment(number, at_s=number))
    await keeper.checkpoint()
    assert engine.profiles.reconciled() >= 20
