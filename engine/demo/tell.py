"""Says what happened to a person who sees Arbiter for the first time: colour on a terminal, plain text elsewhere."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.cli.show import COLOURS, measure_text
from engine.demo import judge
from engine.demo.analyst import Change
from engine.demo.stream import Phase
from engine.values import Action, Decision, Tier

INDENT = 3
SHOWN = 5
"""How many reasons, measures and oddities are shown; the first ones tell most."""


def chapter(console: Console, number: int, title: str) -> None:
    """The heading of one step."""
    console.print(Text(f"\n{number}  {title}", "bold cyan"))


def say(console: Console, text: str, style: str = "", indent: int = INDENT) -> None:
    """One paragraph."""
    room = textwrap.TextWrapper(console.width, initial_indent=" " * indent, subsequent_indent=" " * indent)
    console.print(Text(room.fill(text), style))


def typed(console: Console, command: str) -> None:
    """A command, as one would type it."""
    say(console, f"$ {command}", "bold")


def quoted(console: Console, text: str) -> None:
    """What a command or the server said, word for word."""
    for line in text.rstrip().splitlines():
        shown = Text(" " * (INDENT + 2) + line.rstrip(), "dim")
        console.print(shown, no_wrap=True, overflow="ignore", crop=False)


# --- single decisions ------------------------------------------------------------------------------------------------


def payment(console: Console, flat: Mapping[str, Any], decision: Decision, truth: str) -> None:
    """One payment and its decision; `truth` is said last, "" leaves it out."""
    line = Text()
    line.append(decision.action.name, f"bold {COLOURS[decision.action.name]}")
    line.append(f"  {in_words(flat)}")
    console.print()
    _put(console, line)
    verdict(console, decision)
    if truth:
        say(console, f"in truth: {truth}", "italic", INDENT + 2)


def in_words(flat: Mapping[str, Any]) -> str:
    """A payment as a shop's people would speak of it."""
    who = flat.get("user.id") or "a guest"
    by = f"{money(flat)} by {who} ({flat.get('event.market', '?')})"
    number = f"{flat['card.bin']}…{flat['card.last4']}" if "card.bin" in flat else ""
    card = f"card {number} ({flat.get('card.country', '?')})" if number else ""
    network = f"network in {flat['ip.country']}" if "ip.country" in flat else ""
    to = f"to {flat['address.city']} ({flat.get('address.country', '?')})" if "address.city" in flat else ""
    return ", ".join(part for part in (by, card, network, to) if part)


def money(flat: Mapping[str, Any]) -> str:
    """The amount with its currency; the simulated shop's all have cents."""
    return f"{flat['txn.amount_minor'] / 100:,.2f} {flat['txn.currency']}"


def verdict(console: Console, decision: Decision) -> None:
    """Tier, score, and why, for the analyst and for the shopper."""
    score = f"score {decision.score:.3f}" if decision.score is not None else "no score"
    say(console, f"tier {decision.tier.name}, {score}", COLOURS[decision.tier.name], INDENT + 2)
    table = Table.grid(padding=(0, 2, 0, 0))
    for reason in decision.reasons[:SHOWN]:
        table.add_row(Text(reason.code, "bold"), reason.analyst, Text(reason.source, "dim"))
    if not decision.reasons:
        table.add_row("nothing speaks against it")
    _put(console, table, INDENT + 2)
    if len(decision.reasons) > SHOWN:
        say(console, f"and {len(decision.reasons) - SHOWN} reasons more", "dim", INDENT + 2)
    for measure in decision.measures[:SHOWN]:
        say(console, f"measure: {measure_text(measure)}", indent=INDENT + 2)
    if customer := next((reason.customer for reason in decision.reasons if reason.customer), ""):
        say(console, f"the shopper reads: “{customer}”", indent=INDENT + 2)


def change(console: Console, happened: Change) -> None:
    """A payment's decision before and after an edit."""
    before, after = happened.before, happened.after
    line = Text("before: ")
    line.append(before.action.name, f"bold {COLOURS[before.action.name]}")
    line.append(f" by program {before.program[:12]}   after: ")
    line.append(after.action.name, f"bold {COLOURS[after.action.name]}")
    line.append(f" by program {after.program[:12]}")
    _put(console, line)


# --- tables ----------------------------------------------------------------------------------------------------------


def tiers(console: Console, lines: Sequence[judge.TierLine]) -> None:
    """Precision and recall by tier."""
    _table(console, ("tier", "payments", "fraud", "abuse", "honest", "precision", "recall"), [
        (Text(line.tier.name, COLOURS[line.tier.name]), line.fraud + line.abuse + line.good, line.fraud, line.abuse,
         line.good, *(_share(value) if line.tier > Tier.LOW else "" for value in (line.precision, line.recall)))
        for line in lines
    ])  # fmt: skip


def actions(console: Console, counted: Mapping[Action, Mapping[str, int]]) -> None:
    """What was answered, by truth."""
    _table(console, ("action", "payments", "fraud", "abuse", "honest"), [
        (Text(action.name, COLOURS[action.name]), sum(labels.values()),
         *(labels.get(label, 0) for label in ("fraud", "abuse", "good")))
        for action, labels in counted.items()
    ])  # fmt: skip


def schemes(console: Console, lines: Sequence[judge.SchemeLine]) -> None:
    """Recall by scheme; the held-out one and abuse stand apart."""
    rows: list[Sequence[RenderableType | int]] = []
    for before, line in zip([lines[0], *lines], lines, strict=False):
        if line.kind != before.kind:
            rows.append(())
        name = line.scheme.replace("_", " ") + ("" if line.kind == "fraud" else f" ({line.kind})")
        rows.append((name, line.payments, *(_of(n, line.payments) for n in (line.raised, line.high, line.held))))
    _table(console, ("scheme", "payments", "MEDIUM or HIGH", "HIGH", "held or declined"), rows)


def speeds(console: Console, phases: Mapping[str, Phase]) -> None:
    """Throughput and latency of each phase."""
    _table(console, ("phase", "calls", "of them Decide", "calls a second", "Decide p50", "Decide p99"), [
        (name, phase.sent, len(phase.decide_s), f"{phase.sent / phase.seconds:,.0f}",
         *(f"{phase.percentile_ms(share):.1f} ms" for share in (0.5, 0.99)))
        for name, phase in phases.items()
    ])  # fmt: skip
    say(console, f"Server and caller shared the {os.cpu_count()} cores of this machine.", "dim")


def oddities(found: Sequence[tuple[str, int]]) -> str:
    """What is odd about honest payments that were raised, in words."""
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in found[:SHOWN])


def _table(console: Console, names: Sequence[str], rows: Iterable[Sequence[RenderableType | int]]) -> None:
    """A table between two blank lines; an empty row is a line."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if table.columns else "left")
    for row in rows:
        if row:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row))
        else:
            table.add_section()
    console.print()
    _put(console, table)
    console.print()


def _put(console: Console, what: RenderableType, indent: int = INDENT) -> None:
    """Print with a margin, and without blanks to the right."""
    console.print(Padding(what, (0, 0, 0, indent), expand=False))


def _of(part: int, whole: int) -> str:
    return f"{part:,} ({_share(part / whole)})" if whole else "–"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
