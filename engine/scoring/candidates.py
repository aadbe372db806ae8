"""XGBoost and honest baselines behind one face: learn from rows, give log-odds for a matrix.

The baselines are scikit-learn's. They learn from at most `ROWS` rows (all frauds, good ones thinned and weighted), the
SVM from `SVM_ROWS` through Nyström's approximation of an RBF kernel: a bound in time, told beside their figures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from engine.errors import ModelError
from engine.scoring.config import CANDIDATES, TrainConfig
from engine.scoring.rows import Rows, thinned

Floats = npt.NDArray[np.float64]
Margins = Callable[[npt.NDArray[np.float32]], Floats]
"""From a matrix (row × feature) to log-odds, or what orders like them; calibration makes probabilities of it."""
ROWS, SVM_ROWS, LANDMARKS = 100_000, 20_000, 200
SURE = 1e-6
"""A forest's certainty is cut off here, so that its log-odds stay finite."""


def check(config: TrainConfig) -> None:
    """ModelError names a candidate that isn't there, or one that can't be compared."""
    if unknown := [name for name in config.candidates if name not in CANDIDATES]:
        raise ModelError(f"candidates: {', '.join(unknown)} is none of {', '.join(CANDIDATES)}")
    wanting = [name for name, there in (
        ("candidates", config.candidates), ("select", config.select), ("tune", config.tune)) if there]  # fmt: skip
    if wanting and not config.validate.blocks:
        raise ModelError(f"{', '.join(wanting)}: wants `validate: {{blocks: …}}`, on which candidates are compared")


def parameters(config: TrainConfig) -> dict[str, Any]:
    """What XGBoost is told."""
    booster = config.booster
    return {
        "objective": "binary:logistic", "base_score": 0.5, "tree_method": "hist", "verbosity": 0,
        "nthread": config.threads, "seed": config.seed, "max_depth": booster.max_depth, "eta": booster.learning_rate,
        "max_bin": booster.max_bin, "min_child_weight": booster.min_child_weight, "subsample": booster.subsample,
        "colsample_bytree": booster.colsample, "reg_lambda": booster.l2, "eval_metric": "aucpr",
        "monotone_constraints": tuple(config.monotone.get(name, 0) for name in config.features),
    }  # fmt: skip


def matrix(part: Rows, good_share: float = 1.0, seed: int = 0) -> xgboost.DMatrix:
    """Rows as XGBoost takes them."""
    kept, weight = thinned(part, good_share, seed)
    return xgboost.DMatrix(kept.matrix, label=kept.fraud, weight=weight)


def fit_booster(part: Rows, config: TrainConfig, rounds: int, **more: Any) -> xgboost.Booster:
    """The model itself: as many trees as said."""
    learn = matrix(part, config.good_share, config.seed)
    return xgboost.train(parameters(config), learn, num_boost_round=rounds, verbose_eval=False, **more)


def fit(name: str, part: Rows, config: TrainConfig, rounds: int) -> Margins:
    """Learn from rows; `name` is xgboost, logistic, tree, forest or svm."""
    if name == "xgboost":
        booster = fit_booster(part, config, rounds)
        return lambda given: booster.predict(xgboost.DMatrix(given), output_margin=True).astype(np.float64)
    kept, weight = thinned(part, _share(name, part, config), config.seed)
    last = _estimator(name, config)
    # an indicator column tells what was missing; a column without any value stays, as the trees keep it
    pipeline = make_pipeline(SimpleImputer(keep_empty_features=True, add_indicator=True), StandardScaler(), *last)
    pipeline.fit(kept.matrix, kept.fraud, **{f"{pipeline.steps[-1][0]}__sample_weight": weight})

    def margins(given: npt.NDArray[np.float32]) -> Floats:
        if name == "svm":
            return np.asarray(pipeline.decision_function(given), np.float64)
        chance = np.clip(pipeline.predict_proba(given)[:, 1].astype(np.float64), SURE, 1 - SURE)
        return np.asarray(np.log(chance) - np.log1p(-chance), np.float64)

    return margins


def _share(name: str, part: Rows, config: TrainConfig) -> float:
    """Share of the good rows that a candidate learns from."""
    if name == "xgboost":
        return config.good_share
    frauds, most = int(part.fraud.sum()), SVM_ROWS if name == "svm" else ROWS
    return min(config.good_share, max(0.01, (most - frauds) / max(1, len(part) - frauds)))


def rows_of(name: str, part: Rows, config: TrainConfig) -> int:
    """How many of these rows a candidate learns from."""
    return len(thinned(part, _share(name, part, config), config.seed)[0])


def _estimator(name: str, config: TrainConfig) -> list[Any]:
    seed = config.seed
    if name == "logistic":
        return [LogisticRegression(max_iter=2_000)]
    if name == "tree":
        return [DecisionTreeClassifier(max_depth=8, min_samples_leaf=20, random_state=seed)]
    if name == "forest":
        return [RandomForestClassifier(100, min_samples_leaf=5, n_jobs=config.threads, random_state=seed)]
    return [Nystroem(n_components=LANDMARKS, random_state=seed), LinearSVC(dual=False, random_state=seed)]
