"""Offline: from a labelled table to a model. Serving code never imports this module; it brings in xgboost.

    config = TrainConfig(name="payment", version="1", event_kind="payment", features=names, window=Span.of("…/…"))
    folder = write_model(Path("models"), train(table, config))

Rows are split by event time, labels count as known at the cut-off. Same table and config, same model out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xgboost

from engine.errors import ModelError
from engine.scoring import candidates, compare, folds, importance, measure, report, rows, selection, suspects, tuning
from engine.scoring.calibrate import Calibration, fit_logistic
from engine.scoring.codec import time_text
from engine.scoring.config import TrainConfig
from engine.scoring.folder import TrainedModel
from engine.scoring.folds import Fold
from engine.scoring.manifest import CalibrationRecord, Manifest, Test, Training, digest, features_digest
from engine.scoring.onnx import VERSIONS, Model
from engine.scoring.parity import check_parity, write_parity
from engine.scoring.rows import NEVER_US, Rows
from engine.scoring.trees import export_trees

Floats = npt.NDArray[np.float64]
Tell = Callable[[str], None]
"""Hears what is being done."""
PROOF_ROWS = 20_000
TARGETS = {"medium": 0.2, "high": 0.6}
"""Precision on the calibration rows at which a tier's threshold is proposed."""
BY_CHANCE = "Validated on rows drawn by chance (`split: random`), not on later ones: its validation figures flatter."


@dataclass(slots=True)
class _Found:
    """What was found on the way to the final configuration."""

    config: TrainConfig
    data: Rows
    folds: tuple[Fold, ...]
    rounds: int = 0
    choices: tuple[selection.Choice, ...] = ()
    search: tuning.Search | None = None
    comparison: compare.Comparison | None = None


def train(table: pa.Table, config: TrainConfig, tell: Tell = lambda _: None) -> TrainedModel:
    """Train, calibrate, export, prove and measure; ModelError says what in table or config stands against it."""
    _check(config)
    data = rows.read_rows(table, config.features, config.columns)
    learn = data[rows.mature(data, config.window, config.cut_off)]
    _check_classes(learn, config)
    suspects.check_leaks(learn, config.features, config.trusted)
    found = _prepared(data, config, tell)
    config, data = found.config, found.data
    learn = data[rows.mature(data, config.window, config.cut_off)]
    tell("the model")
    began_s = time.perf_counter()
    booster = candidates.fit_booster(learn, config, found.rounds)
    seconds = time.perf_counter() - began_s
    onnx = export_trees(bytes(booster.save_raw("json")), len(config.features))
    model = Model(onnx, config.features)
    tested = _tested(data, config)
    held, margins, method = _held_margins(found, learn, model)
    fitted = fit_logistic(margins, held.fraud)
    parity = _prove(booster, model, fitted, data[rows.within(data, config.window)], tested, config)
    manifest = _manifest(found, learn, held, method, fitted, onnx, parity)
    scores = fitted.scores(margins)
    from_score = measure.best_threshold(scores, held.fraud)
    manifest = replace(manifest, thresholds=measure.propose(scores, held.fraud, TARGETS))
    judged = held
    if len(tested):
        judged, scores = tested, fitted.scores(model.margins(tested.matrix))
        manifest = replace(manifest, test=_measured(scores, tested, from_score, config))
    costs: dict[str, tuple[float, int]] = {}
    if found.comparison is not None:
        tell("the candidates on the test window")
        validated, costs = found.comparison.finished(learn, tested, config, model.margins(tested.matrix), seconds)
        manifest = replace(manifest, training=replace(manifest.training, validated=validated))
    page = ""
    if config.report:
        tell("the report")
        page = _page(manifest, found, (booster, model, fitted), judged, costs)
    return TrainedModel(manifest, onnx, parity, page, tuple(_remarks(manifest, learn, config)))


def _page(
    manifest: Manifest, found: _Found, made: tuple[xgboost.Booster, Model, Calibration], judged: Rows,
    costs: dict[str, tuple[float, int]],
) -> str:  # fmt: skip
    """The report; `judged` are the rows that it shows the model on."""
    booster, model, fitted = made

    def scores(given: npt.NDArray[np.float32]) -> Floats:
        return fitted.scores(model.margins(given))

    seen = importance.importance(booster, model.margins, scores, judged, manifest.features, found.config.seed)
    shown, money = scores(judged.matrix), found.config.money
    evidence = report.Evidence(shown, judged.fraud, judged.amount, money, seen, found.choices, found.search, costs)
    return report.render(manifest, evidence)


def _prepared(data: Rows, config: TrainConfig, tell: Tell) -> _Found:
    """Features, parameters and number of trees as the validation blocks have them, and how candidates do there."""
    found = _Found(config, data, folds.blocks(data, config))
    if config.select is not None:
        tell("ways of choosing features")
        found.choices = selection.choose(data, found.folds, config)
        kept = next((c.selected.features for c in found.choices if c.selected.method == config.select.use), None)
        if kept is not None:
            found.data = data.only(selection.columns(config, kept))
            found.config = config = selection.narrowed(config, kept)
    if config.tune is not None:
        tell("a search of parameters")
        found.search = tuning.tune(found.data, found.folds, config)
        found.config = config = replace(config, booster=found.search.booster)
    found.rounds = _rounds(found, tell)
    if found.folds:
        names = ("xgboost", *config.candidates)
        tell(f"validation of {', '.join(names)} on {len(found.folds)} blocks")
        found.comparison = compare.compare(found.data, found.folds, config, found.rounds, names)
    return found


def _check(config: TrainConfig) -> None:
    """Refuse a configuration that would peek, or that contradicts itself."""
    candidates.check(config)
    unknown = [name for name, sign in config.monotone.items() if name not in config.features or sign not in (1, -1)]
    if unknown:
        raise ModelError(f"monotone: {', '.join(unknown)} must be a feature with 1 or -1")
    if not 0 < config.good_share <= 1:
        raise ModelError(f"good_share is {config.good_share}; it is a share above 0, at most 1")
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
    training = manifest.training
    if training.selected_by:
        yield f"features chosen by {training.selected_by}: {', '.join(config.features)}"
    if training.tuned is not None:
        tuned = training.tuned
        yield f"parameters of {tuned.trials} trials, {tuned.pruned} pruned, ended by {tuned.ended_by}"
    if training.split != "time":
        yield BY_CHANCE
    if manifest.test is not None:
        yield measure.calibration_verdict(manifest.test.metrics)[1]
    elif config.test is not None:
        yield f"nothing was tested: no row of {config.test} has a label"


def _rounds(found: _Found, tell: Tell) -> int:
    """The number of trees: as configured, or where average precision on later rows stops rising."""
    config = found.config
    if not config.booster.early_stopping_rounds:
        return config.booster.rounds
    if found.folds:
        tell("the number of trees")
        return int(tuning.curve(found.data, found.folds, config).argmax()) + 1
    learn = found.data[rows.mature(found.data, config.window, config.cut_off)]
    late = learn.time_us >= np.quantile(learn.time_us, 0.8)
    if not learn.fraud[late].any() or not learn.fraud[~late].any():
        raise ModelError("early stopping needs fraud before and in the last fifth of the training rows")
    whole = Fold(np.flatnonzero(~late), np.flatnonzero(late), config.window)
    return int(tuning.curve(learn, [whole], config).argmax()) + 1


def _held_margins(found: _Found, learn: Rows, model: Model) -> tuple[Rows, Floats, str]:
    """Rows to calibrate on, their margins, none from a model that learnt from the row, and which way this was."""
    config, data = found.config, found.data
    if config.calibrate:
        held = data[folds.judged(data, config.calibrate, config, config.cut_off)]
        return held, model.margins(held.matrix), "slice"
    if found.comparison is not None:
        return found.comparison.held, found.comparison.margins["xgboost"], "prequential"
    margins = np.empty(len(learn))
    blocks = np.array_split(np.argsort(learn.time_us, kind="stable"), config.folds)
    for block in blocks:
        others = np.ones(len(learn), np.bool_)
        others[block] = False
        margins[block] = candidates.fit("xgboost", learn[others], config, found.rounds)(learn.matrix[block])
    return learn, margins, "out_of_fold"


def _tested(data: Rows, config: TrainConfig) -> Rows:
    """Labelled rows of the test window; none without one."""
    if config.test is None:
        return data[np.empty(0, np.int64)]
    return data[folds.judged(data, config.test, config, NEVER_US)]


def _measured(scores: Floats, tested: Rows, from_score: float, config: TrainConfig) -> Test:
    """Metrics of the test rows, with their intervals where there is a report to show them."""
    assert config.test is not None
    columns = (scores, tested.fraud, tested.time_us, tested.group, config.alerts_per_day)
    metrics = measure.evaluate(*columns) | measure.called(scores, tested.fraud, from_score)
    if tested.amount is not None:
        money = measure.saved(scores, tested.fraud, tested.amount, from_score, config.money)
        metrics |= {"money_saved": money, "money_at_risk": float(np.nansum(tested.amount[tested.fraud]))}
    intervals = measure.intervals(*columns, from_score, config.seed) if config.report else {}
    return Test(config.test, metrics, intervals)


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


def _manifest(found: _Found, learn: Rows, held: Rows, method: str, fitted: Calibration, onnx: bytes,
              parity: bytes) -> Manifest:  # fmt: skip
    config, data = found.config, found.data
    window, cut_off, by_chance = config.window, config.cut_off, config.validate.split != "time" and bool(found.folds)
    training = Training(
        window=window, cut_off=time_text(cut_off), delay_days=config.delay_days, label=config.label,
        classes=rows.count_classes(data, window, cut_off), maturity=rows.weekly_maturity(data, window, cut_off),
        data_digest=_data_digest(learn, held, config), seed=config.seed, rounds=found.rounds,
        booster=config.booster, monotone=config.monotone,
        libraries={**VERSIONS, "numpy": np.__version__, "xgboost": xgboost.__version__},
        split="random" if by_chance else "time", good_share=config.good_share,
        selections=tuple(choice.selected for choice in found.choices),
        selected_by=config.select.use if config.select else "", tuned=found.search.tuned if found.search else None,
    )  # fmt: skip
    calibration = CalibrationRecord(
        kind="logistic", parameters=fitted.parameters, method=method, window=config.calibrate or window, rows=len(held),
        fraud=int(held.fraud.sum()),
    )  # fmt: skip
    return Manifest(
        name=config.name, version=config.version, event_kind=config.event_kind, model_digest=digest(onnx),
        parity_digest=digest(parity), features=config.features, features_digest=features_digest(config.features),
        base_margin=0.0, training=training, calibration=calibration, definitions_digest=config.definitions_digest,
        intended_use=config.intended_use, limits=(*config.limits, BY_CHANCE) if by_chance else config.limits,
    )  # fmt: skip


def _data_digest(learn: Rows, held: Rows, config: TrainConfig) -> str:
    """Fingerprint of everything that was learnt from, in table order."""
    parts = [array.tobytes() for part in (learn, held) for array in (part.matrix, part.fraud, part.time_us)]
    return digest("\n".join(config.features).encode() + b"".join(parts))
