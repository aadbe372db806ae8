"""What a whole model goes by, on held-out rows: exact Shapley values, permutation importance, partial dependence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xgboost
from sklearn.metrics import average_precision_score

from engine.scoring.rows import Floats, Rows

SHAP_ROWS, PERMUTED_ROWS, DEPENDENCE_ROWS = 2_000, 30_000, 1_000
REPEATS, STEPS, DRAWN = 3, 20, 6
"""Shuffles of each feature; points of a dependence; features whose dependence is drawn."""
Scores = Callable[[npt.NDArray[np.float32]], Floats]


@dataclass(frozen=True, slots=True)
class Importance:
    """For each feature, in the model's order."""

    features: tuple[str, ...]
    contributions: Floats
    """Row × feature: what each value adds to the log-odds (exact TreeSHAP)."""
    values: npt.NDArray[np.float32]
    """The same rows' feature values."""
    lost: Floats
    """Repeat × feature: average precision that is lost when the feature's values are shuffled among the rows."""
    dependence: dict[str, tuple[Floats, Floats]]
    """The features that add most: value → mean score when every row had that value."""

    @property
    def order(self) -> list[int]:
        """Features from the largest mean absolute contribution to the smallest."""
        order: list[int] = np.argsort(-np.abs(self.contributions).mean(axis=0), kind="stable").tolist()
        return order


def importance(
    booster: xgboost.Booster, margins: Scores, scores: Scores, held: Rows, features: tuple[str, ...], seed: int
) -> Importance:
    """Look at a model from outside; `held` are rows that it didn't learn from."""
    random = np.random.default_rng(seed)
    shap = _some(held, SHAP_ROWS, random)
    contributions = booster.predict(xgboost.DMatrix(shap.matrix), pred_contribs=True)[:, :-1].astype(np.float64)
    order = np.argsort(-np.abs(contributions).mean(axis=0), kind="stable")[:DRAWN]
    few = _some(held, DEPENDENCE_ROWS, random).matrix
    dependence = {features[at]: found for at in order if (found := _dependence(scores, few, at)) is not None}
    lost = _permuted(margins, _some(held, PERMUTED_ROWS, random), random)
    return Importance(features, contributions, shap.matrix, lost, dependence)


def _some(held: Rows, most: int, random: np.random.Generator) -> Rows:
    """At most so many rows, drawn by chance, so that fraud keeps its share."""
    return held if len(held) <= most else held[np.sort(random.choice(len(held), most, replace=False))]


def _permuted(margins: Scores, held: Rows, random: np.random.Generator) -> Floats:
    before = average_precision_score(held.fraud, margins(held.matrix))
    lost = np.zeros((REPEATS, held.matrix.shape[1]))
    for at in range(lost.shape[1]):
        changed = held.matrix.copy()
        for repeat in range(REPEATS):
            changed[:, at] = random.permutation(held.matrix[:, at])
            lost[repeat, at] = before - average_precision_score(held.fraud, margins(changed))
    return lost


def _dependence(scores: Scores, few: npt.NDArray[np.float32], at: int) -> tuple[Floats, Floats] | None:
    """Mean score over the rows for each of some values that the feature takes; None when it has no value."""
    known = few[~np.isnan(few[:, at]), at]
    if not len(known):
        return None
    grid = np.unique(np.quantile(known, np.linspace(0.01, 0.99, STEPS)))
    changed, means = few.copy(), []
    for value in grid:
        changed[:, at] = value
        means.append(float(scores(changed).mean()))
    return grid.astype(np.float64), np.array(means)
