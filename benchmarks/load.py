"""The load generator: one process on a core of its own that drives the echo and the service alike.

    python -m benchmarks.load            # reads one JSON job a line, answers with one JSON line

It prepares all requests of a round as bytes (distinct ids), then sends them over several connections: `closed` keeps
a number of calls in flight, which finds the highest throughput; `open` sends at the moments of a Poisson process,
whatever comes back, and measures latency from the moment at which a call was due.
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.decide_servers import cpu_s, threads_s
from benchmarks.load_http2 import Connection, LoadError
from benchmarks.load_shop import Shop
from engine.service import convert

PATH = f"/{convert.SERVICE}/Decide"
WARM_S = 0.5
"""Sent before the clock starts: connections, caches and allocators are warm then."""
DRAIN_S = 3.0
ECHO = "echo"
"""The run whose requests are kept."""
_KEPT: dict[str, list[bytes]] = {}


@dataclass(slots=True)
class Round:
    """What one round saw; times are seconds on the monotonic clock."""

    due: dict[int, float] = field(default_factory=dict)
    ended: list[tuple[int, float]] = field(default_factory=list)
    replies: list[bytes] = field(default_factory=list)
    failed: int = 0


class Generator:
    """Sends one round's requests over `channels` connections, in turn."""

    def __init__(self, port: int, channels: int, bodies: Sequence[bytes]) -> None:
        self.connections = [Connection(port, PATH) for _ in range(channels)]
        self._by_socket = {c.socket: c for c in self.connections}
        self._bodies, self._next = bodies, 0
        self.seen = Round()

    @property
    def in_flight(self) -> int:
        """Calls that are not answered."""
        return len(self.seen.due)

    @property
    def left(self) -> int:
        """Requests that are not sent."""
        return len(self._bodies) - self._next

    def send(self, connection: Connection, due: float) -> None:
        """Begin the next call, which was due then."""
        self.seen.due[self._next] = due
        connection.call(self._next, self._bodies[self._next])
        self._next += 1

    def turn(self, wait_s: float) -> Iterator[Connection]:
        """Send what waits, then take in what comes within `wait_s`; a connection for each call that ended."""
        writing = [c.socket for c in self.connections if c.flush()]
        readable, _, _ = select.select(list(self._by_socket), writing, [], max(wait_s, 0.0))
        for ready in readable:
            connection = self._by_socket[ready]
            for tag, reply in connection.receive():
                self.seen.ended.append((tag, time.monotonic() - self.seen.due.pop(tag)))
                if reply is None:
                    self.seen.failed += 1
                else:
                    self.seen.replies.append(reply)
                yield connection

    def close(self) -> None:
        """Wait for what is under way, then close."""
        end = time.monotonic() + DRAIN_S
        while self.in_flight and time.monotonic() < end:
            list(self.turn(0.05))
        for connection in self.connections:
            connection.close()


def closed(generator: Generator, in_flight: int, seconds: float) -> tuple[float, int]:
    """Keep so many calls in flight for so long, or until requests run out; (seconds, calls ended)."""
    began, before = time.monotonic(), len(generator.seen.ended)
    end = began + seconds
    for number in range(in_flight - generator.in_flight):
        generator.send(generator.connections[number % len(generator.connections)], time.monotonic())
    while (now := time.monotonic()) < end and generator.left:
        for connection in generator.turn(end - now):
            if generator.left:
                generator.send(connection, time.monotonic())
    return time.monotonic() - began, len(generator.seen.ended) - before


def opened(generator: Generator, rate_per_s: float, seconds: float, rnd: random.Random) -> tuple[float, int]:
    """Calls at the moments of a Poisson process; (seconds, calls ended)."""
    began, before = time.monotonic(), len(generator.seen.ended)
    end, due, number = began + seconds, began + rnd.expovariate(rate_per_s), 0
    while (now := time.monotonic()) < end and generator.left:
        while due <= now and generator.left:
            generator.send(generator.connections[number % len(generator.connections)], due)
            due, number = due + rnd.expovariate(rate_per_s), number + 1
        for _ in generator.turn(min(due, end) - time.monotonic()):
            pass
    return time.monotonic() - began, len(generator.seen.ended) - before


def requests(each: int, run: str, count: int) -> list[bytes]:
    """Distinct payments as bytes; those for the echo, which doesn't read them, are made once and sent again."""
    if run in _KEPT:
        return _KEPT[run]
    documents = Shop(each).payments(run, count, time.time_ns() // 1_000)
    bodies = [convert.decide_request(document).SerializeToString() for document in documents]
    if run == ECHO:
        _KEPT[run] = bodies
    return bodies


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One round: {port, mode, seconds, channels, pids, each, run, count, in_flight | rate_per_s} → its figures."""
    bodies = requests(job["each"], job["run"], job["count"])
    generator = Generator(job["port"], job["channels"], bodies)
    rnd = random.Random(job["run"])

    def send(seconds: float) -> tuple[float, int]:
        if job["mode"] == "open":
            return opened(generator, job["rate_per_s"], seconds, rnd)
        return closed(generator, job["in_flight"], seconds)

    gc.disable()
    send(WARM_S)
    skipped = len(generator.seen.ended)
    threads, server_s, own_s = threads_s(job["pids"]), cpu_s(job["pids"]), time.process_time()
    seconds, calls = send(job["seconds"])
    server_s, own_s = cpu_s(job["pids"]) - server_s, time.process_time() - own_s
    threads = {name: (used - threads.get(name, 0.0)) / calls * 1e6 for name, used in threads_s(job["pids"]).items()}
    gc.enable()
    generator.close()
    seen = generator.seen
    latencies = np.array([latency for _, latency in seen.ended[skipped:]]) * 1e3
    p50, p99, p999 = (float(np.percentile(latencies, share)) for share in (50, 99, 99.9))
    return {
        "per_s": calls / seconds, "calls": calls, "failed": seen.failed + generator.in_flight,
        "cpu_us": server_s / calls * 1e6, "threads": threads,
        "server_busy": server_s / seconds, "generator_busy": own_s / seconds,
        "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "request_bytes": float(np.mean([len(b) for b in bodies])),
        "reply_bytes": float(np.mean([len(r) for r in seen.replies])), "ran_out": not generator.left,
        **(look(seen.replies) if job["look"] else {}),
    }  # fmt: skip


def look(replies: Sequence[bytes]) -> dict[str, Any]:
    """What the decisions say: how many differ in id, what was done, which results the rules had."""
    decisions = [convert.METHODS["Decide"][1].FromString(reply) for reply in replies]
    values = [convert.decision_value(decision) for decision in decisions]  # type: ignore[arg-type]
    results = Counter(hit.result.name for value in values for hit in value.hits)
    return {
        "distinct": len({value.id for value in values}), "actions": Counter(value.action.name for value in values),
        "hits": results["HIT"] / len(values), "unknowns": results["UNKNOWN"] / len(values),
        "degraded": Counter(source for value in values for source in value.degraded),
    }  # fmt: skip


def main() -> None:
    """Answer jobs until standard input ends."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    for line in sys.stdin:
        try:
            print(json.dumps(run(json.loads(line))), flush=True)
        except (LoadError, OSError) as problem:
            print(json.dumps({"error": str(problem)}), flush=True)


if __name__ == "__main__":
    main()
