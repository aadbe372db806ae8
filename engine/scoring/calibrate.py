"""From a raw margin (log-odds of the trees) to a probability of fraud: strictly monotone, the same bits one or many.

`math.exp` is used for one value and for arrays alike, because `numpy.exp` differs from it in last bits. + − × ÷ are
exact to the bit in both. Scores keep the order of float32 margins while the log-odds stay below about 20; training
proves it for each model on its rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError

Floats = npt.NDArray[np.float64]


class Calibration(Protocol):
    """A strictly increasing map from margin to probability, 0..1."""

    @property
    def parameters(self) -> dict[str, float]:
        """What the manifest keeps of it."""

    def score(self, margin: float) -> float:
        """The probability of one margin."""

    def scores(self, margins: Floats) -> Floats:
        """The probabilities of many, each with the very bits of `score`."""


@dataclass(frozen=True, slots=True)
class Logistic:
    """Platt's scaling: probability = 1 / (1 + exp(−(slope × margin + intercept))), slope > 0."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (0 < self.slope < math.inf and math.isfinite(self.intercept)):
            raise ModelError(
                f"logistic calibration needs a slope above 0 and a finite intercept, not {self.slope}, {self.intercept}"
            )

    @property
    def parameters(self) -> dict[str, float]:
        """Slope and intercept on the log-odds."""
        return {"slope": self.slope, "intercept": self.intercept}

    def score(self, margin: float) -> float:
        """The probability of one margin; never overflows."""
        x = self.slope * margin + self.intercept
        if x >= 0.0:
            return 1.0 / (1.0 + exp(-x))
        e = exp(x)
        return e / (1.0 + e)

    def scores(self, margins: Floats) -> Floats:
        """The probabilities of many margins, bit-equal to `score` of each."""
        x = self.slope * np.asarray(margins, np.float64) + self.intercept
        e = np.fromiter(map(exp, (-np.abs(x)).tolist()), np.float64, count=x.size)
        return np.where(x >= 0.0, 1.0, e) / (1.0 + e)


def calibration(kind: str, parameters: Mapping[str, float]) -> Calibration:
    """The calibration that a manifest names; ModelError for an unknown kind or wrong parameters."""
    if kind != "logistic":
        raise ModelError(f"calibration kind {kind!r} is not known here; known: logistic")
    if set(parameters) != {"slope", "intercept"}:
        raise ModelError(
            f"logistic calibration has slope and intercept, not {', '.join(sorted(parameters)) or 'nothing'}"
        )
    return Logistic(parameters["slope"], parameters["intercept"])


def fit_logistic(margins: Floats, fraud: npt.NDArray[np.bool_]) -> Logistic:
    """Fit by maximum likelihood with Platt's smoothed targets, so that a perfect separation stays finite.

    `fraud` is the label of each margin. ModelError where margins don't rise with fraud, or a class is missing.
    """
    positives, negatives = int(fraud.sum()), int((~fraud).sum())
    if not positives or not negatives:
        raise ModelError(f"calibration needs fraud and good rows, not {positives} and {negatives}")
    target = np.where(fraud, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.column_stack([margins, np.ones_like(margins)])
    weights: Floats = np.array([1.0, 0.0])
    for _ in range(100):
        step = _newton_step(design, target, weights)
        weights = weights - step
        if np.abs(step).max() < 1e-10:
            break
    return Logistic(float(weights[0]), float(weights[1]))


def _newton_step(design: Floats, target: Floats, weights: Floats) -> Floats:
    """One step of Newton's method, halved until the loss falls."""
    x = design @ weights
    p = 0.5 + 0.5 * np.tanh(x / 2)  # the sigmoid, without overflow
    hessian = design.T @ (design * (p * (1.0 - p))[:, None]) + 1e-9 * np.eye(2)
    step: Floats = np.asarray(np.linalg.solve(hessian, design.T @ (p - target)), np.float64)
    before = _loss(x, target)
    for _ in range(50):
        if _loss(design @ (weights - step), target) <= before:
            return step
        step *= 0.5
    return np.zeros_like(step)


def _loss(x: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, x) - target * x))
