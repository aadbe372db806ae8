"""What patterns in time cost: 22 patterns of three steps over 20 and 50 events, through the child process and back.

Beside the times on the wall stands the processor time of both processes, which a busy machine changes less.

python -m benchmarks.patterns [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles

from engine.policy.patterns import Fact, History, Pattern, PatternSet, Step
from engine.policy.signals import PatternMatcher

PATTERNS, STEPS, HOUR_US = 22, 3, 3_600_000_000


def pattern_set() -> PatternSet:
    """22 patterns of three steps within an hour on one device; each step has a condition of its own."""
    names = ("first", "second", "third")
    return PatternSet(
        Pattern(
            id=f"pattern-{number}",
            entity="user",
            steps=tuple(Step(name, number * STEPS + place) for place, name in enumerate(names)),
            within_us=HOUR_US,
            same=("device",),
            signal=f"signal-{number}",
        )
        for number in range(PATTERNS)
    )


def history(rnd: random.Random, facts: int, share: float, last_steps: int) -> History:
    """Events over the last hour that set each flag with probability `share`; the newest completes `last_steps`."""
    times_us = sorted(rnd.randrange(HOUR_US) for _ in range(facts))
    flags = [sum(1 << bit for bit in range(PATTERNS * STEPS) if rnd.random() < share) for _ in times_us]
    flags[-1] = sum(1 << number * STEPS + STEPS - 1 for number in rnd.sample(range(PATTERNS), last_steps))
    events = zip(times_us, flags, strict=True)
    return History("user", tuple(Fact(n, at, bits, (rnd.randrange(3),)) for n, (at, bits) in enumerate(events)))


def processor_us(matcher: PatternMatcher) -> float:
    """Processor time of this process and the child so far, in µs; the child's counts in hundredths of a second."""
    user, system = Path(f"/proc/{matcher.pid}/stat").read_text().split()[13:15]
    return 1e6 * (time.process_time() + (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"))


async def measure(
    matcher: PatternMatcher, histories: Sequence[History], repeats: int
) -> tuple[float, float, float, float]:
    """Median and p99 of one `match` and its processor time, in µs, and the mean number of signals."""
    taken_us, signals, before_us = [], 0, processor_us(matcher)
    for number in range(repeats):
        start_ns = time.perf_counter_ns()
        found = await matcher.match([histories[number % len(histories)]], timeout_s=5.0)
        taken_us.append((time.perf_counter_ns() - start_ns) / 1000)
        signals += len(found)
    busy_us = (processor_us(matcher) - before_us) / repeats
    return median(taken_us), quantiles(taken_us, n=100)[-1], busy_us, signals / repeats


async def run(repeats: int) -> dict[str, tuple[float, float, float, float]]:
    """Every case, by the name of its figure."""
    rnd = random.Random(7)
    cases = {
        "facts_20": (20, 0.1, PATTERNS),
        "facts_50": (50, 0.1, PATTERNS),
        "dense_20": (20, 1.0, PATTERNS),
        "dense_50": (50, 1.0, PATTERNS),
        "two_candidates_20": (20, 0.1, 2),
        "no_last_step_20": (20, 0.1, 0),
    }
    matcher = PatternMatcher(pattern_set())
    await matcher.start()
    results = {}
    for name, (facts, share, last_steps) in cases.items():
        histories = [history(rnd, facts, share, last_steps) for _ in range(100)]
        await measure(matcher, histories, repeats // 10 + 2)
        results[name] = await measure(matcher, histories, repeats)
    matcher.close()
    await asyncio.sleep(0)
    return results


TITLES = {
    "facts_20": "20 events, 10 % of flags, all 22 can complete",
    "facts_50": "50 events, 10 % of flags, all 22 can complete",
    "dense_20": "20 events that set every flag",
    "dense_50": "50 events that set every flag",
    "two_candidates_20": "20 events, 2 of 22 can complete",
    "no_last_step_20": "20 events, the current one is no last step",
}


def main() -> None:
    """Prints a table, or with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the repeats")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    results = asyncio.run(run(400 if arguments.quick else 2000))
    if arguments.json:
        print(
            json.dumps(
                {f"{name}_us": round(result[0], 1) for name, result in results.items()}
                | {f"{name}_processor_us": round(result[2], 1) for name, result in results.items()}
                | {"patterns": PATTERNS}
            )
        )
        return
    print(f"{'22 patterns of 3 steps':48}{'median µs':>10}{'p99 µs':>10}{'busy µs':>10}{'signals':>9}")
    for name, (middle, late, busy, signals) in results.items():
        print(f"{TITLES[name]:48}{middle:10.1f}{late:10.1f}{busy:10.1f}{signals:9.1f}")


if __name__ == "__main__":
    main()
