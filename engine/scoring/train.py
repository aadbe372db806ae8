"""Offline: from a labelled table to a model. Serving code never imports this module; it brings in xgboost.

    config = TrainConfig(name="payment", version="1", event_kind="payment", features=names, window=Span.of("…/…"))
    folder = write_model(Path("models"), train(table, config))

Rows are split by event time only, labels count as known at the cut-off. Same table and config, same bytes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost

from engine.errors import ModelError
from engine.scoring import measure, report, rows, suspects
from engine.scoring.calibrate import Calibration, fit_logistic
from engine.scoring.codec import time_text
from engine.scoring.config import TrainConfig
from engine.scoring.folder import TrainedModel
from engine.scoring.manifest import CalibrationRecord, Manifest, Test, Training, digest, features_digest
from engine.scoring.onnx import VERSIONS, Model
from engine.scoring.parity import check_parity, write_parity
from engine.scoring.rows import Rows
from engine.scoring.trees import export_trees

Floats = npt.NDArray[np.float64]
PROOF_ROWS = 20_000
TARGETS = {"medium": 0.2, "high": 0.6}
"""Precision on the calibration rows at which a tier's threshold is proposed."""


def train(table: pa.Table, config: TrainConfig) -> TrainedModel:
    """Train, calibrate, export, prove and measure; ModelError says what in table or config stands against it."""
    _check(config)
    data = rows.read_rows(table, config.features, config.columns)
    learn = data[rows.mature(data, config.window, config.cut_off)]
    _check_classes(learn, config)
    suspects.check_leaks(learn, config.features, config.trusted)
    rounds = _rounds(learn, config)
    booster = _fit(learn, config, rounds)
    onnx = export_trees(bytes(booster.save_raw("json")), len(config.features))
    model = Model(onnx, config.features)
    held, margins = _held_margins(data, learn, model, config, rounds)
    fitted = fit_logistic(margins, held.fraud)
    tested = _tested(data, config)
    parity = _prove(booster, model, fitted, data[rows.within(data, config.window)], tested, config)
    manifest = _manifest(data, learn, held, fitted, rounds, onnx, parity, config)
    scores = fitted.scores(margins)
    manifest = replace(manifest, thresholds=measure.propose(scores, held.fraud, TARGETS))
    if len(tested):
        margins, held, scores = model.margins(tested.matrix), tested, fitted.scores(model.margins(tested.matrix))
        metrics = measure.evaluate(scores, tested.fraud, tested.time_us, tested.group, config.alerts_per_day)
        manifest = replace(manifest, test=Test(config.test or config.window, metrics))
    page = report.render(manifest, scores, held.fraud, _gains(booster, config))
    return TrainedModel(manifest, onnx, parity, page, tuple(_remarks(manifest, learn, config)))


def _check(config: TrainConfig) -> None:
    """Refuse a configuration that would peek, or that contradicts itself."""
    unknown = [name for name, sign in config.monotone.items() if name not in config.features or sign not in (1, -1)]
    if unknown:
        raise ModelError(f"monotone: {', '.join(unknown)} must be a feature with 1 or -1")
    if config.calibrate and config.calibrate.start_us < config.window.end_us:
        raise ModelError(f"the calibration window {config.calibrate} begins inside the training window {config.window}")
    if config.test and config.test.start_us < config.cut_off:
        raise ModelError(
            f"the test window {config.test} begins before the cut-off {time_text(config.cut_off)}: labels of its time "
            "would have been learnt from"
        )


def _check_classes(learn: Rows, config: TrainConfig) -> None:
    fraud = int(learn.fraud.sum())
    if fraud < 2 or len(learn) - fraud < 2:
        raise ModelError(
            f"{len(learn)} rows of {config.window} have a label known at {time_text(config.cut_off)}, {fraud} of them "
            "fraud; both classes are needed. Widen the window, or move the cut-off."
        )


def _remarks(manifest: Manifest, learn: Rows, config: TrainConfig) -> Iterator[str]:
    """What whoever trains should know, although it stops nothing."""
    if same := suspects.constants(learn, config.features):
        yield f"the same in every row, so nothing was learnt from it: {', '.join(same)}"
    if manifest.test is not None:
        yield measure.calibration_verdict(manifest.test.metrics)[1]


def _parameters(config: TrainConfig) -> dict[str, Any]:
    booster = config.booster
    return {
        "objective": "binary:logistic", "base_score": 0.5, "tree_method": "hist", "verbosity": 0,
        "nthread": config.threads, "seed": config.seed, "max_depth": booster.max_depth, "eta": booster.learning_rate,
        "max_bin": booster.max_bin, "min_child_weight": booster.min_child_weight, "subsample": booster.subsample,
        "colsample_bytree": booster.colsample, "reg_lambda": booster.l2, "eval_metric": "aucpr",
        "monotone_constraints": tuple(config.monotone.get(name, 0) for name in config.features),
    }  # fmt: skip


def _matrix(part: Rows) -> xgboost.DMatrix:
    return xgboost.DMatrix(part.matrix, label=part.fraud)


def _fit(part: Rows, config: TrainConfig, rounds: int) -> xgboost.Booster:
    return xgboost.train(_parameters(config), _matrix(part), num_boost_round=rounds)


def _rounds(learn: Rows, config: TrainConfig) -> int:
    """The number of trees: as configured, or where average precision on later rows stops rising."""
    patience = config.booster.early_stopping_rounds
    if not patience:
        return config.booster.rounds
    late = learn.time_us >= np.quantile(learn.time_us, 0.8)
    if not learn.fraud[late].any() or not learn.fraud[~late].any():
        raise ModelError("early stopping needs fraud before and in the last fifth of the training rows")
    booster = xgboost.train(
        _parameters(config), _matrix(learn[~late]), num_boost_round=config.booster.rounds, verbose_eval=False,
        evals=[(_matrix(learn[late]), "late")], early_stopping_rounds=patience,
    )  # fmt: skip
    return int(booster.best_iteration) + 1


def _held_margins(data: Rows, learn: Rows, model: Model, config: TrainConfig, rounds: int) -> tuple[Rows, Floats]:
    """Rows to calibrate on and their margins, none from a model that learnt from the row."""
    if config.calibrate:
        held = data[rows.mature(data, config.calibrate, config.cut_off)]
        return held, model.margins(held.matrix)
    margins = np.empty(len(learn))
    blocks = np.array_split(np.argsort(learn.time_us, kind="stable"), config.folds)
    for block in blocks:
        others = np.ones(len(learn), np.bool_)
        others[block] = False
        booster = _fit(learn[others], config, rounds)
        margins[block] = booster.predict(_matrix(learn[block]), output_margin=True)
    return learn, margins


def _tested(data: Rows, config: TrainConfig) -> Rows:
    """Labelled rows of the test window; none without one."""
    if config.test is None:
        return data[np.empty(0, np.int64)]
    chosen = rows.within(data, config.test) & data.labelled
    if config.leave_out_compromised:
        chosen &= ~rows.known_compromised(data, config.test, config.window.start_us)
    return data[chosen]


def _prove(
    booster: xgboost.Booster, model: Model, fitted: Calibration, seen: Rows, tested: Rows, config: TrainConfig
) -> bytes:
    """`parity.csv`, after proving that ONNX gives XGBoost's bits and that calibration keeps every difference."""
    matrix = np.concatenate([seen.matrix, tested.matrix])
    matrix = matrix[np.linspace(0, len(matrix) - 1, min(len(matrix), PROOF_ROWS)).astype(np.int64)]
    wanted = booster.predict(xgboost.DMatrix(matrix), output_margin=True).astype(np.float64)
    margins = model.margins(matrix)
    if not np.array_equal(margins, wanted):
        worst = float(np.abs(margins - wanted).max())
        count = int((margins != wanted).sum())
        raise ModelError(f"ONNX and XGBoost differ on {count} of {len(matrix)} rows, by up to {worst}")
    distinct = np.unique(margins)
    if not np.all(np.diff(fitted.scores(distinct)) > 0):
        raise ModelError("the margins are so extreme that calibrated scores tie; use fewer rounds or a larger l2")
    some = np.linspace(0, len(matrix) - 1, min(len(matrix), config.parity_rows)).astype(np.int64)
    parity = write_parity(config.features, matrix[some], wanted[some])
    check_parity(model, parity)
    return parity


def _manifest(data: Rows, learn: Rows, held: Rows, fitted: Calibration, rounds: int, onnx: bytes, parity: bytes,
              config: TrainConfig) -> Manifest:  # fmt: skip
    window, cut_off = config.window, config.cut_off
    training = Training(
        window=window, cut_off=time_text(cut_off), delay_days=config.delay_days, label=config.label,
        classes=rows.count_classes(data, window, cut_off), maturity=rows.weekly_maturity(data, window, cut_off),
        data_digest=_data_digest(learn, held, config), seed=config.seed, rounds=rounds,
        booster=config.booster, monotone=config.monotone,
        libraries={**VERSIONS, "numpy": np.__version__, "xgboost": xgboost.__version__},
    )  # fmt: skip
    calibration = CalibrationRecord(
        kind="logistic", parameters=fitted.parameters, method="slice" if config.calibrate else "out_of_fold",
        window=config.calibrate or window, rows=len(held), fraud=int(held.fraud.sum()),
    )  # fmt: skip
    return Manifest(
        name=config.name, version=config.version, event_kind=config.event_kind, model_digest=digest(onnx),
        parity_digest=digest(parity), features=config.features, features_digest=features_digest(config.features),
        base_margin=0.0, training=training, calibration=calibration, definitions_digest=config.definitions_digest,
        intended_use=config.intended_use, limits=config.limits,
    )  # fmt: skip


def _gains(booster: xgboost.Booster, config: TrainConfig) -> dict[str, float]:
    """Total gain of each feature that is used, over all trees."""
    gains: dict[str, Any] = booster.get_score(importance_type="total_gain")
    return {config.features[int(key[1:])]: float(gain) for key, gain in gains.items()}


def _data_digest(learn: Rows, held: Rows, config: TrainConfig) -> str:
    """Fingerprint of everything that was learnt from, in table order."""
    parts = [array.tobytes() for part in (learn, held) for array in (part.matrix, part.fraud, part.time_us)]
    return digest("\n".join(config.features).encode() + b"".join(parts))
