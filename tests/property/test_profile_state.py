"""Profile state is a merge: whatever order changes come in, and however often, the state is the same."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from engine.eventlog import LogLayout
from engine.profiles.state import Entity
from engine.profiles.store import Change
from engine.schema import DISPOSITIONS
from engine.values import EntityEvent

LAYOUT = LogLayout("card", ("payment||",), ("sum:txn.amount_base",))
KEY = b"k" * 16
IDS = st.integers(1, 4)
SMALL = st.integers(0, 5)


def change(kind: str, event_id: int, name: str, value: Any, time_us: int) -> Change:
    """A change of the one card."""
    return Change("card", KEY, kind, event_id, name, value, time_us)


CHANGES = st.one_of(
    st.builds(change, st.just("outcome"), IDS, st.sampled_from(["chargeback", "abuse"]), SMALL, SMALL),
    st.builds(change, st.just("disposition"), IDS, st.just(""), st.integers(0, len(DISPOSITIONS) - 1), SMALL),
    st.builds(change, st.just("flag"), IDS, st.sampled_from(["payment||", "of other layouts"]), st.none(), SMALL),
)


def state(changes: list[Change]) -> tuple[Any, bytes]:
    """Head and log of a card with four payments after these changes."""
    card = Entity(LAYOUT, KEY)
    for number in range(1, 5):
        card.append(EntityEvent("card", KEY, number, number, 0, b"\0", (number,), {}), number)
    for one in changes:
        card.apply(one)
    return card.head, card.log


@given(changes=st.lists(CHANGES, max_size=12), data=st.data())
def test_any_order_and_any_repetition_give_the_same_state(changes, data):
    """Outcomes told twice with other times, dispositions, flags: shuffled and repeated, nothing is different."""
    again = data.draw(st.lists(st.sampled_from(changes), max_size=12)) if changes else []
    assert state(data.draw(st.permutations([*changes, *again]))) == state(changes)


@given(known=st.lists(SMALL, min_size=1, max_size=5))
def test_of_one_outcome_the_earliest_known_stays(known):
    """Told several times, it was known when it was first known."""
    head, _ = state([change("outcome", 1, "chargeback", known_us, 3) for known_us in known])
    assert head["out"] == [[1, "chargeback", 3, min(known)]]
