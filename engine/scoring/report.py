"""`report.html`: one page on which a person can judge a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from engine.page import COLOURS, GREY, Cell, Page, Picture, Value, bars, lines
from engine.scoring.manifest import Manifest
from engine.scoring.measure import Curve, Group, at_threshold, calibration_verdict, curve, reliability

if TYPE_CHECKING:
    from engine.scoring.config import Money
    from engine.scoring.importance import Importance
    from engine.scoring.selection import Choice
    from engine.scoring.tuning import Search

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
SHOWN, SWARM = 15, 200
"""Features in a picture; rows in the picture of contributions."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the page shows beside the manifest; `scores` are of the test rows, or else of the calibration rows."""

    scores: Floats
    fraud: Mask
    amount: Floats | None
    money: Money
    importance: Importance
    choices: Sequence[Choice] = ()
    search: Search | None = None
    costs: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    """Candidate → seconds to learn from all rows, and how many of them it takes."""


def render(manifest: Manifest, seen: Evidence) -> str:
    """The page for a model."""
    on = "test rows" if manifest.test else "calibration rows"
    found = curve(seen.scores, seen.fraud, seen.amount, seen.money)
    page = Page(f"Model {manifest.name} {manifest.version}", manifest.intended_use)
    _facts(page, manifest)
    _ranking(page, seen, found, on)
    _thresholds(page, manifest, seen, found, on)
    _candidates(page, manifest, seen.costs)
    _choices(page, manifest, seen.choices)
    _search(page, manifest, seen.search)
    _importance(page, seen, on)
    page.heading("Labels by week", "Rows whose label was known at the cut-off; the rest was left out.")
    page.table(
        ("week of", "rows", "labels known", "maturity", "fraud"),
        [(w.week, w.rows, w.known, f"{w.known / w.rows:.1%}", w.fraud) for w in manifest.training.maturity],
    )
    page.heading("Use and limits")
    page.listed([manifest.intended_use, *manifest.limits])
    return page.text()


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _facts(page: Page, manifest: Manifest) -> None:
    training, fit, test = manifest.training, manifest.calibration, manifest.test
    if test is not None:
        wanted = ("auc", "average_precision", "brier", *(n for n in test.metrics if n.startswith("card_precision")))
        page.cards({name.replace("_", " "): _number(test.metrics[name]) for name in wanted if name in test.metrics})
        holds, told = calibration_verdict(test.metrics)
        page.note(told[0].upper() + told[1:] + ".", "good" if holds else "bad")
        page.heading(
            "What it was worth", f"On {test.window}, never seen before; 95 % intervals by drawing cards again."
        )
        page.table(("metric", "value", "from", "to"), [
            (name.replace("_", " "), _number(value), *map(_number, test.intervals.get(name, ())), *empty)
            for name, value in test.metrics.items() for empty in [() if name in test.intervals else (None, None)]
        ])  # fmt: skip
    else:
        page.note("Calibration was not tested: there is no test window.", "warn")
    if training.split != "time":
        page.note("Validated on rows drawn by chance, not on later ones: these figures flatter.", "bad")
    classes = training.classes
    page.heading("What it learnt from")
    page.table(("", ""), [
        ("event kind", manifest.event_kind), ("training window", str(training.window)),
        ("labels known until", training.cut_off), ("fraud / good", f"{classes.fraud:,} / {classes.good:,}"),
        ("good rows learnt from", f"{training.good_share:.0%}"),
        ("left out", f"{classes.immature:,} immature, {classes.other:,} of other classes"),
        ("trees", f"{training.rounds}, depth at most {training.booster.max_depth}"),
        ("features", f"{len(manifest.features)}: {', '.join(manifest.features)}"),
        ("calibration", f"{fit.kind}, {fit.method}, {fit.rows:,} rows, {fit.fraud:,} fraud"),
        ("model digest", manifest.model_digest[:16]),
    ], texts=(0, 1))  # fmt: skip


def _ranking(page: Page, seen: Evidence, found: Curve, on: str) -> None:
    groups = reliability(seen.scores, seen.fraud)
    false, true, _ = roc_curve(seen.fraud, seen.scores)
    page.heading("Order and probability", f"On the {on}.")
    page.pictures(
        Picture("Calibration", "Ten equal groups: fraud expected (line, 95 % interval) and observed (dot).",
                lambda axes: _calibration(axes, groups)),
        Picture("Scores", "Rows by score, both axes in powers of ten.",
                lambda axes: _distribution(axes, seen.scores, seen.fraud)),
        Picture("ROC", "Frauds found against good payments that are called fraud.",
                lines(*_thin(false, {"model": true}), "false positive rate", "recall")),
        Picture("Precision and recall", "Share of the alerts that is fraud, when so much of it is found.",
                lines(*_thin(found.recall, {"precision": found.precision}), "recall", "precision")),
    )  # fmt: skip


def _thin(x: Floats, series: Mapping[str, Floats]) -> tuple[Floats, dict[str, Floats]]:
    """At most 300 points, for a small page; denser where scores are high."""
    at = np.unique(np.geomspace(1, len(x), 300).astype(np.int64)) - 1
    return x[at], {name: values[at] for name, values in series.items()}


def _calibration(axes: Any, groups: Sequence[Group]) -> None:
    for at, group in enumerate(groups):
        expected, observed = max(group.expected, 0.1), max(group.observed, 0.1)
        axes.vlines(at, max(group.low, 0.1), max(group.high, 0.1), color="#9db4c8", linewidth=7)
        axes.hlines(expected, at - 0.3, at + 0.3, color="#1c2733")
        axes.plot(at, observed, "o", color=COLOURS[2 if group.fits else 1], markersize=5)
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), labels=[f"{g.from_score:.2g}" for g in groups], rotation=45)
    axes.set_xlabel("lowest score of the group")
    axes.set_ylabel("frauds")


def _distribution(axes: Any, scores: Floats, fraud: Mask) -> None:
    exponent = np.log10(np.clip(scores, 1e-6, 1.0))
    edges = np.linspace(-6, 0, 31)
    axes.hist([exponent[~fraud], exponent[fraud]], edges, label=["good", "fraud"], color=[GREY, COLOURS[1]], log=True)
    axes.set_xticks(range(-6, 1), labels=[f"{10.0**at:g}" for at in range(-6, 1)])
    axes.set_xlabel("score")
    axes.set_ylabel("rows")
    axes.legend()


def _thresholds(page: Page, manifest: Manifest, seen: Evidence, found: Curve, on: str) -> None:
    page.heading("Thresholds", "Proposals from the calibration rows; policy.yaml decides.")
    if manifest.thresholds:
        rows = [
            (t.name, f"{t.from_score:.4f}", f"{t.precision:.3f}", f"{t.recall:.3f}",
             *(f"{value:.3f}" for value in at_threshold(seen.scores, seen.fraud, t.from_score)))
            for t in manifest.thresholds
        ]  # fmt: skip
        page.table(("tier", "from score", "precision", "recall", f"precision, {on}", f"recall, {on}"), rows)
    else:
        page.note("No score reaches the precision that a threshold is proposed for.")
    score, series = _thin(found.from_score, {"precision": found.precision, "recall": found.recall, "F1": found.f1})
    shown = [Picture("By threshold", f"On the {on}, when everything from a score on is stopped.",
                     lines(score, series, "from score", "share", log="x"))]  # fmt: skip
    if found.saved is not None:
        best = int(found.saved.argmax())
        told = (
            f"Most, {found.saved[best]:,.0f}, from {found.from_score[best]:.4f} on ({found.alerts[best]:,.0f} alerts)."
        )
        at, money = _thin(found.from_score, {"saved": found.saved})
        shown.append(Picture("Money saved", told, lines(at, money, "from score", "money", log="x")))
    page.pictures(*shown)
    if found.saved is not None:
        page.note(f"Money saved: frauds stopped, less {seen.money.per_alert:g} for each alert and "
                  f"{seen.money.good_share:.1%} of the good amounts that are stopped.")  # fmt: skip
        points = [int(np.argmin(np.abs(found.from_score - at))) for at in (0.9, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)]
        page.table(("from score", "alerts", "precision", "recall", "F1", "money saved"), [
            (f"{found.from_score[at]:.3f}", int(found.alerts[at]), f"{found.precision[at]:.3f}",
             f"{found.recall[at]:.3f}", f"{found.f1[at]:.3f}", f"{found.saved[at]:,.0f}")
            for at in dict.fromkeys(points)
        ])  # fmt: skip


def _candidates(page: Page, manifest: Manifest, costs: Mapping[str, tuple[float, int]]) -> None:
    if not manifest.training.validated:
        return
    names, first = list(manifest.training.validated[0].mean), manifest.training.validated[0]
    tested = [name for name in (*names, "brier", "log_loss", "accuracy", "precision", "recall", "f1")
              if name in first.test]  # fmt: skip
    page.heading("Candidates", "Through one pipeline: mean and spread over the validation blocks. XGBoost is served.")
    page.table(("", *(name.replace("_", " ") for name in names), "rows", "seconds"), [
        (one.name, *(f"{one.mean[name]:.3f} ± {one.spread[name]:.3f}" for name in names), *_cost(costs.get(one.name)))
        for one in manifest.training.validated
    ])  # fmt: skip
    if len(manifest.training.validated) == 1:
        return
    if tested:
        page.heading("On the test window", "Calibrated, and called from the best F1 on, by the validation blocks.", 3)
        page.table(("", *(name.replace("_", " ") for name in tested)), [
            (one.name, *(f"{one.test[name]:.3f}" for name in tested)) for one in manifest.training.validated
        ])  # fmt: skip
    shown = [one.name for one in manifest.training.validated]
    mean = [one.mean["average_precision"] for one in manifest.training.validated]
    wide = [one.spread["average_precision"] for one in manifest.training.validated]
    ends = ([m - s for m, s in zip(mean, wide, strict=True)], [m + s for m, s in zip(mean, wide, strict=True)])
    page.pictures(Picture("Average precision on validation", "Mean and spread over the blocks.",
                          bars(shown, {"average precision": mean}, spread=ends, lying=True)))  # fmt: skip


def _cost(cost: tuple[float, int] | None) -> tuple[Value, Value]:
    return (None, None) if cost is None else (cost[1], f"{cost[0]:.1f}")


def _choices(page: Page, manifest: Manifest, choices: Sequence[Choice]) -> None:
    if not choices:
        return
    page.heading("Choice of features", "Average precision of XGBoost with them alone, on the validation blocks.")
    page.table(("way", "average precision", "features", "seconds", "kept"), [
        (Cell(one.selected.method, "good" if one.selected.method == manifest.training.selected_by else ""),
         f"{one.selected.average_precision:.4f}", len(one.selected.features), f"{one.seconds:.1f}",
         "" if one.selected.method == "all" else ", ".join(one.selected.features)) for one in choices
    ], texts=(0, 4))  # fmt: skip


def _search(page: Page, manifest: Manifest, search: Search | None) -> None:
    if search is None:
        return
    tuned, booster = search.tuned, manifest.training.booster
    page.heading("Search of parameters", f"{tuned.trials} trials, {tuned.pruned} of them pruned, ended by "
                 f"{tuned.ended_by}; {search.seconds:.0f} s. On the validation blocks alone.")  # fmt: skip
    done = [(at, value) for at, value in enumerate(search.values, 1) if value is not None]
    best = np.maximum.accumulate([value for _, value in done])
    page.pictures(Picture("Trials", "Each that was not pruned, and the best so far; the first is as configured.",
                          lines([at for at, _ in done], {"best": best}, "trial", "average precision",
                                dots={"trial": [value for _, value in done]})))  # fmt: skip
    names = ("max_depth", "learning_rate", "rounds", "min_child_weight", "subsample", "colsample", "l2")
    page.table(names, [[f"{getattr(booster, name):.4g}" for name in names]], texts=())


def _importance(page: Page, seen: Evidence, on: str) -> None:
    held = seen.importance
    order = held.order[:SHOWN]
    names = [held.features[at] for at in order]
    size = np.abs(held.contributions).mean(axis=0)
    mean = held.lost.mean(axis=0)
    page.heading("What it goes by", f"On the {on}.")
    page.pictures(
        Picture("Contributions (SHAP)", "A dot is a payment: what the feature's value, from low (blue) to high (red), "
                "adds to its log-odds.", lambda axes: _swarm(axes, held, order), 6.4, 4.4),
        Picture("Permutation importance", "Average precision lost when its values are shuffled; mean and range.",
                bars(names, {"lost": mean[order]}, "average precision lost",
                     (held.lost.min(axis=0)[order], held.lost.max(axis=0)[order]), lying=True), 5.0, 4.4),
    )  # fmt: skip
    page.pictures(*(
        Picture(name, "", lines(grid, {"score": means}, name, "mean score"), 3.6, 2.4)
        for name, (grid, means) in held.dependence.items()
    ))  # fmt: skip
    page.note("Partial dependence above: the mean score when every payment had that value, all else as it is.")
    rows = [(held.features[at], f"{size[at]:.4f}", f"{mean[at]:.4f}") for at in held.order]
    page.table(("feature", "mean |SHAP|", "precision lost"), rows)


def _swarm(axes: Any, held: Importance, order: Sequence[int]) -> None:
    rows = np.linspace(0, len(held.values) - 1, min(len(held.values), SWARM)).astype(np.int64)
    random = np.random.default_rng(0)
    for place, at in enumerate(order):
        values = held.values[rows, at].astype(np.float64)
        ranks = np.searchsorted(np.sort(values[~np.isnan(values)]), values) / max(1, len(rows))
        axes.scatter(held.contributions[rows, at], place + random.uniform(-0.25, 0.25, len(rows)), 5,
                     np.where(np.isnan(values), 0.5, ranks), cmap="coolwarm", vmin=0, vmax=1, linewidths=0)  # fmt: skip
    axes.axvline(0, color="#8a96a3", linewidth=0.8)
    axes.set_yticks(range(len(order)), labels=[held.features[at] for at in order])
    axes.invert_yaxis()
    axes.set_xlabel("added to the log-odds")
