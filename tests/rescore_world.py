"""Real card transactions under a policy that uses every mechanism of a decision, and a model trained in a second."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.batch.load import BatchResult
from engine.bootstrap import open_engine, open_program
from engine.pipeline import Live
from engine.rescore.decide import Then
from engine.rescore.decided import RULE
from engine.rescore.rows import as_row
from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.folder import write_model
from engine.scoring.manifest import Booster
from engine.scoring.train import train
from engine.settings import Settings
from tests.conftest import ROOT, shared_data

FEATURES = (
    "txn.amount_base", "user.payments_1d", "user.payments_7d", "user.amount_mean_1d", "user.amount_mean_30d",
    "merchant.payments_7d", "merchant.fraud_rate_7d", "merchant.fraud_rate_30d", "txn.is_weekend", "txn.is_night",
)  # fmt: skip
POLICY = ROOT / "tests" / "rescored"


def write_folder(folder: Path, table: pa.Table) -> Path:
    """A folder with policy, model and mapping; people of the table are on its lists."""
    rules, handbook = folder / "rules", ROOT / "examples" / "handbook" / "rules"
    shutil.copytree(POLICY, rules)
    for name in ("features.yaml", "labels.yaml"):
        shutil.copy(handbook / name, rules)
    shutil.copy(ROOT / "mappings" / "handbook.yaml", folder / "mapping.yaml")
    people = [f"customer-{one}" for one in sorted(set(table["CUSTOMER_ID"].to_pylist()))]
    head = "value,reason,author,added,until"
    blocked = [f"{people[0]},stolen,tests,2018-01-01,", f"{people[1]},stolen,tests,2018-01-01,2018-06-01"]
    (rules / "lists" / "blocked.csv").write_text("\n".join([head, *blocked, ""]))
    trusted = [f"{who},known,tests,2018-05-01,2018-07-15,payments,250" for who in people[2:5]]
    (rules / "lists" / "trusted.csv").write_text("\n".join([f"{head},rulesets,max_amount", *trusted, ""]))
    when = "reason: r, author: tests, from: 2018-05-10T00:00Z, until: 2018-06-08T00:00Z"
    silenced = [(who, rule) for who in people[5:12] for rule in ("often", "steps#2", "large", "quarter")]
    (rules / "snoozes.yaml").write_text("snoozes:\n" + "".join(
        f"  - {{id: s{n}, rule: {rule}, user: {who}, {when}}}\n" for n, (who, rule) in enumerate(silenced)
    ))  # fmt: skip
    make_model(folder / "models", rounds=20)
    return folder


def make_model(
    models: Path, rounds: int, rows: int = 6_000, features: tuple[str, ...] = FEATURES, depth: int = 4
) -> Path:  # fmt: skip
    """`small/1`: fraud is likelier for large amounts and at terminals with frauds."""
    random = np.random.default_rng(3)
    columns: dict[str, Any] = {name: random.lognormal(1, 1, rows).round(2) for name in features}
    columns["txn.amount_base"] = random.lognormal(4, 0.8, rows).round(2)
    for name in features:
        if "rate" in name or name.startswith("txn.is"):
            columns[name] = random.integers(0, 2, rows) * (1.0 if name.startswith("txn.is") else 0.3)
    time_us = np.sort(random.integers(0, 20 * DAY_US, rows))
    odds = 0.02 * columns["txn.amount_base"] + 9 * columns.get("merchant.fraud_rate_7d", 0) - 6
    noise = 0.3 * sum(columns[name] * random.normal() for name in features[1:8])
    label = random.random(rows) < 1 / (1 + np.exp(-odds - noise))
    table = pa.table({
        **columns, "event_time": time_us, "label": label, "label_known": time_us + DAY_US,
        "group": random.integers(0, 300, rows),
    })  # fmt: skip
    settings: dict[str, Any] = {
        "name": "small", "version": "1", "event_kind": "payment", "features": features, "seed": 3,
        "window": Span(0, 12 * DAY_US), "test": Span(14 * DAY_US, 20 * DAY_US), "delay_days": 1.0,
        "booster": Booster(rounds=rounds, max_depth=depth), "parity_rows": 50,
    }  # fmt: skip
    return write_model(models, train(table, TrainConfig(**settings)))


def transactions(rows: int) -> pa.Table:
    """About so many real transactions: all of every n-th customer, over the whole time."""
    path = shared_data() / "fraud" / "transactions.parquet"
    table = pq.read_table(path)
    step = max(1, len(table) // rows)
    customers = table["CUSTOMER_ID"].to_numpy().astype(np.int64)
    return table.filter(pa.array(customers % step == 0))


class Events:
    """A sink that keeps what a file holds."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def position(self, source_digest: bytes) -> int:
        """From the beginning."""
        return 0

    def write(self, batch: Any, position: int) -> BatchResult:
        """Keep it."""
        self.items += batch
        return BatchResult(len(batch), 0)

    def finish(self) -> None:
        """Nothing is open."""


async def decided_live(settings: Settings, items: Any) -> list[dict[str, Any]]:
    """What the service decides about events in turn, over real stores, as decided rows; outcomes come with them."""
    then = Then()
    program, engine = open_program(settings, clock=then), open_engine(settings)
    await engine.start(watch=False)
    engine.pipeline.live = Live(program, engine.pipeline.live.matcher)  # the same, but lists are asked as of the event
    rows = []
    for event, outcomes in items:
        then.us = event.time_us
        decision = await engine.decide(event)
        rows.append(as_row(decision, program.open(event, event.time_us)))
        for outcome in outcomes:
            await engine.record_outcome(outcome)
    await engine.close()
    return rows


def differences(decided: pa.Table, live: list[dict[str, Any]]) -> list[tuple[str, str, Any, Any]]:
    """(event, column, live, decided) wherever the two are not the same; scores by their bits."""
    told = [name for name in decided.column_names if name not in ("by_row", "known_us")]
    found = []
    for row, other in zip(decided.to_pylist(), live, strict=True):
        for name in told:
            mine, theirs = row[name], other.get(name, 0 if name.startswith(RULE) else None)
            if mine != theirs or type(mine) is not type(theirs):
                found.append((other["event_id"], name, theirs, mine))
    return found
