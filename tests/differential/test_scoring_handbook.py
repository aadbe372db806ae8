"""The published week of the Fraud Detection Handbook, from features computed here independently of the engine's own."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import write_model
from engine.scoring.measure import evaluate, reliability
from engine.scoring.model import load_model
from engine.scoring.rows import known_compromised, read_rows, within
from engine.scoring.train import train

SHARED = Path(os.environ.get("ARBITER_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILE = SHARED / "fraud" / "transactions.parquet"
PUBLISHED = {"auc": 0.862, "average_precision": 0.639, "card_precision_100": 0.273}
DAY_S = 86_400

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"the shared Handbook data is not at {FILE}")


def _blocks(keys: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each key, in the order of the rows."""
    order = np.argsort(keys, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _window_sums(time_s: np.ndarray, values: np.ndarray, blocks: list[np.ndarray], days: int, delay_days: int):
    """Count and sum of `values` over (t − delay − days, t − delay] in each row's block, its own row included."""
    count, total = np.empty(len(time_s)), np.empty(len(time_s))
    for block in blocks:
        t, sums = time_s[block], np.concatenate([[0.0], np.cumsum(values[block])])
        low = np.searchsorted(t, t - (delay_days + days) * DAY_S, side="right")
        high = np.searchsorted(t, t - delay_days * DAY_S, side="right") if delay_days else np.arange(1, len(t) + 1)
        count[block], total[block] = high - low, sums[high] - sums[low]
    return count, total


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """The handbook's fifteen features with label, time and card."""
    raw = pq.read_table(FILE).sort_by([("TX_DATETIME", "ascending"), ("TRANSACTION_ID", "ascending")])
    time_s = raw["TX_DATETIME"].cast("timestamp[s]").cast("int64").to_numpy()
    amount, fraud = raw["TX_AMOUNT"].to_numpy(), raw["TX_FRAUD"].to_numpy()
    columns = {"amount": amount, "weekend": (time_s // DAY_S + 3) % 7 >= 5, "night": time_s % DAY_S // 3_600 <= 6}
    customers, terminals = _blocks(raw["CUSTOMER_ID"].to_numpy()), _blocks(raw["TERMINAL_ID"].to_numpy())
    for days in (1, 7, 30):
        count, total = _window_sums(time_s, amount, customers, days, 0)
        columns |= {f"customer_count_{days}d": count, f"customer_mean_{days}d": total / count}
        count, total = _window_sums(time_s, fraud, terminals, days, 7)
        columns |= {f"terminal_count_{days}d": count, f"terminal_risk_{days}d": total / np.maximum(count, 1)}
    return pa.table({
        **columns, "event_time": time_s * 1_000_000, "label": fraud, "group": raw["CUSTOMER_ID"],
        "label_known": time_s * 1_000_000 + 7 * DAY_US,
    })  # fmt: skip


def test_the_published_week_is_reached_by_scores_as_they_are_served(table, tmp_path):
    """Trained on 25–31 July, the loaded model's calibrated scores of 8–14 August are at least as good as published."""
    features = tuple(table.column_names[:15])
    config = TrainConfig(
        name="handbook", version="1", event_kind="payment", features=features,
        window=Span.of("2018-07-25T00:00Z/2018-08-01T00:00Z"), test=Span.of("2018-08-08T00:00Z/2018-08-15T00:00Z"),
        report=False,
    )  # fmt: skip
    trained = train(table, config)
    model = load_model(write_model(tmp_path, trained), features)
    data = read_rows(table, features, config.columns)
    tested = data[within(data, config.test) & ~known_compromised(data, config.test, config.window.start_us)]
    assert (len(tested), tested.fraud.sum()) == (58_264, 385)  # the rows of the published protocol
    margins, scores = model.scores(tested.matrix)
    metrics = evaluate(scores, tested.fraud, tested.time_us, tested.group)
    assert metrics == {name: trained.manifest.test.metrics[name] for name in metrics}
    for name, value in PUBLISHED.items():
        assert metrics[name] >= value, f"{name} is {metrics[name]:.4f}, published {value}"
    assert np.array_equal(np.argsort(margins, kind="stable"), np.argsort(scores, kind="stable"))
    assert len(np.unique(margins)) == len(np.unique(scores))
    assert metrics["expected"] == pytest.approx(metrics["fraud"], rel=0.15)
    assert sum(group.fits for group in reliability(scores, tested.fraud)) >= 8
