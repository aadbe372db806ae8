"""A shop folder with the small policy and models that were trained for it in a second."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import write_model
from engine.scoring.manifest import Booster
from engine.scoring.train import train
from tests.conftest import POLICY

FEATURES = ("txn.amount_base", "user.payments_1h", "card.payments_1h", "device.cards_24h")
BANDS = """\
    - {from_score: 0.0, tier: LOW, action: ALLOW}
    - {from_score: 0.2, tier: MEDIUM, action: CHALLENGE}
    - {from_score: 0.7, tier: HIGH, action: DECLINE}
"""


def make_model(models: Path, version: str, seed: int = 1, **changes: object) -> Path:
    """`models/small/VERSION`: fraud is likelier for large amounts and for many payments of a card within the hour."""
    random = np.random.default_rng(seed)
    rows = 4_000
    amount, often, by_card = random.lognormal(4, 1, rows).round(2), *random.integers(0, 6, (2, rows))
    time_us = np.sort(random.integers(0, 20 * DAY_US, rows))
    table = pa.table({
        "txn.amount_base": amount, "user.payments_1h": often, "card.payments_1h": by_card,
        "device.cards_24h": random.integers(0, 4, rows), "event_time": time_us,
        "label": random.random(rows) < 1 / (1 + np.exp(6 - 0.01 * amount - 0.4 * often - 0.4 * by_card)),
        "label_known": time_us + DAY_US, "group": random.integers(0, 300, rows),
    })  # fmt: skip
    settings: dict[str, object] = {
        "name": "small", "version": version, "event_kind": "payment", "features": FEATURES, "seed": seed,
        "window": Span(0, 12 * DAY_US), "test": Span(14 * DAY_US, 20 * DAY_US), "delay_days": 1.0,
        "booster": Booster(rounds=20, max_depth=3), "parity_rows": 50, "report": False,
    }  # fmt: skip
    return write_model(models, train(table, TrainConfig(**{**settings, **changes})))  # type: ignore[arg-type]


def make_shop(folder: Path, models: str = "models: {payment: small/1}\n") -> Path:
    """The small policy with bands of its own, and what `policy.yaml` says of models; small/1 is there."""
    shutil.copytree(POLICY, folder / "rules")
    policy = folder / "rules" / "policy.yaml"
    lowest = "    - {from_score: 0.0, tier: LOW, action: ALLOW}\n"
    assert lowest in policy.read_text()
    policy.write_text(policy.read_text().replace(lowest, BANDS) + models)
    make_model(folder / "models", "1")
    return folder
