"""Fewer features: a filter, a wrapper and two embedded ways, each judged by what XGBoost makes of its choice.

All choose on the rows that the first validation block is learnt from, so that the blocks they are judged on had no say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xgboost
from sklearn.feature_selection import RFECV, mutual_info_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engine.errors import ModelError
from engine.scoring import candidates
from engine.scoring.config import SELECTIONS, TrainConfig
from engine.scoring.folds import Fold
from engine.scoring.manifest import Selected
from engine.scoring.rows import Floats, Rows, thinned

ROWS = 20_000
"""A choice is made on so many rows at most: all frauds, and good ones thinned."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What one way kept, and what it cost."""

    selected: Selected
    seconds: float


def choose(data: Rows, folds: Sequence[Fold], config: TrainConfig) -> tuple[Choice, ...]:
    """Every configured way, and first all features; ModelError for a way that isn't known."""
    assert config.select is not None
    ways = config.select.methods
    if unknown := [name for name in (*ways, config.select.use) if name and name not in SELECTIONS]:
        raise ModelError(f"select: {', '.join(unknown)} is none of {', '.join(SELECTIONS)}")
    if config.select.use and config.select.use not in ways:
        raise ModelError(f"select: use is {config.select.use}, which is not among methods: {', '.join(ways)}")
    first = data[folds[0].learn]
    share = (ROWS - float(first.fraud.sum())) / max(1.0, float((~first.fraud).sum()))
    some = thinned(first, min(1.0, max(share, 0.01)), config.seed)[0]
    some = some[np.argsort(some.time_us, kind="stable")]
    choices = [Choice(_judged("all", config.features, data, folds, config), 0.0)]
    for way in ways:
        began_s = time.perf_counter()
        kept = _kept(way, some, config, config.select.keep)
        seconds = time.perf_counter() - began_s
        choices.append(Choice(_judged(way, kept, data, folds, config), seconds))
    return tuple(choices)


def columns(config: TrainConfig, kept: Sequence[str]) -> list[int]:
    """Where the kept features stand among the configuration's."""
    return [config.features.index(name) for name in kept]


def narrowed(config: TrainConfig, kept: Sequence[str]) -> TrainConfig:
    """The configuration with these features alone."""
    monotone = {name: sign for name, sign in config.monotone.items() if name in kept}
    return replace(config, features=tuple(kept), monotone=monotone)


def _judged(way: str, kept: Sequence[str], data: Rows, folds: Sequence[Fold], config: TrainConfig) -> Selected:
    narrow, only = narrowed(config, kept), data.only(columns(config, kept))
    worth = []
    for fold in folds:
        margins = candidates.fit("xgboost", only[fold.learn], narrow, config.booster.rounds)
        worth.append(average_precision_score(data.fraud[fold.held], margins(only.matrix[fold.held])))
    return Selected(way, tuple(kept), float(np.mean(worth)))


def _kept(way: str, some: Rows, config: TrainConfig, keep: int) -> tuple[str, ...]:
    """The names that a way keeps, in the configuration's order."""
    if way == "elimination":
        return _eliminated(some, config, keep)
    worth = {"mutual_information": _information, "l1": _weights, "gain": _gain}[way](some, config)
    best = sorted(np.argsort(-worth, kind="stable")[:keep])
    return tuple(config.features[at] for at in best if worth[at] > 0) or config.features[:1]


def _filled(some: Rows) -> Floats:
    filled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()).fit_transform(some.matrix)
    return np.asarray(filled, np.float64)


def _information(some: Rows, config: TrainConfig) -> Floats:
    return np.asarray(mutual_info_classif(_filled(some), some.fraud, random_state=config.seed), np.float64)


def _weights(some: Rows, config: TrainConfig) -> Floats:
    """Sizes of the weights that an L1 penalty leaves."""
    model = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=0.05, random_state=config.seed, max_iter=500)
    return np.abs(np.asarray(model.fit(_filled(some), some.fraud).coef_[0], np.float64))


def _gain(some: Rows, config: TrainConfig) -> Floats:
    booster = candidates.fit_booster(some, replace(config, good_share=1.0), config.booster.rounds)
    gains: dict[str, Any] = booster.get_score(importance_type="total_gain")
    return np.array([float(gains.get(f"f{at}", 0.0)) for at in range(len(config.features))])


def _eliminated(some: Rows, config: TrainConfig, keep: int) -> tuple[str, ...]:
    """Drop the least important tenth again and again; keep the number that is best on later rows."""
    settings = {name: value for name, value in candidates.parameters(config).items() if name != "monotone_constraints"}
    model = xgboost.XGBClassifier(n_estimators=50, importance_type="total_gain", **settings)
    least = max(1, min(keep, len(config.features)) // 2)
    search = RFECV(model, step=0.1, min_features_to_select=least, cv=TimeSeriesSplit(3), scoring="average_precision")
    search.fit(some.matrix, some.fraud)
    ranks = np.where(search.support_, 0, search.ranking_)
    return tuple(name for name, rank in zip(config.features, ranks, strict=True) if rank == 0)
