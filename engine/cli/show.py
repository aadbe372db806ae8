"""A decision as a person reads it: what, why, what almost, from which numbers, how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from engine.explanation import Condition, EntityView, Explanation, FeatureView, RuleView, moment
from engine.flips import Flip
from engine.policy.rules import Outcome
from engine.values import Decision, Measure, Reason, Result

COLOURS = {
    "ALLOW": "green", "CHALLENGE": "yellow", "REVIEW": "dark_orange", "DECLINE": "red",
    "LOW": "green", "MEDIUM": "yellow", "HIGH": "red",
    "true": "green", "false": "red", "unknown": "magenta", "error": "magenta",
}  # fmt: skip


def show(explanation: Explanation, console: Console, *, misses: bool = False) -> None:
    """Print a whole explanation."""
    decision = explanation.decision
    _headline(explanation, console)
    _why(decision, explanation.score_reasons, console)
    groups = {
        "Rules that hit": [view for view in explanation.rules if view.result is Result.HIT],
        "Missed by one condition": [view for view in explanation.rules if view.near],
        "Could not be known": [view for view in explanation.rules if view.result is Result.UNKNOWN],
        "Failed": [view for view in explanation.rules if view.result is Result.ERROR],
    }
    if misses:
        groups["Missed"] = [view for view in explanation.rules if view.result is Result.MISS and not view.near]
    for title, views in groups.items():
        _rules(title, views, len(explanation.rules), console)
    _flips(explanation.flips, console)
    _features(explanation, console)
    _end(explanation, console)


def _headline(explanation: Explanation, console: Console) -> None:
    decision = explanation.decision
    line = Text()
    line.append(decision.action.name, f"bold {COLOURS[decision.action.name]}")
    line.append(f"  tier {decision.tier.name}", COLOURS[decision.tier.name])
    line.append(f"  score {decision.score:.4f}" if decision.score is not None else "  no score")
    line.append(f"  {explanation.kind} {decision.id} at {moment(explanation.event_us)}", "dim")
    console.print(line)
    for label, names in (("degraded", decision.degraded), ("flags", decision.flags), ("signals", decision.signals)):
        if names:
            console.print(f"  {label}: {', '.join(names)}", style="magenta" if label == "degraded" else None)


def _why(decision: Decision, score_reasons: Iterable[Reason], console: Console) -> None:
    console.print("\nWhy", style="bold")
    table = _grid(4)
    for reason in decision.reasons:
        table.add_row("", reason.code, reason.analyst, Text(reason.source, "dim"))
    if decision.reasons:
        console.print(table)
    else:
        console.print("  nothing speaks against it")
    for reason in score_reasons:
        console.print(f"  {reason.code}  {reason.analyst}  {reason.source}", style="dim")
    for one in decision.lowered:
        until = f" until {moment(one.until_us)}" if one.until_us else ""
        gone = ", ".join(one.cancelled)
        console.print(
            f"  {one.kind} {one.id} of {one.author}{until} cancels {gone}; else {one.tier.name} {one.action.name}"
        )
    for measure in decision.measures:
        console.print(f"  measure {measure_text(measure)}")
    if decision.user_risk is not None:
        risk = decision.user_risk
        because = f" ({', '.join(risk.reasons)})" if risk.reasons else ""
        since = f" since {moment(risk.since_us)}" if risk.since_us else ""
        console.print(f"  the person stands at {risk.tier.name}{because}{since}")


def measure_text(measure: Measure) -> str:
    """A measure in a few words."""
    parameters = "".join(f" {name} {value}" for name, value in measure.parameters.items())
    until = f" until {moment(measure.until_us)}" if measure.until_us else ""
    return f"{measure.kind}{parameters}{until} from {measure.source}"


def _rules(title: str, views: Iterable[RuleView], total: int, console: Console) -> None:
    shown = list(views)
    if not shown:
        return
    console.print(f"\n{title} ({len(shown)} of {total} rules)", style="bold")
    for view in shown:
        line = Text(f"  {view.rule.id}", "bold")
        line.append(f"  {gives(view.rule.outcome)}" + ("" if view.enforced else ", observed only"), "not bold")
        line.append(f"  {view.rule.place}", "not bold dim")
        console.print(line)
        console.print(f"    {view.rule.reason.code} {view.rule.reason.analyst}")
        table = _grid(4)
        for condition in view.conditions:
            table.add_row(
                "   ", Text(condition.result, COLOURS[condition.result]), condition.text, Text(saw(condition), "dim")
            )
        console.print(table)


def gives(outcome: Outcome) -> str:
    """What a hit states."""
    words = [part.name for part in (outcome.tier, outcome.action) if part] + [m.kind for m in outcome.measures]
    return " ".join(words)


def saw(condition: Condition) -> str:
    """The values that a condition read, as `name = value`."""
    seen = [f"{name} = {'missing' if value is None else plain(value)}" for name, value in condition.inputs.items()]
    return ", ".join([*seen, *([condition.note] if condition.note else [])])


def _flips(flips: Iterable[Flip], console: Console) -> None:
    if flips:
        console.print("\nIt would have been", style="bold")
    for flip in flips:
        line = Text("  ")
        line.append(flip.action.name, COLOURS[flip.action.name])
        line.append(f" if {flip.condition}")
        line.append(f"  (it is {plain(flip.value)})", "dim")
        console.print(line)


def _features(explanation: Explanation, console: Console) -> None:
    console.print("\nFeatures", style="bold")
    groups: dict[str, list[FeatureView]] = {}
    for feature in explanation.features:
        groups.setdefault(feature.name.partition(".")[0], []).append(feature)
    for group, features in groups.items():
        view = explanation.entities.get(group)
        console.print(f"  {group}{_known(view)}")
        if view is not None and not view.named:
            continue
        table = _grid(4, right=(2,))
        for feature in features:
            if feature.value is not None:
                value = quantity(feature, explanation.currency)
                table.add_row("   ", feature.name, value, Text(feature.meaning, "dim"))
        console.print(table)
        unknown = [feature.name.removeprefix(f"{group}.") for feature in features if feature.value is None]
        if unknown:
            console.print(Padding(Text(f"not known: {', '.join(unknown)}", "dim"), (0, 0, 0, 5)))


def _known(view: EntityView | None) -> str:
    if view is None:
        return ""
    if not view.named:
        return ": not named by this event"
    if view.events is None:
        return ""
    since = f", first seen {moment(view.first_us)}" if view.first_us else ", never seen before"
    return f"{since}, {view.events:,} events kept"


def quantity(feature: FeatureView, currency: str) -> str:
    """A value with its unit, such as `12.40 EUR`, `3 events`, `40.0 %`; `≥` when older events are no longer kept."""
    value, unit = feature.value, feature.unit
    if unit == "share" and isinstance(value, int | float):
        text = f"{100 * value:.1f} %"
    elif unit == "money" and isinstance(value, int | float):
        text = f"{value:,.2f} {currency}"
    else:
        text = plain(value) if unit in {"text", "yes-no"} else f"{plain(value)} {unit}"
    return f"≥ {text}" if feature.truncated else text


def plain(value: Any) -> str:
    """A value of a row in words: whole numbers grouped, others with what matters of them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(plain(part) for part in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {plain(part)}" for name, part in value.items()) + "}"
    return f'"{value}"'


def _end(explanation: Explanation, console: Console) -> None:
    stages, decision = explanation.stages_s, explanation.decision
    if stages:
        console.print("\nTime", style="bold")
        told = [f"{stage} {seconds * 1e6:,.0f}" for stage, seconds in stages.items()]
        console.print("  " + " · ".join(told) + f" · in all {sum(stages.values()) * 1e6:,.0f} µs")
    kept = "nothing was stored or counted" if decision.dry_run else f"decided at {moment(decision.decided_us)}"
    console.print(f"\nprogram {decision.program}; {kept}", style="dim")


def _grid(columns: int, right: tuple[int, ...] = ()) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for index in range(columns):
        table.add_column(justify="right" if index in right else "left", overflow="fold")
    return table
