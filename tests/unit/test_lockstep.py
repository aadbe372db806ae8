"""Decisions under way together go through their stages together, and nobody waits for those who don't come."""

import asyncio

import pytest

from engine.lockstep import MOST, Lockstep


async def member(lockstep: Lockstep, name: str, log: list[str], stages: int = 2) -> None:
    """One that takes some stages and gives way between them."""
    async with lockstep:
        for stage in range(stages):
            log.append(f"{name}{stage}")
            await asyncio.sleep(0)


async def test_members_of_a_group_take_each_stage_before_anyone_takes_the_next():
    """Three that come together do stage 0 one after another, then stage 1."""
    lockstep, log = Lockstep(), []
    await asyncio.gather(*[member(lockstep, name, log) for name in "abc"])
    assert log == ["a0", "b0", "c0", "a1", "b1", "c1"]


async def test_who_comes_late_goes_with_the_next_group():
    """A group is not joined by those who come while it is under way; they depart together when it is through."""
    lockstep, log = Lockstep(), []
    first = asyncio.create_task(member(lockstep, "a", log, stages=30))
    while not log:
        await asyncio.sleep(0)
    await asyncio.gather(*[member(lockstep, name, log) for name in "bc"], first)
    assert log[:30] == [f"a{stage}" for stage in range(30)]
    assert log[30:] == ["b0", "c0", "b1", "c1"]


async def test_a_member_that_is_late_holds_nobody():
    """The next group departs although one of the last is still under way."""
    lockstep, log = Lockstep(), []
    done = asyncio.Event()

    async def slow() -> None:
        async with lockstep:
            await done.wait()

    waiting = asyncio.create_task(slow())
    await asyncio.sleep(0.001)
    await asyncio.wait_for(member(lockstep, "a", log), 5)
    done.set()
    await waiting
    assert log == ["a0", "a1"]


async def test_a_crowd_departs_in_groups():
    """More than fit into one group still all get through, each once."""
    lockstep, log = Lockstep(), []
    await asyncio.gather(*[member(lockstep, f"{n}-", log, stages=1) for n in range(3 * MOST)])
    assert sorted(log) == sorted(f"{n}-0" for n in range(3 * MOST))


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancelled_member_leaves_no_gap(turns):
    """Whenever one is cancelled, before or after its departure, the others go on at once."""
    lockstep, log = Lockstep(), []
    gone = asyncio.create_task(member(lockstep, "x", [], stages=10))
    for _ in range(turns):
        await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await asyncio.gather(*[member(lockstep, name, log) for name in "ab"])
    assert log == ["a0", "b0", "a1", "b1"]
    assert lockstep._inside == 0
