"""Exact contributions against XGBoost's own, on trees of every shape."""

import numpy as np
import pytest
import xgboost

from engine.errors import ModelError
from engine.scoring.calibrate import Logistic
from engine.scoring.explain import Explainer
from engine.scoring.model import ScoringModel
from engine.scoring.onnx import Model
from engine.scoring.trees import export_trees

from .test_scoring_onnx import WIDTH, _at_thresholds, _data, _train

FLOAT32 = 1e-5
"""What XGBoost's float32 sums may be off by."""


class _Card:
    """What an explainer reads of a manifest."""

    features = tuple(f"f{index}" for index in range(WIDTH))
    name, version = "some", "1"


def _explainer(booster: xgboost.Booster) -> Explainer:
    data = export_trees(bytes(booster.save_raw("json")), WIDTH)
    model = ScoringModel(_Card(), Model(data, _Card.features), Logistic(1.0, 0.0), "")  # type: ignore[arg-type]
    return Explainer(model, data)


@pytest.mark.parametrize(("seed", "parameters"), [
    (0, {"max_depth": 6}),
    (1, {"max_depth": 1}),
    (2, {"max_depth": 10, "min_child_weight": 0}),
    (3, {"max_depth": 6, "gamma": 3.0}),
    (4, {"max_depth": 0, "max_leaves": 20, "grow_policy": "lossguide"}),
    (6, {"max_depth": 4, "subsample": 0.5, "colsample_bytree": 0.5, "monotone_constraints": (1, 0, 0, -1, 0, 0, 0)}),
    (7, {"max_depth": 6, "scale_pos_weight": 50, "rounds": 200}),
    (8, {"max_depth": 3, "rounds": 1}),
])  # fmt: skip
def test_contributions_are_those_of_xgboost(seed, parameters):
    """Each is XGBoost's within float32; with the bias they sum to its margin within 1e-6, which its own don't."""
    booster = _train(seed, **parameters)
    explainer = _explainer(booster)
    rows = np.concatenate([_data(seed + 100)[0][:150], _at_thresholds(booster)[:150], np.full((1, WIDTH), np.nan)])
    rows = rows.astype(np.float32)
    matrix = xgboost.DMatrix(rows)
    wanted = booster.predict(matrix, pred_contribs=True).astype(np.float64)
    margins = booster.predict(matrix, output_margin=True).astype(np.float64)
    found = [explainer.explain(row) for row in rows.tolist()]
    given = np.array([[*one.contributions, one.bias] for one in found])
    assert np.abs(given - wanted).max() < FLOAT32
    assert np.abs(given.sum(axis=1) - margins).max() < 1e-6
    assert [one.margin for one in found] == margins.tolist()


def test_a_row_beyond_every_threshold_is_explained():
    """Infinity lies above every threshold, and the sum still is the margin."""
    explainer = _explainer(_train(0, max_depth=6))
    for value in (float("inf"), float("-inf"), 1e38):
        found = explainer.explain([value] * WIDTH)
        assert abs(found.bias + sum(found.contributions) - found.margin) < 1e-9


def test_what_never_splits_contributes_nothing():
    """A feature that no tree asks has exactly no part in any score; one that is asked has one."""
    booster = _train(8, max_depth=1, rounds=1)
    asked = set(booster.trees_to_dataframe()["Feature"]) - {"Leaf"}
    found = _explainer(booster).explain([1.0] * WIDTH).contributions
    assert {f"f{index}" for index, part in enumerate(found) if part} == asked
    assert len(asked) == 1


def test_trees_of_another_model_are_refused():
    """Contributions that don't sum to the margin are an error, not an explanation."""
    one, other = _explainer(_train(0, max_depth=6)), _explainer(_train(1, max_depth=1))
    one.model = other.model
    with pytest.raises(ModelError, match="miss it by"):
        one.explain([1.0] * WIDTH)
