"""durable_rules behind its walls, against every way to lay a pattern's steps over the events, tried one by one."""

import os
import random
from contextlib import closing
from itertools import combinations

import pytest

from engine.policy import signals
from engine.policy.patterns import MAX_FACTS, Fact, History, Pattern, PatternSet, Step
from engine.policy.signals import PatternMatcher

LONG = os.environ.get("ARBITER_LONG") == "1"
SETS = 800 if LONG else 20
HISTORIES_PER_SET = 25


def brute_force(patterns: PatternSet, history: History) -> set[str]:
    """The semantics of docs/patterns.md, said as naively as they can be."""
    *others, now = history.facts
    relevant = [f for f in others if f.flags & patterns.mask(history.entity)]
    before = sorted((f for f in relevant if (f.time_us, f.number) < (now.time_us, now.number)), key=order)
    before = before[-(MAX_FACTS - 1) :]
    return {p.signal for p in patterns.patterns if p.entity == history.entity and fits(p, patterns, before, now)}


def order(fact: Fact) -> tuple[int, int]:
    """By event time, then by admission."""
    return fact.time_us, fact.number


def fits(pattern: Pattern, patterns: PatternSet, before: list[Fact], now: Fact) -> bool:
    """Whether some choice of earlier events, with the current one, is the pattern."""
    joined = [patterns.fields(pattern.entity).index(name) for name in pattern.same]

    def is_step(fact: Fact, step: Step) -> bool:
        same = all(fact.keys[key] is not None and fact.keys[key] == now.keys[key] for key in joined)
        return same and bool(fact.flags >> step.flag & 1)

    present = [place for place, step in enumerate(pattern.steps) if not step.absent]
    for chosen in combinations(before, len(present) - 1):
        line = (*chosen, now)
        in_time = now.time_us - line[0].time_us <= pattern.within_us
        if in_time and all(is_step(fact, pattern.steps[place]) for fact, place in zip(line, present, strict=True)):
            gaps = zip(line, line[1:], present, present[1:], strict=False)
            between = [(a, b, step) for a, b, i, j in gaps for step in pattern.steps[i + 1 : j]]
            if not any(order(a) < order(f) < order(b) and is_step(f, step) for a, b, step in between for f in before):
                return True
    return False


def random_pattern(rnd: random.Random, number: int, longest: int, flags: int) -> Pattern:
    """Up to `longest` present steps over few flags, so that they overlap; absent ones in up to two places."""
    steps = [Step(f"s{place}", rnd.randrange(flags)) for place in range(rnd.randint(2, longest))]
    for place in sorted({rnd.randint(1, len(steps) - 1) for _ in range(rnd.choice((0, 0, 1, 2)))}, reverse=True):
        steps[place:place] = [Step("none", rnd.randrange(flags), absent=True) for _ in range(rnd.choice((1, 1, 2)))]
    same = tuple(rnd.sample(("device", "card", "ip"), rnd.choice((0, 1, 1, 2))))
    within_us = rnd.choice((1, 3, 10, 30, 1_000_000))
    return Pattern(
        f"p{number}", rnd.choice(("user", "user", "device")), tuple(steps), within_us, same, f"signal{number}"
    )


def random_history(rnd: random.Random, patterns: PatternSet, entity: str, most: int, flags: int) -> History:
    """Up to `most` events with many ties in time, some later than the current one, some without a key."""
    keys = len(patterns.fields(entity))
    start_us, density = rnd.choice((0, 1_790_000_000_000_000)), rnd.choice((0.1, 0.3, 0.6, 1.0))
    facts = [
        Fact(
            number,
            start_us + rnd.randrange(rnd.choice((2, 20, 60))),
            sum(1 << bit for bit in range(flags + 2) if rnd.random() < density),
            tuple(rnd.choice((None, 7, 7, -(2**63), 2**63 - 1)) for _ in range(keys)),
        )
        for number in range(rnd.randint(1, most))
    ]
    return History(entity, tuple(facts))


@pytest.mark.parametrize("seed", range(SETS))
def test_equal_to_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pattern sets over random histories (ties, late events, missing keys, absent steps) raise equal signals."""
    monkeypatch.setitem(signals._ALLOCATOR, "MALLOC_PERTURB_", str(1 + seed % 255))  # glibc: unset memory is rubbish
    rnd = random.Random(seed)
    longest, most = rnd.choice(((3, 60), (4, 20), (6, 12)))
    flags = rnd.randint(2, 9)
    patterns = PatternSet(random_pattern(rnd, number, longest, flags) for number in range(rnd.randint(1, 30)))
    with closing(PatternMatcher(patterns)) as matcher:
        for _ in range(HISTORIES_PER_SET):
            histories = [random_history(rnd, patterns, entity, most, flags) for entity in patterns.entities]
            expected = set().union(*(brute_force(patterns, history) for history in histories))
            assert matcher.match_now(histories) == expected, (patterns.patterns, histories)
