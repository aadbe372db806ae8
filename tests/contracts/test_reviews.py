"""What every journal's queue of review cases does: it follows the records, and it is quick when it is long."""

import asyncio
import os
import time

import orjson
import pytest

from engine.errors import CaseHeld
from engine.values import HOUR_US, Action, Record
from tests.contracts.conftest import JOURNALS

LONG = 100_000 if os.environ.get("ARBITER_LONG") else 10_000
"""Cases of a queue that nobody has worked off for long."""


def opened(number: int, rank: float = 0.0, **more: object) -> Record:
    """The record of a decision that opens a case."""
    case = {
        "currency": "EUR", "loss": 100.0, "rank": rank, "opened_us": number, "due_us": number + HOUR_US,
        "timeout_us": 0, "timeout_action": 0, **more,
    }  # fmt: skip
    body = orjson.dumps({"case": case})
    return Record("decision", f"e{number}", b"d", number, f"p{number}", body, b"", number + 1, opens=case)


def step(number: int, what: str, by: str = "ann", **more: object) -> Record:
    """The record of one step."""
    body = orjson.dumps({"step": what, "by": by, **more})
    return Record("review", f"e{number}", b"", 0, f"review:e{number}", body, b"", 0, known_us=7)


def named(cases):
    """Ids."""
    return [case.id for case in cases]


async def test_a_case_opens_with_its_decision_once(journal):
    """The record that wins its id opens the case; a repetition opens none; other records open none."""
    await journal.append(opened(1, 2.0))
    await journal.append(opened(1, 2.0))
    await journal.append(Record("decision", "e2", b"d", 1, "", b"{}", b"", 2))
    assert named(journal.reviews.open(10, 0)) == ["e1"]
    case = journal.reviews.case("e1")
    assert (case.payment_id, case.rank, case.due_us, case.action) == ("p1", 2.0, 1 + HOUR_US, Action.UNSPECIFIED)
    assert journal.reviews.case("e2") is None


async def test_cases_come_by_rank_and_go_on_where_they_ended(journal):
    """Equal ranks by id; what somebody has is chosen by its lease."""
    for number, rank in ((1, 1.0), (2, 3.0), (3, 1.0), (4, 2.0)):
        await journal.append(opened(number, rank))
    queue = journal.reviews
    assert named(queue.open(10, 0)) == ["e2", "e4", "e1", "e3"]
    assert named(queue.open(2, 0, after=(2.0, "e4"))) == ["e1", "e3"]
    assert named(queue.open(2, 0, after=(1.0, "e1"))) == ["e3"]
    queue.append(lambda: [step(4, "take", held_us=50)])
    assert [named(queue.open(10, 49, held)) for held in (True, False)] == [["e4"], ["e2", "e1", "e3"]]
    assert [named(queue.open(10, 50, held)) for held in (True, False)] == [[], ["e2", "e4", "e1", "e3"]]


async def test_steps_make_the_case(journal):
    """Taken, noted, given back, taken, decided; decided ones come newest first and are open no more."""
    await journal.append(opened(1))
    queue = journal.reviews
    queue.append(lambda: [step(1, "take", held_us=50)])
    assert (queue.case("e1").holder, queue.case("e1").held_us) == ("ann", 50)
    queue.append(lambda: [step(1, "note", "ben", text="x"), step(1, "look", "ben", shown=[])])
    queue.append(lambda: [step(1, "release")])
    assert (queue.case("e1").holder, queue.case("e1").held_us, queue.case("e1").notes) == ("", 0, 1)
    queue.append(lambda: [step(1, "decide", action=Action.DECLINE, text="ring")])
    case = queue.case("e1")
    assert (case.action, case.decided_by, case.decided_us, case.reason) == (Action.DECLINE, "ann", 7, "ring")
    assert (queue.open(10, 0), named(queue.decided(10)), queue.decided(10, (7, "e1"))) == ([], ["e1"], [])


async def test_the_policy_decides_what_is_late(journal):
    """Only what has an end, has reached it, and nobody has."""
    for number, end_us in ((1, 0), (2, 100), (3, 50), (4, 50)):
        await journal.append(opened(number, timeout_us=end_us, timeout_action=int(Action.DECLINE)))
    journal.reviews.append(lambda: [step(4, "take", held_us=200)])
    assert [named(journal.reviews.late(now_us, 10)) for now_us in (49, 50, 100, 200)] == [
        [], ["e3"], ["e3", "e2"], ["e3", "e4", "e2"],
    ]  # fmt: skip


async def test_what_a_step_refuses_leaves_no_trace(journal):
    """An error reaches the caller as it is; the journal is as before and goes on."""

    def refuse():
        raise CaseHeld("ben has it")

    await journal.append(opened(1))
    with pytest.raises(CaseHeld, match="ben has it"):
        journal.reviews.append(refuse)
    assert journal.reviews.append(list) == []
    assert len(list(journal.read(0))) == 1


@pytest.mark.parametrize("rounds", [40])
async def test_of_two_processes_that_want_a_case_one_gets_it(journal, tmp_path, rounds):
    """Each looks and takes when nobody else can write, so no case is taken twice."""
    other = JOURNALS["sqlite"](tmp_path)
    await other.start()
    for number in range(rounds):
        await journal.append(opened(number))
    taken = []

    def take(queue, by):
        def make():
            return [step(int(c.id[1:]), "take", by, held_us=10**9) for c in queue.open(1, 0, held=False)]

        while stored := queue.append(make):
            taken.append(stored[0].record.id)

    queues = [(journal.reviews, "ann"), (other.reviews, "ben")] * 3
    await asyncio.gather(*(asyncio.to_thread(take, *queue) for queue in queues))
    assert sorted(taken) == sorted(f"e{number}" for number in range(rounds))
    await other.close()


async def test_a_step_sees_what_others_committed_while_somebody_reads(journal, tmp_path):
    """A long read elsewhere in this process holds an old view of the file; the queue is not looked at through it."""
    for number in range(40):
        await journal.append(opened(number))
    slow = journal._read.execute("SELECT * FROM record")
    slow.fetchone()
    other = JOURNALS["sqlite"](tmp_path)
    await other.start()
    other.reviews.append(lambda: [step(0, "take", held_us=10**9)])
    seen = []
    journal.reviews.append(lambda: seen.append(journal.reviews.case("e0")) or [])
    assert (seen[0].holder, journal.reviews.case("e0").holder) == ("ann", "ann")
    slow.close()
    await other.close()


async def test_the_queue_can_be_derived_anew(journal):
    """From the records alone, and from a queue that was lost."""
    for number in range(5):
        await journal.append(opened(number, float(number)))
    journal.reviews.append(lambda: [step(3, "take", held_us=50), step(2, "decide", action=1, text="")])
    before = [journal.reviews.case(f"e{number}") for number in range(5)]
    journal._write.execute("DELETE FROM review")
    assert journal.reviews.rebuild() == 5
    assert [journal.reviews.case(f"e{number}") for number in range(5)] == before
    assert journal.reviews.rebuild() == 5


async def test_a_long_queue_is_read_by_its_indices(journal):
    """Nothing sorts it and nothing reads through it but what counts all of it; the times are printed."""
    for at in range(0, LONG, 5_000):
        journal.load([opened(number, float(number * 7919 % LONG)) for number in range(at, at + 5_000)])
    queue, took_ms = journal.reviews, {}

    def timed(name, call):
        began = time.perf_counter()
        found = call()
        took_ms[name] = (time.perf_counter() - began) * 1e3
        return found

    assert len(timed("list 50", lambda: queue.open(50, 0))) == 50
    middle = queue.open(1, 0, after=(LONG / 2, ""))[0]
    assert len(timed("list 50 from the middle", lambda: queue.open(50, 0, after=(middle.rank, middle.id)))) == 50
    assert timed("list taken", lambda: queue.open(50, 0, held=True)) == []
    first = timed("look and take", lambda: queue.append(lambda: [_taking(queue.open(1, 0, held=False)[0])]))
    timed("decide", lambda: queue.append(lambda: [step(int(first[0].record.id[1:]), "decide", action=1, text="")]))
    figures = timed("stats", lambda: queue.figures(0, 0))
    assert (figures.waiting, figures.loss) == (LONG - 1, 100.0 * (LONG - 1))
    assert named(queue.late(10**18, 10)) == []
    print(f"{LONG:,} cases, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in took_ms.items()))
    for index, rest in (
        ("review_open", "action = 0 AND rank <= 5.0 ORDER BY rank DESC, id LIMIT 50"),
        ("review_held", "action = 0 AND rank <= 5.0 AND held_us > 0 AND held_us > 5 ORDER BY +rank DESC, id LIMIT 50"),
        ("review_decided", "action > 0 AND decided_us <= 5 ORDER BY decided_us DESC, id LIMIT 50"),
        ("review_late", "action = 0 AND timeout_us > 0 AND timeout_us <= 5 ORDER BY timeout_us"),
    ):
        plan = [row[3] for row in journal._read.execute(f"EXPLAIN QUERY PLAN SELECT * FROM review WHERE {rest}")]
        assert index in plan[0], plan


def _taking(case):
    return step(int(case.id[1:]), "take", held_us=10**18)
