"""The booster's parameters by search: optuna on the validation blocks alone; seeded, pruned, resumable, bounded."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import xgboost

from engine.errors import ModelError
from engine.scoring import candidates
from engine.scoring.config import TrainConfig, Tuning
from engine.scoring.folds import Fold
from engine.scoring.manifest import Booster, Tuned, digest
from engine.scoring.rows import Floats, Rows

PATIENCE = 30
"""A block's trees stop growing when its average precision has not risen for so many."""


@dataclass(frozen=True, slots=True)
class Search:
    """What a search came to."""

    booster: Booster
    tuned: Tuned
    values: tuple[float | None, ...]
    """Average precision of each trial, in order; None where it was pruned."""
    seconds: float


def curve(data: Rows, folds: Sequence[Fold], config: TrainConfig, trial: optuna.Trial | None = None) -> Floats:
    """Mean average precision over the blocks, by number of trees; ends where the first block stopped rising."""
    found: list[Floats] = []
    patience = config.booster.early_stopping_rounds or PATIENCE
    for number, fold in enumerate(folds):
        told: dict[str, dict[str, list[float]]] = {}
        held = [(candidates.matrix(data[fold.held]), "held")]
        stop = xgboost.callback.EarlyStopping(rounds=patience, metric_name="aucpr")
        learn, most = data[fold.learn], config.booster.rounds
        candidates.fit_booster(learn, config, most, evals=held, evals_result=told, callbacks=[stop])
        found.append(np.array(told["held"]["aucpr"]))
        mean = np.mean([one[: min(map(len, found))] for one in found], axis=0)
        if trial is not None:
            trial.report(float(mean.max()), number)
            if trial.should_prune():
                raise optuna.TrialPruned
    return np.asarray(mean, np.float64)


def tune(data: Rows, folds: Sequence[Fold], config: TrainConfig) -> Search:
    """Search around the configured booster, which is the first trial; the same storage goes on with the same search."""
    assert config.tune is not None
    began_s, asked = time.monotonic(), config.tune
    study = _study(data, folds, config, asked)
    left = asked.trials - len(_ended(study))
    while left > 0 and time.monotonic() - began_s < asked.minutes * 60:
        study.optimize(lambda trial: _worth(trial, data, folds, config), n_trials=1)
        left -= 1
    done = _ended(study)
    if not any(trial.state is optuna.trial.TrialState.COMPLETE for trial in done):
        raise ModelError(
            f"tune: no trial ended within {asked.minutes:g} minutes; give it more, or learn from fewer rows"
        )
    best = study.best_trial
    booster = replace(config.booster, rounds=best.user_attrs["rounds"], early_stopping_rounds=0, **best.params)
    pruned = sum(trial.state is optuna.trial.TrialState.PRUNED for trial in done)
    tuned = Tuned(len(done), pruned, "minutes" if left > 0 else "trials", float(study.best_value))
    values = tuple(trial.value if trial.state is optuna.trial.TrialState.COMPLETE else None for trial in done)
    return Search(booster, tuned, values, time.monotonic() - began_s)


def _study(data: Rows, folds: Sequence[Fold], config: TrainConfig, asked: Tuning) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # what is searched, from what: another question in the same file is another study
    marks = [part.tobytes() for part in (data.matrix, data.fraud, *(f.learn for f in folds), *(f.held for f in folds))]
    name = digest(b"".join(marks) + repr((config.features, config.booster, config.seed, config.good_share)).encode())
    storage = f"sqlite:///{Path(asked.storage).resolve()}" if asked.storage else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(
                direction="maximize", study_name=name[:16], storage=storage, load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=config.seed),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
            )  # fmt: skip
    except Exception as error:  # whatever the database says
        raise ModelError(f"tune: storage {asked.storage} can't be used: {error}") from error
    if seen := _ended(study):
        study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(seen))  # not the same draws again
    else:
        study.enqueue_trial({name: getattr(config.booster, name) for name in RANGES})
    return study


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that came to an end; one that was cut off by a crash counts as none."""
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=ended)


RANGES: dict[str, tuple[float, float, bool]] = {
    "max_depth": (2, 8, False), "learning_rate": (0.03, 0.3, True), "min_child_weight": (0.5, 30.0, True),
    "subsample": (0.5, 1.0, False), "colsample": (0.3, 1.0, False), "l2": (0.1, 30.0, True),
}  # fmt: skip
"""Parameter → lowest, highest, whether by powers."""


def _worth(trial: optuna.Trial, data: Rows, folds: Sequence[Fold], config: TrainConfig) -> float:
    values: dict[str, Any] = {
        name: trial.suggest_int(name, int(low), int(high)) if name == "max_depth"
        else trial.suggest_float(name, low, high, log=log)
        for name, (low, high, log) in RANGES.items()
    }  # fmt: skip
    found = curve(data, folds, replace(config, booster=replace(config.booster, **values)), trial)
    trial.set_user_attr("rounds", int(found.argmax()) + 1)
    return float(found.max())
