"""`report.html`: one page, without anything from elsewhere, on which a person can judge a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from engine.scoring.manifest import Manifest
from engine.scoring.measure import Group, at_threshold, calibration_verdict, reliability

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
WIDTH, HEIGHT, EDGE = 470, 260, 50
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.2rem .8rem;border-bottom:1px solid #dde3ea;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg text{font:11px system-ui,sans-serif;fill:#4a5866}
.good{color:#1b7f4d}.bad{color:#c8321f}
.row{display:flex;flex-wrap:wrap;gap:2rem}small{color:#4a5866}
"""


def render(manifest: Manifest, scores: Floats, fraud: Mask, gains: Mapping[str, float]) -> str:
    """The page for a model; `scores` and `fraud` are of the test rows, or else of the calibration rows."""
    title = f"{manifest.name} {manifest.version}"
    on = "test rows" if manifest.test else "calibration rows"
    groups = reliability(scores, fraud)
    parts = [
        f"<h1>Model {escape(title)}</h1>", _facts(manifest), _verdict(manifest),
        "<div class=row>",
        _figure(f"Calibration on {on}", "Ten groups of equal size, from low scores to high: fraud expected (line, with "
                "its 95 % interval) and observed (dot).", _calibration(groups)),
        _figure(f"Scores of {on}", "Rows by score, both axes in powers of ten: good (grey) and fraud (red).",
                _distribution(scores, fraud)),
        "</div><div class=row>",
        _figure("What the trees use", "Share of the total gain, the twenty largest.", _gains(gains)),
        "<section><h2>Thresholds</h2>" + _thresholds(manifest, scores, fraud, on) + "</section></div>",
        "<h2>Labels by week</h2>", _maturity(manifest),
        "<h2>Use and limits</h2>", f"<p>{escape(manifest.intended_use)}</p>",
        "<ul>" + "".join(f"<li>{escape(limit)}</li>" for limit in manifest.limits) + "</ul>",
    ]  # fmt: skip
    head = f"<meta charset=utf-8><title>Model {escape(title)}</title><style>{_STYLE}</style>"
    return "<!doctype html><html lang=en>" + head + "\n".join(parts) + "</html>\n"


def _facts(manifest: Manifest) -> str:
    """What was measured and learnt from, as two tables side by side."""
    training, classes, fit = manifest.training, manifest.training.classes, manifest.calibration
    learnt = [
        ("event kind", manifest.event_kind), ("training window", str(training.window)),
        ("labels known until", training.cut_off), ("fraud / good", f"{classes.fraud:,} / {classes.good:,}"),
        ("left out", f"{classes.immature:,} immature, {classes.other:,} of other classes"),
        ("trees", str(training.rounds)), ("features", str(len(manifest.features))),
        ("calibration", f"{fit.kind}, {fit.method}, {fit.rows:,} rows, {fit.fraud:,} fraud"),
        ("model digest", manifest.model_digest[:16]),
    ]  # fmt: skip
    metrics = manifest.test.metrics if manifest.test else {}
    measured = [("test window", str(manifest.test.window) if manifest.test else "none")]
    measured += [(name.replace("_", " "), f"{value:,.4f}".rstrip("0").rstrip(".")) for name, value in metrics.items()]
    return f"<div class=row>{_table([], measured)}{_table([], learnt)}</div>"


def _verdict(manifest: Manifest) -> str:
    if manifest.test is None:
        return "<p>Calibration was not tested: there is no test window.</p>"
    holds, told = calibration_verdict(manifest.test.metrics)
    return f"<p class={'good' if holds else 'bad'}>{escape(told[0].upper() + told[1:])}.</p>"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; every column but the first is set to the right."""

    def cells(tag: str, line: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i else ''}>{escape(text)}</{tag}>" for i, text in enumerate(line))

    top = f"<tr>{cells('th', head)}</tr>" if head else ""
    return f"<table>{top}" + "".join(f"<tr>{cells('td', line)}</tr>" for line in lines) + "</table>"


def _thresholds(manifest: Manifest, scores: Floats, fraud: Mask, on: str) -> str:
    if not manifest.thresholds:
        return "<p>No score reaches the precision that a threshold is proposed for.</p>"
    lines = []
    for t in manifest.thresholds:
        precision, recall = at_threshold(scores, fraud, t.from_score)
        lines.append([t.name, f"{t.from_score:.4f}", f"{t.precision:.3f}", f"{t.recall:.3f}",
                      f"{precision:.3f}", f"{recall:.3f}"])  # fmt: skip
    head = ["tier", "from score", "precision", "recall", f"precision, {on}", f"recall, {on}"]
    return _table(head, lines) + "<small>Proposals from the calibration rows; policy.yaml decides.</small>"


def _maturity(manifest: Manifest) -> str:
    lines = [[w.week, f"{w.rows:,}", f"{w.known:,}", f"{w.known / w.rows:.1%}", f"{w.fraud:,}"]
             for w in manifest.training.maturity]  # fmt: skip
    return _table(["week of", "rows", "labels known", "maturity", "fraud"], lines)


def _figure(title: str, caption: str, body: str) -> str:
    picture = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
    return f"<section><h2>{escape(title)}</h2>{picture}<p><small>{escape(caption)}</small></p></section>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"/>')  # fmt: skip


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _scale(value: float, low: float, high: float) -> float:
    """Height on the picture of a value on a logarithmic axis from `low` to `high`."""
    share = (np.log10(max(value, low)) - np.log10(low)) / (np.log10(high) - np.log10(low))
    return float(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE))


def _axis(low: float, high: float) -> list[str]:
    """Grid lines and labels of a logarithmic vertical axis, one a power of ten."""
    ticks = 10.0 ** np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
    return [_line(EDGE, y, WIDTH - 10, y, "#e6ebf0") + _text(EDGE - 4, y + 4, f"{tick:,.10g}", "end")
            for tick in ticks for y in [_scale(tick, low, high)]]  # fmt: skip


def _calibration(groups: Sequence[Group]) -> str:
    high = max(10.0, *(max(g.high, g.observed) for g in groups)) * 1.2
    low, step, parts = 0.1, (WIDTH - EDGE - 10) / len(groups), _axis(0.1, high)
    for index, g in enumerate(groups):
        x = EDGE + (index + 0.5) * step
        parts.append(_line(x, _scale(g.low, low, high), x, _scale(g.high, low, high), "#9db4c8", 8))
        y = _scale(g.expected, low, high)
        parts.append(_line(x - 9, y, x + 9, y, "#1c2733", 2))
        colour = "#1b7f4d" if g.fits else "#c8321f"
        parts.append(f'<circle cx="{x:.1f}" cy="{_scale(g.observed, low, high):.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(x, HEIGHT - EDGE + 14, f"{g.from_score:.2g}", "middle"))
    return "".join(parts) + _text(WIDTH - 10, HEIGHT - 6, "lowest score of the group", "end")


def _distribution(scores: Floats, fraud: Mask) -> str:
    exponent = np.clip(np.log10(np.maximum(scores, 1e-12)), -6, 0)
    edges = np.linspace(-6, 0, 31)
    good, bad = (np.histogram(exponent[part], edges)[0] for part in (~fraud, fraud))
    high = max(10.0, float(max(good.max(), bad.max()))) * 1.2
    step, parts = (WIDTH - EDGE - 10) / 30, _axis(0.8, high)
    for index in range(30):
        x = EDGE + index * step
        for count, colour, shift in ((good[index], "#b8c4d0", 0.0), (bad[index], "#c8321f", step / 2)):
            y = _scale(float(count), 0.8, high)
            parts.append(_bar(x + shift, y, step / 2, HEIGHT - EDGE - y, colour))
    labels = [_text(EDGE + i * 5 * step, HEIGHT - EDGE + 14, f"{10.0 ** (i - 6):g}", "middle") for i in range(7)]
    return "".join([*parts, *labels, _text(WIDTH - 10, HEIGHT - 6, "score", "end")])


def _gains(gains: Mapping[str, float]) -> str:
    total = sum(gains.values()) or 1.0
    top = sorted(gains.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    step = (HEIGHT - 10) / max(1, len(top))
    longest = max((gain for _, gain in top), default=1.0)
    parts = []
    for index, (name, gain) in enumerate(top):
        y, length = 5 + index * step, 200 * gain / longest
        parts.append(_bar(200, y, length, step * 0.7, "#3d6f99"))
        parts.append(_text(194, y + step * 0.6, name, "end"))
        parts.append(_text(206 + length, y + step * 0.6, f"{gain / total:.1%}"))
    return "".join(parts)
