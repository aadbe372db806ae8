"""Profile state is a merge: whatever order changes come in, and however often, the state is the same."""

from typing import Any
from unittest import mock

import hypothesis.strategies as st
from hypothesis import given

from engine.eventlog import LogLayout, Tile
from engine.profiles import state as stored_state
from engine.profiles.state import Entity
from engine.profiles.store import Change, Merge
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


TILED = LogLayout(
    "card", ("payment||",), ("sum:txn.amount_base",), keep=3, tiles=(Tile(10, 40, "payment||", "sum:txn.amount_base"),)
)
PAYMENTS = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3), st.integers(-5, 2**40)), min_size=8, max_size=25)
"""(time, attempt or 0, amount) of one payment after the other."""


@given(paid=PAYMENTS, live=st.integers(4, 25), safe=st.integers(0, 25), data=st.data())
def test_totals_count_each_row_once_though_rows_are_dropped(paid, live, safe, data):
    """However few rows are kept, totals are those of all rows: admitted, merged from the journal, or offered again."""
    entries = [EntityEvent("card", KEY, n, *one[:2], b"\1", one[2:], {}) for n, one in enumerate(paid, 1)]
    with mock.patch.object(stored_state, "CHUNK_BYTES", 2 * TILED.size):
        card, live = Entity(TILED, KEY, safe=safe), max(live, safe - 1)
        for entry in entries[:live]:
            card.append(entry._replace(attempt=0), entry.id)
        rows = {n: TILED.encode(e._replace(attempt=0), n) for n, e in enumerate(entries, 1)}
        offered = [n for n in rows if n >= safe]
        for _ in range(2):
            some = data.draw(st.lists(st.sampled_from(offered), unique=True)) if offered else []
            card.merge(Merge("card", KEY, b"".join(rows[n] for n in some)))
        card.merge(Merge("card", KEY, b"".join(rows[n] for n in offered)))
    assert card.head["tiles"] == TILED.tiled({}, list(rows.values()))


def test_a_merged_retry_takes_nobodys_place_in_a_total():
    """The earlier try of an attempt counts, though it is told later; the later one is taken out again."""
    tries = [EntityEvent("card", KEY, n, n, 7, b"\1", (10**n,), {}) for n in (1, 2)]
    card = Entity(TILED, KEY)
    card.append(tries[1], 2)
    card.merge(Merge("card", KEY, TILED.encode(tries[0], 1)))
    assert card.head["tiles"] == {TILED.tiles[0].name: {"0": [1, 10, 100]}}


@given(known=st.lists(SMALL, min_size=1, max_size=5))
def test_of_one_outcome_the_earliest_known_stays(known):
    """Told several times, it was known when it was first known."""
    head, _ = state([change("outcome", 1, "chargeback", known_us, 3) for known_us in known])
    assert head["out"] == [[1, "chargeback", 3, min(known)]]
