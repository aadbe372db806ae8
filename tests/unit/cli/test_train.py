"""`arbiter train` on a small simulated shop: from files and from the journal, with and without a configuration."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pytest

from engine.cli.train import next_version
from engine.scoring.model import load_model
from engine.simulator import Simulation, SimulatorConfig, write
from tests.conftest import ROOT

CONFIG = """\
name: small
version: "7"
event_kind: payment
features: [txn.amount_base, user.payments_1h, user.account_age_days, card.payments_1h, device.cards_24h]
window: 2026-06-03T00:00Z/2026-06-20T00:00Z
test: 2026-06-30T00:00Z/2026-07-05T00:00Z
delay_days: 10
booster: {rounds: 10, max_depth: 3}
report: false
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty days of a small shop with much fraud."""
    made = tmp_path_factory.mktemp("history")
    config = SimulatorConfig(days=40, shoppers=400, payments_per_day=40, fraud_share=0.08, browsing=0)
    write(Simulation(config, seed=5), made)
    return made


def test_a_configuration_is_followed(call, folder, history):
    """The model of the configuration is written, loads, and serves after the line that is printed."""
    Path("small.yaml").write_text(CONFIG)
    done = call("train", "small.yaml", "--from", history, "--folder", folder, "--mature-after", "10d")
    assert done.exit_code == 0, done.output
    assert "tested on 2026-06-30T00:00:00Z/2026-07-05T00:00:00Z" in done.stdout
    assert all(re.search(rf"^ +{name} +0\.\d{{4}}$", done.stdout, re.MULTILINE) for name in ("auc", "log loss"))
    assert "  models: {payment: small/7}" in done.stdout
    model = load_model(folder / "models" / "small" / "7")
    assert model.features[:2] == ("txn.amount_base", "user.payments_1h")
    assert model.manifest.test is not None
    policy = folder / "rules" / "policy.yaml"
    policy.write_text(policy.read_text() + "models: {payment: small/7}\n")
    assert "1 model, digest" in call("rules", "check", "--folder", folder).stdout
    again = call("train", "small.yaml", "--from", history, "--folder", folder)
    assert again.exit_code == 2
    assert "small/7 exists" in again.stderr


def test_the_journal_gives_the_same_model(call, folder, history):
    """Learnt from an imported history, the model has the very bytes of the one learnt from its files."""
    Path("small.yaml").write_text(CONFIG)
    call("train", "small.yaml", "--from", history, "--folder", folder, "--version", "files", "--mature-after", "10d")
    for kind in ("events", "outcomes"):
        assert call("import", history / f"{kind}.jsonl", "--kind", kind, "--folder", folder).exit_code == 0
    done = call("train", "small.yaml", "--folder", folder, "--version", "journal", "--mature-after", "10d")
    assert done.exit_code == 0, done.output
    models = folder / "models" / "small"
    for name in ("model.onnx", "parity.csv"):
        assert (models / "files" / name).read_bytes() == (models / "journal" / name).read_bytes()


def test_without_a_configuration(call, folder, history):
    """Every numeric feature is learnt from, windows are planned, and versions count up."""
    done = call("train", "--from", history, "--folder", folder, "--mature-after", "5d")
    assert done.exit_code == 0, done.output
    features = load_model(folder / "models" / "payment" / "1").features
    assert {"user.spend_24h", "device.cards_24h", "txn.amount_base", "event.local_hour"} <= set(features)
    assert next_version(folder / "models" / "payment") == "2"


def test_young_labels_are_told(call, folder, history):
    """A cut-off before the window's last payments are mature is remarked upon."""
    Path("small.yaml").write_text(CONFIG.replace("delay_days: 10", "delay_days: 4"))
    done = call("train", "small.yaml", "--from", history, "--folder", folder, "--mature-after", "10d")
    assert done.exit_code == 0, done.output
    assert "labels of the last 6 days before 2026-06-20T00:00:00Z are not mature at the cut-off" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 3, "there is no history in"),
        (["--from", "HISTORY"], 3, "200 days are needed"),
        (["--from", "HISTORY", "--mature-after", "soon"], 2, "is not a time such as 45d"),
        (["bad.yaml", "--from", "HISTORY"], 2, "bad.yaml:1:1"),
        (["unknown.yaml", "--from", "HISTORY"], 3, "no feature or numeric field of an event: user.nosuch"),
    ],
)
def test_what_stands_against_it(call, folder, history, words, code, told):
    """A history that is missing or too short, and a configuration that can't be, are told."""
    Path("bad.yaml").write_text("nam: small\n")
    Path("unknown.yaml").write_text(CONFIG.replace("card.payments_1h", "user.nosuch"))
    done = call("train", *(history if word == "HISTORY" else word for word in words), "--folder", folder)
    assert done.exit_code == code, done.output
    assert told in " ".join(done.stderr.split())


def test_labels_before_their_event_are_told(call, folder, history, tmp_path):
    """A warning that was known before its payment happened is an error of some clock: named, and nothing is made."""
    Path("small.yaml").write_text(CONFIG)
    wrong = tmp_path / "wrong"
    shutil.copytree(history, wrong)
    outcomes = [orjson.loads(line) for line in (wrong / "outcomes.jsonl").read_bytes().splitlines()]
    learnt = [o for o in outcomes if o["kind"] == "fraud_warning" and o["time"] < "2026-06-18"]
    learnt[0] |= {"time": "2026-05-01T00:00:00Z", "known_at": "2026-05-01T00:00:00Z"}
    (wrong / "outcomes.jsonl").write_bytes(b"\n".join(map(orjson.dumps, outcomes)))
    done = call("train", "small.yaml", "--from", wrong, "--folder", folder, "--mature-after", "10d")
    assert done.exit_code == 3, done.output
    told = " ".join(done.stderr.split())
    assert f"1 events have a label that was known before they happened, such as {learnt[0]['event_id']};" in told
    assert not (folder / "models").exists()


def test_outcomes_of_unknown_events_are_told(call, folder, history, tmp_path):
    """A few ids that the history lacks are told and left out; when they are many, nothing is trained."""
    Path("small.yaml").write_text(CONFIG)
    for share, code, told in ((0.02, 0, "nothing is learnt from these"), (1.0, 3, "they would be learnt as good")):
        wrong = tmp_path / f"wrong{code}"
        shutil.copytree(history, wrong)
        outcomes = [orjson.loads(line) for line in (wrong / "outcomes.jsonl").read_bytes().splitlines()]
        changed = max(1, int(len(outcomes) * share))
        for outcome in outcomes[:changed]:
            outcome["event_id"] = f"other-{outcome['event_id']}"
        (wrong / "outcomes.jsonl").write_bytes(b"\n".join(map(orjson.dumps, outcomes)))
        done = call("train", "small.yaml", "--from", wrong, "--folder", folder, "--mature-after", "10d")
        assert done.exit_code == code, done.output
        said = " ".join((done.stdout + done.stderr).split())
        assert f"{len({o['event_id'] for o in outcomes[:changed]}):,} of " in said
        assert "outcomes name an event that the history lacks, such as other-" in said
        assert told in said
        shutil.rmtree(folder / "models", ignore_errors=True)


def test_a_mapped_file_is_learnt_from_as_it_is(call, tmp_path):
    """The Handbook's table, made small: features in columns, labels from its rows, the last week tested on."""
    random, rows = np.random.default_rng(3), 6_000
    seconds = np.sort(random.integers(0, 40 * 86_400, rows))
    amount = random.lognormal(3.5, 0.8, rows).round(2)
    pd.DataFrame({
        "TRANSACTION_ID": np.arange(rows), "TX_DATETIME": pd.Timestamp("2018-06-01") + pd.to_timedelta(seconds, "s"),
        "CUSTOMER_ID": random.integers(0, 90, rows), "TERMINAL_ID": random.integers(0, 40, rows), "TX_AMOUNT": amount,
        "TX_FRAUD": (random.random(rows) < np.where(amount > 80, 0.5, 0.01)).astype(int),
    }).to_parquet(tmp_path / "transactions.parquet")  # fmt: skip
    shutil.copytree(ROOT / "examples" / "handbook_best", tmp_path / "best")
    config = tmp_path / "best" / "train.yaml"
    text = config.read_text().replace("2018-05-08T00:00Z/2018-08-01T00:00Z", "2018-06-05T00:00Z/2018-06-27T00:00Z")
    text = text.replace("2018-08-08T00:00Z/2018-08-15T00:00Z", "2018-07-04T00:00Z/2018-07-11T00:00Z")
    config.write_text(text.replace("blocks: 4, days: 7", "blocks: 2, days: 5").replace("rounds: 150", "rounds: 20"))
    mapping = ROOT / "mappings" / "handbook.yaml"
    words = ["train", config, "--from", tmp_path / "transactions.parquet", "--mapping", mapping]
    done = call(*words, "--folder", tmp_path / "best")
    assert done.exit_code == 0, done.output
    manifest = load_model(tmp_path / "best" / "models" / "handbook" / "1").manifest
    assert manifest.test is not None
    assert manifest.test.metrics["auc"] > 0.8
    assert manifest.training.classes.immature == manifest.training.classes.other == 0
    assert manifest.calibration.method == "prequential"
    assert manifest.test.metrics["money_at_risk"] > 0
    refused = call("train", config, "--mapping", mapping, "--folder", tmp_path / "best")
    assert (refused.exit_code, "--mapping reads one file; name it with --from" in refused.stderr) == (2, True)
