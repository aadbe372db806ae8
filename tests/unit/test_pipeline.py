"""Deciding, sentence by sentence of the semantics, on a small policy over real stores."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from engine.bootstrap import open_engine
from engine.errors import BodyConflict, InvalidInput, NotFound, PatternsUnavailable, ProfilesUnavailable
from engine.service import convert
from engine.service._generated.arbiter.v1 import decision_pb2
from engine.values import Action, Result, Tier
from tests.conftest import NOW_US, POLICY, payment

DAY_S = 86_400


def rules(decision, result=Result.HIT):
    """Ids of enforced rules with a result."""
    return {hit.rule for hit in decision.hits if hit.result is result and hit.enforced}


async def test_a_plain_payment_is_allowed(engine):
    """Nothing speaks against it: LOW, ALLOW, no score without a model."""
    decision = await engine.decide(payment(1))
    assert (decision.tier, decision.action, decision.score, decision.degraded) == (Tier.LOW, Action.ALLOW, None, ())


async def test_a_hit_gives_what_it_states(engine):
    """A large amount is HIGH and reviewed, with its measures and reason; a huge one is declined as well."""
    large = await engine.decide(payment(1, txn__amount_minor=60_000))
    huge = await engine.decide(payment(2, txn__amount_minor=600_000))
    assert (large.tier, large.action) == (Tier.HIGH, Action.REVIEW)
    assert [m.kind for m in large.measures] == ["MONITOR", "NOTIFY"]
    assert "R2" in [r.code for r in large.reasons]
    assert (huge.tier, huge.action) == (Tier.HIGH, Action.DECLINE)


async def test_a_tier_alone_brings_its_default_action(engine):
    """MEDIUM without an action challenges; MEDIUM with ALLOW allows."""
    pieces = await engine.decide(payment(1, basket__quantities=[60]))
    foreign = await engine.decide(payment(2, ip__country="FR"))
    assert (pieces.tier, pieces.action) == (Tier.MEDIUM, Action.CHALLENGE)
    assert (foreign.tier, foreign.action) == (Tier.MEDIUM, Action.ALLOW)


async def test_unknown_takes_the_road_the_rule_names(engine):
    """`when_unknown: hit` hits without the field, and the UNKNOWN stays visible."""
    decision = await engine.decide(payment(1, ip__country=None))
    assert decision.tier is Tier.MEDIUM
    assert "unknown-hits" in rules(decision, Result.UNKNOWN)


async def test_a_burst_on_one_card_counts_exactly(engine):
    """Of simultaneous payments on one card, the k-th sees the k-1 before it."""
    decisions = await asyncio.gather(*[engine.decide(payment(n)) for n in range(8)])
    assert sum("velocity" in rules(d) for d in decisions) == 5


async def test_the_same_request_has_the_same_answer(engine):
    """Same id and body → the stored decision; other body → refused with both digests; nothing is counted."""
    first = await engine.decide(payment(1))
    assert await engine.decide(payment(1)) == first
    with pytest.raises(BodyConflict) as refused:
        await engine.decide(payment(1, txn__amount_minor=1))
    assert payment(1).digest.hex() in str(refused.value)
    assert payment(1, txn__amount_minor=1).digest.hex() in str(refused.value)
    _, case = await engine.consider(payment(2, at_s=1))
    assert case.row["card.payments_1h"] == 1


async def test_two_at_once_are_one_decision(engine):
    """Concurrent calls with one id get one answer and one record."""
    answers = await asyncio.gather(*[engine.decide(payment(1)) for _ in range(10)])
    assert all(answer == answers[0] for answer in answers)
    assert [s.record.kind for s in engine.journal.read(0)] == ["decision"]


async def test_a_dry_run_leaves_no_trace(engine):
    """It reads the same values, and neither counts nor is journaled."""
    await engine.decide(payment(1))
    for _ in range(3):
        decision = await engine.decide(payment(9), dry_run=True)
    assert decision.dry_run
    _, case = await engine.consider(payment(2, at_s=1))
    assert case.row["card.payments_1h"] == 1
    assert len(list(engine.journal.read(0))) == 1


async def test_one_attempt_per_payment_and_card(engine):
    """A retry of the same payment on the same card is one attempt; another card is another; retry_of adds none."""
    await engine.decide(payment(1, payment__id="p"))
    await engine.decide(payment(2, payment__id="p", at_s=1))
    await engine.decide(payment(3, payment__id="p", card__token="tok_2", at_s=2))
    await engine.decide(payment(4, payment__retry_of="e1", at_s=3))
    _, case = await engine.consider(payment(5, at_s=4))
    assert case.row["user.payments_1h"] == 2
    assert case.row["card.payments_1h"] == 1


async def test_what_we_declined_is_an_attempt_never_spend(engine):
    """A declined payment counts as declined and not as spent; an issuer's decline too, once its result is known."""
    await engine.decide(payment(1, card__token="tok_blocked"))
    await engine.decide(payment(2, at_s=1))
    await engine.pipeline.drain()
    _, before = await engine.consider(payment(3, at_s=2))
    assert (before.row["user.declined_24h"], before.row["user.spend_24h"]) == (1, 49.9)
    await engine.record(payment(4, kind="payment_result", result__status="declined", payment__id="p2", at_s=3))
    _, after = await engine.consider(payment(5, at_s=4))
    assert (after.row["user.declined_24h"], after.row["user.spend_24h"]) == (2, 0.0)


async def test_a_list_entry_ends(engine):
    """A listed card is declined; one whose entry has ended is not."""
    assert "blocked-card" in rules(await engine.decide(payment(1, card__token="tok_blocked")))
    assert "blocked-card" not in rules(await engine.decide(payment(2, card__token="tok_expired")))


async def test_an_observed_rule_is_recorded_and_changes_nothing(engine):
    """`observe` shows as not enforced; a rule of the future does not run."""
    decision = await engine.decide(payment(1))
    watched = [hit for hit in decision.hits if hit.rule == "watched"]
    assert [(h.result, h.enforced) for h in watched] == [(Result.HIT, False)]
    assert "later" not in {hit.rule for hit in decision.hits}
    assert decision.action is Action.ALLOW


async def test_rollout_is_stable_per_user(engine):
    """About half of the users are enforced, and always the same."""
    first = [await engine.decide(payment(n, user__id=f"u{n}", card__token=f"t{n}")) for n in range(60)]
    again = [
        await engine.decide(payment(100 + n, user__id=f"u{n}", card__token=f"t{n}"), dry_run=True) for n in range(60)
    ]
    assert ["half" in rules(d) for d in first] == ["half" in rules(d) for d in again]
    assert 15 < sum("half" in rules(d) for d in first) < 45


async def test_a_pattern_raises_its_signal(engine):
    """Password change, new device, payment within the hour: takeover; without the new device none."""
    known = await engine.decide(payment(1, user__id="u2", device__id="d2"))
    for user, device, base in (("u1", "d9", 10), ("u2", "d2", 20)):
        await engine.record(payment(base, kind="password_change", user__id=user, device__id=None, at_s=1))
        await engine.record(payment(base + 1, kind="login", user__id=user, device__id=device, at_s=2))
    await engine.pipeline.drain()
    taken = await engine.decide(payment(3, device__id="d9", at_s=3))
    same = await engine.decide(payment(4, user__id="u2", device__id="d2", at_s=3))
    assert (taken.signals, known.signals, same.signals) == (("takeover",), (), ())
    assert taken.action is Action.DECLINE


async def test_a_limit_in_force_is_enforced_until_it_is_lifted(engine):
    """LIMIT_AMOUNT declines what is above it; the outcome that lifts it ends it."""
    await engine.record(payment(10, kind="password_change", device__id=None, at_s=1))
    await engine.record(payment(11, kind="login", device__id="d9", at_s=2))
    await engine.pipeline.drain()
    await engine.decide(payment(1, device__id="d9", at_s=3))
    await engine.pipeline.drain()
    above = await engine.decide(payment(2, at_s=4000))
    below = await engine.decide(payment(3, at_s=4001, txn__amount_minor=1000))
    assert (above.action, "LIMIT" in [r.code for r in above.reasons]) == (Action.DECLINE, True)
    assert below.action is Action.ALLOW
    await engine.record_outcome(
        {"id": "o", "event_id": "e2", "kind": "confirmed_good", "time_us": NOW_US + 5_000_000_000}
    )
    assert (await engine.decide(payment(4, at_s=5001))).action is Action.ALLOW
    assert (await engine.decide(payment(5, at_s=8 * DAY_S))).action is Action.ALLOW


async def test_a_users_tier_rises_at_once_and_holds(engine):
    """Confirmed fraud makes the person HIGH from the next event on, for the hold; a confirmed good releases."""
    await engine.decide(payment(1))
    outcome = {"id": "o1", "event_id": "e1", "kind": "confirmed_fraud", "time_us": NOW_US + 1_000_000}
    assert (await engine.record_outcome(outcome)).new
    assert not (await engine.record_outcome(outcome)).new
    _, unaware = await engine.consider(payment(9, at_s=2))
    assert unaware.row["user.risk.tier"] == "LOW"
    raised = await engine.decide(payment(2, at_s=3))
    await engine.pipeline.drain()
    assert raised.user_risk.tier is Tier.HIGH
    _, aware = await engine.consider(payment(3, at_s=20 * DAY_S))
    assert aware.row["user.risk.tier"] == "HIGH"
    held = await engine.decide(payment(4, at_s=120 * DAY_S))
    assert held.user_risk.tier is Tier.LOW


async def test_an_assessment_counts_nothing(engine):
    """AssessUser answers from the rules on users, and is journaled only when the standing changes."""
    await engine.decide(payment(1))
    before = len(list(engine.journal.read(0)))
    assert (await engine.assess_user("u1")).risk.tier is Tier.LOW
    assert len(list(engine.journal.read(0))) == before
    await engine.record_outcome({"id": "o", "event_id": "e1", "kind": "chargeback", "time_us": NOW_US + 1})
    assert (await engine.assess_user("u1", dry_run=True)).risk.tier is Tier.HIGH
    _, case = await engine.consider(payment(2, at_s=1))
    assert (case.row["user.payments_1h"], case.row["user.risk.tier"]) == (1, "LOW")


async def test_a_passed_challenge_meets_challenge(engine):
    """At the stage after a passed challenge CHALLENGE becomes ALLOW; REVIEW stands."""
    many = await engine.decide(payment(1, basket__quantities=[60], payment__id="p"))
    assert many.action is Action.CHALLENGE
    await engine.record(payment(2, kind="challenge_result", challenge__status="passed", payment__id="p", at_s=1))
    after = {"event__stage": "after_challenge", "payment__id": "p", "at_s": 2}
    assert (await engine.decide(payment(3, basket__quantities=[60], **after))).action is Action.ALLOW
    assert (await engine.decide(payment(4, txn__amount_minor=60_000, **after))).action is Action.REVIEW


async def test_required_fields_that_are_missing_challenge_above_an_amount(engine):
    """Leaving the device out buys nothing above 100."""
    above = await engine.decide(payment(1, device__id=None, txn__amount_minor=20_000))
    below = await engine.decide(payment(2, device__id=None))
    assert (above.action, above.reasons[0].source) == (Action.CHALLENGE, "required:device.id")
    assert below.action is Action.ALLOW


async def test_money_is_compared_in_the_base_currency(engine):
    """A known rate converts; a stale or missing one leaves the amount unknown and is named."""
    _, dollars = await engine.consider(payment(1, txn__currency="USD"))
    assert dollars.row["txn.amount_base"] == 44.91
    stale, case = await engine.consider(payment(2, txn__currency="USD", at_s=10 * DAY_S))
    assert stale.degraded == ("fx:USD",)
    assert "txn.amount_base" not in case.row
    assert (await engine.decide(payment(3, txn__currency="GBP"))).degraded == ("fx:GBP",)


async def test_without_profiles_the_decision_is_still_made(engine, monkeypatch):
    """A store that does not answer is named, the fallback speaks above its amount, and the record is durable."""

    async def down(request, deadline):
        raise ProfilesUnavailable("down")

    monkeypatch.setattr(engine.profiles, "admit", down)
    decision = await engine.decide(payment(1, txn__amount_minor=6000))
    assert (decision.degraded, decision.action) == (("profiles",), Action.CHALLENGE)
    assert (await engine.decide(payment(2))).action is Action.ALLOW
    assert await engine.get_decision("e1") == decision


async def test_without_patterns_the_decision_is_still_made(engine, monkeypatch):
    """A dead matcher costs the signals, is named, and the fallback speaks."""

    async def dead(histories, timeout_s=None):
        raise PatternsUnavailable("dead")

    monkeypatch.setattr(engine.pipeline.live.matcher, "match", dead)
    await engine.record(payment(10, kind="password_change", device__id=None, at_s=1))
    decision = await engine.decide(payment(1, at_s=2, txn__amount_minor=6000))
    assert (decision.degraded, decision.action) == (("patterns",), Action.CHALLENGE)


async def test_a_matcher_that_is_killed_loses_nothing(engine):
    """The decision that needed it is degraded; the next child finds the pattern in what is stored."""
    await engine.record(payment(10, kind="password_change", at_s=1))
    matcher = engine.pipeline.live.matcher
    os.kill(matcher.pid, signal.SIGSTOP)  # so that it dies while it works on the login
    await engine.record(payment(11, kind="login", device__id="new", at_s=2))
    deciding = asyncio.create_task(engine.decide(payment(1, at_s=3, txn__amount_minor=6000)))
    killed = matcher.pid
    await asyncio.sleep(0)
    os.kill(killed, signal.SIGKILL)
    decision = await deciding
    assert (decision.degraded, decision.signals, decision.action) == (("patterns",), (), Action.CHALLENGE)
    async with asyncio.timeout(20):
        while matcher.pid in (None, killed):
            await asyncio.sleep(0.01)
    again = await engine.decide(payment(2, at_s=4))
    assert (again.degraded, again.signals) == ((), ("takeover",))


async def test_a_recorded_event_is_no_decision(engine):
    """Record returns whether it was new; deciding a recorded id is refused; GetDecision finds only decisions."""
    assert (await engine.record(payment(1))).new
    assert not (await engine.record(payment(1))).new
    with pytest.raises(InvalidInput):
        await engine.decide(payment(1))
    with pytest.raises(NotFound):
        await engine.get_decision("e1")
    with pytest.raises(NotFound):
        await engine.get_decision("nobody")


async def test_an_outcome_of_an_unknown_event_is_kept(engine):
    """An orphan is journaled as such and changes no profile."""
    outcome = {"id": "o", "event_id": "later", "kind": "chargeback", "time_us": NOW_US}
    assert (await engine.record_outcome(outcome)).new
    with pytest.raises(BodyConflict):
        await engine.record_outcome({**outcome, "kind": "confirmed_good"})
    assert b'"orphan":true' in next(iter(engine.journal.read(0))).record.public


async def test_a_notice_is_told_once_while_it_is_in_force(engine):
    """NOTIFY goes to the outbox with the decision, and not again within its life."""
    await engine.decide(payment(1, txn__amount_minor=60_000))
    await engine.pipeline.drain()
    await engine.decide(payment(2, txn__amount_minor=60_000, at_s=60))
    await engine.pipeline.drain()
    assert [n.body["event_id"] for n in engine.journal.due(2**62)] == ["e1"]
    await engine.decide(payment(3, txn__amount_minor=60_000, at_s=2 * DAY_S))
    assert [n.body["event_id"] for n in engine.journal.due(2**62)] == ["e1", "e3"]


async def test_a_guest_is_normal(engine):
    """Without a user, user features are missing and the rest is there."""
    decision, case = await engine.consider(payment(1, user__id=None))
    assert decision.user_risk is None
    assert "user.payments_1h" not in case.row
    assert case.row["card.payments_1h"] == 0


# --- what lowers a decision


async def test_an_allow_entry_lowers_and_says_so(engine):
    """The trusted user's large payment goes through; the record says by whom, until when, and from what."""
    plain = await engine.decide(payment(1, txn__amount_minor=60_000))
    lowered = await engine.decide(payment(2, txn__amount_minor=60_000, user__id="u_trusted", card__token="t2"))
    assert (plain.action, plain.lowered) == (Action.REVIEW, ())
    (by,) = lowered.lowered
    assert (lowered.tier, lowered.action) == (Tier.LOW, Action.ALLOW)
    assert (by.kind, by.id, by.author) == ("allow", "trusted:2", "analyst")
    assert (by.tier, by.action) == (Tier.HIGH, Action.REVIEW)
    assert "rule:big" in by.cancelled
    assert {hit.rule for hit in lowered.hits if hit.result is Result.HIT} >= {"big"}
    assert await engine.get_decision("e2") == lowered
    assert convert.decision_value(decision_pb2.Decision.FromString(convert.decision_bytes(lowered))) == lowered


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({"user__id": "u_trusted", "card__token": "tok_blocked"}, Action.DECLINE),
        ({"user__id": "u_trusted", "txn__amount_minor": 100_100}, Action.REVIEW),
        ({"user__id": "u_trusted", "ip__country": "FR"}, Action.REVIEW),
        ({"user__id": "u_ended"}, Action.REVIEW),
        ({"user__id": "u_snoozed"}, Action.ALLOW),
        ({"user__id": "u_snoozed", "card__token": "tok_blocked"}, Action.DECLINE),
    ],
)
async def test_what_lowers_has_its_limits(engine, fields, action):
    """Block beats allow; amount, condition and end of an entry hold; a snooze is of one rule."""
    decision = await engine.decide(payment(1, **{"txn__amount_minor": 60_000} | fields))
    assert decision.action is action


async def test_the_control_group_stops_at_its_budget(settings_of, tmp_path):
    """Payments are let through up to the loss of a day, each counted once and durably; the next day begins anew."""
    folder = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    group = "control_group: {share: 100%, max_amount: 700, daily_loss: 1300, author: risk, until: 2027-01-01T00:00Z}\n"
    with (folder / "policy.yaml").open("a") as file:
        file.write(group)
    settings = settings_of(rules=str(folder))

    def large(number: int, at_s: float = 0.0):
        return payment(number, at_s=at_s, txn__amount_minor=60_000, user__id=f"u{number}", card__token=f"t{number}")

    runtime = open_engine(settings)
    await runtime.start(watch=False)
    tried = await runtime.decide(large(0), dry_run=True)
    first, again = await runtime.decide(large(1)), await runtime.decide(large(1))
    await runtime.close()
    runtime = open_engine(settings)
    await runtime.start(watch=False)
    second, third, small = [await runtime.decide(e) for e in (large(2), large(3), payment(4))]
    tomorrow = await runtime.decide(large(5, at_s=86_400.0))
    await runtime.close()
    assert [d.action for d in (tried, first, again, second, third, tomorrow)] == [
        Action.ALLOW, Action.ALLOW, Action.ALLOW, Action.ALLOW, Action.REVIEW, Action.ALLOW,
    ]  # fmt: skip
    assert [d.propensity for d in (first, second, third, small)] == [1.0, 1.0, 0.0, 0.0]
    assert [one.kind for one in first.lowered] == ["control"]
    assert first == again
