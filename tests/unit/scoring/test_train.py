"""From a table to a model."""

import numpy as np
import pytest

from engine.errors import ModelError
from engine.scoring import rows
from engine.scoring.config import read_config
from engine.scoring.manifest import Booster, digest
from engine.scoring.onnx import Model
from engine.scoring.parity import read_parity
from engine.scoring.train import train

from .conftest import FEATURES, START_US, days, shop_config, shop_table


def test_same_table_and_config_give_the_same_bytes(table, trained):
    """Training twice gives the same model, manifest, parity rows and report."""
    assert train(table, shop_config()) == trained
    assert train(table, shop_config(seed=1, booster=Booster(rounds=20, subsample=0.5))).onnx != trained.onnx


def test_the_manifest_says_what_was_done(trained):
    """Digests, classes, rounds, libraries and metrics are those of this training."""
    manifest = trained.manifest
    assert manifest.model_digest == digest(trained.onnx)
    assert manifest.parity_digest == digest(trained.parity)
    assert manifest.training.rounds == 20
    assert manifest.training.classes.fraud + manifest.training.classes.good == manifest.calibration.rows
    assert manifest.calibration.method == "out_of_fold"
    assert set(manifest.training.libraries) == {"onnx", "onnxruntime", "numpy", "xgboost"}
    assert manifest.test.metrics["auc"] > 0.75
    assert manifest.test.metrics["expected"] == pytest.approx(manifest.test.metrics["fraud"], rel=0.25)


def test_calibration_on_a_later_window(table):
    """A mature window after training is used as it is, and the manifest says so."""
    fitted = train(table, shop_config(calibrate=days(20, 26), test=days(28, 36))).manifest.calibration
    assert (fitted.method, fitted.window) == ("slice", days(20, 26))


def test_labels_after_the_cut_off_change_nothing(table):
    """Labels that were known too late can be turned round without a bit of the model moving."""
    cut_off_us = days(0, 15).end_us
    late = table["label_known"].cast("int64").to_numpy() > cut_off_us
    turned = table.set_column(4, "label", [table["label"].to_numpy() ^ late])
    config = shop_config(cut_off_us=cut_off_us, test=None)
    assert train(turned, config).onnx == train(table, config).onnx


def test_monotone_constraints_hold(table):
    """With a constraint, a larger amount never lowers the margin."""
    trained = train(table, shop_config(monotone={"txn.amount": 1}, test=None))
    amounts = np.linspace(0, 400, 500)
    grid = np.column_stack([amounts, np.full(500, 3), np.ones(500)])
    assert np.all(np.diff(Model(trained.onnx, FEATURES).margins(grid)) >= 0)


def test_early_stopping_chooses_fewer_trees(table):
    """Where later rows stop gaining, the number of trees stays below the most that was allowed."""
    booster = Booster(rounds=300, learning_rate=0.5, early_stopping_rounds=5)
    trained = train(table, shop_config(booster=booster, test=None))
    assert 1 <= trained.manifest.training.rounds < 300


@pytest.mark.parametrize(("changes", "said"), [
    ({"test": days(21, 30)}, "before the cut-off"),
    ({"calibrate": days(19, 25), "test": None}, "inside the training window"),
    ({"monotone": {"nothing": 1}}, "monotone: nothing"),
    ({"monotone": {"txn.amount": 2}}, "monotone: txn.amount"),
    ({"cut_off_us": START_US}, "both classes are needed"),
    ({"window": days(-9, -1)}, "0 rows of"),
    ({"features": ("txn.amount", "user.age")}, "lacks user.age"),
])  # fmt: skip
def test_a_training_that_would_mislead_is_refused(table, changes, said):
    """Peeking, contradictions, one class and missing columns are refused in clear words."""
    with pytest.raises(ModelError, match=said):
        train(table, shop_config(**changes))


def test_a_test_row_of_a_known_fraudster_is_left_out(table):
    """Compromised cards leave the test by default and stay when asked to."""
    kept = train(table, shop_config(leave_out_compromised=False)).manifest.test.metrics["rows"]
    assert train(table, shop_config()).manifest.test.metrics["rows"] < kept


def test_parity_rows_hold_missing_values(trained):
    """The stored rows come back as the same float32 values, missing ones included."""
    stored, margins = read_parity(trained.parity, FEATURES)
    assert len(stored) == len(margins) == 40
    assert np.isnan(stored).any()
    assert np.array_equal(np.float32(stored), stored, equal_nan=True)


def test_a_config_can_be_written_as_yaml(table, trained):
    """A YAML file gives the same configuration as the same words in Python."""
    config = read_config(
        b"""
name: shop
version: "1"
event_kind: payment
features: [txn.amount, card.count_1d, device.is_new]
window: 2018-06-26T00:00Z/2018-07-16T00:00Z
test: 2018-07-21T00:00Z/2018-07-31T00:00Z
delay_days: 2
booster: {rounds: 20}
parity_rows: 40
alerts_per_day: 5
report: false
""",
        "train.yaml",
    )
    assert config == shop_config()


def test_rows_of_the_table_may_come_in_any_order(table, trained):
    """Shuffled rows give a model of the same quality: the split is by time, not by place."""
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    again = train(shuffled, shop_config()).manifest
    assert again.training.classes == trained.manifest.training.classes
    assert again.test.metrics["auc"] == pytest.approx(trained.manifest.test.metrics["auc"], abs=0.01)


def test_all_null_features_are_allowed():
    """A column without any value trains as missing everywhere."""
    table = shop_table(2_000).append_column("user.age", [[None] * 2_000])
    trained = train(table, shop_config(features=(*FEATURES, "user.age"), test=None))
    assert rows.read_rows(table, ("user.age",), shop_config().columns).matrix.shape == (2_000, 1)
    assert Model(trained.onnx, (*FEATURES, "user.age")).margin([5, 1, 0, None]) < 0
