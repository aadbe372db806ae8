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
from engine.page import COLOURS, Cell, Html, Page, Value
from engine.quality.expectations import Watch, load_expectations
from engine.quality.findings import SEVERITIES, Finding, finding, judge, moment
from engine.quality.profile import DAY_US, EXAMPLES, Column, Profile, look_through, weighted

_BARS, _HEIGHT = 40, 56
_DIMENSIONS = ("completeness", "validity", "uniqueness", "consistency", "timeliness")
_TONES = {"error": "bad", "warning": "warn", "info": "grey"}


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
    profile = report.profile
    page = Page(f"Data report: {Path(profile.name).name}")
    counts = {word: sum(each.severity == word for each in report.findings) for word in reversed(SEVERITIES)}
    page.cards({"rows": profile.rows, "columns": len(profile.columns), "errors": counts["error"],
                "warnings": counts["warning"], "notes": counts["info"]})  # fmt: skip
    for dimension in _DIMENSIONS:
        page.heading(dimension.capitalize())
        rows = [_finding(each) for each in report.findings if each.dimension == dimension]
        if rows:
            page.table(("", "column", "rows", "what, where, and how to mend it"), rows, (0, 1, 3))
        else:
            page.note("nothing found")
    page.heading("Columns")
    columns = [_column(column, profile) for column in profile.columns]
    page.table(("column", "missing", "different", "values"), columns, (0, 3))
    return page.text()


def _under(first: str, *others: str) -> Html:
    """A text with smaller lines below it."""
    return Html("<br>".join([escape(first), *(f"<small>{escape(other)}</small>" for other in others)]))


def _finding(each: Finding) -> tuple[Value, ...]:
    return (
        Cell(each.severity, _TONES[each.severity], tag=True), _under(each.column or "whole rows", each.check),
        _under(f"{'about ' * each.about}{each.count:,}", share_text(each.share)),
        _under(each.message, each.shown(" · "), f"→ {each.mend}"),
    )  # fmt: skip


def share_text(share: float) -> str:
    """A share as people read it."""
    return f"{share:.2%}" if share >= 0.0001 or not share else "< 0.01%"


def _column(column: Column, profile: Profile) -> tuple[Value, ...]:
    share = column.missing / max(1, column.rows)
    if column.kind == "text" or column.key:
        picture = _words(column)
    else:
        counts = [(day * DAY_US, n) for day, n in profile.days.items()] if column is profile.clock else column.values
        picture = _histogram(column, [(each[0], each[1]) for each in counts])
    missing = _under(f"{column.missing:,}", share_text(share)).markup + "<br>"
    return (
        _under(column.name, "key" if column.key else column.kind),
        Html(missing + _bar(1 - share, "share of rows with a value")),
        f"{'about ' * (column.tally.scale > 1)}{column.distinct:,}", Html(picture),
    )  # fmt: skip


def _bar(share: float, label: str) -> str:
    return f'<meter value="{share:.4f}" aria-label="{label}"></meter>'


def _words(column: Column) -> str:
    """The commonest values."""
    often = sorted(column.tally.counts.items(), key=lambda item: (-item[1][0], item[1][1]))[:5]
    return "<br>".join(
        f"{_bar(count / often[0][1][0], 'rows')} <small>{escape(masked(value, column.private))} × {count:,}</small>"
        for value, (count, _) in often
    )


def _histogram(column: Column, counts: Sequence[tuple[float, int]]) -> str:
    """Rows by number or time, between the first and the last half percent."""
    if not counts:
        return ""
    low, high = weighted(counts, 0.005, 0.995)
    values, weights = np.array(counts, np.float64).T
    heights, edges = np.histogram(values, _BARS, (low, high if high > low else low + 1), weights=weights)
    tall = heights / max(1.0, float(heights.max())) * _HEIGHT
    bars = "".join(f"M{6 * at + 3} {_HEIGHT}v-{height:.1f}" for at, height in enumerate(tall))
    as_text = moment if column.kind == "time" else lambda number: f"{number:,.6g}"
    return (
        f'<svg width="{6 * _BARS}" height="{_HEIGHT}" role="img" aria-label="{escape(column.name)} by size">'
        f'<path d="{bars}" stroke="{COLOURS[0]}" stroke-width="5"/></svg>'
        f"<br><small>{as_text(edges[0])} … {as_text(edges[-1])}</small>"
    )
