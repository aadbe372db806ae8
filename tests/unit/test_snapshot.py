"""A decision made again from its record alone is the same, byte for byte; its trace is small."""

import random

import orjson
import pytest

from engine.language import RowResult, Schema, check_text, compile_rows
from engine.policy.trace import pack_trace, unpack_trace
from engine.records import decision_of
from engine.snapshot import canonical, recall, redecide
from engine.values import Result
from tests.conftest import NOW_US, payment

DAY_S = 86_400


async def _history(engine):
    """Decisions of every sort: lists, measures in force, standings, challenges, late and stale ones, missing parts."""
    chance = random.Random(7)
    await engine.decide(payment(1, card__token="tok_blocked"))
    await engine.record(payment(10, kind="password_change", device__id=None, at_s=1))
    await engine.record(payment(11, kind="login", device__id="d9", at_s=2))
    await engine.pipeline.drain()
    await engine.decide(payment(2, device__id="d9", at_s=3))
    await engine.pipeline.drain()
    await engine.decide(payment(3, at_s=4000))
    await engine.record_outcome({"id": "o", "event_id": "e2", "kind": "confirmed_fraud", "time_us": NOW_US + 1})
    await engine.decide(payment(4, at_s=4100))
    await engine.record(payment(12, kind="challenge_result", challenge__status="passed", payment__id="p", at_s=4200))
    after = {"event__stage": "after_challenge", "payment__id": "p", "at_s": 4300}
    await engine.decide(payment(5, basket__quantities=[60], **after))
    await engine.decide(payment(6, user__id=None, txn__currency="JPY", txn__amount_minor=90_000))
    for number in range(20, 60):
        some = {"user__id": f"u{chance.randrange(4)}", "card__token": f"tok_{chance.randrange(5)}"}
        amount = chance.choice([100, 4_990, 60_000, 600_000])
        await engine.decide(payment(number, at_s=number * 60, txn__amount_minor=amount, **some))


async def test_a_decision_made_again_from_its_record_is_the_same(engine):
    """Whatever led to it: the canonical bytes are equal, and so is what each rule gave."""
    await _history(engine)
    program, seen = engine.pipeline.live.program, 0
    for stored in engine.journal.read(0, ("decision",)):
        decided, again = decision_of(stored), redecide(stored, program)
        assert canonical(again) == canonical(decided)
        case = recall(stored, program)
        program.conclude(case, decided.signals, decided.decided_us, dry_run=False)
        assert [pack_trace(found) for found in case.found] == orjson.loads(stored.record.public)["trace"]
        seen += bool(decided.measures or decided.signals or decided.degraded or case.challenge_passed)
    assert seen > 5


async def test_other_values_would_be_another_decision(engine):
    """The comparison can fail: without its features some decision differs."""
    await _history(engine)
    program = engine.pipeline.live.program
    stored = list(engine.journal.read(0, ("decision",)))
    assert any(canonical(redecide(s, program, {})) != canonical(decision_of(s)) for s in stored)


def _found(count, index_from=500):
    schema = Schema.of({"a": "int", "b": "int", "c": "string"})
    rules = [check_text(f'a > {n % 7} && b < {n % 11} && c == "{n % 3}"', schema) for n in range(count)]
    return compile_rows(rules, {}, index_from=index_from)


@pytest.mark.parametrize("index_from", [500, 1])
def test_two_hundred_rules_leave_less_than_a_kilobyte(index_from):
    """The trace says each rule's result, and of those that the record must speak of the first failing condition."""
    program = _found(200, index_from)
    for row in ({"a": 4, "b": 5, "c": "1"}, {"a": 4, "c": "1"}, {}, {"a": 9, "b": -1, "c": "0"}):
        found = program.evaluate(row)
        text = pack_trace(found)
        assert len(orjson.dumps(text)) <= 1_024
        trace = unpack_trace(text)
        results = [trace.get(rule, (Result.MISS, 0))[0] for rule in range(200)]
        assert results == found.results
        for rule in found.notable:
            assert trace[rule] == (found.results[rule], found.failing[rule])
    assert index_from == 1 or trace == dict(enumerate(zip(found.results, found.failing, strict=True)))


def test_more_conditions_than_a_byte_can_number_are_kept_as_the_last():
    """The result is right; the place is the last one that can be said."""
    found = RowResult(2, [(300 << 2) | Result.MISS, Result.HIT.value], [1])
    assert unpack_trace(pack_trace(found)) == {0: (0, 63), 1: (1, 0)}
