"""Exact Shapley values of a model's margin: how much each feature of a row adds to the log-odds, before calibration.

They are what XGBoost's `pred_contribs` gives (TreeSHAP by the weights of the training rows; Lundberg and others,
"Consistent individualized feature attribution for tree ensembles", 2018), in float64 and from `model.onnx` itself.
XGBoost sums in float32 and misses its own margin by 1e-5 on 300 trees.

A leaf is reached when each feature on its path says yes (`one`); without knowing a feature, a share `zero` of the
training weight goes its way. The Shapley value of a product of such factors is an integral over t in 0..1 of the
product of `one × t + zero × (1 − t)` over the other features. It is a polynomial, so Gauss-Legendre gives it exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.scoring.model import ScoringModel, load_model, verified
from engine.scoring.onnx import MAX_BYTES, Parts, check_graph

Floats = npt.NDArray[np.float64]
NAN = float("nan")
ROUNDING = 1e-4
"""The margin is a float32 sum over all trees; contributions that miss it by more are not those of this margin."""


class _Step(NamedTuple):
    """What all nodes of one path ask of one feature."""

    lower: float
    """NaN: no bound."""
    upper: float
    missing: bool
    """Whether a missing value goes this way."""
    zero: float
    """Share of the training weight that goes this way."""


ROOT = _Step(NAN, NAN, True, 1.0)


@dataclass(frozen=True, slots=True)
class Attribution:
    """How the margin of one row came about: `bias` plus all contributions is the margin."""

    margin: float
    bias: float
    """The margin of a row of which nothing is known."""
    contributions: tuple[float, ...]
    """One a feature, in the model's order; above 0 raises the risk."""


class Explainer:
    """Explains the margins of one model. Safe to call from several threads at once."""

    def __init__(self, model: ScoringModel, data: bytes) -> None:
        """`data` are the bytes of its `model.onnx`."""
        self.model = model
        self._width = len(model.features)
        nodes, targets = check_graph(data, self._width)
        paths = list(_paths(nodes))
        depth = max(1, *(len(path) for path in paths))
        padded = [[*path.items(), *[(0, ROOT)] * (depth - len(path))] for path in paths]
        self._feature = np.array([[feature for feature, _ in path] for path in padded]).T.copy()
        steps = np.array([[step for _, step in path] for path in padded], np.float64)
        self._lower, self._upper = (steps[:, :, index].T.astype(np.float32) for index in (0, 1))
        self._missing, self._zero = steps[:, :, 2].T > 0, steps[:, :, 3].T.copy()
        self._leaf = np.asarray(targets["weights"], np.float64)
        self._bias = float(self._leaf @ self._zero.prod(axis=0))
        points, weights = np.polynomial.legendre.leggauss((depth + 1) // 2)
        self._points = list(zip(((points + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))

    def explain(self, values: Sequence[float | None]) -> Attribution:
        """Attribute the margin of one row; NaN and None are missing. ModelError when the sum is not the margin."""
        margin = self.model.model.margin(values)
        row = np.array([NAN if value is None else value for value in values], np.float64).astype(np.float32)
        given = row[self._feature]
        one = np.where(np.isnan(given), self._missing, ~(given < self._lower) & ~(given >= self._upper))
        shares = (self._leaf * self._shares(one)).ravel()
        contributions = np.bincount(self._feature.ravel(), shares, self._width)
        bias = margin - float(contributions.sum())  # the bias, and what the float32 sum of the trees lost
        if abs(bias - self._bias) > ROUNDING:
            missed = bias - self._bias
            raise ModelError(f"contributions to the margin {margin} of {self.model.name} miss it by {missed}")
        return Attribution(margin, bias, tuple(contributions.tolist()))

    def _shares(self, one: npt.NDArray[np.bool_]) -> Floats:
        """Share of each path's weight that each of its features earns: slot × path."""
        earned = np.zeros(one.shape)
        for point, weight in self._points:
            factor = one * point + self._zero * (1.0 - point)
            before, after = np.ones_like(factor), np.ones_like(factor)
            np.cumprod(factor[:-1], axis=0, out=before[1:])
            np.cumprod(factor[:0:-1], axis=0, out=after[-2::-1])
            earned += weight * before * after
        shares: Floats = (one - self._zero) * earned
        return shares


def load_explainer(folder: Path) -> Explainer:
    """The explainer of a model's folder; ModelError as in `load_model`."""
    model = load_model(folder)
    return Explainer(model, verified(folder / "model.onnx", MAX_BYTES, model.manifest.model_digest))


def _paths(nodes: Parts) -> Iterator[dict[int, _Step]]:
    """For each leaf, in order, what its path asks of each feature on it. Children stand after their parents."""
    names = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
             "missing_value_tracks_true", "hitrates")  # fmt: skip
    columns = [nodes[name].tolist() for name in names]
    weights, first, reached = columns[-1], 0, dict[int, dict[int, _Step]]()
    for index, (_, node, feature, value, mode, left, right, default_left, weight) in enumerate(
        zip(*columns, strict=True)
    ):
        if node == 0:
            first, reached = index, {0: {}}
        path = reached.pop(node)
        if mode == b"LEAF":
            yield path
            continue
        old = path.get(feature, ROOT)
        for child, goes_left in ((left, True), (right, False)):
            share = weights[first + child] / weight if weight else 0.0
            lower = old.lower if goes_left or old.lower > value else value
            upper = value if goes_left and not old.upper < value else old.upper
            step = _Step(lower, upper, old.missing and bool(default_left) == goes_left, old.zero * share)
            reached[child] = path | {feature: step}
