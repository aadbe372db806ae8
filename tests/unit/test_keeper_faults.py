"""What the keeper puts right after a worker died in the middle, or while profiles were away."""

from pathlib import Path

import orjson
import pytest

from engine.bootstrap import open_engine, open_program, open_stores
from engine.bulk import replay
from engine.errors import ProfilesUnavailable
from engine.keeper import Keeper
from engine.program import Program
from tests.conftest import NOW_US, payment

LATER_US = 2**60
DAY_S = 86_400


@pytest.fixture
def keeper(engine, tmp_path):
    """A keeper over the stores of the running engine, without sinks."""
    return Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, tmp_path, {})


async def row(engine, event):
    """The features of an event, without a trace."""
    return (await engine.consider(event))[1].row


async def rebuilt(settings):
    """Features as a second installation has them that gets the same journal and no profiles."""
    for path in settings.state.glob("profiles.sqlite*"):
        path.unlink()
    engine = open_engine(settings)
    profiles, journal = open_stores(settings)
    profiles.open(open_program(settings, with_models=False).layouts)
    journal.open()
    replay(journal, profiles, open_program(settings, with_models=False), 0, settings.state)
    await profiles.close()
    await journal.close()
    await engine.start(watch=False)
    return engine


class Dead(BaseException):
    """A worker's death, as far as a test in its process can have one."""


def dies(*_):
    """In the place of a step that is never reached."""
    raise Dead


async def without_profiles(engine, monkeypatch, *events):
    """Decide while profiles are down."""

    async def down(*_):
        raise ProfilesUnavailable("down")

    with monkeypatch.context() as patched:
        patched.setattr(engine.profiles, "admit", down)
        for event in events:
            await engine.decide(event)


async def test_an_outcome_whose_worker_died_is_applied(engine, keeper, monkeypatch):
    """The journal has it and nothing pending tells of it, so the keeper applies it with its next checkpoint."""
    await engine.decide(payment(1))
    with monkeypatch.context() as patched:
        patched.setattr(engine.profiles, "settle", dies)
        with pytest.raises(Dead):
            await engine.record_outcome({"id": "o", "event_id": "e1", "kind": "chargeback", "time_us": NOW_US + 1})
    assert (await row(engine, payment(2, at_s=1)))["user.fraud_rate_90d"] == 0
    await keeper.checkpoint()
    assert (await row(engine, payment(2, at_s=1)))["user.fraud_rate_90d"] == 1
    assert engine.profiles.reconciled() == engine.journal.last_seq()


async def test_a_given_up_attempt_keeps_its_verdict_and_its_changes(settings_of, monkeypatch, tmp_path):
    """A result that was admitted and never recorded has settled its payment; a late event counts no more as undecided
    than it did live. Both stand in the journal, so that a rebuild gives the same."""
    settings = settings_of(clock="wall")
    engine = open_engine(settings)
    await engine.start(watch=False)
    keeper = Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, tmp_path, {})
    await engine.decide(payment(1, at_s=1))
    late = {"at_s": -60 * DAY_S, "user__id": "u2", "card__token": "t2"}
    result = {"kind": "payment_result", "result__status": "declined", "payment__id": "p1", "at_s": 2}
    with monkeypatch.context() as patched:
        patched.setattr(engine.journal, "append", dies)
        with pytest.raises(Dead):
            await engine.record(payment(2, **result))
        with pytest.raises(Dead):
            await engine.decide(payment(3, **late))
    assert await keeper.reconcile(LATER_US) >= 2
    kinds = {s.record.id: orjson.loads(s.record.public) for s in engine.journal.read(0, ("undecided",))}
    assert (kinds["e3"]["late"], bool(kinds["e2"]["changes"])) == (True, True)
    probes = (payment(8, at_s=3), payment(9, **{**late, "at_s": -60 * DAY_S + 1}))
    names = ("user.declined_24h", "card.payments_1h")

    async def seen(engine):
        program, rows = engine.pipeline.live.program, []
        for event in probes:  # As of the events' own time, whatever time it is.
            case = program.open(event, event.time_us)
            case.admission = await engine.pipeline._admit(case, True, None)
            program.see(case)
            rows.append([case.row[name] for name in names])
        return rows

    live = await seen(engine)
    await engine.close()
    assert live == [[1, 1], [0, 0]]
    again = await rebuilt(settings)
    assert await seen(again) == live
    await again.close()


async def test_what_happened_before_a_late_admission_is_not_lost(settings_of, monkeypatch, tmp_path):
    """Decided without profiles, then declined by the issuer, then admitted: it is a decline, live and rebuilt."""
    settings = settings_of()
    engine = open_engine(settings)
    await engine.start(watch=False)
    keeper = Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, tmp_path, {})
    await without_profiles(engine, monkeypatch, payment(1))
    await engine.record(payment(2, kind="payment_result", result__status="declined", payment__id="p1", at_s=1))
    assert await keeper.reconcile(LATER_US) >= 1
    live = await row(engine, payment(3, at_s=2))
    await engine.close()
    assert (live["user.declined_24h"], live["card.payments_1h"]) == (1, 1)
    again = await rebuilt(settings)
    assert await row(again, payment(3, at_s=2)) == live
    await again.close()


async def test_what_is_not_admitted_yet_is_not_merged(engine, keeper, monkeypatch, tmp_path):
    """A recovery leaves it to its late admission, which gives it a number; a repeated recovery changes nothing."""
    await without_profiles(engine, monkeypatch, payment(1))
    assert keeper.recover() == 1
    assert (await row(engine, payment(2, at_s=1)))["card.payments_1h"] == 0
    await keeper.reconcile(LATER_US)
    (admitted,) = engine.journal.read(0, ("admitted",))
    assert admitted.record.number > 0
    assert (await row(engine, payment(2, at_s=1)))["card.payments_1h"] == 1
    replay(engine.journal, engine.profiles, engine.pipeline.live.program, 0, tmp_path)
    assert (await row(engine, payment(2, at_s=1)))["card.payments_1h"] == 1


async def test_a_late_admission_that_the_power_took_comes_back(settings_of, monkeypatch, tmp_path):
    """Its decision lies before everything that is known to be safe, its admission behind: both are needed."""
    settings = settings_of()
    engine = open_engine(settings)
    await engine.start(watch=False)
    program = engine.pipeline.live.program
    keeper = Keeper(program, engine.profiles, engine.journal, tmp_path, {})
    await without_profiles(engine, monkeypatch, payment(1))
    safe = engine.journal.last_seq()
    await keeper.reconcile(LATER_US)
    await engine.close()
    for path in settings.state.glob("profiles.sqlite*"):
        path.unlink()
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    profiles.mark_reconciled(safe)
    Keeper(program, profiles, journal, tmp_path, {}).recover()
    await profiles.close()
    await journal.close()
    again = open_engine(settings)
    await again.start(watch=False)
    assert (await row(again, payment(2, at_s=1)))["card.payments_1h"] == 1
    await again.close()


async def test_a_settlement_by_the_keeper_is_journaled_under_its_number(engine, keeper, monkeypatch):
    """So that a replay can tell which later decisions had seen it; numbers are not given again after a loss."""
    with monkeypatch.context() as patched:
        patched.setattr(engine.pipeline, "_settle", lambda event, changes, told: None)
        await engine.decide(payment(1, card__token="tok_blocked"))
    await keeper.reconcile(LATER_US)
    (settled,) = engine.journal.read(0, ("settle",))
    (decided,) = engine.journal.read(0, ("decision",))
    assert settled.record.number > decided.record.number
    engine.profiles._db.execute("UPDATE meta SET value = '1' WHERE name = 'next'")
    engine.profiles.mark_reconciled(0)
    keeper.recover()
    await engine.decide(payment(2, at_s=1))
    assert (await engine.journal.find("e2")).record.number > settled.record.number


async def test_a_late_admission_follows_the_policy_as_it_is_now(engine, monkeypatch, tmp_path):
    """The keeper may be older than the rates; a policy that can't be read leaves it with the one it has."""
    loads: list[Program | Exception] = [ProfilesUnavailable("unreadable"), engine.pipeline.live.program]

    def load():
        found = loads.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    keeper = Keeper(engine.pipeline.live.program, engine.profiles, engine.journal, Path(tmp_path), {}, load)
    for number in (1, 2):
        await without_profiles(engine, monkeypatch, payment(number))
        assert await keeper.reconcile(LATER_US) == 1
    assert loads == []
