"""Features of a whole file in columns: `python -m benchmarks.features [--quick] [--json] [--rows N] [--growth]`.

What `arbiter features build` does with the Handbook's transactions, mapping and features: read the Parquet file, open,
14 features for every row, one Parquet file. Each measurement is a process of its own, so its peak is its own. `--rows`
takes the first rows of the file, or more than it has: copies with customers and terminals of their own, in time order.
`--growth` measures a million rows and ten million, and says how the time grew.
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

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.batch.mapping import load_mapping
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.rescore.build import build_features

ROOT = Path(__file__).parents[1]
FILE = Path(os.environ.get("ARBITER_SHARED_DATA", ROOT.parent / "shared" / "data")) / "fraud" / "transactions.parquet"
RULES, MAPPING = ROOT / "examples" / "handbook" / "rules", ROOT / "mappings" / "handbook.yaml"
QUICK_ROWS, SMALL, LARGE = 100_000, 1_000_000, 10_000_000
APART = 1_000_000
"""Added to the ids of each further copy."""


def rows_of(count: int, to: Path) -> Path:
    """A file of `count` transactions in order of time; the file itself when that is all it holds."""
    table = pq.read_table(FILE)
    if count == len(table):
        return FILE
    copies = [shifted(table, copy * APART) for copy in range(-(-count // len(table)))]
    whole = pa.concat_tables(copies).slice(0, count)
    if len(copies) > 1:
        whole = whole.sort_by("TX_DATETIME")
        whole = whole.set_column(0, "TRANSACTION_ID", pa.array(range(count)))
    pq.write_table(whole, to)
    return to


def shifted(table: pa.Table, by: int) -> pa.Table:
    """The same history of other customers at other terminals."""
    for name in ("CUSTOMER_ID", "TERMINAL_ID"):
        table = table.set_column(table.column_names.index(name), name, pc.add(table.column(name).cast(pa.int64()), by))
    return table


def measured(path: Path) -> dict[str, Any]:
    """Figures of this process; called once."""
    program = load_program(RULES, ROOT / "models", Identity(bytes(32)), lambda: 0, with_models=False)
    mapping = load_mapping(MAPPING)
    with tempfile.TemporaryDirectory(prefix="arbiter-features-") as scratch:
        folder = Path(scratch)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        built = build_features(
            program, path, mapping, folder / "features.parquet", quarantine=folder / "bad.jsonl", now_us=2**62
        )  # fmt: skip
        seconds, cpu = time.perf_counter() - began_s, time.process_time() - cpu_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": built.rows, "features": len(program.feature_set.names), "seconds": seconds, "cpu_seconds": cpu,
        "peak_mib": peak,
    }  # fmt: skip


def in_child(count: int, tell: bool) -> dict[str, Any]:
    """The figures of a process that does nothing else."""
    with tempfile.TemporaryDirectory(prefix="arbiter-features-") as folder:
        path = rows_of(count, Path(folder) / "transactions.parquet")
        if tell:
            print(f"{count:,} rows", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.features", "--file", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a line for people, or one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_ROWS:,} rows")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rows", type=int, help="so many rows instead of all of the file")
    parser.add_argument("--growth", action="store_true", help=f"{SMALL:,} and {LARGE:,} rows, and how time grew")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file:
        print(json.dumps(measured(given.file)))
        return
    if not FILE.exists():
        raise SystemExit(f"the Handbook's transactions are not at {FILE}; set ARBITER_SHARED_DATA to the shared data")
    rows = given.rows or (QUICK_ROWS if given.quick else pq.ParquetFile(FILE).metadata.num_rows)
    figures = in_child(LARGE if given.growth else rows, given.growth)
    if given.growth:
        small = in_child(SMALL, True)
        figures |= {"growth": figures["seconds"] / small["seconds"], "small_seconds": small["seconds"]}
        figures |= {"small_peak_mib": small["peak_mib"]}
    if given.json:
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}))
        return
    print(
        f"{figures['rows']:,} rows × {figures['features']} features in {figures['seconds']:.1f} s "
        f"(CPU {figures['cpu_seconds']:.1f} s), peak {figures['peak_mib']:,.0f} MiB"
    )
    if given.growth:
        print(f"{figures['growth']:.1f} × the time of {SMALL:,} rows ({figures['small_seconds']:.1f} s)")


if __name__ == "__main__":
    main()
