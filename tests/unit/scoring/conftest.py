"""One small shop and one model trained on it, shared by the tests of the scoring room."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import TrainedModel, write_model
from engine.scoring.manifest import Booster
from engine.scoring.train import train

START_US = 1_530_000_000_000_000 // DAY_US * DAY_US
FEATURES = ("txn.amount", "card.count_1d", "device.is_new")


def days(first: int, last: int) -> Span:
    """From day `first` on and before day `last` of the shop."""
    return Span(START_US + first * DAY_US, START_US + last * DAY_US)


def shop_table(rows: int = 6_000, seed: int = 1) -> pa.Table:
    """Forty days of payments: fraud is likelier for large amounts on new devices; labels come after two days."""
    random = np.random.default_rng(seed)
    amount = random.lognormal(3, 1, rows).round(2)
    count = random.integers(0, 9, rows)
    new = random.random(rows) < 0.3
    odds = -4 + 0.02 * amount + 1.5 * new + 0.1 * count
    time_us = START_US + np.sort(random.integers(0, 40 * DAY_US, rows))
    return pa.table(
        {
            "txn.amount": pa.array(amount, mask=random.random(rows) < 0.05),
            "card.count_1d": count,
            "device.is_new": new,
            "event_time": pa.array(time_us, pa.timestamp("us", "UTC")),
            "label": random.random(rows) < 1 / (1 + np.exp(-odds)),
            "label_known": pa.array(time_us + 2 * DAY_US, pa.timestamp("us", "UTC")),
            "group": [f"card-{n}" for n in random.integers(0, 500, rows)],
        }
    )


def shop_config(**changes: object) -> TrainConfig:
    """Twenty days to learn from, ten to test on."""
    settings: dict[str, object] = {
        "name": "shop", "version": "1", "event_kind": "payment", "features": FEATURES, "window": days(0, 20),
        "test": days(25, 35), "delay_days": 2.0, "booster": Booster(rounds=20), "parity_rows": 40, "alerts_per_day": 5,
        "report": False,
    }  # fmt: skip
    return TrainConfig(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def table() -> pa.Table:
    """The shop's payments."""
    return shop_table()


@pytest.fixture(scope="session")
def trained(table: pa.Table) -> TrainedModel:
    """A model of the shop."""
    return train(table, shop_config())


@pytest.fixture
def folder(trained: TrainedModel, tmp_path: Path) -> Path:
    """The model's folder, fresh for each test."""
    return write_model(tmp_path, trained)
