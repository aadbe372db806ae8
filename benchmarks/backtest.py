"""A backtest of a whole file: `python -m benchmarks.backtest [--quick] [--json] [--rows N] [--html FILE]`.

What `arbiter backtest FILE --mapping … --policy …` does, open loop, with the Fraud Detection Handbook's transactions:
read the Parquet file, compute its features, decide every row by 50 rules, and measure all of the report: money with
bootstrap intervals, each rule with what only it caught, overlaps, labels by week. One process, from start to end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.features import FILE, MAPPING, QUICK_ROWS, RULES, rows_of

RULE_COUNT = 50
_SEED = 7
_READS = (
    ("txn.amount_base", 20.0, 300.0), ("user.payments_1d", 2, 8), ("user.payments_7d", 8, 30),
    ("user.amount_mean_7d", 30.0, 150.0), ("merchant.payments_7d", 3, 15), ("merchant.fraud_rate_7d", 0.01, 0.5),
    ("merchant.fraud_rate_30d", 0.01, 0.5), ("user.payments_30d", 30, 110),
)  # fmt: skip
"""Feature, and between which values a threshold is drawn."""


def policy_in(folder: Path, count: int = RULE_COUNT) -> Path:
    """The Handbook's policy without a model, with so many rules of three comparisons each."""
    rules, random = folder / "rules", np.random.default_rng(_SEED)
    (rules / "risk").mkdir(parents=True)
    for name in ("features.yaml", "labels.yaml", "policy.yaml"):
        text = (RULES / name).read_text()
        (rules / name).write_text("".join(line for line in text.splitlines(True) if not line.startswith("models:")))
    lines = ["ruleset: drawn", "on: payment", "rules:"]
    for number in range(count):
        reads = [_READS[at] for at in random.choice(len(_READS), 3, replace=False)]
        draws = [(name, low + (high - low) * random.random() ** 2) for name, low, high in reads]
        tests = [f"{n} > {round(v, 3) if '_rate_' in n or 'amount' in n else round(v)}" for n, v in draws]
        action = ("CHALLENGE", "REVIEW", "DECLINE")[number % 3]
        then = f"then: {{tier: MEDIUM, action: {action}}}"
        reason = f"reason: {{code: B{number:03}, analyst: drawn, customer: Please wait.}}"
        lines.append(f"  - {{id: rule-{number:02}, when: '{' && '.join(tests)}', {then}, {reason}}}")
    (rules / "risk" / "drawn.yaml").write_text("\n".join(lines) + "\n")
    return rules


def measured(path: Path, html: Path | None) -> dict[str, Any]:
    """Figures of one run of the command."""
    with tempfile.TemporaryDirectory(prefix="arbiter-backtest-") as scratch:
        folder = Path(scratch)
        page = html or folder / "backtest.html"
        command = [
            sys.executable, "-c", "from engine.cli import main; main()", "backtest", str(path.absolute()),
            "--mapping", str(MAPPING.absolute()),
            "--policy", str(policy_in(folder)), "--folder", str(folder), "--html", str(page.absolute()), "--json",
        ]  # fmt: skip
        began_s = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began_s
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rows": found["payments"], "rules": len(found["rules"]) + len(found["silent"]), "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024,
        "rows_per_s": found["payments"] / seconds,
    }  # fmt: skip


def main() -> None:
    """Print a line for people, or one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_ROWS:,} rows")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rows", type=int, help="so many rows instead of all of the file")
    parser.add_argument("--html", type=Path, help="keep the report there")
    given = parser.parse_args()
    if not FILE.exists():
        raise SystemExit(f"the Handbook's transactions are not at {FILE}; set ARBITER_SHARED_DATA to the shared data")
    rows = given.rows or (QUICK_ROWS if given.quick else pq.ParquetFile(FILE).metadata.num_rows)
    with tempfile.TemporaryDirectory(prefix="arbiter-backtest-") as scratch:
        figures = measured(rows_of(rows, Path(scratch) / "transactions.parquet"), given.html)
    if given.json:
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}))
        return
    print(
        f"{figures['rows']:,} rows × {figures['rules']} rules backtested in {figures['seconds']:.1f} s "
        f"(CPU {figures['cpu_seconds']:.1f} s, {os.cpu_count()} cores), peak {figures['peak_mib']:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
