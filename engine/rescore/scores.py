"""A model's scores of whole tables: by XGBoost where it is proven to give the very bits, else by onnxruntime.

The service scores one row by onnxruntime. XGBoost walks the same trees several times as fast on many rows; the booster
is made from `model.onnx` itself, and is used only while its margins are those of onnxruntime, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost

from engine.rescore.judge import flat
from engine.scoring.model import ScoringModel
from engine.scoring.onnx import Parts, check_graph

PROVEN_FIRST, PROVEN_EACH = 4_096, 64
"""Rows of the first table, and of each further one, whose margins are compared."""
Floats = npt.NDArray[np.float64]


class ColumnScores:
    """One model."""

    def __init__(self, model: ScoringModel, threads: int = 1) -> None:
        self._model = model
        self._asked = PROVEN_FIRST
        parts = check_graph(model.model.data, len(model.features))
        self._booster = booster_of(*parts, len(model.features), threads)

    @property
    def by_xgboost(self) -> bool:
        """Whether XGBoost's margins are taken."""
        return self._booster is not None

    def of(self, columns: Mapping[str, Any], size: int) -> Floats:
        """Calibrated scores, each with the very bits of `ScoringModel.score`."""
        matrix = np.empty((size, len(self._model.features)), np.float32)
        with np.errstate(over="ignore"):
            for at, name in enumerate(self._model.features):
                matrix[:, at] = _floats(columns.get(name))
        return self._model.calibration.scores(self.margins(matrix))

    def margins(self, matrix: npt.NDArray[np.float32]) -> Floats:
        """Raw margins."""
        if self._booster is None or not len(matrix) or np.isinf(matrix).any():
            return self._model.model.margins(matrix)
        found: Floats = self._booster.inplace_predict(matrix, predict_type="margin").astype(np.float64)
        some = np.unique(np.linspace(0, len(matrix) - 1, self._asked).astype(np.int64))
        if not np.array_equal(found[some], self._model.model.margins(matrix[some])):
            self._booster = None
            return self._model.model.margins(matrix)
        self._asked = PROVEN_EACH
        return found


def _floats(column: Any) -> Any:
    """Numbers as doubles, NaN where there are none."""
    if column is None:
        return np.nan
    array = flat(column)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    found = array.to_numpy(zero_copy_only=False)
    return found if found.dtype == np.float64 else found.astype(np.float64)


def booster_of(nodes: Parts, targets: Parts, width: int, threads: int) -> Any:
    """XGBoost's form of the trees of a `model.onnx`; margins begin at 0 there as here."""
    leaf = nodes["modes"] == b"LEAF"
    values = np.asarray(nodes["values"], np.float32).copy()
    values[leaf] = np.asarray(targets["weights"], np.float32)
    starts = np.flatnonzero(np.diff(nodes["treeids"], prepend=-1))
    ends = np.append(starts[1:], len(leaf))
    cuts = zip(starts.tolist(), ends.tolist(), strict=True)
    trees = [_tree(number, nodes, values, leaf, slice(*cut), width) for number, cut in enumerate(cuts)]
    sizes = {"num_feature": str(width), "num_target": "1"}
    learner = {
        "attributes": {}, "feature_names": [], "feature_types": [],
        "gradient_booster": {
            "name": "gbtree",
            "model": {
                "gbtree_model_param": {"num_trees": str(len(trees)), "num_parallel_tree": "1"}, "trees": trees,
                "tree_info": [0] * len(trees), "iteration_indptr": list(range(len(trees) + 1)),
                "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
            },
        },
        "learner_model_param": {"base_score": "[5E-1]", "boost_from_average": "0", "num_class": "0", **sizes},
        "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    }  # fmt: skip
    booster = xgboost.Booster({"nthread": threads})
    booster.load_model(bytearray(json.dumps({"learner": learner, "version": [3, 0, 0]}).encode()))
    booster.set_param({"nthread": threads})
    return booster


def _tree(number: int, nodes: Parts, values: Any, leaf: Any, at: slice, width: int) -> dict[str, Any]:
    size, inner = at.stop - at.start, ~leaf[at]
    left = np.where(inner, nodes["truenodeids"][at], -1)
    right = np.where(inner, nodes["falsenodeids"][at], -1)
    parents = np.full(size, 2**31 - 1)
    for child in (left, right):
        parents[child[inner]] = np.flatnonzero(inner)
    zeros = [0.0] * size
    return {
        "id": number,
        "tree_param": {"num_deleted": "0", "num_feature": str(width), "num_nodes": str(size), "size_leaf_vector": "1"},
        "left_children": left.tolist(), "right_children": right.tolist(), "parents": parents.tolist(),
        "split_indices": np.where(inner, nodes["featureids"][at], 0).tolist(),
        "split_conditions": [float(value) for value in values[at]], "split_type": [0] * size,
        "default_left": np.where(inner, nodes["missing_value_tracks_true"][at], 0).astype(int).tolist(),
        "base_weights": zeros, "loss_changes": zeros, "sum_hessian": zeros,
        "categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": [],
    }  # fmt: skip
