"""What lowers a decision: only three things, only what they may, and never a final rule; whatever hits."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.language import Position, Schema, check_text, compile_rows
from engine.policy.combine import Source, combine
from engine.policy.evaluate import RuleSet, rule_sets
from engine.policy.lists import Allowance, ValueList
from engine.policy.lowering import AllowList, Lowering, Snooze
from engine.policy.rules import ControlGroup, Outcome, Rule
from engine.values import Action, Reason, Row, Tier

DEFAULTS = {Tier.LOW: Action.ALLOW, Tier.MEDIUM: Action.CHALLENGE, Tier.HIGH: Action.REVIEW}
NOW_US, DAY_US = 1_795_514_400_000_000, 86_400_000_000
SECRET = bytes(range(32))
PLACE = Position("lists/x.csv", 2, 1)
GROUP = ControlGroup(1.0, 100.0, 500.0, "risk", NOW_US + DAY_US)
ROW: Row = {"event.kind": "payment", "user.id": "u1", "device.id": "d1", "txn.amount_base": 50.0}


def rule(number: int, *, final: bool = False, ruleset: str = "a") -> Rule:
    """A rule of a rule set."""
    reason = Reason(f"R{number}", "", "", f"rule:r{number}")
    outcome = Outcome(Tier.HIGH, Action.DECLINE)
    return Rule(f"r{number}", ruleset, ("payment",), outcome, reason, "enforce", 0, 0, 1.0, False, final, "x:1")


def lowering(rules: list[Rule], **what: Any) -> Lowering:
    """What lowers decisions of such rules: given in `what`, else nothing."""
    given = {"allow": (), "snoozes": {}, "control": None} | what
    sets = {"payment": frozenset(r.ruleset for r in rules)}
    return Lowering({f"rule:{r.id}": r for r in rules}, sets, secret=SECRET, **given)


def allow_list(entry: Allowance, when: str = "") -> AllowList:
    """A list that allows u1."""
    values = ValueList("x", "user", "allow", {"u1": entry.until_us}, lambda: NOW_US, None, {"u1": entry})
    schema = Schema.of({"device.age_days": "double"})
    return AllowList("user.id", values, compile_rows([check_text(when, schema)]) if when else None)


ENTRY = Allowance("x:2", "anna", NOW_US + DAY_US, frozenset({"a"}), 100.0, PLACE)
SNOOZE = Snooze("s", "user.id", "u1", "anna", NOW_US - DAY_US, NOW_US + DAY_US, str)
BAND = Source(Outcome(Tier.MEDIUM, Action.CHALLENGE), Reason("S1", "", "", "band:payment"))
OTHERS = [
    Source(Outcome(None, Action.CHALLENGE), Reason("Q", "", "", name))
    for name in ("required:device.id", "fallback:model", "measure:LIMIT_AMOUNT")
]
"""What speaks to a decision without being a band or a hit."""


def lower(low: Lowering, sources: list[Source], row: Row = ROW, at_us: int = NOW_US, *, control: bool = True):
    """The verdict after lowering, what lowered it, and the chance of the control group."""
    before = combine(sources, DEFAULTS)
    left, lowered, chance = low.lower(sources, row, at_us, before, control)
    return combine(left, DEFAULTS), lowered, chance


def sources_of(rules: list[Rule]) -> list[Source]:
    """What hits of these rules say."""
    return [Source(r.outcome, r.reason) for r in rules]


drawn = st.lists(st.tuples(st.booleans(), st.sampled_from("ab")), max_size=5).map(
    lambda given: [rule(n, final=final, ruleset=name) for n, (final, name) in enumerate(given)]
)
anything = st.fixed_dictionaries(
    {
        "allow": st.sampled_from([(), (allow_list(ENTRY),), (allow_list(replace(ENTRY, rulesets=frozenset("b"))),)]),
        "snoozes": st.sampled_from([{}, {"rule:r0": (SNOOZE,)}, {"rule:r1": (SNOOZE,)}]),
        "control": st.sampled_from([None, GROUP]),
    }
)


@given(drawn, anything, st.booleans(), st.lists(st.sampled_from(OTHERS), unique_by=id))
def test_a_final_rule_and_what_is_missing_keep_their_say(rules, what, band, others):
    """Whatever lowers, the decision is at least what final hits and everything but band and ordinary hits say."""
    sources = [*sources_of(rules), *([BAND] if band else []), *others]
    after, lowered, chance = lower(lowering(rules, **what), sources)
    kept = [s for r, s in zip(rules, sources, strict=False) if r.final] + others
    least = combine(kept, DEFAULTS)
    assert (after.tier, after.action) >= (least.tier, least.action)
    cancelled = {name for one in lowered for name in one.cancelled}
    assert not cancelled & {f"rule:{r.id}" for r in rules if r.final}
    assert cancelled <= {s.reason.source for s in sources if s not in others}
    if any(r.final for r in rules):
        assert chance == 0.0


@given(drawn, st.booleans())
def test_nothing_else_lowers(rules, band):
    """Without an entry, a snooze and a control group a decision stays; each that took something away is recorded."""
    sources = [*sources_of(rules), *([BAND] if band else [])]
    before = combine(sources, DEFAULTS)
    assert lower(lowering(rules), sources) == (before, [], 0.0)


@given(drawn, anything, st.booleans())
def test_what_lowered_is_recorded_with_what_would_have_been(rules, what, band):
    """A decision is lower only with a record of what lowered it, by whom, until when, and from what."""
    sources = [*sources_of(rules), *([BAND] if band else [])]
    before = combine(sources, DEFAULTS)
    after, lowered, _ = lower(lowering(rules, **what), sources)
    assert after.tier <= before.tier
    assert bool(lowered) or after == before
    for one in lowered:
        assert (one.tier, one.action) == (before.tier, before.action)
        assert one.author
        assert one.until_us > NOW_US
        assert one.cancelled


@pytest.mark.parametrize(
    ("change", "row", "at_us", "lowers"),
    [
        ({}, {}, NOW_US, True),
        ({}, {"txn.amount_base": 100.0}, NOW_US, True),
        ({}, {"txn.amount_base": 100.01}, NOW_US, False),
        ({}, {"txn.amount_base": None}, NOW_US, False),
        ({}, {"user.id": "u2"}, NOW_US, False),
        ({}, {}, NOW_US + DAY_US, False),
        ({"rulesets": frozenset({"b"})}, {}, NOW_US, False),
    ],
)
def test_an_allow_entry_holds_for_its_entity_amount_time_and_rule_sets(change, row, at_us, lowers):
    """One value, up to its amount and its end; without a rule set of this kind it cancels not even the band."""
    rules = [rule(1)]
    _, lowered, _ = lower(lowering(rules, allow=(allow_list(replace(ENTRY, **change)),)), [*sources_of(rules), BAND],
                          ROW | row, at_us)  # fmt: skip
    assert [one.kind for one in lowered] == (["allow"] if lowers else [])


@pytest.mark.parametrize(("age", "lowers"), [(1.5, True), (0.5, False), (None, False)])
def test_an_allow_entry_needs_its_condition(age, lowers):
    """A device first seen today, or none at all, is not what the entry was given for."""
    rules = [rule(1)]
    low = lowering(rules, allow=(allow_list(ENTRY, "device.age_days >= 1.0"),))
    assert bool(lower(low, sources_of(rules), ROW | {"device.age_days": age})[1]) is lowers


def test_a_snooze_silences_one_rule_for_one_entity():
    """The other rule, the other person and the time after it are as ever."""
    rules = [rule(1), rule(2)]
    low = lowering(rules, snoozes={"rule:r1": (SNOOZE,)})
    _, lowered, _ = lower(low, sources_of(rules))
    assert [(one.kind, one.id, one.cancelled) for one in lowered] == [("snooze", "s", ("rule:r1",))]
    assert lower(low, sources_of(rules), ROW | {"user.id": "u2"})[1] == []
    assert lower(low, sources_of(rules), at_us=NOW_US + DAY_US)[1] == []
    assert lower(low, sources_of(rules), at_us=NOW_US - DAY_US - 1)[1] == []


def group_share(devices: int, share: float, week: int = 0, **row: Any) -> float:
    """The share of devices that a control group of a share lets through."""
    rules = [rule(1)]
    low = lowering(rules, control=replace(GROUP, share=share, until_us=2**62))
    rows = [ROW | {"device.id": f"d{n}"} | row for n in range(devices)]
    return sum(bool(lower(low, sources_of(rules), r, NOW_US + week * 7 * DAY_US)[1]) for r in rows) / devices


def test_the_control_group_has_its_share_and_sticks_for_a_week():
    """A share of devices, the same ones all week whoever pays, others in another week."""
    assert 0.08 < group_share(2_000, 0.1) < 0.12
    rules = [rule(1)]
    low = lowering(rules, control=replace(GROUP, share=0.5, until_us=2**62))

    def drawn_at(device: str, hours: int, card: str = "t") -> bool:
        row = ROW | {"device.id": device, "card.token": card}
        return bool(lower(low, sources_of(rules), row, NOW_US + hours * 3_600_000_000)[1])

    devices = [f"d{n}" for n in range(200)]
    now = [drawn_at(d, 0) for d in devices]
    assert now == [drawn_at(d, 100, card="other") for d in devices]
    assert now != [drawn_at(d, 24 * 7) for d in devices]


@pytest.mark.parametrize(
    ("row", "chance"),
    [
        ({}, 1.0), ({"txn.amount_base": 100.5}, 0.0), ({"txn.amount_base": None}, 0.0),
        ({"event.kind": "coupon_redeemed"}, 0.0), ({"device.id": None, "card.token": "t"}, 1.0),
        ({"device.id": None}, 0.0),
    ],
)  # fmt: skip
def test_the_control_group_is_for_small_payments_of_a_known_device_or_card(row, chance):
    """Above its amount, without one, for other events or without anybody to draw it is not."""
    rules = [rule(1)]
    given = {name: value for name, value in (ROW | row).items() if value is not None}
    assert lower(lowering(rules, control=GROUP), sources_of(rules), given)[2] == chance


def test_the_control_group_is_off_when_its_budget_is_spent_or_its_time_is_over():
    """Then it has no chance, which is what is recorded."""
    rules = [rule(1)]
    low = lowering(rules, control=GROUP)
    assert lower(low, sources_of(rules), control=False)[1:] == ([], 0.0)
    assert lower(low, sources_of(rules), at_us=GROUP.until_us)[1:] == ([], 0.0)


def rollout(rule_id: str, share: float) -> RuleSet:
    """One rule with a rollout share."""
    made = replace(rule(1), id=rule_id, rollout=share)
    return rule_sets([(made, check_text("true", Schema.of({})))], {}, SECRET, ())["payment"]


def test_more_rollout_keeps_those_who_were_in():
    """25 → 50 % keeps the first 25; another rule draws others, and another installation too."""
    rows = [ROW | {"user.id": f"u{n}"} for n in range(2_000)]

    def inside(rules: RuleSet) -> set[str]:
        return {row["user.id"] for row in rows if rules.evaluate(row, NOW_US)[0][0].enforced}

    quarter, half = inside(rollout("r", 0.25)), inside(rollout("r", 0.5))
    assert quarter < half
    assert 0.22 < len(quarter) / len(rows) < 0.28
    assert 0.47 < len(half) / len(rows) < 0.53
    assert len(quarter & inside(rollout("other", 0.25))) < 0.4 * len(quarter)
    assert quarter != inside(replace(rollout("r", 0.25), secret=bytes(32)))


def test_a_rollout_is_drawn_by_user_then_card_then_device_then_payment():
    """The first that an event names decides; the others don't matter then."""
    full = {"user.id": "u", "card.token": "t", "device.id": "d", "payment.id": "p"}
    rules = rollout("r", 0.5)
    for index, name in enumerate(full):
        row = dict(list(full.items())[index:])
        later = dict.fromkeys(list(full)[index + 1 :], "changed")
        assert rules.share(rules.rules[0], row) == rules.share(rules.rules[0], row | later)
        assert rules.share(rules.rules[0], row) != rules.share(rules.rules[0], row | {name: "changed"})
