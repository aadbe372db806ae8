"""Offline: features that should not be learnt from. A leak stops the training, a constant is told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from engine.errors import ModelError
from engine.scoring.rows import Rows

LEAK_AUC = 0.99
"""A feature that alone orders fraud so well most likely knows how it ended."""
FEWEST = 10
"""With fewer rows of a class, such an order may be chance."""
MOST = 50_000
"""Rows of a class that are looked at, evenly spread."""


def check_leaks(learn: Rows, features: Sequence[str], trusted: Collection[str]) -> None:
    """ModelError names every feature but the trusted that tells fraud alone, by its value or by being missing."""
    if min(learn.fraud.sum(), (~learn.fraud).sum()) < FEWEST:
        return
    some = np.concatenate([_spread(np.flatnonzero(learn.fraud)), _spread(np.flatnonzero(~learn.fraud))])
    fraud, matrix = learn.fraud[some], learn.matrix[some]
    found = [
        f"{name} (AUC {auc:.4f})"
        for index, name in enumerate(features)
        if name not in trusted and (auc := max(_orders(matrix[:, index], fraud))) > LEAK_AUC
    ]
    if found:
        raise ModelError(
            f"alone tells fraud: {', '.join(found)}. Such a feature mostly knows what came after the event. Leave it "
            "out; if it is truly known when the decision is made, name it under `trusted:`"
        )


def constants(learn: Rows, features: Sequence[str]) -> list[str]:
    """Features with one value (or none at all) in every row: nothing can be learnt from them."""
    first, missing = learn.matrix[0], np.isnan(learn.matrix)
    same = np.all((learn.matrix == first) | (missing & np.isnan(first)), axis=0)
    return [name for name, constant in zip(features, same, strict=True) if constant]


def _spread(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(np.int64)]


def _orders(values: npt.NDArray[np.float32], fraud: npt.NDArray[np.bool_]) -> Iterator[float]:
    """AUC in both directions, what is missing taken as the lowest and as the highest."""
    for missing in (-np.inf, np.inf):
        ranks = np.unique(np.where(np.isnan(values), missing, values), return_inverse=True)[1]
        auc = float(roc_auc_score(fraud, ranks))
        yield from (auc, 1 - auc)
