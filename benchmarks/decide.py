"""A whole durable decision over gRPC against an empty call on the same stack, machine and cores, and its parts.

    python -m benchmarks.decide [--quick] [--json] [--keep FOLDER]

Both servers run all the time on one core, the load generator on another; echo and decision take turns. See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.decide_parts import parts, spread
from benchmarks.decide_report import Rounds, figures, heading, table
from benchmarks.decide_servers import SERVE, Process, cores, family, free_port, running, stages
from benchmarks.decide_world import FULL, QUICK, Size, Tell, prepare
from benchmarks.load import ECHO
from engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard it is measured."""

    size: Size
    rounds: int
    """Of each kind: echo, decision, decision at half rate."""
    seconds: float
    """Of one round, after half a second that does not count."""
    parts: int
    """Rounds of the small measurements."""
    in_flight: int = 64
    channels: int = 4


FULL_PLAN = Plan(FULL, rounds=7, seconds=4.0, parts=31)
QUICK_PLAN = Plan(QUICK, rounds=2, seconds=0.5, parts=2, in_flight=32)


def main() -> None:
    """Measure, print a table for people, or with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small world and short rounds; a smoke test, no result")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--keep", type=Path, help="make the world in this folder, or use it again while it is fresh")
    parser.add_argument("--rounds", type=int, help="rounds of each kind")
    given = parser.parse_args()
    plan = QUICK_PLAN if given.quick else FULL_PLAN
    with tempfile.TemporaryDirectory(prefix="arbiter-benchmark-") as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings, shop = prepare(folder, plan.size, _tell)
        os.sync()  # what the preparation wrote must not reach the disk while it is measured
        server_core, generator_core = cores()
        os.sched_setaffinity(0, {server_core})
        _tell("measure the parts")
        small = parts(settings, shop, plan.parts)
        os.sched_setaffinity(0, {generator_core})
        rounds = measure(settings, plan, given.rounds or plan.rounds, _tell)
    if given.json:
        print(json.dumps(figures(rounds, small)))
    else:
        what = heading(shop.profiles, plan.size.rows, len(rounds.echo), plan.seconds, plan.in_flight, plan.channels)
        print("\n".join(table(rounds, small, what)))


def _tell(words: str) -> None:
    print(f"  {words}", file=sys.stderr, flush=True)


class Driver:
    """The generator with both servers: asks for one round at a time."""

    def __init__(self, generator: Process, plan: Plan) -> None:
        self._generator, self._plan = generator, plan
        self.targets: dict[str, tuple[int, list[int]]] = {}
        """Server → its port, and the processes whose CPU time is counted."""

    def ask(self, target: str, run: str, at_most_per_s: float, **more: Any) -> dict[str, Any]:
        """One round; requests are prepared for a rate that is not exceeded."""
        port, processes = self.targets[target]
        plan = self._plan
        job = {
            "port": port, "pids": processes, "run": run, "each": plan.size.each, "channels": plan.channels,
            "count": int(at_most_per_s * (plan.seconds + 0.5) * 1.1) + 200, "seconds": plan.seconds,
            "mode": "closed", "in_flight": plan.in_flight, "look": target == "decide",
        }  # fmt: skip
        return self._generator.ask(job | more)


def measure(settings: Settings, plan: Plan, rounds: int, tell: Tell) -> Rounds:
    """Echo and decision in turn: first as much as goes, then at half of the rate that the decisions reached."""
    (server_core, generator_core), metrics_port = cores(), free_port()
    with (
        running(server_core, "-c", SERVE, str(settings.folder), str(metrics_port)) as service,
        running(generator_core, "-m", "benchmarks.load", str(generator_core)) as generator,
    ):
        driver = Driver(generator, plan)
        port = int(re.findall(r":(\d+) ", service.line())[0])
        driver.targets["decide"] = port, family(service.process.pid)
        warm = driver.ask("decide", "warm", 5_000)
        with running(server_core, "-m", "benchmarks.echo", str(round(warm["reply_bytes"]))) as echo:
            driver.targets["echo"] = int(echo.line()), [echo.process.pid]
            driver.ask("echo", ECHO, 12_000)
            return _rounds(driver, rounds, metrics_port, tell)


def _rounds(driver: Driver, count: int, metrics_port: int, tell: Tell) -> Rounds:
    seen, before = Rounds(), stages(metrics_port)
    for number in range(count):
        echo = driver.ask("echo", ECHO, 12_000)
        decide = driver.ask("decide", f"decide-{number}", 5_000)
        seen.echo.append(echo)
        seen.decide.append(decide)
        tell(f"round {number + 1} of {count}: echo {echo['per_s']:,.0f}/s, decide {decide['per_s']:,.0f}/s = "
             f"{decide['per_s'] / echo['per_s']:.3f}, CPU × {decide['cpu_us'] / echo['cpu_us']:.2f}")  # fmt: skip
    middle = stages(metrics_port)
    seen.stages.append(_difference(before, middle))
    half = spread([one["per_s"] for one in seen.decide])[0] / 2
    for number in range(count):
        seen.half.append(driver.ask("decide", f"half-{number}", half, mode="open", rate_per_s=half))
        tell(f"half rate ({half:,.0f}/s), round {number + 1} of {count}: p99 {seen.half[-1]['p99_ms']:.2f} ms")
    seen.stages.append(_difference(middle, stages(metrics_port)))
    return seen


def _difference(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Stage → µs a call between two readings."""
    calls = {stage: after[stage][0] - before.get(stage, (0.0, 0.0))[0] for stage in after}
    return {s: (after[s][1] - before.get(s, (0.0, 0.0))[1]) / calls[s] * 1e6 for s in after if calls[s]}


if __name__ == "__main__":
    main()
