"""What every profile store does: atomic admission, idempotent and commutative merging, reads that never write."""

import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BodyConflict, PolicyError
from engine.eventlog import LogLayout, LogView
from engine.profiles.state import Entity
from engine.profiles.store import Admit, Change, LayoutsMoved, Merge
from engine.values import EntityEvent
from tests.contracts.conftest import LAYOUTS, PROFILES

USER, CARD = b"\x01" + bytes(16), b"\x01" + b"c" * 16


def entry(number: int, *, time_us: int = 0, attempt: int = 0, entity: str = "user", **more: object) -> EntityEvent:
    """One payment of one user, or of one card."""
    key, flags, values = (USER, b"\x01\x00", (number, 7)) if entity == "user" else (CARD, b"\x01", ())
    return EntityEvent(entity, key, number, time_us or number * 1000, attempt, flags, values, dict(more))


def request(number: int, **more: object) -> Admit:
    """The admission of one payment of a user with a card."""
    entries = (entry(number, **more), entry(number, entity="card", **more))
    return Admit(f"e{number}", b"digest", b"pending", entries)


def ids(state) -> list[int]:
    """Event ids of a state's log in admission order."""
    return [event_id for _, event_id in LAYOUTS["user"].keys(state.log)]


async def user(profiles):
    """The user's state now."""
    return (await profiles.peek({"user": USER}))["user"]


async def test_an_admission_returns_what_was_there_before_it(profiles):
    """The k-th of a burst sees the k-1 before it, and nothing of itself."""
    seen = [ids((await profiles.admit(request(n), None)).states["user"]) for n in range(1, 6)]
    assert seen == [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]


async def test_simultaneous_admissions_are_in_one_order(profiles):
    """Gathered admissions see each other exactly as if they had come one by one."""
    answers = await asyncio.gather(*[profiles.admit(request(n), None) for n in range(1, 40)])
    assert sorted(len(ids(a.states["user"])) for a in answers) == list(range(39))
    assert sorted(a.number for a in answers) == sorted({a.number for a in answers})


async def test_a_repeated_id_is_admitted_once_and_answers_as_the_first_time(profiles):
    """A retry returns the first admission's states and number, while it is pending and after it is settled."""
    first = await profiles.admit(request(1), None)
    await profiles.admit(request(2), None)
    again = await profiles.admit(request(1), None)
    assert (again.number, again.fresh, ids(again.states["user"])) == (first.number, False, [])
    await profiles.settle((), ["e1", "e2"])
    later = await profiles.admit(request(1), None)
    assert (later.number, later.fresh, ids(later.states["user"])) == (first.number, False, [])
    assert ids(await user(profiles)) == [1, 2]


async def test_a_pending_id_with_another_body_is_refused_without_a_trace(profiles):
    """The refusal names both digests and changes nothing."""
    await profiles.admit(request(1), None)
    other = Admit("e1", b"other!", b"", (entry(9),))
    with pytest.raises(BodyConflict, match="already known"):
        await profiles.admit(other, None)
    assert ids(await user(profiles)) == [1]


async def test_one_attempt_counts_once(profiles):
    """A second entry of one payment and card is kept, but sets no flag."""
    for number in (1, 2, 3):
        await profiles.admit(request(number, attempt=77 if number < 3 else 78), None)
    view = LogView(LAYOUTS["user"], (await user(profiles)).log)
    assert list(view.flag(0)) == [1, 0, 1]


async def test_peek_never_writes(profiles):
    """Reading a profile that does not exist leaves none behind."""
    state = await user(profiles)
    assert (state.log, dict(state.head)) == (b"", {})
    assert (await profiles.admit(request(1), None)).states["user"].log == b""


async def test_changes_are_idempotent_and_the_newest_attribute_stays(profiles):
    """Repeating changes, in any order, gives the same state."""
    await profiles.admit(request(1), None)
    changes = [
        Change("user", USER, "disposition", 1, "", 1, 0),
        Change("user", USER, "flag", 1, "login||", None, 0),
        Change("user", USER, "outcome", 1, "chargeback", 99, 50),
        Change("user", USER, "attribute", 5, "risk", "new", 2000),
        Change("user", USER, "attribute", 4, "risk", "old", 1000),
    ]
    states = []
    for order in (changes, changes[::-1], changes + changes):
        await profiles.settle(order)
        states.append(await user(profiles))
    assert states[0] == states[1] == states[2]
    view = LogView(LAYOUTS["user"], states[0].log)
    assert (list(view.dispositions()), list(view.flag(1))) == ([1], [1])
    assert states[0].head["attr"]["risk"][0] == "new"
    assert states[0].head["out"] == [[1, "chargeback", 50, 99]]


async def test_what_is_pending_is_listed_until_it_is_settled(profiles):
    """An admission stays pending until the journal's record is told."""
    await profiles.admit(request(1), None)
    await profiles.admit(request(2), None)
    await profiles.settle((), ["e1"])
    assert [p.id for p in await profiles.pending(2**62)] == ["e2"]
    assert await profiles.pending(0) == []


async def test_only_the_newest_rows_count_and_the_cut_is_known(profiles):
    """Past `keep` rows the oldest are dropped chunk by chunk, and the view says how far back it reaches."""
    layout = LAYOUTS["user"]
    chunk_rows = Entity(layout, USER).chunk_rows
    for number in range(1, layout.keep + 2 * chunk_rows + 2):
        await profiles.admit(Admit(f"e{number}", b"d", b"", (entry(number),)), None)
    state = await user(profiles)
    view = LogView(layout, state.log, state.head.get("dropped", 0))
    newest = layout.keep + 2 * chunk_rows + 1
    assert view.times == [n * 1000 for n in range(newest - layout.keep + 1, newest + 1)]
    assert view.cut_us == (newest - layout.keep) * 1000
    assert len(ids(state)) < layout.keep + 2 * chunk_rows


async def test_the_first_admission_can_be_read_again(profiles):
    """`first` gives the states that an event's own admission returned."""
    for number in (1, 2, 3):
        await profiles.admit(request(number), None)
    assert ids((await profiles.first(2, {"user": USER}))["user"]) == [1]


async def test_a_bulk_merge_equals_admissions(profiles, tmp_path):
    """Merging encoded rows in any order and repetition gives the log that admissions would have given."""
    layout = LAYOUTS["user"]
    rows = [layout.encode(entry(n, attempt=5 if n in (3, 4) else 0), n) for n in range(1, 30)]
    shuffled = rows * 2
    random.Random(3).shuffle(shuffled)
    half = len(shuffled) // 2
    profiles.merge([Merge("user", USER, b"".join(shuffled[:half]), (), 1000)], 30)
    profiles.merge([Merge("user", USER, b"".join(shuffled[half:]), (), 1000)], 30)
    merged = await user(profiles)
    other = PROFILES["sqlite"](tmp_path / "other")
    await other.start(LAYOUTS)
    for n in range(1, 30):
        await other.admit(Admit(f"e{n}", b"d", b"", (entry(n, attempt=5 if n in (3, 4) else 0),)), None)
    admitted = await user(other)
    await other.close()
    assert merged == admitted


async def test_the_next_number_follows_a_merge(profiles):
    """Admissions after a bulk get larger numbers than anything in it."""
    profiles.merge([Merge("user", USER, LAYOUTS["user"].encode(entry(1), 500), (), 1)], 501)
    assert (await profiles.admit(request(2), None)).number >= 501


async def test_logs_of_other_columns_are_refused(profiles, tmp_path):
    """Opening a store with another layout says what to do instead of misreading its bytes."""
    other = {**LAYOUTS, "user": LogLayout("user", ("payment||",), ())}
    again = PROFILES["sqlite"](tmp_path)
    with pytest.raises(PolicyError, match="arbiter rebuild"):
        await again.start(other)


async def test_what_the_journal_may_offer_again_is_known(profiles):
    """Numbers from the oldest admission on that is not settled; a bulk holds the note back."""
    first = await profiles.admit(request(1), None)
    second = await profiles.admit(request(2), None)
    assert profiles.unsettled_from() == first.number
    await profiles.settle((), ["e1"])
    assert profiles.unsettled_from() == second.number
    await profiles.settle((), ["e2"])
    assert profiles.unsettled_from() == second.number + 1
    assert profiles.begin_bulk()
    profiles.mark_reconciled(9, 9)
    assert profiles.reconciled() == 0
    profiles.leave_bulk()


async def test_changes_of_other_layouts_are_no_mistake(profiles):
    """What the journal tells of an entity or a flag that these layouts lack changes nothing."""
    await profiles.admit(request(1), None)
    before = await user(profiles)
    merchant = Change("merchant", b"\x01" + b"m" * 16, "attribute", 1, "name", "x", 0)
    await profiles.settle([merchant, Change("user", USER, "flag", 1, "view||", None, 0)])
    assert await user(profiles) == before


async def test_other_logs_take_the_place_of_these_at_once(profiles, tmp_path):
    """What was prepared for the columns before is opened anew; what is pending here is pending there."""
    await profiles.admit(request(1), None)
    other = {**LAYOUTS, "user": LogLayout("user", ("payment||",), (), keep=40)}
    fresh = profiles.successor(other)
    profiles.hand_over(fresh, lambda pending: fresh.merge((), 40))
    assert (profiles.moved(), profiles.stored_shape()) == (True, fresh.shape)
    waiting = asyncio.ensure_future(profiles.admit(replace(request(2), shape=profiles.shape), None))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    profiles.adopt(other)
    with pytest.raises(LayoutsMoved):
        await waiting
    narrow = entry(2)._replace(flags=b"\x01", values=())
    assert (await profiles.admit(Admit("e2", b"digest", b"", (narrow,), (), profiles.shape), None)).number >= 40
    assert [p.id for p in await profiles.pending(2**62)] == ["e1", "e2"]
    with pytest.raises(PolicyError, match="the stored logs of user have other columns"):
        await PROFILES["sqlite"](tmp_path).start(LAYOUTS)
    profiles.forget_older()
    assert not (tmp_path / "profiles.sqlite").exists()
    assert PROFILES["sqlite"](tmp_path).stored_shape() == profiles.shape
    await fresh.close()


@given(st.permutations(range(12)), st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_merging_is_commutative(order, data):
    """Whatever way rows are split and ordered over merges, the entity ends the same."""
    layout = LAYOUTS["user"]
    rows = [layout.encode(entry(n + 1, time_us=1 + n % 5, attempt=n % 3), n + 1) for n in range(12)]
    cut = data.draw(st.integers(0, 12))
    one, two = Entity(layout, USER), Entity(layout, USER)
    one.merge(Merge("user", USER, b"".join(rows), (), 1))
    two.merge(Merge("user", USER, b"".join(rows[n] for n in order[:cut]), (), 1))
    two.merge(Merge("user", USER, b"".join(rows[n] for n in order[cut:]), (), 1))
    assert (one.log, one.head) == (two.log, two.head)


async def test_a_disposition_never_goes_back(profiles):
    """The farthest that is known of a payment stays, in whatever order it is told: approved beats declined."""
    await profiles.admit(request(1), None)
    for order in ((3, 4), (4, 3), (5, 4, 1), (4, 5)):
        await profiles.settle([Change("user", USER, "disposition", 1, "", code, 0) for code in order])
        assert list(LogView(LAYOUTS["user"], (await user(profiles)).log).dispositions()) == [4]


async def test_a_retry_sets_no_flag_that_is_told_later(profiles):
    """What does not count at its admission does not count through a later change either."""
    for number in (1, 2):
        await profiles.admit(request(number, attempt=77), None)
    await profiles.settle([Change("user", USER, "flag", number, "login||", None, 0) for number in (1, 2)])
    assert list(LogView(LAYOUTS["user"], (await user(profiles)).log).flag(1)) == [1, 0]


async def test_an_admission_that_is_repeated_is_pending_again(profiles):
    """A retry of a settled attempt may die too, so the reconciler must hear of it; its number stays the first."""
    first = await profiles.admit(request(1), None)
    await profiles.settle((), ["e1"])
    again = await profiles.admit(request(1), None)
    assert [p.id for p in await profiles.pending(2**62)] == ["e1"]
    later = await profiles.admit(request(2), None)
    assert (again.number, later.number > first.number) == (first.number, True)


async def test_whoever_waits_hears_of_a_failure_of_any_kind(profiles):
    """An entry of an entity that has no log here fails its own batch, and the next one works."""
    with pytest.raises(KeyError):
        await profiles.admit(Admit("e9", b"digest", b"", (entry(9)._replace(entity="merchant", key=bytes(17)),)), None)
    assert (await profiles.admit(request(1), None)).fresh
