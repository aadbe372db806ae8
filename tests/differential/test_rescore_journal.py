"""A simulated shop decided live by the shipped policy, and its journal re-scored: the same decisions by every road."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.batch.history import History, from_journal
from engine.bootstrap import looking_back, open_engine, open_program
from engine.features.offline import build
from engine.intake import read_event, read_outcome
from engine.rescore.decide import Decider, Then
from engine.rescore.rows import as_row
from engine.rescore.stored import from_records
from engine.schema import FIELDS, OUTCOMES
from engine.settings import read_settings
from engine.simulator import Simulation, SimulatorConfig
from tests.conftest import ROOT
from tests.rescore_world import differences

ARBITER = str(Path(sys.executable).with_name("arbiter"))
LATER_US = 4_000_000_000_000_000
SHOP = SimulatorConfig(
    start=datetime(2026, 3, 1, tzinfo=UTC), days=12, shoppers=80, payments_per_day=14, browsing=0.05, fraud_share=0.15,
    abuse_share=0.06, held_out_from_day=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Settings of an installation whose journal holds the shop, and its decisions as decided rows."""
    folder = tmp_path_factory.mktemp("shop")
    places = {"rules": str(ROOT / "rules"), "models": str(ROOT / "models"), "state": str(folder / "state")}
    settings = read_settings(folder, {**places, "clock": "event", "gather_ms": 0}, {})
    return settings, asyncio.run(lived(settings))


async def lived(settings):
    """Events in turn: payments and what else is decided are decided, the rest recorded; outcomes as they come."""
    program, engine, rows = open_program(settings), open_engine(settings), []
    await engine.start(watch=False)
    engine.pipeline.live.matcher._timeout_s = 10.0  # a busy machine must not cost a signal
    for document in Simulation(SHOP, 5).events():
        if document["kind"] in OUTCOMES:
            await engine.record_outcome(read_outcome(document, now_us=LATER_US))
            continue
        event = read_event(document, now_us=LATER_US)
        if event.kind != "payment":
            await engine.record(event)
            continue
        rows.append(as_row(await engine.decide(event), program.open(event, event.time_us)))
        await engine.pipeline.drain()
    await engine.close()
    return rows


def test_stored_features_give_the_stored_decisions(shop):
    """From what the records keep, and from features counted anew: no decision differs."""
    settings, live = shop
    then = Then()
    program = open_program(settings, clock=then)
    with looking_back(settings) as past:
        counted = build(
            program.feature_set, program.features, History(program, from_journal(past.journal, lambda *_: None)).items()
        )
        for table in (None, counted):
            tables = list(from_records(past, program, 0, counted=table))
            decider = Decider(program, then=then, standing="given")
            assert differences(pa.concat_tables(decider.decide_rows(tables)), live) == []
    assert len({row["action"] for row in live}) > 2
    assert any(row["signals"] for row in live)


def test_standing_and_patterns_follow_from_the_rows_before(shop):
    """With nothing but events: tiers of persons, measures in force and signals come out as they did live."""
    settings, live = shop
    then = Then()
    program = open_program(settings, clock=then)
    with looking_back(settings) as past:
        items = History(program, from_journal(past.journal, lambda *_: None)).items()
        fields = sorted(FIELDS.keys() | {"event.kind"})
        table = build(program.feature_set, program.features, items, kind="", fields=fields)
    decider = Decider(program, then=then)
    decided = pa.concat_tables(
        decider.decide_rows([table.drop([n for n in fields if table[n].null_count == len(table)])])
    )
    decider.signals.close()
    assert not any(row["degraded"] for row in live)
    assert differences(decided, live) == []
    assert len(table) > len(decided)
    assert any(decided["signals"].to_pylist())


def test_the_command_says_the_same_of_the_journal(shop, tmp_path):
    """`arbiter rescore --since`: features computed anew from the events, every action and score as live."""
    settings, live = shop
    out, places = tmp_path / "decided.parquet", ("rules", "models", "state")
    flags = [word for name in places for word in (f"--{name}", str(getattr(settings, name)))]
    words = [ARBITER, "rescore", "--since", "2026-03-01T00:00Z", "--out", str(out), "--folder", str(tmp_path), *flags]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = pq.read_table(out)
    for name in ("event_id", "action", "score", "reasons", "signals"):
        assert found[name].to_pylist() == [row[name] for row in live], name
