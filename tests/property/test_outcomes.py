"""Whatever order outcomes come in, before or after their events: profiles are the same, and those of a rebuild."""

import asyncio
import random

import pytest

from engine.bootstrap import open_engine, rebuild
from tests.conftest import NOW_US, payment
from tests.unit.test_sink import contents

DAY_US = 86_400_000_000
KINDS = (
    "chargeback", "confirmed_fraud", "dispute_won", "confirmed_good", "fraud_warning", "refund_issued",
    "service_dispute", "issuer_decline", "complaint_filed",
)  # fmt: skip
ORDERS = 5
EVENTS = [
    payment(n, user__id=f"u{n % 3}", device__id=f"d{n % 4}", card__token=f"tok_{n % 4}", at_s=n * 60) for n in range(12)
]
RND = random.Random(11)
OUTCOMES = [
    {
        "id": f"o{n}", "event_id": f"e{RND.randrange(14)}", "kind": RND.choice(KINDS),
        "time_us": NOW_US + DAY_US, "known_us": NOW_US + RND.randrange(1, 40) * DAY_US,
    }
    for n in range(40)
]  # fmt: skip
"""Of 14 events, two of which never come."""


async def play(settings, seed):
    """Take in events in their order and outcomes in any, some of them twice."""
    rnd = random.Random(seed)
    told = OUTCOMES + rnd.sample(OUTCOMES, 12)
    rnd.shuffle(told)
    places = sorted(rnd.randrange(len(told) + 1) for _ in EVENTS)
    engine = open_engine(settings)
    await engine.start(watch=False)
    for at in range(len(told) + 1):
        for event, place in zip(EVENTS, places, strict=True):
            if place == at:
                await engine.decide(event)
        if at < len(told):
            await engine.record_outcome(told[at])
    await engine.close()


def said_of(found):
    """Outcomes, lists and rows of each profile: what outcomes make of them."""
    return {
        who: (head.get("out"), {n: v for n, v in head.get("attr", {}).items() if n.startswith("list:")}, rows)
        for who, (head, rows) in found.items()
    }


@pytest.fixture
def installation(settings_of, tmp_path):
    """Settings by name, with one secret key."""
    return lambda name: settings_of(state=tmp_path / name, hash_key_file=str(tmp_path / "hash.key"))


def test_any_order_gives_the_same_profiles_and_so_does_a_rebuild(installation):
    """Orphans that are joined, repetitions, won disputes: five orders, each rebuilt."""
    found = []
    for seed in range(ORDERS):
        settings = installation(f"state{seed}")
        asyncio.run(play(settings, seed))
        live = contents(settings)
        rebuild(settings)
        assert contents(settings) == live, seed
        found.append(said_of(live))
    assert all(one == found[0] for one in found)
    assert sum(len(out or ()) for out, _, _ in found[0].values()) > 40
    assert any(lists for _, lists, _ in found[0].values())
