"""What faults cost: acknowledged decisions lost and counters wrong after SIGKILLs under load, overload, and a soak.

    python -m benchmarks.faults [--quick] [--json] [--soak SECONDS]

The kills run against the tests' small policy with two workers; each counter is compared with a recount of the journal.
Overload and soak run against the same service with one worker and the settings that ship, the server on one core and
the generator on another. See docs/durability.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.decide_servers import cores
from benchmarks.load import Generator, closed, opened
from benchmarks.load_http2 import Connection
from benchmarks.load_shop import Shop
from engine.service import convert
from tests.service.findings import findings_of
from tests.service.installation import Installation, installed, settings_in
from tests.service.shoppers import Ledger, under_fire

KILLS = 200
OVERLOAD = 5
NORMAL = 0.8
"""The share of what the server can do at which an answer takes as long as it should."""
CHANNELS, IN_FLIGHT, SEED = 8, 64, 20241124
MIB = 1024 * 1024


class Counting(Generator):
    """A generator that keeps the times of answers and of refusals apart, milliseconds."""

    def __init__(self, port: int, run: str, count: int) -> None:
        documents = Shop(2_000).payments(run, count, time.time_ns() // 1_000)
        super().__init__(port, CHANNELS, [convert.decide_request(d).SerializeToString() for d in documents])
        self.taken_ms: list[float] = []
        self.shed_ms: list[float] = []

    def turn(self, wait_s: float) -> Iterator[Connection]:
        """The same, noting each call that ended."""
        failed = self.seen.failed
        for connection in super().turn(wait_s):
            times = self.shed_ms if self.seen.failed > failed else self.taken_ms
            times.append(self.seen.ended[-1][1] * 1e3)
            failed = self.seen.failed
            yield connection


def kills(count: int, folder: Path) -> dict[str, int]:
    """SIGKILLs of workers, keeper and everything under load; nothing may be lost or counted wrong."""
    ledger = Ledger()
    with installed(settings_in(folder, clock="event")) as server:
        asyncio.run(under_fire(server, ledger, count, SEED))
        server.stop()
        found = asyncio.run(findings_of(server.settings, ledger))
    _tell(f"{count} kills, {len(ledger.answers):,} acknowledged, {found.undecided} attempts given up")
    wrong = len(found.wrong) + len(found.unseen) + len(found.unclean) + len(found.twice) + len(found.broken)
    return {"kills": count, "acknowledged_lost": len(found.lost) + len(found.changed), "counters_wrong": wrong}


def overload(server: Installation, seconds: float) -> dict[str, float]:
    """p99 of what is taken at five times what the server can do against p99 at 0.8 of it, and p99 of a refusal."""
    able_per_s = _able_per_s(server.port, seconds)
    normal, flooded = (_at(server.port, f"{share}", share * able_per_s, seconds) for share in (NORMAL, float(OVERLOAD)))
    before, after = _p99(normal.taken_ms), _p99(flooded.taken_ms)
    _tell(f"{able_per_s:,.0f}/s can be done; p99 {before:.1f} ms at {NORMAL} of it, {after:.1f} ms at {OVERLOAD} ×, "
          f"{len(flooded.taken_ms):,} taken and {len(flooded.shed_ms):,} shed")  # fmt: skip
    return {"overload_p99_ratio": after / before, "shed_ms": _p99(flooded.shed_ms)}


def soak(server: Installation, seconds: float) -> float:
    """Growth of the worker's memory in MiB from the first tenth of a steady load to its end."""
    rate_per_s, began = NORMAL * _able_per_s(server.port, 2.0), 0.0
    for number in range(10):
        _at(server.port, f"soak-{number}", rate_per_s, seconds / 10)
        began = began or _resident_mib(server)
    return _resident_mib(server) - began


def _able_per_s(port: int, seconds: float) -> float:
    generator = Counting(port, f"able-{time.monotonic_ns()}", int(5_000 * seconds))
    took_s, calls = closed(generator, IN_FLIGHT, seconds)
    generator.close()
    return calls / took_s


def _at(port: int, run: str, rate_per_s: float, seconds: float) -> Counting:
    generator = Counting(port, f"{run}-{time.monotonic_ns()}", int(rate_per_s * seconds * 1.2) + 100)
    opened(generator, rate_per_s, seconds, random.Random(run))
    generator.close()
    return generator


def _p99(times_ms: list[float]) -> float:
    return float(np.percentile(times_ms, 99)) if times_ms else 0.0


def _resident_mib(server: Installation) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.children("worker"))
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def _tell(words: str) -> None:
    print(f"  {words}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print a table for people, or with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 kills and seconds of load; a smoke test, no result")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="length of the soak; 60, with --quick 5")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arbiter-faults-") as temporary:
        figures: dict[str, float] = dict(kills(12 if given.quick else KILLS, _folder(temporary, "kills")))
        server_core, generator_core = cores()
        os.sched_setaffinity(0, {server_core})  # What is started now inherits it.
        with installed(settings_in(_folder(temporary, "load"), workers=1)) as server:
            os.sched_setaffinity(0, {generator_core})
            figures |= overload(server, 2.0 if given.quick else 10.0)
            figures["soak_growth_mib"] = soak(server, given.soak or (5.0 if given.quick else 60.0))
    if given.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:20} {value:>12,.2f}" for name, value in figures.items()))


def _folder(temporary: str, name: str) -> Path:
    folder = Path(temporary) / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
