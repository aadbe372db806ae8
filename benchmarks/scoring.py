"""Scoring one row and many, against bare onnxruntime and xgboost: `python -m benchmarks.scoring [--quick] [--json]`.

A model of 300 trees, depth 6 and 40 features is trained, written, loaded and scored as the service does it, with
calibration; the bare run is `InferenceSession.run` on the same file with an array made beforehand. Many rows are scored
as `arbiter rescore` does: by XGBoost from the trees of `model.onnx`, proven equal, then calibrated. Both take turns,
and medians over the rounds are shown with their spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import xgboost

from engine.rescore.scores import ColumnScores
from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import write_model
from engine.scoring.manifest import Booster
from engine.scoring.model import ScoringModel, load_model
from engine.scoring.train import train

TREES, DEPTH, FEATURES, ROWS = 300, 6, 40, 20_000
SINGLES, BATCH = 250, 5_000
"""Rows scored in one turn; turns are short, so that noise from elsewhere meets both sides alike."""


def _table(seed: int = 0) -> pa.Table:
    """Rows of normal noise with one missing value in twenty, and a label that a quarter of the columns explain."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    label = matrix[:, :10].sum(axis=1) + 2 * random.normal(size=ROWS) > 4
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    time_us = np.arange(ROWS) * (DAY_US // ROWS)
    columns = {f"f{i}": matrix[:, i] for i in range(FEATURES)}
    rest = {"event_time": time_us, "label": label, "label_known": time_us, "group": np.arange(ROWS)}
    return pa.table(columns | rest)


def _model(table: pa.Table, folder: Path) -> ScoringModel:
    """The model, trained, written and loaded again."""
    config = TrainConfig(
        name="bench", version="1", event_kind="payment", features=tuple(table.column_names[:FEATURES]),
        window=Span(0, DAY_US), booster=Booster(max_depth=DEPTH, rounds=TREES, max_bin=256), folds=2, report=False,
    )  # fmt: skip
    return load_model(write_model(folder, train(table, config)), config.features)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _booster(table: pa.Table, matrix: np.ndarray) -> xgboost.Booster:
    """XGBoost with as many trees of the same depth on the same rows, for the batch comparison."""
    settings = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": DEPTH, "eta": 0.1, "nthread": 1}
    return xgboost.train(settings, xgboost.DMatrix(matrix, label=table["label"].to_numpy()), num_boost_round=TREES)


def _us(work: Callable[[], Any], rows: int) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / rows * 1e6


def measure(rounds: int) -> dict[str, float]:
    """All figures: microseconds a row (median, lowest, highest over the rounds) and ratios of medians."""
    table = _table()
    matrix = np.column_stack([table[f"f{i}"].to_numpy() for i in range(FEATURES)])
    with tempfile.TemporaryDirectory() as folder:
        model, path = _model(table, Path(folder)), Path(folder) / "bench" / "1" / "model.onnx"
        start = time.perf_counter()
        load_model(path.parent)
        load_ms = (time.perf_counter() - start) * 1e3
        session = _session(path)
    booster = _booster(table, matrix)
    values, arrays = matrix[:SINGLES].astype(float).tolist(), [matrix[i : i + 1].copy() for i in range(SINGLES)]
    batch, columns = matrix[:BATCH].copy(), ColumnScores(model)
    work = {
        "bare": (lambda: [session.run(None, {"features": array}) for array in arrays], SINGLES),
        "row": (lambda: [model.score(row) for row in values], SINGLES),
        "batch": (lambda: model.calibration.scores(columns.margins(batch)), BATCH),
        "onnx": (lambda: model.scores(batch), BATCH),
        "xgboost": (lambda: booster.inplace_predict(batch, predict_type="margin"), BATCH),
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, (what, rows) in work.items():
            taken[name].append(_us(what, rows))
    figures: dict[str, float] = {}
    for name, us in taken.items():
        figures |= {f"{name}_us": statistics.median(us), f"{name}_us_low": min(us), f"{name}_us_high": max(us)}
    return figures | {
        "row_ratio": figures["row_us"] / figures["bare_us"],
        "batch_ratio_to_xgboost": figures["xgboost_us"] / figures["batch_us"],
        "load_ms": load_ms,
    }


def main() -> None:
    """Print a table, or one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    figures = measure(rounds=9 if given.quick else 61)
    if given.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
        return
    print(f"{TREES} trees, depth {DEPTH}, {FEATURES} features; one thread; µs a row, median (lowest … highest)\n")
    for name, label in (
        ("bare", "one row, bare onnxruntime"), ("row", "one row, margin and calibrated score"),
        ("batch", f"{BATCH:,} rows, margins and scores, as re-scored"),
        ("onnx", f"{BATCH:,} rows, by onnxruntime"), ("xgboost", f"{BATCH:,} rows, xgboost inplace_predict"),
    ):  # fmt: skip
        low, high = figures[f"{name}_us_low"], figures[f"{name}_us_high"]
        print(f"  {label:46}{figures[f'{name}_us']:8.2f}  ({low:.2f} … {high:.2f})")
    print(f"\n  row to bare run {figures['row_ratio']:.2f} (to reach: ≤ 1.3)", end="")
    print(f" · batch to xgboost {figures['batch_ratio_to_xgboost']:.2f} (≥ 0.8) · load {figures['load_ms']:.0f} ms")


if __name__ == "__main__":
    main()
