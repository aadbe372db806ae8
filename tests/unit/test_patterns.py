"""Patterns: what they mean, by example; and the life and death of the child process that matches them."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import PatternsUnavailable, PolicyError
from engine.policy import matcher as child
from engine.policy import signals
from engine.policy.patterns import MAX_FACTS, Fact, History, Pattern, PatternSet, Step
from engine.policy.signals import PatternMatcher

LONG = os.environ.get("ARBITER_LONG") == "1"
MATCHES = 1_000_000 if LONG else 20_000
MINUTE_US = 60_000_000
PATIENCE_S = 10.0
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")

Start = Callable[..., Awaitable[PatternMatcher]]
A, B, C, D = (1 << bit for bit in range(4))


def steps(text: str) -> tuple[Step, ...]:
    """`a !b c`: the letter is the flag, `!` marks an absent step."""
    return tuple(Step(word, ord(word[-1]) - ord("a"), word[0] == "!") for word in text.split())


def pattern(text: str, same: tuple[str, ...] = (), id: str = "p", entity: str = "user", **more: object) -> Pattern:
    """A pattern within the hour that raises its own id, unless told otherwise."""
    values = {"within_us": 60 * MINUTE_US, "signal": id} | more
    return Pattern(id=id, entity=entity, steps=steps(text), same=same, **values)


def history(*events: tuple[int, int] | tuple[int, int, int | None], entity: str = "user") -> History:
    """(minute, flags) or (minute, flags, key) of each event in order of admission; the last is the current one."""
    facts = [Fact(number, minute * MINUTE_US, flags, tuple(key)) for number, (minute, flags, *key) in enumerate(events)]
    return History(entity, tuple(facts))


@pytest.fixture
async def started() -> AsyncIterator[Start]:
    """Starts matchers and closes them after the test."""
    matchers: list[PatternMatcher] = []

    async def start(*patterns: Pattern, timeout_s: float = PATIENCE_S) -> PatternMatcher:
        matchers.append(PatternMatcher(PatternSet(patterns), timeout_s))
        await matchers[-1].start()
        return matchers[-1]

    yield start
    for each in matchers:
        each.close()
    await asyncio.sleep(0)


MEANING = {
    "in order": ("a b c", [(0, A), (1, B), (2, C)], True),
    "out of order": ("a b c", [(0, B), (1, A), (2, C)], False),
    "others may lie between": ("a b", [(0, A), (1, D), (2, B)], True),
    "one event is not two steps": ("a b", [(0, D), (1, A | B)], False),
    "the same step twice needs two events": ("a a b", [(0, A), (1, B)], False),
    "the same step twice": ("a a b", [(0, A), (1, A), (2, B)], True),
    "a match that ended earlier says nothing": ("a b", [(0, A), (1, B), (2, D)], False),
    "at one time the order of admission decides": ("a b", [(0, A), (0, B)], True),
    "within is inclusive": ("a b", [(0, A), (60, B)], True),
    "a minute too long": ("a b", [(0, A), (61, B)], False),
    "within counts from the first step": ("a b c", [(0, A), (59, B), (61, C)], False),
    "a newer first step that fits": ("a b c", [(0, A), (2, A), (59, B), (61, C)], True),
    "order is by event time, not by admission": ("a b c", [(1, B), (0, A), (2, C)], True),
    "what is later than a late event is not seen": ("a b", [(5, A), (3, B)], False),
    "absent": ("a !b c", [(0, A), (1, D), (2, C)], True),
    "not absent": ("a !b c", [(0, A), (1, B), (2, C)], False),
    "absent before the first step": ("a !b c", [(0, B), (1, A), (2, C)], True),
    "absent after a newer first step": ("a !b c", [(0, A), (1, B), (2, A), (3, C)], True),
    "an older middle step can be the one": ("a !d b c", [(0, A), (1, B), (2, D), (3, B), (4, C)], True),
    "either of two absent ones": ("a !b !d c", [(0, A), (1, D), (2, C)], False),
    "absent steps in two places": ("a !d b !d c", [(0, D), (1, A), (2, B), (3, C)], True),
}


@pytest.mark.parametrize("name", MEANING)
async def test_meaning(name: str, started: Start) -> None:
    """Each line of the table holds."""
    text, events, expected = MEANING[name]
    matcher = await started(pattern(text))
    assert await matcher.match([history(*events)]) == ({"p"} if expected else set())


async def test_same_joins_all_steps(started: Start) -> None:
    """Steps must share the join field, absent steps too; events without the field take no part."""
    matcher = await started(pattern("a !b c", same=("device",)))
    assert await matcher.match([history((0, A, 7), (1, C, 7))]) == {"p"}
    assert not await matcher.match([history((0, A, 8), (1, C, 7))])
    assert await matcher.match([history((0, A, 7), (1, B, 8), (2, C, 7))]) == {"p"}
    assert not await matcher.match([history((0, A, 7), (1, B, 7), (2, C, 7))])
    assert not await matcher.match([history((0, A, None), (1, C, None))])
    assert not await matcher.match([history((0, A, 2**63 - 1), (1, C, 2**63 - 2))])


async def test_all_patterns_fire(started: Start) -> None:
    """Every pattern that matches raises its signal, over several entities at once; two may raise one signal."""
    patterns = [pattern("a c", id=f"p{number}") for number in range(30)]
    patterns += [pattern("b c", id="q1", signal="q"), pattern("b b c", id="q2", signal="q")]
    patterns += [pattern("a b", id="device", entity="device"), pattern("a d", id="other", entity="device")]
    matcher = await started(*patterns)
    found = await matcher.match([history((0, A | B), (1, C)), history((0, A), (1, B), entity="device")])
    assert found == {f"p{number}" for number in range(30)} | {"q", "device"}


async def test_only_the_newest_flagged_events_count(started: Start) -> None:
    """Of more than 50 events that set a flag the oldest are not seen; events without a flag take no room."""
    matcher = await started(pattern("a b c"))
    fillers = [(1, B)] * (MAX_FACTS - 2)
    assert await matcher.match([history((0, A), *fillers, (2, C))]) == {"p"}
    assert not await matcher.match([history((0, A), (1, B), *fillers, (2, C))])
    assert await matcher.match([history((0, A), (1, B), *[(1, D)] * 100, (2, C))]) == {"p"}


async def test_nothing_flagged_costs_nothing() -> None:
    """Where no pattern can match, no process is asked, and none is even started."""
    matcher = PatternMatcher(PatternSet([pattern("a b", same=("device",))]))
    nothing = [(), ((0, A, 1), (1, A, 1)), ((0, D, 1), (1, B, 1)), ((0, A, 1), (1, B, None))]
    for events in nothing:
        assert not await matcher.match([history(*events)])
    assert not await matcher.match([history((0, A, 1), (1, B, 1), entity="card")])
    assert matcher.pid is None
    empty = PatternMatcher(PatternSet())
    await empty.start()
    assert (await empty.match([]), empty.match_now, empty.pid) == (frozenset(), empty.match_now, None)


def test_masks_say_what_to_hand_in() -> None:
    """The set names join fields, flags that matter, flags of last steps, and how far back it looks."""
    patterns = PatternSet([pattern("a b", same=("ip",)), pattern("a !c d", same=("device",), id="q", within_us=5)])
    assert patterns.entities == ("user",)
    assert patterns.fields("user") == ("device", "ip")
    assert patterns.mask("user") == A | B | C | D
    assert patterns.last_mask("user") == B | D
    assert patterns.reach_us("user") == 60 * MINUTE_US
    assert patterns.digest == PatternSet(patterns.patterns).digest != PatternSet([pattern("a b")]).digest


def test_impossible_patterns_are_all_named() -> None:
    """One error names every pattern that can't be used, and why."""
    bad = [
        pattern("a b", id="twice"),
        pattern("a b", id="twice"),
        pattern("a", id="short"),
        pattern("a b a b a b a b a", id="long"),
        pattern("!a b c", id="absent-first"),
        pattern("a !b c !b d !b a", id="three-gaps"),
        pattern("a b", id="no-time", within_us=0),
        pattern("a b", id="joins", same=("ip", "ip")),
        Pattern("flag", "user", (Step("a", 0), Step("b", 1024)), 1, (), "s"),
    ]
    with pytest.raises(PolicyError) as caught:
        PatternSet(bad)
    lines = str(caught.value).splitlines()
    for each, line in zip(dict.fromkeys(one.id for one in bad), lines, strict=True):
        assert line.startswith(f"pattern {each!r}: ")


async def test_wrong_number_of_keys_is_refused() -> None:
    """A history whose keys are not those of the join fields is a mistake of the caller, and named."""
    with pytest.raises(ValueError, match="1 keys, but join fields"):
        PatternSet([pattern("a b")]).question([history((0, A, 1), (1, B, 1))])


BOTH = history((0, A), (1, B))


async def ready(matcher: PatternMatcher, other_than: int | None = None) -> int:
    """Waits for the child that was started in the background."""
    async with asyncio.timeout(PATIENCE_S):
        while matcher.pid in (None, other_than):
            await asyncio.sleep(0.005)
    assert matcher.pid is not None
    return matcher.pid


async def test_lazy_start() -> None:
    """The first match that needs a child starts it and is refused; later ones are answered."""
    matcher = PatternMatcher(PatternSet([pattern("a b")]), PATIENCE_S)
    with pytest.raises(PatternsUnavailable, match="is starting"):
        await matcher.match([BOTH])
    await ready(matcher)
    assert await matcher.match([BOTH]) == {"p"}
    matcher.close()
    await asyncio.sleep(0)


async def test_killed_mid_way_is_replaced(started: Start) -> None:
    """A child that is killed while it works costs that call its signals; the next child answers again."""
    matcher = await started(pattern("a b"))
    for _ in range(3):
        pid = await ready(matcher)
        os.kill(pid, signal.SIGSTOP)
        calls = [asyncio.create_task(matcher.match([BOTH])) for _ in range(5)]
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, PatternsUnavailable)
        await ready(matcher, other_than=pid)
        assert await matcher.match([BOTH]) == {"p"}


async def test_late_answers_go_to_nobody(started: Start) -> None:
    """A late call is refused, the child stays, and later calls get their own answers."""
    matcher = await started(pattern("a b"), pattern("a c", id="q"))
    pid = matcher.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(PatternsUnavailable, match="within 10 ms"):
        await matcher.match([BOTH], timeout_s=0.01)
    waiting = asyncio.create_task(matcher.match([history((0, A), (1, C))]))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGCONT)
    assert await waiting == {"q"}
    assert await matcher.match([BOTH]) == {"p"}
    assert matcher.pid == pid


async def test_stuck_child_is_replaced(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that stays silent for too long is killed."""
    monkeypatch.setattr(signals, "_STUCK_S", 0.0)
    matcher = await started(pattern("a b"))
    pid = matcher.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(PatternsUnavailable):
        await matcher.match([BOTH], timeout_s=0.01)
    await ready(matcher, other_than=pid)
    assert await matcher.match([BOTH]) == {"p"}


async def test_too_many_waiting_are_refused_at_once(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue before a slow child is bounded."""
    matcher = await started(pattern("a b"))
    monkeypatch.setattr(signals, "_MAX_WAITING", 1)
    os.kill(matcher.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(matcher.match([BOTH]))
    await asyncio.sleep(0)
    with pytest.raises(PatternsUnavailable, match="1 questions waiting"):
        await matcher.match([BOTH])
    os.kill(matcher.pid, signal.SIGCONT)
    assert await waiting == {"p"}


async def test_given_up_questions_are_not_worked_on(started: Start) -> None:
    """A question whose deadline has passed when the child reads it is answered without work."""
    matcher = await started(pattern("a b"))
    question = matcher.patterns.question([BOTH])
    with pytest.raises(PatternsUnavailable, match="did not answer"):
        await matcher._line.ask(child.QUESTION.pack(0.0, 0)[:8] + question, PATIENCE_S)


async def test_failure_is_told_and_survived(started: Start) -> None:
    """A child that fails says why and ends; another one takes its place."""
    matcher = await started(pattern("a b"))
    pid = matcher.pid
    with pytest.raises(PatternsUnavailable, match="failed: error: unpack_from requires"):
        await matcher._line.ask(b"nonsense", PATIENCE_S)
    await ready(matcher, other_than=pid)
    assert await matcher.match([BOTH]) == {"p"}


@pytest.mark.parametrize("program", ["/nonexistent/python", "/bin/false"])
async def test_child_that_cannot_start(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails says so, and a call meanwhile is refused with the reason; starts don't follow at once."""
    monkeypatch.setattr(sys, "executable", program)
    matcher = PatternMatcher(PatternSet([pattern("a b")]))
    for _ in range(2):
        with pytest.raises(PatternsUnavailable, match="process"):
            await matcher.start()
    with pytest.raises(PatternsUnavailable, match="can't start"):
        await matcher.match([BOTH])
    assert matcher._starting is None
    matcher.close()
    await asyncio.sleep(0)


async def test_reload(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload gives a warm matcher; the old one still answers for a while; equal patterns keep theirs."""
    monkeypatch.setattr(signals, "_GRACE_S", 0.05)
    old = await started(pattern("a b"))
    assert await old.reload(PatternSet([pattern("a b")])) is old
    new = await old.reload(PatternSet([pattern("a b", id="new")]))
    assert (await old.match([BOTH]), await new.match([BOTH])) == ({"p"}, {"new"})
    async with asyncio.timeout(PATIENCE_S):
        while old.pid is not None:
            await asyncio.sleep(0.005)
    with pytest.raises(PatternsUnavailable, match="is closed"):
        await old.match([BOTH])
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(PatternsUnavailable):
        await new.reload(PatternSet([pattern("a c")]))
    assert await new.match([BOTH]) == {"new"}
    new.close()
    await asyncio.sleep(0)


async def test_close_ends_waiting_calls(started: Start) -> None:
    """Who still waits at the close is refused; closing twice is no mistake."""
    matcher = await started(pattern("a b"))
    os.kill(matcher.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(matcher.match([BOTH]))
    await asyncio.sleep(0)
    matcher.close()
    with pytest.raises(PatternsUnavailable):
        await waiting
    matcher.close()
    with pytest.raises(PatternsUnavailable, match="is closed"):
        await matcher.start()


def test_without_a_loop() -> None:
    """`match_now` starts its child, waits for it, and goes on with a second one when the first is killed."""
    with closing(PatternMatcher(PatternSet([pattern("a b")]))) as matcher:
        assert matcher.match_now([BOTH]) == {"p"}
        assert matcher.pid is not None
        os.kill(matcher.pid, signal.SIGKILL)
        assert matcher.match_now([BOTH]) == {"p"}


PARENT = """
import sys
from engine.policy.patterns import Fact, History, Pattern, PatternSet, Step
from engine.policy.signals import PatternMatcher
matcher = PatternMatcher(PatternSet([Pattern("p", "user", (Step("a", 0), Step("b", 1)), 1, (), "p")]))
for _ in sys.stdin:
    matcher.match_now([History("user", (Fact(0, 0, 1), Fact(1, 0, 2)))])
    print(matcher.pid, flush=True)
"""


@linux
def test_child_goes_with_its_parent() -> None:
    """Ctrl-C and SIGTERM, which reach a whole service, leave the child to its parent; when that is killed, it ends."""
    command, root = [sys.executable, "-c", PARENT], Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None

        def ask() -> int:
            print(file=parent.stdin, flush=True)
            return int(parent.stdout.readline())

        pid = ask()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        assert ask() == pid
        parent.kill()
    until = time.monotonic() + PATIENCE_S
    while is_running(pid):
        assert time.monotonic() < until, f"child {pid} outlived its parent"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux
async def test_unset_memory_is_never_read(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every fresh byte of memory filled with rubbish, the first matches, which find nothing, are survived."""
    monkeypatch.setitem(signals._ALLOCATOR, "MALLOC_PERTURB_", "165")
    matcher = await started(*[pattern("a a b !c d", id=f"p{number}") for number in range(20)])
    pid = matcher.pid
    for _ in range(3):
        assert not await matcher.match([history((0, A), (1, B), (2, A), (3, D))])
    assert matcher.pid == pid


@linux
async def test_child_is_small(started: Start) -> None:
    """The child has one thread, and none of the engine's heavy libraries."""
    matcher = await started(pattern("a b"))
    mapped = Path(f"/proc/{matcher.pid}/maps").read_text()
    assert "durable_rules_engine" in mapped
    assert not [name for name in ("numpy", "onnx", "xgboost", "pyarrow", "grpc") if name in mapped]
    assert len(list(Path(f"/proc/{matcher.pid}/task").iterdir())) == 1


def memory_kib(pid: int, field: str) -> int:
    """A line of /proc/PID/status, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@linux
async def test_many_ways_to_match_are_one(started: Start) -> None:
    """50 events that each fit eight steps (86 million ways), 60 such patterns: little memory, and no error 303."""
    patterns = [pattern("a a a a a a a a", id=f"p{number}") for number in range(60)]
    matcher = await started(*patterns)
    assert len(await matcher.match([history(*[(0, A)] * MAX_FACTS)])) == 60
    assert memory_kib(matcher.pid, "VmHWM") < 128 * 1024


@linux
async def test_no_growth(started: Start) -> None:
    """40 patterns over 20,000 decisions (a million with ARBITER_LONG=1), each with a question: one child, no growth."""
    rnd = random.Random(11)
    texts = ("a b c", "a a d", "b !a c", "a b !c d b")
    same = [(), ("device",)]
    patterns = [pattern(texts[number % 4], same=same[number % 2], id=f"p{number}") for number in range(40)]
    matcher = await started(*patterns)
    histories = [
        [
            history(
                *[(minute, rnd.choice((A, B, C, D, A | B)), rnd.choice((1, 2))) for minute in range(rnd.choice((4, 9)))]
            )
        ]
        for _ in range(500)
    ]
    pids, fired, before = (matcher.pid, os.getpid()), 0, [0, 0]
    for number in range(MATCHES):
        if number == MATCHES // 10:
            before = [memory_kib(pid, "VmRSS") for pid in pids]
        fired += len(await matcher.match(histories[number % 500]))
    after = [memory_kib(pid, "VmRSS") for pid in pids]
    print(f"{MATCHES:,} decisions, {fired:,} signals; KiB of child and parent {before} → {after}")
    assert fired > MATCHES
    assert matcher.pid == pids[0]
    assert after[0] - before[0] < 1024
    assert after[1] - before[1] < 2048


def test_names_have_different_hashes() -> None:
    """durable_rules knows names and ids by their 32-bit FNV hash alone: none that are used together may collide."""

    def fnv(text: str) -> int:
        value = 2166136261
        for byte in text.encode():
            value = (value ^ byte) * 16777619 % 2**32
        return value

    flags = [f"f{number}" for number in range(child.FLAGS_PER_RULESET)]
    names = [
        *flags,
        *(f"b{flag}" for flag in flags),
        "id",
        "sid",
        "n",
        "t",
        "low",
        "$s",
        *(f"k{n}" for n in range(256)),
    ]
    ids = [str(number) for number in range(child._LAST_ID + child.FLAGS_PER_RULESET)] + ["sid-0"]
    frames = [f"m{place}" for place in range(child.MAX_STEPS)]
    for group in (names, ids, frames):
        assert len({fnv(text) for text in group}) == len(group)
