"""The handbook's features on real transactions: the service, the columns and a plain recount agree in every bit.

The recount reads the file with pandas, counts in whole cents and seconds, and knows nothing of the engine.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.handbook import MAPPING, Collected
from engine.batch.frames import features_of
from engine.batch.history import History, from_journal
from engine.batch.load import load
from engine.batch.mapping import load_mapping
from engine.bootstrap import open_engine, open_program, open_stores
from engine.features.offline import build
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.scoring.config import read_config
from engine.settings import Settings
from engine.sink import ImportSink
from engine.values import Event
from tests.conftest import ROOT, shared_data

EXAMPLE = ROOT / "examples" / "handbook"
DAY_S = 86_400
TERMINALS, CUSTOMERS = 60, 12
"""How many of each come with all their transactions: those with most fraud, and some that are often seen."""
DECIDED = 2_500
LATER_US = 2**62


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Some 12,000 transactions: whole histories of terminals with much fraud, and of some customers."""
    every = pd.read_parquet(shared_data() / "fraud" / "transactions.parquet")
    terminals = every.groupby("TERMINAL_ID").TX_FRAUD.sum().nlargest(TERMINALS).index
    customers = every.CUSTOMER_ID.value_counts().index[::400][:CUSTOMERS]
    return every[every.TERMINAL_ID.isin(terminals) | every.CUSTOMER_ID.isin(customers)].reset_index(drop=True)


def recount(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """The handbook's features, each transaction by itself."""
    second = frame.TX_DATETIME.to_numpy().astype("datetime64[s]").astype(np.int64)
    cents = np.rint(frame.TX_AMOUNT.to_numpy() * 100).astype(np.int64)
    found: dict[str, list[Any]] = {
        "txn.amount_base": (cents / 100).tolist(),  # the file also has 278.15000000000003
        "txn.is_weekend": (frame.TX_DATETIME.dt.day_of_week >= 5).tolist(),
        "txn.is_night": (frame.TX_DATETIME.dt.hour <= 6).tolist(),
    }
    for days in (1, 7, 30):
        who = frame.groupby("CUSTOMER_ID").indices
        mine = {at: earlier(rows, at, second, days, 0, own=True) for rows in who.values() for at in rows}
        where = frame.groupby("TERMINAL_ID").indices
        here = {at: earlier(rows, at, second, days, 7, own=False) for rows in where.values() for at in rows}
        order = range(len(frame))
        fraud = frame.TX_FRAUD.to_numpy()
        found[f"user.payments_{days}d"] = [len(mine[at]) for at in order]
        found[f"user.amount_mean_{days}d"] = [int(cents[mine[at]].sum()) / (100 * len(mine[at])) for at in order]
        found[f"merchant.payments_{days}d"] = [len(here[at]) for at in order]
        found[f"merchant.fraud_rate_{days}d"] = [
            int(fraud[here[at]].sum()) / len(here[at]) if len(here[at]) else 0.0 for at in order
        ]
    return found


def earlier(rows: np.ndarray, at: int, second: np.ndarray, days: int, delay_days: int, *, own: bool) -> np.ndarray:
    """Rows of one customer or terminal in (t − delay − days, t − delay] that came before; `own`: and itself."""
    before = rows[rows <= at] if own else rows[rows < at]
    end = second[at] - delay_days * DAY_S
    return before[(second[before] > end - days * DAY_S) & (second[before] <= end)]


@pytest.fixture(scope="module")
def seen(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, dict[str, dict[str, Any]]]:
    """The columns' table of all, and the features that were journaled with the decisions about the last ones."""
    folder = tmp_path_factory.mktemp("handbook")
    shutil.copytree(EXAMPLE / "rules", folder / "rules")
    policy = folder / "rules" / "policy.yaml"
    policy.write_text(policy.read_text().replace("models:", "# models:"))  # no score is needed here
    settings = Settings(
        folder=folder, state=folder / "state", rules=folder / "rules", models=folder / "models", clock="event",
        hash_key_file=folder / "state" / "hash.key", gather_ms=0,
    )  # fmt: skip
    settings.state.mkdir()
    frame[:-DECIDED].to_parquet(folder / "history.parquet")
    frame[-DECIDED:].to_parquet(folder / "rest.parquet")
    asyncio.run(lived(settings, folder))
    program = open_program(settings, with_models=False)
    _, journal = open_stores(settings)
    journal.open()
    items = History(program, from_journal(journal, told)).items()
    table = build(program.feature_set, program.features, items, fields=("txn.amount_base",))
    records = {s.record.id: orjson.loads(s.record.public) for s in journal.read(0, ("decision",))}
    asyncio.run(journal.close())
    return table, records


async def lived(settings: Settings, folder: Path) -> None:
    """Import the history into empty stores, then decide the rest one by one; frauds are reported after their week."""
    program = open_program(settings, with_models=False)
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    rest = Collected()
    with closing(ImportSink(program, profiles, journal, settings.state)) as sink:
        for name, into in (("history", sink), ("rest", rest)):
            load(folder / f"{name}.parquet", load_mapping(MAPPING), into, workdir=folder,
                 quarantine=folder / "quarantine", now_us=LATER_US)  # fmt: skip
    await profiles.close()
    await journal.close()
    engine = open_engine(settings)
    await engine.start(watch=False)
    later = [(outcome["known_us"], 0, number, outcome) for number, outcome in enumerate(rest.outcomes)]
    for _, _, _, what in sorted([*later, *((e.time_us, 1, number, e) for number, e in enumerate(rest.events))]):
        if isinstance(what, Event):
            await engine.decide(what)
        else:
            await engine.record_outcome(what)
    await engine.close()


def columns_recounted(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The handbook's features of the whole file, by its definitions: each customer and terminal by itself."""
    second = frame.TX_DATETIME.to_numpy().astype("datetime64[s]").astype(np.int64)
    cents = np.rint(frame.TX_AMOUNT.to_numpy() * 100).astype(np.int64)
    fraud = frame.TX_FRAUD.to_numpy().astype(np.int64)
    found: dict[str, np.ndarray] = {
        "txn.is_weekend": frame.TX_DATETIME.dt.day_of_week.to_numpy() >= 5,
        "txn.is_night": frame.TX_DATETIME.dt.hour.to_numpy() <= 6,
    }
    for days in (1, 7, 30):
        paid, mean, here, risk = (np.zeros(len(frame)) for _ in range(4))
        for rows in frame.groupby("CUSTOMER_ID").indices.values():
            start = np.searchsorted(second[rows], second[rows] - days * DAY_S, "right")
            sums = np.concatenate(([0], np.cumsum(cents[rows])))
            until = np.arange(1, len(rows) + 1)  # with this one, without what stands below it in the same second
            paid[rows], mean[rows] = until - start, (sums[until] - sums[start]) / (100 * (until - start))
        for rows in frame.groupby("TERMINAL_ID").indices.values():
            start = np.searchsorted(second[rows], second[rows] - (7 + days) * DAY_S, "right")
            until = np.searchsorted(second[rows], second[rows] - 7 * DAY_S, "right")
            sums = np.concatenate(([0], np.cumsum(fraud[rows])))
            here[rows] = until - start
            risk[rows] = np.where(until > start, (sums[until] - sums[start]) / np.maximum(until - start, 1), 0.0)
        found |= {f"user.payments_{days}d": paid, f"user.amount_mean_{days}d": mean}
        found |= {f"merchant.payments_{days}d": here, f"merchant.fraud_rate_{days}d": risk}
    return found


def test_every_row_of_the_file_in_columns(tmp_path):
    """`arbiter features build` gives the definitions' numbers for all rows and features of the file, in every bit."""
    path = shared_data() / "fraud" / "transactions.parquet"
    program = load_program(EXAMPLE / "rules", tmp_path, Identity(bytes(32)), lambda: 0, with_models=False)
    table, summary = features_of(
        program, path, load_mapping(MAPPING), workdir=tmp_path, quarantine=tmp_path / "bad", now_us=LATER_US
    )
    frame = pd.read_parquet(path)
    assert summary is None, "read in columns, not row by row"
    assert table.column("event_id").to_pylist() == [f"handbook-{number}" for number in frame.TRANSACTION_ID]
    wanted = columns_recounted(frame)
    assert wanted.keys() == set(program.feature_set.names)
    for name, values in wanted.items():
        assert table.column(name).null_count == 0
        assert (table.column(name).to_numpy() == values).all(), name


def test_columns_are_what_the_service_saw(frame, seen, tmp_path):
    """The same transactions read in columns and from the journal, in every bit and type."""
    table, _ = seen
    frame.to_parquet(tmp_path / "all.parquet")
    program = load_program(EXAMPLE / "rules", tmp_path, Identity(bytes(32)), lambda: 0, with_models=False)
    columns, _ = features_of(
        program, tmp_path / "all.parquet", load_mapping(MAPPING), workdir=tmp_path, quarantine=tmp_path / "bad",
        now_us=LATER_US, fields=("txn.amount_base",),
    )  # fmt: skip
    assert columns.equals(table)


def told(what: str, count: int, share: float | None) -> None:
    """Nobody watches."""


def test_what_is_trained_on_are_the_fifteen_features_of_the_handbook(frame):
    """The example's training file names them all, and nothing else."""
    path = EXAMPLE / "train.yaml"
    assert set(read_config(path.read_bytes(), str(path)).features) == recount(frame[:1]).keys()


def test_a_plain_recount_gives_the_columns_bit_for_bit(frame, seen):
    """Every feature of every transaction that offline features are built for is the number counted by hand."""
    table, _ = seen
    assert table.column("event_id").to_pylist() == [f"handbook-{number}" for number in frame.TRANSACTION_ID]
    for name, values in recount(frame).items():
        found = table.column(name).to_pylist()
        assert [(at, f, v) for at, (f, v) in enumerate(zip(found, values, strict=True)) if f != v] == [], name
    rates = table.column("merchant.fraud_rate_30d").to_numpy()
    assert len(np.unique(rates)) > 100


def test_the_service_saw_the_same_bits(frame, seen):
    """The features journaled with each decision are those of the columns, so training learns what serving sees."""
    table, records = seen
    assert len(records) == DECIDED
    for row in table.slice(len(frame) - DECIDED).to_pylist():
        live = records[row["event_id"]]["features"]
        assert live == {name: row[name] for name in live}
        assert len(live) == 14
        assert records[row["event_id"]]["truncated"] == []
