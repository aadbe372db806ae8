"""Rules on rows, with and without an index, and on columns, beside Zen and a CEL library.

python -m benchmarks.rules [--quick] [--json]

All take turns in one process, on one thread, with the same rules and rows, and must find the same hits. Zen and the CEL
library are no part of Arbiter: pip install -e '.[bench]'. Time is the processor's, of all threads: on a quiet machine
what passes, on a shared one still comparable. Loading is measured in a fresh process, by the clock on the wall.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import policy
from engine.bootstrap import open_program
from engine.language import Checked, Schema, check_text, compile_rows
from engine.language.columns import compile_columns
from engine.settings import read_settings

FEW, MANY, ROWS = 200, 10_000, 100
COUNTS = ("user.payments_1h", "user.devices_30d", "device.cards_24h", "device.users_7d", "card.payments_1h",
          "card.users_30d", "ip.payments_1h", "ip.users_24h", "email.payments_24h", "address.payments_7d")  # fmt: skip
AMOUNTS = ("user.spend_24h", "user.amount_mean_30d", "user.amount_stddev_30d", "device.spend_24h", "card.spend_24h",
           "card.amount_max_30d", "email.amount_mean_30d", "txn.amount_base", "coupon.value_base")  # fmt: skip
TEXTS = {"card.bin": 4_000, "ip.country": 200, "payment.provider": 50}
"""Fields compared for equality, and how many values each has."""
MOST = 1000
"""Numbers are drawn evenly below this."""
SCHEMA = Schema.of(dict.fromkeys(COUNTS, "int") | dict.fromkeys(AMOUNTS, "double") | dict.fromkeys(TEXTS, "string"))
MARKS = {
    "rows_200_us": "≤ 15", "rows_10000_us": "≤ 500", "indexed_10000_us": "≤ 60", "columns_20_per_s": "≥ 10,000,000",
    "columns_200_per_s": "≥ 1,000,000", "load_10000_s": "≤ 5",
}  # fmt: skip
TITLES = {
    "rows_200_us": "200 rules of three comparisons with trace, µs a row",
    "zen_200_us": "the same as a Zen decision table, µs a row",
    "cel_200_us": "the same in a CEL library (Rust), µs a row",
    "rows_10000_us": "10,000 rules of three comparisons with trace, µs a row",
    "indexed_10000_us": "10,000 rules by index: equality first in nine of ten, µs a row",
    "indexed_trace_10000_us": "the same, and the failing condition of every rule, µs a row",
    "plain_10000_us": "the same rules without the index, with trace, µs a row",
    "columns_20_per_s": "20 rules on columns, rows a second",
    "columns_200_per_s": "200 rules on columns, rows a second",
    "columns_nulls_200_per_s": "the same with one value in ten absent, rows a second",
    "load_10000_s": "a policy of 10,000 rules from YAML: load, check, compile, s",
    "load_10000_cpu_s": "the processor's part of it, s",
    "load_10000_mib": "memory that it added, MiB",
    "peak_mib": "peak memory of this run, MiB",
}
Comparison = tuple[str, str, Any]
"""Name, operator, constant."""


def comparison(rnd: random.Random, share: float) -> Comparison:
    """One number against a threshold; true for such a share of the rows, on average over the rules."""
    above, passed = rnd.random() < 0.5, rnd.uniform(max(0.0, 2 * share - 1), min(1.0, 2 * share))
    return rnd.choice(COUNTS + AMOUNTS), ">" if above else "<", round(MOST * (1 - passed if above else passed))


def rule(rnd: random.Random) -> list[Comparison]:
    """Three comparisons of numbers: 30 % of the rows come to the third, 5 % are hits, as in the benchmark `decide`."""
    return [comparison(rnd, share) for share in (0.55, 0.55, 0.165)]


def narrow_rule(rnd: random.Random) -> list[Comparison]:
    """As rules are when they are many: about one BIN, country or provider; or else, one in ten, about what is rare."""
    if rnd.random() < 0.1:
        return [comparison(rnd, share) for share in (0.05, 0.05, 0.5)]
    name = rnd.choice(tuple(TEXTS))
    return [(name, "==", _text(rnd, name)), comparison(rnd, 0.5), comparison(rnd, 0.5)]


def written(parts: Sequence[Comparison]) -> str:
    """A rule as CEL."""
    return " && ".join(f"{name} {sign} {json.dumps(value)}" for name, sign, value in parts)


def rows(rnd: random.Random, count: int) -> list[dict[str, Any]]:
    """Rows that have every field."""
    texts = {name: partial(_text, rnd, name) for name in TEXTS}
    numbers = {name: partial(rnd.randrange, MOST) for name in COUNTS}
    numbers |= {name: lambda: rnd.random() * MOST for name in AMOUNTS}
    return [{name: draw() for name, draw in (numbers | texts).items()} for _ in range(count)]


def _text(rnd: random.Random, name: str) -> str:
    return f"{name[0]}{rnd.randrange(TEXTS[name])}"


def table(count: int, absent: float = 0.0) -> pa.Table:
    """Such rows as Arrow columns, a share of the values absent."""
    rnd = np.random.default_rng(5)
    made: dict[str, Any] = {}
    for name in SCHEMA.names:
        missing = rnd.random(count) < absent if absent else None
        if name in TEXTS:
            values = np.array([f"{name[0]}{number}" for number in range(TEXTS[name])])[
                rnd.integers(0, TEXTS[name], count)
            ]
        else:
            values = rnd.integers(0, MOST, count) if name in COUNTS else rnd.random(count) * MOST
        made[name] = pa.array(values, mask=missing)
    return pa.table(made)


def nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as other libraries read it: `user.spend` is a field of `user`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        space, _, field = name.partition(".")
        found.setdefault(space, {})[field] = value
    return found


def zen(rules: Sequence[Sequence[Comparison]]) -> Callable[[Mapping[str, Any]], list[int]]:
    """The rules as one compiled Zen decision table that collects all hits."""
    fields = {name: f"c{at}" for at, name in enumerate(sorted({name for parts in rules for name, _, _ in parts}))}
    lines = []
    for number, parts in enumerate(rules):
        cells: dict[str, str] = {}
        for name, sign, value in parts:
            both = f"{cells[fields[name]]} and $ {sign} {value}" if fields[name] in cells else f"$ {sign} {value}"
            cells[fields[name]] = both
        lines.append({"_id": f"r{number}", **dict.fromkeys(fields.values(), ""), **cells, "o": str(number)})
    content = {
        "hitPolicy": "collect", "rules": lines, "outputs": [{"id": "o", "name": "rule", "field": "rule"}],
        "inputs": [{"id": key, "name": name, "field": name} for name, key in fields.items()],
    }  # fmt: skip
    nodes = [("in", "inputNode", {}), ("rules", "decisionTableNode", content), ("out", "outputNode", {})]
    graph = {
        "nodes": [{"id": key, "name": key, "type": kind, "content": inner} for key, kind, inner in nodes],
        "edges": [
            {"id": f"{a[0]}-{b[0]}", "type": "edge", "sourceId": a[0], "targetId": b[0]} for a, b in pairwise(nodes)
        ],
    }  # fmt: skip
    decision = _peer("zen").ZenEngine().create_decision(json.dumps(graph))
    return lambda row: [int(found["rule"]) for found in decision.evaluate(row)["result"]]


def cel(rules: Sequence[Sequence[Comparison]]) -> Callable[[Mapping[str, Any]], list[int]]:
    """The rules as compiled programs of a CEL library."""
    library = _peer("cel")
    programs = [library.compile(written(parts)).execute for parts in rules]

    def hits(row: Mapping[str, Any]) -> list[int]:
        context = library.Context(variables=row)
        return [number for number, run in enumerate(programs) if run(context)]

    return hits


def _peer(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"{error}. The peers of this benchmark are an extra: pip install -e '.[bench]'") from error


def write_policy(folder: Path) -> None:
    """A policy folder with 10,000 rules."""
    policy.write_features(folder)
    (folder / "risk").mkdir()
    rnd = random.Random(4)
    for part in range(10):
        lines = [f"ruleset: part-{part}", "on: payment", "rules:"]
        for number in range(part * MANY // 10, (part + 1) * MANY // 10):
            reason = f"{{code: R{number:05}, analyst: rule {number} of the benchmark, customer: All is well.}}"
            lines += [
                f"  - id: rule-{number:05}", f"    when: {written(rule(rnd))}",
                "    then: {tier: LOW, action: ALLOW}", f"    reason: {reason}",
            ]  # fmt: skip
        (folder / "risk" / f"part-{part}.yaml").write_text("\n".join(lines) + "\n")


def load(folder: Path) -> dict[str, float]:
    """Load the policy of a folder as a worker does; seconds, and MiB that it added to the process."""
    settings = read_settings(folder, {}, {})
    before, began, worked = _resident_mib(), time.perf_counter(), time.process_time()
    program = open_program(settings, with_models=False)
    taken, cpu = time.perf_counter() - began, time.process_time() - worked
    if len(program.policy.by_kind["payment"].rules) != MANY:
        raise SystemExit("the policy lost rules")
    return {"load_10000_s": taken, "load_10000_cpu_s": cpu, "load_10000_mib": _resident_mib() - before}


def _loads(times: int) -> dict[str, float]:
    """The median of loads in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        write_policy(Path(folder) / "rules")
        command = [sys.executable, "-m", "benchmarks.rules", "--load", folder]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(times)
        ]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _rules(make: Callable[[random.Random], list[Comparison]], count: int) -> list[list[Comparison]]:
    rnd = random.Random(3)
    return [make(rnd) for _ in range(count)]


def _checked(rules: Sequence[Sequence[Comparison]]) -> list[Checked]:
    return [check_text(written(parts), SCHEMA) for parts in rules]


def on_rows() -> dict[str, tuple[Callable[[Any], Any], Sequence[Any]]]:
    """What is measured a row: name → what evaluates, and its rows. Those of one rule set find the same hits."""
    few, many, narrow = _rules(rule, FEW), _checked(_rules(rule, MANY)), _checked(_rules(narrow_rule, MANY))
    given = rows(random.Random(5), ROWS)
    foreign = [nested(row) for row in given]
    ours, indexed = compile_rows(_checked(few)), compile_rows(narrow)
    plain = compile_rows(narrow, index_from=MANY + 1)
    peers = {"zen_200_us": zen(few), "cel_200_us": cel(few)}
    for row, other in zip(given, foreign, strict=True):
        wanted = ours.evaluate(row).notable
        for name, hits in peers.items():
            if hits(other) != wanted:
                raise SystemExit(f"{name} finds other hits: {hits(other)}, not {wanted}")
        first, second = indexed.evaluate(row), plain.evaluate(row)
        if (first.results, first.failing) != (second.results, second.failing):
            raise SystemExit("the index changes results")
    work: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {"rows_200_us": (ours.evaluate, given)}
    work |= {name: (hits, foreign) for name, hits in peers.items()}
    whole = compile_rows(many)
    work["rows_10000_us"] = (lambda row: whole.evaluate(row).failing, given)
    work["indexed_10000_us"] = (indexed.evaluate, given)
    work["indexed_trace_10000_us"] = (lambda row: indexed.evaluate(row).failing, given)
    work["plain_10000_us"] = (plain.evaluate, given)
    return work


def on_columns(count: int) -> dict[str, tuple[Callable[[Any], Any], pa.Table]]:
    """What is measured on whole tables."""
    checked, whole = _checked(_rules(rule, FEW)), table(count)
    return {
        "columns_20_per_s": (compile_columns(checked[:20]).evaluate, whole),
        "columns_200_per_s": (compile_columns(checked).evaluate, whole),
        "columns_nulls_200_per_s": (compile_columns(checked).evaluate, table(count, 0.1)),
    }


def measure(rounds: int, count: int, loads: int) -> dict[str, float]:
    """Every figure: medians over all rows and rounds, in each of which all take turns."""
    taken: dict[str, list[float]] = {}
    by_row, by_column = on_rows(), on_columns(count)
    for _ in range(rounds):
        for name, (evaluate, given) in by_row.items():
            taken.setdefault(name, []).extend([_seconds(partial(evaluate, row)) * 1e6 for row in given])
        for name, (evaluate, whole) in by_column.items():
            taken.setdefault(name, []).append(count / _seconds(partial(evaluate, whole)))
    figures = {name: statistics.median(values) for name, values in taken.items()}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | _loads(loads) | {"peak_mib": peak_mib}


def _seconds(work: Callable[[], Any]) -> float:
    """Processor time of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Prints a table, or with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer rows in columns")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        print(json.dumps(load(given.load)))
        return
    figures = measure(*(3, 300_000, 1) if given.quick else (15, 1_000_000, 3))
    for name, title in TITLES.items():
        print(f"{title:76}{figures[name]:>14,.1f}  {MARKS.get(name, '')}")
    if given.json:
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
