"""Pages for people: one HTML file without anything from elsewhere, made of cards, tables and pictures, ready to print.

    page = Page("Model risk 3", "Learnt from 1.2 million payments.")
    page.cards({"AUC": ".965", "rows": 1_204_112})
    page.heading("By week", "Grey weeks are still immature.")
    page.table(("week", "payments", "fraud"), [("2026-W01", 812, Cell("4.1 %", "bad")), …])
    page.pictures(Picture("Calibration", "Expected (line) and observed (dots).", lambda axes: axes.plot(x, y)))
    page.write(folder / "report.html")

A picture is drawn on matplotlib's `Axes` in the house's style and becomes SVG inside the page, the same bytes for the
same numbers. `lines`, `bars` and `heat` draw the usual ones.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw: TypeAlias = "Callable[[Axes], Any]"
COLOURS = ("#2f5d8a", "#c8321f", "#1b7f4d", "#b7791f", "#6b4c9a", "#4a5866")
"""In this order for the series of a picture: blue, red (fraud, loss), green (good), ochre, violet, grey."""
GREY = "#b8c2cc"
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:74rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}tr,figure{break-inside:avoid}thead{display:table-header-group}
td,th{padding:.3rem .7rem;border-bottom:1px solid #dde3ea;text-align:left;vertical-align:top}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}small,figcaption,.lead{color:#4a5866}
h2{margin:2rem 0 .3rem}h3{margin:1.2rem 0 .2rem}code{font-size:12px}
.good{color:#1b7f4d}.bad{color:#c8321f}.warn{color:#b7791f}.grey,.grey *{color:#8a96a3}
b.tag{color:#fff;border-radius:3px;padding:.05rem .45rem;font-weight:600;font-size:12px}
b.tag.good{background:#1b7f4d}b.tag.bad{background:#c8321f}b.tag.warn{background:#b7791f}
b.tag.grey{background:#4a5866}
.cards,.row{display:flex;gap:1rem;flex-wrap:wrap}
.cards div{border:1px solid #dde3ea;border-radius:6px;padding:.5rem 1rem}
.cards strong{display:block;font-size:1.4rem}figure{margin:.5rem 0;max-width:100%}figure svg{max-width:100%;height:auto}
@page{size:A4;margin:14mm}
@media print{body{margin:0;max-width:none;font-size:11px}h2,h3{break-after:avoid}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a tone: good, bad, warn, grey; `tag`: white on the tone's colour."""

    text: str
    tone: str = ""
    tag: bool = False
    title: str = ""
    """Shown when the pointer rests on it."""


@dataclass(frozen=True, slots=True)
class Html:
    """Markup that its maker has escaped."""

    markup: str


Value: TypeAlias = "str | int | float | Cell | Html | None"
"""What a cell or card holds: whole numbers get thousands separators, None is empty; other formats are the caller's."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing with its title and what to see in it; sizes are in inches of 96 pixels."""

    title: str
    caption: str
    draw: Draw
    width: float = 5.0
    height: float = 2.9

    def svg(self) -> str:
        """Inline SVG with real text; the same drawing gives the same bytes."""
        import matplotlib as mpl
        from cycler import cycler
        from matplotlib.figure import Figure

        settings: Any = {
            "svg.fonttype": "none", "svg.hashsalt": "arbiter", "font.family": ["sans-serif"], "font.size": 8.5,
            "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#8a96a3", "axes.grid": True,
            "grid.color": "#e6ebf0", "axes.axisbelow": True, "axes.prop_cycle": cycler(color=COLOURS),
            "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.6, "text.color": "#1c2733",
            "axes.labelcolor": "#4a5866", "xtick.color": "#4a5866", "ytick.color": "#4a5866",
        }  # fmt: skip
        with mpl.rc_context(settings):
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            self.draw(figure.add_subplot())
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        return drawn.getvalue().partition("<svg")[2].join(("<svg", ""))


class Page:
    """Parts in the order in which they are added."""

    def __init__(self, title: str, lead: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>", f"<p class=lead>{escape(lead)}</p>" if lead else ""]

    def heading(self, title: str, note: str = "", level: int = 2) -> None:
        """A title of level 2 or 3 and a sentence on what follows."""
        self._parts.append(
            f"<h{level}>{escape(title)}</h{level}>" + (f"<p><small>{escape(note)}</small></p>" if note else "")
        )

    def cards(self, values: Mapping[str, Value]) -> None:
        """Figures to see first: what it is → the figure."""
        cards = (f"<div><strong>{_shown(value)}</strong>{escape(name)}</div>" for name, value in values.items())
        self._parts.append(f"<div class=cards>{''.join(cards)}</div>")

    def note(self, text: str, tone: str = "") -> None:
        """A paragraph."""
        self._parts.append(f'<p class="{tone}">{escape(text)}</p>')

    def listed(self, items: Iterable[str]) -> None:
        """Short sentences, one a line."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Value]], texts: Sequence[int] = (0,),
        grey: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Rows under names; columns other than `texts` stand to the right, and the rows at `grey` are faint."""
        side = ["" if at in texts else " class=n" for at in range(len(columns))]
        head = "".join(f"<th{place}>{escape(name)}" for place, name in zip(side, columns, strict=True))
        body = []
        for at, row in enumerate(rows):
            cells = "".join(f"<td{place}>{_shown(value)}" for place, value in zip(side, row, strict=True))
            body.append(f"<tr{' class=grey' if at in grey else ''}>{cells}")
        self._parts.append(f"<table><thead><tr>{head}</thead><tbody>{''.join(body)}</tbody></table>")

    def pictures(self, *pictures: Picture) -> None:
        """Side by side where there is room."""
        drawn = (f"<figure><h3>{escape(each.title)}</h3>{each.svg()}<figcaption>{escape(each.caption)}"
                 "</figcaption></figure>" for each in pictures)  # fmt: skip
        self._parts.append(f"<div class=row>{''.join(drawn)}</div>")

    def markup(self, html: Html) -> None:
        """What the other parts can't say."""
        self._parts.append(html.markup)

    def text(self) -> str:
        """The whole page."""
        head = f"<meta charset=utf-8><title>{escape(self.title)}</title><style>{_STYLE}</style>"
        return f"<!doctype html><html lang=en>{head}" + "\n".join(self._parts) + "</html>\n"

    def write(self, path: Path) -> None:
        """In one step: a reader sees the whole page or the one before."""
        beside = path.with_name(path.name + ".partial")
        try:
            beside.write_text(self.text(), encoding="utf-8")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def lines(
    x: Any, series: Mapping[str, Any], x_label: str = "", y_label: str = "", band: tuple[Any, Any] | None = None,
    dots: Mapping[str, Any] | None = None, grey_from: Any = None, log: str = "",
) -> Draw:  # fmt: skip
    """Lines over x; `band`: an interval around the first; `dots`: points; `log`: "x", "y" or "xy".

    From `grey_from` (a value of x) on the background is grey: not mature yet, or not measured.
    """

    def draw(axes: Axes) -> None:
        for name, values in series.items():
            axes.plot(x, values, label=name)
        if band is not None:
            axes.fill_between(x, *band, color=COLOURS[0], alpha=0.15, linewidth=0)
        for at, (name, values) in enumerate((dots or {}).items()):
            axes.plot(x, values, "o", label=name, color=COLOURS[(len(series) + at) % len(COLOURS)], markersize=4)
        if grey_from is not None:
            axes.axvspan(grey_from, x[-1], color=GREY, alpha=0.3, linewidth=0)
        if len(series) + len(dots or {}) > 1:
            axes.legend()
        _frame(axes, x_label, y_label, log)

    return draw


def bars(
    names: Sequence[str], series: Mapping[str, Any], label: str = "", spread: tuple[Any, Any] | None = None,
    lying: bool = False,
) -> Draw:  # fmt: skip
    """Bars side by side; `spread`: ends of the first series' intervals; `lying`: names at the left."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(series)
        for at, (name, values) in enumerate(series.items()):
            places = [place + (at - (len(series) - 1) / 2) * width for place in range(len(names))]
            ends = None
            if spread and not at:
                ends = [[v - low for v, low in zip(values, spread[0], strict=True)],
                        [high - v for v, high in zip(values, spread[1], strict=True)]]  # fmt: skip
            if lying:
                axes.barh(places, values, width, xerr=ends, ecolor=COLOURS[-1], label=name)
            else:
                axes.bar(places, values, width, yerr=ends, ecolor=COLOURS[-1], label=name)
        (axes.set_yticks if lying else axes.set_xticks)(range(len(names)), labels=list(names))
        if lying:
            axes.invert_yaxis()
        elif sum(map(len, names)) > 60:
            axes.tick_params("x", rotation=60)
        axes.grid(False, axis="y" if lying else "x")
        if len(series) > 1:
            axes.legend()
        _frame(axes, label if lying else "", "" if lying else label, "")

    return draw


def heat(rows: Sequence[str], columns: Sequence[str], values: Any, shown: str = "{:.0f}") -> Draw:
    """A matrix (rows × columns) as shades, each with its number."""

    def draw(axes: Axes) -> None:
        axes.grid(False)
        axes.imshow(values, cmap="Blues", aspect="auto")
        axes.set_xticks(range(len(columns)), labels=list(columns), rotation=60 if sum(map(len, columns)) > 40 else 0)
        axes.set_yticks(range(len(rows)), labels=list(rows))
        most = max((float(value) for row in values for value in row), default=0.0)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                dark = float(value) > most * 0.6
                axes.text(
                    j,
                    i,
                    shown.format(value),
                    ha="center",
                    va="center",
                    color="white" if dark else "#1c2733",
                    fontsize=7,
                )

    return draw


def _frame(axes: Axes, x_label: str, y_label: str, log: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")


def _shown(value: Value) -> str:
    if isinstance(value, Html):
        return value.markup
    if isinstance(value, Cell):
        title = f' title="{escape(value.title)}"' if value.title else ""
        name = "b" if value.tag else "span"
        return f'<{name} class="{"tag " if value.tag else ""}{value.tone}"{title}>{escape(value.text)}</{name}>'
    if value is None:
        return ""
    return escape(f"{value:,}" if isinstance(value, int | float) else value)
