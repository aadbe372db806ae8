"""Validation, baselines, choice of features, search of parameters and the report, in one training with all of it."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import ModelError
from engine.scoring import folds, tuning
from engine.scoring.compare import compare
from engine.scoring.config import CANDIDATES, SELECTIONS, Money, Selection, TrainConfig, Tuning, Validation, read_config
from engine.scoring.folder import TrainedModel
from engine.scoring.manifest import Booster, read_manifest, write_manifest
from engine.scoring.rows import Rows, read_rows
from engine.scoring.train import train

from .conftest import FEATURES, days, shop_config, shop_table

EVERYTHING = {
    "features": (*FEATURES, "noise"), "report": True, "validate": Validation(3, 3.0), "candidates": CANDIDATES,
    "select": Selection(keep=3, use="gain"), "tune": Tuning(minutes=10, trials=2), "good_share": 0.6,
    "money": Money(per_alert=1.0, good_share=0.05), "booster": Booster(rounds=15),
}  # fmt: skip


def noisy(rows: int = 2_500) -> pa.Table:
    """The shop with a feature that says nothing, and amounts."""
    table = shop_table(rows)
    table = table.append_column("noise", [np.random.default_rng(3).random(rows)])
    return table.append_column("txn.amount_base", [table["txn.amount"].combine_chunks()])


@pytest.fixture(scope="module")
def whole() -> TrainedModel:
    """A training with everything."""
    return train(noisy(), shop_config(**EVERYTHING))


def test_all_candidates_are_in_one_table(whole):
    """XGBoost first and each baseline has means and spreads over the blocks, and all metrics of the test rows."""
    found = whole.manifest.training.validated
    assert [one.name for one in found] == ["xgboost", *CANDIDATES]
    wanted = {"auc", "average_precision", "card_precision_5"}
    for one in found:
        assert one.mean.keys() == one.spread.keys() == wanted
        assert one.mean["auc"] > 0.6, one.name
        assert {"accuracy", "precision", "recall", "f1", "brier", "log_loss", *wanted} <= one.test.keys()
        assert one.test["expected"] == pytest.approx(one.test["fraud"], rel=0.6)
    model = {name: value for name, value in whole.manifest.test.metrics.items() if name in found[0].test}
    assert found[0].test == pytest.approx(model, abs=1e-6)


def test_what_was_chosen_and_searched_is_told(whole):
    """Every way of choosing and what it kept; the way that was used; trials of the search; all in the manifest."""
    training = whole.manifest.training
    assert [one.method for one in training.selections] == ["all", *SELECTIONS]
    assert training.selected_by == "gain"
    assert whole.manifest.features == next(s.features for s in training.selections if s.method == "gain")
    assert len(whole.manifest.features) == 3
    assert "txn.amount" in whole.manifest.features
    assert (training.tuned.trials, training.tuned.ended_by) == (2, "trials")
    assert training.rounds == training.booster.rounds
    assert whole.manifest.calibration.method == "prequential"
    assert read_manifest(write_manifest(whole.manifest), "manifest.yaml") == whole.manifest


def test_the_same_again():
    """Same table, same configuration: every digest, figure and parity row is the same, chosen and searched or not."""
    some = EVERYTHING | {
        "candidates": ("svm", "ensemble"), "select": Selection(("mutual_information", "gain"), 3, "gain"),
        "report": False,
    }  # fmt: skip
    one, other = (train(noisy(1_500), shop_config(**some)) for _ in range(2))
    assert write_manifest(one.manifest) == write_manifest(other.manifest)
    assert (one.onnx, one.parity) == (other.onnx, other.parity)


def test_intervals_hold_their_metric(whole):
    """Each interval is one, and the metric of the rows as they are lies in it."""
    test = whole.manifest.test
    assert len(test.intervals) == 9
    for name, (low, high) in test.intervals.items():
        assert low <= test.metrics[name] <= high, name


def test_the_report_shows_all_and_stands_alone(whole):
    """One page with tables and pictures of everything, and nothing loaded from elsewhere."""
    page = whole.report
    assert not re.search(r"src=|href=\"[^#]|@import|<script", page)
    assert page.count("<svg") >= 11
    for part in (
        "Model shop 1", "average precision", "Calibration", "Money saved", "Candidates", "ensemble",
        "Choice of features", "Search of parameters", "Contributions (SHAP)", "Permutation importance",
        "Partial dependence", "Labels by week", "2018-06-25", "txn.amount", "Use and limits",
    ):  # fmt: skip
        assert part in page, part


def test_blocks_peek_at_nothing(whole):
    """Rows learnt from end a delay before their block, with labels known by then; blocks are the last of the window."""
    config = shop_config(validate=Validation(3, 3.0))
    data = read_rows(noisy(), FEATURES, config.columns)
    found = folds.blocks(data, config)
    assert [fold.span for fold in found] == [days(11, 14), days(14, 17), days(17, 20)]
    for fold in found:
        assert data.time_us[fold.learn].max() < fold.span.start_us - 2 * 86_400_000_000
        assert data.known_us[fold.learn].max() <= fold.span.start_us
        assert data.time_us[fold.held].min() >= fold.span.start_us
        assert data.time_us[fold.held].max() < fold.span.end_us


def test_labels_after_a_block_began_change_nothing_before_it():
    """What became known during a block can be turned round without a margin of that block moving."""
    config = shop_config(validate=Validation(1, 5.0), leave_out_compromised=False)
    table = noisy()
    late = table["label_known"].cast("int64").to_numpy() > days(15, 20).start_us
    turned = table.set_column(4, "label", [table["label"].to_numpy() ^ late])
    found = []
    for each in (table, turned):
        data = read_rows(each, FEATURES, config.columns)
        found.append(compare(data, folds.blocks(data, config), config, 10, ("xgboost", "logistic")))
    assert (found[0].held.fraud != found[1].held.fraud).any()
    for name in ("xgboost", "logistic"):
        assert np.array_equal(found[0].margins[name], found[1].margins[name])


def test_a_random_split_is_named():
    """Nobody gets one unasked; where it is asked for, manifest, limits, remarks and report say so."""
    assert TrainConfig("a", "1", "payment", ("x",), days(0, 1)).validate.split == "time"
    trained = train(noisy(), shop_config(validate=Validation(3, split="random")))
    assert trained.manifest.training.split == "random"
    assert any("drawn by chance" in limit for limit in trained.manifest.limits)
    assert any("drawn by chance" in remark for remark in trained.remarks)


def _rows() -> Rows:
    return read_rows(noisy(), FEATURES, shop_config().columns)


def test_a_search_goes_on_where_it_was_left(tmp_path):
    """Two trials, then two more from the file: four in all; a finished search is read and not run again."""
    storage = str(tmp_path / "search.sqlite")
    config = shop_config(validate=Validation(2, 3.0), booster=Booster(rounds=10))
    data = _rows()
    found = []
    for trials in (2, 4, 4):
        asked = replace(config, tune=Tuning(10, trials, storage))
        found.append(tuning.tune(data, folds.blocks(data, asked), asked))
    assert [one.tuned.trials for one in found] == [2, 4, 4]
    assert found[1].values[:2] == found[0].values
    assert found[2].booster == found[1].booster
    assert found[1].tuned.average_precision >= found[0].tuned.average_precision
    other = replace(config, seed=7, tune=Tuning(10, 1, storage))
    assert tuning.tune(data, folds.blocks(data, other), other).tuned.trials == 1


def test_a_search_ends_in_time():
    """With no minutes left no trial begins, and that is an error in words; the first trial is the configured one."""
    config = shop_config(validate=Validation(2, 3.0), tune=Tuning(minutes=0.0, trials=5))
    data = _rows()
    with pytest.raises(ModelError, match="no trial ended within 0 minutes"):
        tuning.tune(data, folds.blocks(data, config), config)


def test_trees_stop_where_average_precision_does():
    """With patience, the mean over the blocks chooses their number."""
    booster = Booster(rounds=200, learning_rate=0.5, early_stopping_rounds=5)
    trained = train(noisy(), shop_config(validate=Validation(2, 3.0), booster=booster, test=None))
    assert 1 <= trained.manifest.training.rounds < 100


@pytest.mark.parametrize(("changes", "said"), [
    ({"candidates": ("bayes",)}, "candidates: bayes is none of logistic, tree"),
    ({"candidates": ("tree",)}, "candidates: wants `validate:"),
    ({"tune": Tuning()}, "tune: wants `validate:"),
    ({"select": Selection(("magic",)), "validate": Validation(2, 3.0)}, "select: magic is none of mutual_information"),
    ({"select": Selection(("l1",), use="gain"), "validate": Validation(2, 3.0)}, "gain, which is not among methods"),
    ({"validate": Validation(9, 3.0)}, "validate: nothing of the window"),
    ({"validate": Validation(2, 0.001)}, "both classes are needed"),
    ({"validate": Validation(2, 3.0, "chance")}, "split is 'chance'; it is time, or random"),
    ({"good_share": 0.0}, "good_share is 0.0"),
    ({"tune": Tuning(storage="/proc/none.sqlite"), "validate": Validation(2, 3.0)}, "storage /proc/none.sqlite"),
])  # fmt: skip
def test_what_can_not_be_compared_is_told(changes, said):
    """Each mistake in words that name it and what there is."""
    with pytest.raises(ModelError, match=re.escape(said) if "." not in said else said):
        train(noisy(2_000), shop_config(**changes))


def test_all_of_it_can_be_written_as_yaml():
    """One file holds everything, and a wrong key anywhere is refused with its place."""
    text = b"""
name: shop
version: "1"
event_kind: payment
features: [txn.amount]
window: 2018-06-26T00:00Z/2018-07-16T00:00Z
validate: {blocks: 4, days: 7}
candidates: [logistic, tree, forest, svm, ensemble]
select: {methods: [l1, gain], keep: 10, use: gain}
tune: {minutes: 5, trials: 40, storage: search.sqlite}
money: {per_alert: 3, good_share: 0.1}
"""
    config = read_config(text, "train.yaml")
    assert (config.validate.blocks, config.candidates, config.select.use) == (4, CANDIDATES, "gain")
    assert (config.tune.storage, config.money.per_alert) == ("search.sqlite", 3.0)
    with pytest.raises(ModelError, match=r"train\.yaml:9:31: .*kep"):
        read_config(text.replace(b"keep: 10", b"kep: 10"), "train.yaml")
