"""Re-scored rows are those that the service decides: every tier, action, reason, rule and the bits of every score.

Live: real transactions, one by one, through admission, features, model, rules and journal of embedded stores. The
policy has every mechanism once: bands, required fields, tables, scorecards, rollout, schedule, UNKNOWN and ERROR,
measures with a life, limits in force, standing of people, block and allow lists, snoozes, a budgeted control group.
"""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.batch.frames import features_of
from engine.batch.load import load
from engine.batch.mapping import load_mapping
from engine.bootstrap import open_program
from engine.rescore.decide import Decider, Then
from engine.settings import read_settings
from tests.rescore_world import Events, decided_live, differences, transactions, write_folder

ROWS = 100_000 if os.environ.get("ARBITER_LONG") == "1" else 3_000
LATER_US = 2**61
READ = (
    "user.id", "card.token", "merchant.id", "payment.id", "event.stage", "event.market", "txn.amount_base",
    "txn.amount_minor", "txn.currency",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a policy and about `ROWS` transactions; its settings."""
    folder = tmp_path_factory.mktemp("rescore")
    table = transactions(ROWS)
    pq.write_table(table, folder / "payments.parquet")
    write_folder(folder, table)
    return folder, read_settings(folder, {"clock": "event", "gather_ms": 0}, {})


async def test_equal_row_by_row(world):
    """Features recomputed from the file and decided in columns are what live decided, to the bit."""
    folder, settings = world
    path, mapping, events = folder / "payments.parquet", load_mapping(folder / "mapping.yaml"), Events()
    load(path, mapping, events, workdir=folder, quarantine=folder / "bad.jsonl", now_us=LATER_US)
    live = await decided_live(settings, events.items)
    then = Then()
    program = open_program(settings, clock=then)
    table, _ = features_of(
        program, path, mapping, workdir=folder, quarantine=folder / "bad.jsonl", now_us=LATER_US, fields=READ
    )  # fmt: skip
    seen = table.append_column("event.kind", pa.array(["payment"] * len(table)))
    decider = Decider(program, then=then)
    decided = pa.concat_tables(decider.decide_rows([seen]))
    assert differences(decided, live) == []
    assert len(decided) == len(live) > ROWS / 2
    assert 0 < decider.counts["rows decided by the row function"] < len(decided)
    for name in ("tier", "action", "score"):
        assert len(decided[name].unique()) > 2, name
    lowered = {text.partition(":")[0] for found in decided["lowered"].to_pylist() for text in found}
    assert lowered >= {"allow", "snooze", "control"} if ROWS > 50_000 else lowered >= {"allow", "control"}
