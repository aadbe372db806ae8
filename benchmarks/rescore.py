"""Re-scoring with 200 rules and 300 trees beside raw XGBoost: `python -m benchmarks.rescore [--quick] [--json]`.

Real card transactions. From stored features: the Parquet file of features is read, scored, judged and combined, and the
decided rows are written as Parquet; beside it `inplace_predict` of the same trees runs on the same rows, which lie in
memory already, with as many threads. Both take turns; medians, by the clock and by processor time (which other
processes of the machine disturb less). From raw events: the transactions themselves are read,
checked and cut, features are computed, and the same follows. Live: the service's pipeline over embedded stores decides
some of the same rows one by one. A policy is loaded before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost

from benchmarks.features import FILE, MAPPING, ROOT
from engine.batch.load import BatchResult, load
from engine.batch.mapping import load_mapping
from engine.bootstrap import open_engine, open_program
from engine.program import Program
from engine.rescore import job, parts
from engine.rescore.scores import booster_of
from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import write_model
from engine.scoring.manifest import Booster
from engine.scoring.onnx import check_graph
from engine.scoring.train import train
from engine.settings import Settings, read_settings

TREES, DEPTH, RULES = 300, 6, 200
QUICK_ROWS, ROWS, LIVE_ROWS = 100_000, 500_000, 2_000
LATER_US = 2**61
THREADS = os.cpu_count() or 1


class Kept:
    """A sink that keeps events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def position(self, source_digest: bytes) -> int:
        """From the beginning."""
        return 0

    def write(self, batch: Any, position: int) -> BatchResult:
        """Keep them."""
        self.events += [event for event, _ in batch]
        return BatchResult(len(batch), 0)

    def finish(self) -> None:
        """Nothing is open."""


def write_policy(folder: Path) -> None:
    """The Handbook's features and bands, and 200 rules of three comparisons, of which some hit now and then."""
    shutil.copytree(ROOT / "examples" / "handbook" / "rules", folder / "rules")
    (folder / "rules" / "risk").mkdir()
    random, lines = np.random.default_rng(4), ["ruleset: many", "on: payment", "rules:"]
    for number in range(RULES):
        amount, often, week = random.uniform(60, 250), random.integers(3, 9), random.integers(8, 30)
        rate = random.uniform(0.01, 0.3)
        lines += [
            f"  - id: rule-{number}",
            f"    when: txn.amount_base > {amount:.2f} && user.payments_1d >= {often} && "
            + (f"user.payments_7d > {week}" if number % 2 else f"merchant.fraud_rate_7d > {rate:.3f}"),
            "    then: {tier: MEDIUM, action: CHALLENGE}",
            f"    reason: {{code: M{number}, analyst: a rule, customer: Please confirm this payment.}}",
        ]
    (folder / "rules" / "risk" / "many.yaml").write_text("\n".join(lines) + "\n")


def train_model(folder: Path, table: pa.Table, features: tuple[str, ...]) -> None:
    """`handbook/1`: 300 trees of depth 6 over the features of the rows themselves."""
    some = table.slice(0, 40_000)
    columns = {name: some[name].cast(pa.float64()) for name in features}
    size = len(some)
    random, time_us = np.random.default_rng(5), np.arange(size) * (20 * DAY_US // size)
    odds = 0.02 * columns["txn.amount_base"].to_numpy() + 0.1 * columns["user.payments_7d"].to_numpy() - 5
    label = random.random(size) < 1 / (1 + np.exp(-odds))
    learnt = {"event_time": time_us, "label": label, "label_known": time_us, "group": np.arange(size)}
    config = TrainConfig(
        name="handbook", version="1", event_kind="payment", features=features, window=Span(0, 20 * DAY_US),
        booster=Booster(max_depth=DEPTH, rounds=TREES, max_bin=256), folds=2,
    )  # fmt: skip
    write_model(folder / "models", train(pa.table(columns | learnt), config))


def prepare(folder: Path, rows: int) -> Settings:
    """Policy, model, `raw.parquet` and `features.parquet`."""
    table = pq.read_table(FILE).slice(0, rows)
    pq.write_table(table, folder / "raw.parquet")
    write_policy(folder)
    policy = folder / "rules" / "policy.yaml"
    full = policy.read_text()
    policy.write_text("\n".join(line for line in full.splitlines() if not line.startswith("models:")))
    settings = read_settings(folder, {"clock": "event", "gather_ms": 0}, {})
    program, work = open_program(settings), folder / "work"
    work.mkdir()
    shards, *_ = parts.read_shards(
        program, folder / "raw.parquet", load_mapping(MAPPING), work, 2_000_000, LATER_US, folder / "bad", 0.0,
        lambda *_: None,
    )  # fmt: skip
    for shard in range(shards):
        parts.split(program, work, shard, 1)
    for entity in program.layouts:
        parts.features(program, work, entity, 0, shards, "payment")
    seen = pa.concat_tables([parts.seen(program, work, shard, 1) for shard in range(shards)])
    shutil.rmtree(work)
    pq.write_table(seen, folder / "features.parquet", row_group_size=32_768)
    train_model(folder, seen, (*program.feature_set.names, "txn.amount_base"))
    policy.write_text(full)
    return settings


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and seconds of processor time."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began_s, time.process_time() - cpu_s


def stored(program: Program, settings: Settings, folder: Path) -> job.Report:
    """A whole job from the file of features."""
    wanted = {"source": "bench", "program": program.digest, "kinds": ("payment",), "standing": "given"}
    work = folder / "stored.work"
    plan = job.keep(work, job.plan_stored(program, folder / "features.parquet", wanted))
    return job.run(settings, plan, work, folder / "stored.parquet", job.Threads(THREADS), lambda *_: None)


def raw(program: Program, settings: Settings, folder: Path) -> job.Report:
    """A whole job from the transactions."""
    work = folder / "raw.work"
    work.mkdir()
    shards, rows, columnar, bad = parts.read_shards(
        program, folder / "raw.parquet", load_mapping(MAPPING), work, job.SHARD_ROWS, LATER_US, folder / "bad", 0.0,
        lambda *_: None,
    )  # fmt: skip
    assert columnar
    assert not bad
    plan = job.Plan("bench", program.digest, ("payment",), "chained", shards, rows, THREADS)
    return job.run(
        settings, job.keep(work, plan), work, folder / "raw.out.parquet", job.Threads(THREADS), lambda *_: None
    )


async def live(settings: Settings, folder: Path) -> float:
    """Decisions a second of the pipeline, one after the other."""
    table = pq.read_table(folder / "raw.parquet").slice(0, LIVE_ROWS)
    pq.write_table(table, folder / "live.parquet")
    kept = Kept()
    load(
        folder / "live.parquet", load_mapping(MAPPING), kept, workdir=folder, quarantine=folder / "bad", now_us=LATER_US
    )
    engine = open_engine(settings)
    await engine.start(watch=False)
    began_s = time.perf_counter()
    for event in kept.events:
        await engine.decide(event)
    seconds = time.perf_counter() - began_s
    await engine.close()
    return len(kept.events) / seconds


def measure(rows: int, rounds: int) -> dict[str, float]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="arbiter-rescore-") as scratch:
        folder = Path(scratch)
        settings = prepare(folder, rows)
        program = open_program(settings)
        model = program.models["payment"]
        table = pq.read_table(folder / "features.parquet", columns=list(model.features))
        matrix = np.column_stack([table[name].cast(pa.float64()).to_numpy() for name in model.features])
        matrix, count = np.ascontiguousarray(matrix, np.float32), len(table)
        booster: xgboost.Booster = booster_of(
            *check_graph(model.model.data, len(model.features)), matrix.shape[1], THREADS
        )
        stored(program, settings, folder)
        taken: dict[str, list[tuple[float, float]]] = {"xgboost": [], "stored": [], "raw": []}
        for round_ in range(rounds):
            taken["xgboost"].append(timed(lambda: booster.inplace_predict(matrix, predict_type="margin")))
            taken["stored"].append(timed(lambda: stored(program, settings, folder)))
            taken["xgboost"].append(timed(lambda: booster.inplace_predict(matrix, predict_type="margin")))
            if not round_ % 2:
                taken["raw"].append(timed(lambda: raw(program, settings, folder)))
        seconds = {name: statistics.median(wall for wall, _ in some) for name, some in taken.items()}
        cpu = {name: statistics.median(used for _, used in some) for name, some in taken.items()}
        of_live = asyncio.run(live(settings, folder))
    rows_per_s = count / seconds["stored"]
    return {
        "ratio_to_xgboost": rows_per_s / (count / seconds["xgboost"]), "rows_per_s": rows_per_s,
        "raw_rows_per_s": count / seconds["raw"], "ratio_to_live": rows_per_s / of_live,
        "cpu_ratio_to_xgboost": cpu["xgboost"] / cpu["stored"], "cpu_us": cpu["stored"] / count * 1e6,
        "raw_cpu_us": cpu["raw"] / count * 1e6, "xgboost_cpu_us": cpu["xgboost"] / count * 1e6,
        "live_per_s": of_live, "xgboost_rows_per_s": count / seconds["xgboost"], "rows": count,
    }  # fmt: skip


def main() -> None:
    """Print a few lines, or one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_ROWS:,} rows, fewer rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--rows", type=int, help=f"so many rows instead of {ROWS:,}")
    given = parser.parse_args()
    if not FILE.exists():
        raise SystemExit(f"the Handbook's transactions are not at {FILE}; set ARBITER_SHARED_DATA to the shared data")
    found = measure(given.rows or (QUICK_ROWS if given.quick else ROWS), 3 if given.quick else 5)
    if given.json:
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))
        return
    print(f"{found['rows']:,.0f} rows, {RULES} rules, {TREES} trees of depth {DEPTH}, {THREADS} threads")
    print(
        f"  from stored features  {found['rows_per_s']:12,.0f} rows/s, {found['ratio_to_xgboost']:.2f} of raw XGBoost"
    )
    print(f"  from raw events       {found['raw_rows_per_s']:12,.0f} rows/s")
    print(f"  live, one by one      {found['live_per_s']:12,.0f} rows/s, {found['ratio_to_live']:,.0f} times slower")


if __name__ == "__main__":
    main()
