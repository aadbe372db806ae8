"""The data report: all readings of a file together, and as one page without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.batch.arrivals import Arrivals
from engine.batch.declared import Mapping
from engine.batch.files import Row, Source, Told
from engine.batch.numbers import masked
from engine.batch.quarantine import Quarantine
from engine.batch.read import columns_of
from engine.batch.tally import Repeats
from engine.quality.expectations import Watch, load_expectations
from engine.quality.findings import SEVERITIES, Finding, finding, judge, moment
from engine.quality.profile import DAY_US, EXAMPLES, Column, Profile, look_through, weighted

_BARS, _WIDTH, _HEIGHT = 40, 240, 56
_DIMENSIONS = ("completeness", "validity", "uniqueness", "consistency", "timeliness")
_COLOURS = {"error": "#c8321f", "warning": "#b7791f", "info": "#3d6f99"}
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:74rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}tr{break-inside:avoid}
td,th{padding:.35rem .7rem;border-bottom:1px solid #dde3ea;text-align:left;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}small{color:#4a5866}code{font-size:12px}
b.tag{color:#fff;border-radius:3px;padding:.05rem .45rem;font-weight:600;font-size:12px}h2{margin-top:2rem}
.cards{display:flex;gap:1rem;flex-wrap:wrap}.cards div{border:1px solid #dde3ea;border-radius:6px;padding:.5rem 1rem}
.cards strong{display:block;font-size:1.4rem}thead{display:table-header-group}
@media print{body{margin:0;max-width:none;font-size:11px}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a file."""

    profile: Profile
    findings: tuple[Finding, ...]
    """The gravest first, then the commonest."""

    def at_least(self, severity: str) -> list[Finding]:
        """Findings of a severity or a graver one."""
        least = SEVERITIES.index(severity)
        return [each for each in self.findings if SEVERITIES.index(each.severity) >= least]


def examine(
    source: Source, mapping: Mapping | None, expectations: Path | None, workdir: Path, now_us: int, told: Told
) -> Report:  # fmt: skip
    """Read a file through; MappingError when it can't be read, or when the expectations have mistakes."""
    names = columns_of(source)
    items = load_expectations(expectations, names, workdir) if expectations else []
    watches: list[Watch] = []

    def begin(columns: Sequence[Column]) -> None:
        by_name = {column.name: column for column in columns}
        watches.extend(Watch(item, by_name, Repeats(workdir, f"expected-{n}")) for n, item in enumerate(items))

    def see(rows: Sequence[Row]) -> None:
        for watch in watches:
            watch.see(rows)

    profile = look_through(source, names, mapping, workdir, told, begin, see)
    found = judge(profile, now_us)
    for watch in watches:
        found += watch.findings(profile.rows, now_us)
    found += _refused(source, mapping, workdir, now_us, told) if mapping else []
    return Report(profile, tuple(sorted(found, key=lambda f: (-SEVERITIES.index(f.severity), -f.count))))


def _refused(source: Source, mapping: Mapping, workdir: Path, now_us: int, told: Told) -> list[Finding]:
    """Rows that an import with the mapping would put away, by reason."""
    away = Quarantine(workdir / "refused.jsonl", source.name, 1.0)
    arrivals = Arrivals(source, mapping, away, now_us, workdir, lambda _, *done: told("mapping", *done))
    for _ in arrivals:
        pass
    path, rows = away.finish(), dict[str, list[tuple[int, str]]]()
    for line in path.read_bytes().splitlines() if path else ():
        entry = orjson.loads(line)
        for problem in entry["problems"]:
            shown = rows.setdefault(f"{problem['field']}: {problem['reason']}", [])
            if len(shown) < EXAMPLES:
                shown.append((entry["row"], f"line {entry['line']:,}"))
    return [
        finding("refused", "", count, arrivals.rows, rows.get(reason, []), f": {reason}")
        for reason, count in away.reasons.most_common()
    ]


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines."""
    profile = report.profile
    return {
        "file": profile.name, "rows": profile.rows, "unreadable_rows": profile.unreadable_rows,
        "columns": [
            {
                "name": column.name, "kind": column.kind, "missing": column.missing, "distinct": column.distinct,
                "exact": column.tally.scale == 1, "low": _ends(column)[0], "high": _ends(column)[1],
            }
            for column in profile.columns
        ],
        "findings": [
            {**asdict(each), "examples": [{"row": row, "shown": shown} for row, shown in each.examples]}
            for each in report.findings
        ],
    }  # fmt: skip


def _ends(column: Column) -> tuple[str | float | None, str | float | None]:
    """The smallest and the largest; nothing of a column that names people or things."""
    if not column.values or column.key or column.private or column.kind == "text":
        return None, None
    low, high = column.values[0][0], column.values[-1][0]
    return (moment(low), moment(high)) if column.kind == "time" else (low, high)


# --- the page --------------------------------------------------------------------------------------------------------


def as_page(report: Report) -> str:
    """The report as HTML."""
    profile, title = report.profile, f"Data report: {escape(Path(report.profile.name).name)}"
    cards = [("rows", f"{profile.rows:,}"), ("columns", str(len(profile.columns)))]
    cards += [(f"{word}s" if word != "info" else "notes", str(sum(f.severity == word for f in report.findings)))
              for word in reversed(SEVERITIES)]  # fmt: skip
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}</h1><div class=cards>",
        *(f"<div><strong>{value}</strong>{name}</div>" for name, value in cards), "</div>",
    ]  # fmt: skip
    for dimension in _DIMENSIONS:
        found = [each for each in report.findings if each.dimension == dimension]
        lines = "".join(map(_finding, found)) or "<tr><td>nothing found</td></tr>"
        parts.append(f"<h2>{dimension.capitalize()}</h2><table>{lines}</table>")
    parts.append(
        "<h2>Columns</h2><table><thead><tr><th>column<th class=n>missing<th class=n>different<th>values</thead>"
    )
    parts += [_column(column, profile) for column in profile.columns]
    return "\n".join(parts) + "</table></html>\n"


def _finding(each: Finding) -> str:
    shown = " · ".join(
        (f"row {row:,}: " if row else "") + f"<code>{escape(text)}</code>" for row, text in each.examples
    )
    return (
        f"<tr><td style='width:5.5rem'><b class=tag style='background:{_COLOURS[each.severity]}'>{each.severity}</b>"
        f"<td style='width:11rem'>{escape(each.column) or 'whole rows'}<br><small>{each.check}</small>"
        f"<td class=n style='width:7rem'>{'about ' * each.about}{each.count:,}"
        f"<br><small>{share_text(each.share)}</small>"
        f"<td>{escape(each.message)}<br><small>{shown}</small><br><small>→ {escape(each.mend)}</small></tr>"
    )


def share_text(share: float) -> str:
    """A share as people read it."""
    return f"{share:.2%}" if share >= 0.0001 or not share else "< 0.01%"


def _column(column: Column, profile: Profile) -> str:
    rows = max(1, column.rows)
    full = _svg([_bar(0, 0, _WIDTH * (1 - column.missing / rows), 8, "#1b7f4d")], 8, "share of rows with a value", True)
    if column.kind == "text" or column.key:
        picture = _words(column)
    else:
        counts = [(day * DAY_US, n) for day, n in profile.days.items()] if column is profile.clock else column.values
        picture = _histogram(column, [(each[0], each[1]) for each in counts])
    return (
        f"<tr><td>{escape(column.name)}<br><small>{'key' if column.key else column.kind}</small>"
        f"<td class=n>{column.missing:,}<br><small>{share_text(column.missing / rows)}</small><br>{full}"
        f"<td class=n>{'about ' * (column.tally.scale > 1)}{column.distinct:,}<td>{picture}</tr>"
    )


def _histogram(column: Column, counts: Sequence[tuple[float, int]]) -> str:
    """Rows by number or time, between the first and the last half percent."""
    if not counts:
        return ""
    low, high = weighted(counts, 0.005, 0.995)
    values, weights = np.array(counts, np.float64).T
    heights, edges = np.histogram(values, _BARS, (low, high if high > low else low + 1), weights=weights)
    top, step = max(1.0, float(heights.max())), _WIDTH / _BARS
    bars = [
        _bar(i * step, _HEIGHT * (1 - h / top), step - 1, _HEIGHT * h / top, "#3d6f99") for i, h in enumerate(heights)
    ]
    as_text = moment if column.kind == "time" else lambda number: f"{number:,.6g}"
    return (
        _svg(bars, _HEIGHT, f"{column.name} by size") + f"<br><small>{as_text(edges[0])} … {as_text(edges[-1])}</small>"
    )


def _words(column: Column) -> str:
    """The commonest values."""
    often = sorted(column.tally.counts.items(), key=lambda item: (-item[1][0], item[1][1]))[:5]
    top = max((known[0] for _, known in often), default=1)
    return "".join(
        f"<div>{_svg([_bar(0, 1, 90 * known[0] / top, 9, '#3d6f99')], 10, 'rows', width=94)} "
        f"<small>{escape(masked(value, column.private))} × {known[0]:,}</small></div>"
        for value, known in often
    )


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" fill="{colour}"/>'


def _svg(bars: Sequence[str], height: int, label: str, framed: bool = False, width: int = _WIDTH) -> str:
    ground = _bar(0, 0, width, height, "#f3d9d4") if framed else ""
    drawn = 100 if framed else width
    return (
        f'<svg width="{drawn}" height="{height}" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{ground}{"".join(bars)}</svg>'
    )
