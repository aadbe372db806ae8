"""ONNX against XGBoost: the raw margin, bit for bit, on trees of every shape."""

import numpy as np
import pytest
import xgboost

from engine.scoring.onnx import Model
from engine.scoring.trees import export_trees

WIDTH = 7


def _data(seed: int, rows: int = 4_000) -> tuple[np.ndarray, np.ndarray]:
    """Columns of several kinds with missing values, and a label that depends on some of them."""
    random = np.random.default_rng(seed)
    matrix = np.column_stack([
        random.normal(size=rows), random.lognormal(5, 3, rows), random.integers(0, 4, rows),
        random.random(rows) < 0.01, random.normal(size=rows) * 1e-30, -random.lognormal(9, 9, rows), np.zeros(rows),
    ]).astype(np.float32)  # fmt: skip
    label = random.random(rows) < 1 / (1 + np.exp(-matrix[:, 0] - np.log10(matrix[:, 1] + 1) + 3))
    matrix[random.random(matrix.shape) < 0.15] = np.nan
    return matrix, label


def _train(seed: int, **parameters: object) -> xgboost.Booster:
    matrix, label = _data(seed)
    rounds = parameters.pop("rounds", 40)
    common = {"objective": "binary:logistic", "base_score": 0.5, "nthread": 1, "seed": seed, "max_bin": 64}
    return xgboost.train({**common, **parameters}, xgboost.DMatrix(matrix, label=label), num_boost_round=rounds)


def _at_thresholds(booster: xgboost.Booster) -> np.ndarray:
    """Rows whose values are the very thresholds of the trees, and their two float32 neighbours."""
    frame = booster.trees_to_dataframe()
    splits = frame[frame["Feature"] != "Leaf"]
    rows = np.full((3 * len(splits), WIDTH), np.nan, np.float32)
    thresholds = splits["Split"].to_numpy(np.float32)
    columns = splits["Feature"].str.slice(1).astype(int).to_numpy()
    around = [thresholds, np.nextafter(thresholds, np.float32(-np.inf)), np.nextafter(thresholds, np.float32(np.inf))]
    for index, values in enumerate(around):
        rows[np.arange(len(splits)) * 3 + index, columns] = values
    return rows


@pytest.mark.parametrize(("seed", "parameters"), [
    (0, {"max_depth": 6}),
    (1, {"max_depth": 1}),
    (2, {"max_depth": 10, "min_child_weight": 0}),
    (3, {"max_depth": 6, "gamma": 3.0}),  # pruned trees, some of a single leaf
    (4, {"max_depth": 0, "max_leaves": 20, "grow_policy": "lossguide"}),
    (5, {"tree_method": "exact", "max_depth": 5}),
    (6, {"max_depth": 4, "subsample": 0.5, "colsample_bytree": 0.5, "monotone_constraints": (1, 0, 0, -1, 0, 0, 0)}),
    (7, {"max_depth": 6, "scale_pos_weight": 50, "rounds": 200}),
    (8, {"max_depth": 3, "rounds": 1}),
])  # fmt: skip
def test_margins_are_bit_equal(seed, parameters):
    """Random rows, rows with missing values and rows on the very thresholds have XGBoost's margin in every bit."""
    booster = _train(seed, **parameters)
    model = Model(export_trees(bytes(booster.save_raw("json")), WIDTH), [f"f{i}" for i in range(WIDTH)])
    rows = np.concatenate([_data(seed + 100)[0], _at_thresholds(booster), np.full((1, WIDTH), np.nan, np.float32)])
    wanted = booster.predict(xgboost.DMatrix(rows), output_margin=True).astype(np.float64)
    assert np.array_equal(model.margins(rows), wanted)
    some = np.random.default_rng(0).choice(len(rows), 300, replace=False)
    assert [model.margin(row) for row in rows[some].tolist()] == wanted[some].tolist()
