"""From rounds to figures: the JSON line, and the table that people read."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.decide_parts import GATHERED, Spread, spread

MARKS = {
    "throughput_ratio": (">=", 0.30), "cpu_ratio": ("<=", 3.5), "p99_ms_at_half": ("<=", 10.0),
    "rules_200_us": ("<=", 20.0), "score_ratio": ("<=", 1.3), "profiles_us": ("<=", 100.0),
}  # fmt: skip
STAGES = {
    "read": "protobuf in, checks, digest", "open": "derived fields, what goes into each log",
    "admission": "profiles: gather, read, append, commit (waits)", "features": "windows, standing, pattern steps",
    "score": "300 trees, calibration", "signals": "patterns", "rules": "200 rules, combine, decision",
    "journal": "changes, record; gather, commit, fsync (waits)", "write": "protobuf out",
    "Decide": "the whole call in the worker (waits)",
}  # fmt: skip
"""Stage of the service's own metrics → what it does; where it waits it is no CPU time."""


@dataclass(slots=True)
class Rounds:
    """What the generator and the service told, round by round."""

    echo: list[dict[str, Any]] = field(default_factory=list)
    decide: list[dict[str, Any]] = field(default_factory=list)
    half: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    """µs of each stage: while as much as goes was decided, and at half of that rate."""


def figures(rounds: Rounds, small: dict[str, Spread]) -> dict[str, Any]:
    """The JSON line: medians; under `spread` the lowest and highest of the rounds."""
    wide = wide_figures(rounds, small)
    middles: dict[str, Any] = {name: round(middle, 4) for name, (middle, _, _) in wide.items()}
    return middles | {"spread": {name: [round(low, 4), round(high, 4)] for name, (_, low, high) in wide.items()}}


def wide_figures(rounds: Rounds, small: dict[str, Spread]) -> dict[str, Spread]:
    """Each figure with its spread; ratios are those of an echo round and the decision round after it."""
    pairs = list(zip(rounds.echo, rounds.decide, strict=True))
    return {
        "echo_per_s": spread([echo["per_s"] for echo, _ in pairs]),
        "decide_per_s": spread([decide["per_s"] for _, decide in pairs]),
        "throughput_ratio": spread([decide["per_s"] / echo["per_s"] for echo, decide in pairs]),
        "cpu_ratio": spread([decide["cpu_us"] / echo["cpu_us"] for echo, decide in pairs]),
        "p99_ms_at_half": spread([one["p99_ms"] for one in rounds.half]),
        **{name: small[name] for name in ("rules_200_us", "score_us", "score_ratio", "profiles_us")},
    }


def table(rounds: Rounds, small: dict[str, Spread], heading: str) -> list[str]:
    """Everything for people."""
    lines = [machine(), heading, "", f"{'':24}{'median':>12}{'lowest':>12}{'highest':>12}   to reach"]
    for name, (middle, low, high) in wide_figures(rounds, small).items():
        mark, bound = MARKS.get(name, ("", 0.0))
        reached = "" if not mark else f"   {mark} {bound:g}  " + ("yes" if _holds(middle, mark, bound) else "NO")
        lines.append(f"{name:24}{middle:12,.3f}{low:12,.3f}{high:12,.3f}{reached}")
    return [*lines, "", *_servers(rounds), "", *_budget(rounds), "", *_small(small), "", *_honest(rounds)]


def _holds(value: float, mark: str, bound: float) -> bool:
    return value >= bound if mark == ">=" else value <= bound


def _servers(rounds: Rounds) -> list[str]:
    lines = [f"{'':24}{'CPU µs/call':>12}{'server busy':>12}{'load busy':>12}{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>9}"]
    for name, told in (("echo", rounds.echo), ("decide", rounds.decide), ("decide at half", rounds.half)):
        cells = [spread([one[key] for one in told])[0] for key in
                 ("cpu_us", "server_busy", "generator_busy", "p50_ms", "p99_ms", "p999_ms")]  # fmt: skip
        late = "".join(f"{ms:9.2f}" for ms in cells[3:])
        lines.append(f"{name:24}{cells[0]:12.0f}{cells[1]:12.0%}{cells[2]:12.0%}{late}")
    return lines


def _budget(rounds: Rounds) -> list[str]:
    lines = [f"{'stage':12}{'µs at full rate':>16}{'µs at half':>12}"]
    full, half = rounds.stages
    lines += [f"{name:12}{full.get(name, 0):16.1f}{half.get(name, 0):12.1f}   {what}" for name, what in STAGES.items()]
    threads = {name: spread([one["threads"].get(name, 0.0) for one in rounds.decide])[0] for name in _threads(rounds)}
    return [*lines, "", *(f"CPU of {name:28}{us:8.1f} µs a decision" for name, us in threads.items())]


def _threads(rounds: Rounds) -> list[str]:
    return sorted({name for one in rounds.decide for name in one["threads"]})


def _small(small: dict[str, Spread]) -> list[str]:
    words = {
        "bare_us": "score, bare onnxruntime run", "score_us": "score and calibration",
        "score_stage_us": "the same with its inputs taken from the row", "rules_200_us": "200 rules on one row",
        "profiles_us": "admission and windows, one by one",
        "profiles_gathered_us": f"admission and windows, {GATHERED} calls at once",
    }  # fmt: skip
    spreads = {what: small[name] for name, what in words.items()}
    return [f"{what:48}{middle:8.2f} µs  ({low:.2f} … {high:.2f})" for what, (middle, low, high) in spreads.items()]


def _honest(rounds: Rounds) -> list[str]:
    told = [*rounds.decide, *rounds.half]
    actions: dict[str, int] = {}
    for one in told:
        for action, count in one["actions"].items():
            actions[action] = actions.get(action, 0) + count
    total = sum(actions.values())
    shares = ", ".join(f"{name} {count / total:.1%}" for name, count in sorted(actions.items()))
    sent = spread([one["request_bytes"] for one in told])[0], spread([one["reply_bytes"] for one in told])[0]
    results = [spread([one[name] for one in told])[0] for name in ("hits", "unknowns")]
    degraded = sum(count for one in told for count in one["degraded"].values())
    distinct = sum(one["distinct"] for one in told)
    return [
        f"{total:,} decisions looked at, {distinct:,} distinct ids, {degraded} degraded: {shares}",
        f"of 200 rules {results[0]:.1f} hit and {results[1]:.1f} were UNKNOWN; request {sent[0]:.0f} bytes, reply "
        f"{sent[1]:.0f} bytes, for the echo too",
    ]


def machine() -> str:
    """What it ran on."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found.group(1) if found else platform.processor()
    return (f"{model}, {len(os.sched_getaffinity(os.getppid()))} cores, Linux {platform.release()}, Python "
            f"{platform.python_version()}, onnxruntime {onnxruntime.__version__}")  # fmt: skip


def heading(profiles: int, rows: int, rounds: int, seconds: float, in_flight: int, channels: int) -> str:
    """What was measured, in a sentence."""
    return (f"{profiles:,} profiles with {rows} events each; {rounds} rounds of {seconds:g} s each, echo and decision "
            f"in turn; {in_flight} calls in flight over {channels} connections, then open loop at half")  # fmt: skip


__all__: Sequence[str] = ("MARKS", "STAGES", "Rounds", "figures", "heading", "machine", "table", "wide_figures")
