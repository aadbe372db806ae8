"""XGBoost and the baselines through one pipeline: the same blocks, calibration and metrics, in one table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.scoring import candidates, measure
from engine.scoring.calibrate import fit_logistic
from engine.scoring.config import TrainConfig
from engine.scoring.folds import Fold
from engine.scoring.manifest import Validated
from engine.scoring.rows import Floats, Ints, Mask, Rows

ENSEMBLE = "ensemble"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How candidates did on the validation blocks."""

    held: Rows
    """All held rows, block by block."""
    block: Ints
    """Which block each is of."""
    margins: Mapping[str, Floats]
    """Candidate → margins of the held rows, each by a model of earlier rows."""
    alerts_per_day: int

    def finished(
        self, learn: Rows, tested: Rows, config: TrainConfig, margins: Floats, seconds: float
    ) -> tuple[tuple[Validated, ...], dict[str, tuple[float, int]]]:
        """Means and spreads; on test rows as well, where there are baselines and such rows. And what each cost.

        `margins` of the test rows are by the model itself, which took `seconds`.
        """
        test, seconds_of = {"xgboost": margins}, {"xgboost": seconds}
        if len(tested):
            for name in [name for name in self.margins if name not in {"xgboost", ENSEMBLE}]:
                began_s = time.perf_counter()
                fitted = candidates.fit(name, learn, config, 0)
                seconds_of[name] = time.perf_counter() - began_s
                test[name] = fitted(tested.matrix)
            if ENSEMBLE in self.margins:
                test[ENSEMBLE] = _averaged(test, self.margins, self.held.fraud)
        costs = {name: (took, candidates.rows_of(name, learn, config)) for name, took in seconds_of.items()}
        found = (self._validated(name, test[name] if len(tested) else None, tested) for name in self.margins)
        return tuple(found), costs

    def _validated(self, name: str, margins: Floats | None, tested: Rows) -> Validated:
        by_block = [
            measure.ranked(self.margins[name][chosen], part.fraud, part.time_us, part.group, self.alerts_per_day)
            for number in np.unique(self.block)
            for chosen in [self.block == number]
            for part in [self.held[chosen]]
        ]
        names = list(by_block[0])
        mean = {metric: float(np.mean([one[metric] for one in by_block])) for metric in names}
        spread = {metric: float(np.std([one[metric] for one in by_block])) for metric in names}
        if margins is None:
            return Validated(name, _rounded(mean), _rounded(spread))
        fitted = fit_logistic(self.margins[name], self.held.fraud)
        from_score = measure.best_threshold(fitted.scores(self.margins[name]), self.held.fraud)
        scores = fitted.scores(margins)
        columns = (tested.fraud, tested.time_us, tested.group, self.alerts_per_day)
        test = measure.evaluate(scores, *columns) | measure.called(scores, tested.fraud, from_score)
        return Validated(name, _rounded(mean), _rounded(spread), _rounded(test))


def compare(data: Rows, folds: Sequence[Fold], config: TrainConfig, rounds: int, names: Sequence[str]) -> Comparison:
    """Every candidate on every block; the ensemble is the mean of the others' calibrated probabilities."""
    rows = np.concatenate([fold.held for fold in folds])
    block = np.repeat(np.arange(len(folds)), [len(fold.held) for fold in folds])
    margins = {
        name: np.concatenate([
            candidates.fit(name, data[fold.learn], config, rounds)(data.matrix[fold.held]) for fold in folds
        ])
        for name in names if name != ENSEMBLE
    }  # fmt: skip
    held = data[rows]
    if ENSEMBLE in names:
        margins[ENSEMBLE] = _averaged(margins, margins, held.fraud)
    return Comparison(held, block, margins, config.alerts_per_day)


def _averaged(margins: Mapping[str, Floats], validation: Mapping[str, Floats], fraud: Mask) -> Floats:
    """Log-odds of the mean of all calibrated probabilities; calibrated on the validation blocks."""
    chance = np.mean([fit_logistic(validation[name], fraud).scores(found) for name, found in margins.items()], axis=0)
    return np.asarray(np.log(chance) - np.log1p(-chance), np.float64)


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Six digits: enough to compare, and short enough to read in a manifest."""
    return {name: round(value, 6) for name, value in metrics.items()}
