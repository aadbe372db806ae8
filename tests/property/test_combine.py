"""Combining hits: whatever the policy and the hits, these hold."""

from hypothesis import given
from hypothesis import strategies as st

from engine.policy.combine import Source, combine
from engine.policy.rules import MeasureSpec, Outcome
from engine.values import Action, Reason, Tier

DEFAULTS = {Tier.LOW: Action.ALLOW, Tier.MEDIUM: Action.CHALLENGE, Tier.HIGH: Action.REVIEW}
tiers = st.none() | st.sampled_from([t for t in Tier if t])
actions = st.none() | st.sampled_from([a for a in Action if a])
measures = st.lists(st.sampled_from([MeasureSpec(k, {}, 0) for k in ("MONITOR", "NOTIFY", "STEP_UP")]), max_size=2)
sources = st.builds(
    Source,
    st.builds(Outcome, tiers, actions, measures.map(tuple)),
    st.integers(0, 30).map(lambda n: Reason(f"R{n}", "", "", f"rule:{n}")),
)
many = st.lists(sources, max_size=8)


@given(many, sources, st.booleans())
def test_a_further_hit_never_lowers_anything(hits, further, passed):
    """Adding a hit keeps or raises tier and action, and keeps every measure but a STEP_UP that it made needless."""
    before = combine(hits, DEFAULTS, challenge_passed=passed)
    after = combine([*hits, further], DEFAULTS, challenge_passed=passed)
    assert after.tier >= before.tier
    assert after.action >= before.action
    kinds = {spec.kind for spec, _ in before.measures}
    stated = {spec.kind for hit in hits for spec in hit.outcome.measures}
    assert {spec.kind for spec, _ in after.measures} >= kinds & stated


@given(many, st.randoms(), st.booleans())
def test_the_order_of_hits_does_not_matter(hits, random, passed):
    """Any order of the same hits gives the same verdict."""
    unique = list({hit.reason.source: hit for hit in hits}.values())
    shuffled = list(unique)
    random.shuffle(shuffled)
    assert combine(unique, DEFAULTS, challenge_passed=passed) == combine(shuffled, DEFAULTS, challenge_passed=passed)


@given(many)
def test_each_hit_gives_exactly_what_it_states(hits):
    """The tier is the highest stated, the action the most severe stated or brought by a tier alone."""
    verdict = combine(hits, DEFAULTS)
    stated = [h.outcome.tier for h in hits if h.outcome.tier]
    brought = [h.outcome.action or (DEFAULTS[h.outcome.tier] if h.outcome.tier else None) for h in hits]
    assert verdict.tier == max(stated, default=Tier.LOW)
    assert verdict.action == max((a for a in brought if a), default=Action.ALLOW)


@given(many)
def test_a_passed_challenge_meets_only_challenges(hits):
    """After a passed challenge there is no CHALLENGE; REVIEW and DECLINE stand, and the tier is untouched."""
    plain, passed = combine(hits, DEFAULTS), combine(hits, DEFAULTS, challenge_passed=True)
    assert passed.tier == plain.tier
    assert passed.action == (Action.ALLOW if plain.action is Action.CHALLENGE else plain.action)


@given(many)
def test_a_challenge_beside_a_review_stays_as_step_up(hits):
    """REVIEW with a CHALLENGE among the sources carries STEP_UP."""
    verdict = combine(hits, DEFAULTS)
    brought = [h.outcome.action or (DEFAULTS[h.outcome.tier] if h.outcome.tier else None) for h in hits]
    if verdict.action is Action.REVIEW and Action.CHALLENGE in brought:
        assert "STEP_UP" in {spec.kind for spec, _ in verdict.measures}


def test_a_band_without_a_reason_gives_none():
    """The lowest band decides LOW and ALLOW without telling anybody that a score alone did."""
    silent = Source(Outcome(Tier.LOW, Action.ALLOW), Reason("", "", "", "band:payment"))
    assert combine([silent], DEFAULTS).reasons == ()
