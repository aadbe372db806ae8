"""`arbiter review`: the review desk from a terminal."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from engine.bootstrap import at_the_desk
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import output
from engine.cli.show import COLOURS
from engine.explanation import moment
from engine.language import parse_duration_us
from engine.review.desk import OUTCOME_OF, CaseView, Desk
from engine.schema import FIELDS
from engine.values import Action, ReviewCase

STATES = ("open", "waiting", "taken", "decided")
case_argument = click.argument("case")
by_option = click.option("--by", default=getpass.getuser, help="Who; the system's user if it is not said.")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON with stable keys.")


@click.group("review")
def command() -> None:
    """The review desk: what people are to look at, and what they decided."""


def _at_desk(name: str, examples: str, *options: Callable[[Any], Any]) -> Callable[[Any], click.Command]:
    """Declare a command that works at the desk of a folder."""

    def declared(function: Any) -> click.Command:
        @wraps(function)
        def run(folder: Path, state: str, rules: str, models: str, **given: Any) -> None:
            settings = settings_of(folder, {"state": state, "rules": rules, "models": models})
            with at_the_desk(settings) as desk:
                function(desk, **given)

        for option in reversed(options):
            run = option(run)
        made = arbiter_command(name, examples)(place_options(run))
        command.add_command(made)
        return made

    return declared


@_at_desk("list", """
    arbiter review list
    arbiter review list decided --limit 10
""", click.argument("which", type=click.Choice(STATES), default="open"),
   click.option("--limit", default=20, show_default=True, help="At most so many, up to 500."), json_option)  # fmt: skip
def list_command(desk: Desk, which: str, limit: int, as_json: bool) -> None:
    """List cases: first what should be looked at first, of decided ones the newest."""
    cases, more = desk.cases(which, limit)
    if as_json:
        _write([_document(case, desk.now_us()) for case in cases])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("case", "priority", "loss", "due", "who"):
        table.add_column(name, justify="right" if name in {"priority", "loss"} else "left")
    for case in cases:
        priority = case.priority(desk.now_us())
        shown = "" if case.action else f"{priority:,.2f}" if priority < 1e6 else f"{priority:.0e}"
        loss = f"{case.loss:,.2f} {case.currency}"
        table.add_row(case.id, shown, loss, moment(case.due_us), _who(case, desk.now_us()))
    output().print(table if cases else f"no case is {which}")
    if more:
        output().print(f"and more; --limit shows more than {limit}", style="dim")


@_at_desk("show", """
    arbiter review show pay-8841
    arbiter review show pay-8841 --json | jq .related
""", case_argument, by_option, json_option)  # fmt: skip
def show_command(desk: Desk, case: str, by: str, as_json: bool) -> None:
    """Show a case: event, reasons, what was done with it, and what shares its card, device, mail, address or user.

    That you looked, and at what, is kept. `arbiter explain CASE` tells more of the decision.
    """
    view = asyncio.run(desk.view(case, by))
    if not as_json:
        _show(view, desk.now_us(), output())
        return
    related = [
        {"id": one.event.id, "kind": one.event.kind, "time": moment(one.event.time_us), "shares": one.shares,
         "action": one.action.name, "outcomes": one.outcomes} for one in view.related
    ]  # fmt: skip
    told = {"event": _fields(view), "reasons": view.decision.reasons, "steps": view.steps, "outcomes": view.outcomes}
    _write(_document(view.case, desk.now_us()) | told | {"related": related})


@_at_desk("take", """
    arbiter review take
    arbiter review take pay-8841 --by ann
""", click.argument("case", default=""), by_option)  # fmt: skip
def take_command(desk: Desk, case: str, by: str) -> None:
    """Take a case, or the one that should be looked at first. Nobody else can take it until the lease ends."""
    taken = asyncio.run(desk.take(by, case))
    click.echo(f"{taken.id} is yours until {moment(taken.held_us)}; arbiter review show {taken.id}")


@_at_desk("decide", """
    arbiter review decide pay-8841 allow --reason "known customer, moved house"
    arbiter review decide pay-8841 decline --finding unsure --reason "can't be reached, goods go out today"
""", case_argument, click.argument("action", type=click.Choice(["allow", "decline"])),
   click.option("--reason", required=True, help="Why; it is kept for good, and sent to the checkout."),
   click.option("--finding", type=click.Choice(list(OUTCOME_OF)),
                help="What it says about the event: else allowed is good, declined is fraud."), by_option)  # fmt: skip
def decide_command(desk: Desk, case: str, action: str, reason: str, finding: str | None, by: str) -> None:
    """Say what is to be done. The checkout hears of it, and it becomes an outcome of the event; it is final."""
    decided = asyncio.run(desk.decide(by, case, Action[action.upper()], reason, finding or ""))
    click.echo(f"{decided.id}: {decided.action.name} by {decided.decided_by} at {moment(decided.decided_us)}")


@_at_desk("release", "arbiter review release pay-8841", case_argument, by_option)
def release_command(desk: Desk, case: str, by: str) -> None:
    """Give a case back."""
    asyncio.run(desk.release(by, case))
    click.echo(f"{case} waits again")


@_at_desk("note", 'arbiter review note pay-8841 "called, no answer"', case_argument, click.argument("text"), by_option)
def note_command(desk: Desk, case: str, text: str, by: str) -> None:
    """Write something down about a case."""
    noted = asyncio.run(desk.note(by, case, text))
    click.echo(f"{case} has {noted.notes} note{'' if noted.notes == 1 else 's'}")


@_at_desk("stats", "arbiter review stats --since 7d",
          click.option("--since", default="24h", show_default=True, help="How far back decided cases are counted."),
          json_option)  # fmt: skip
def stats_command(desk: Desk, since: str, as_json: bool) -> None:
    """Say how the desk is doing."""
    span_us, now_us = parse_duration_us(since), desk.now_us()
    if not span_us:
        raise click.BadParameter(f"{since!r} is not a duration such as 24h or 7d", param_hint="--since")
    figures = desk.figures(now_us - span_us)
    if as_json:
        _write(asdict(figures))
        return
    oldest = (
        f", the oldest since {timedelta(seconds=(now_us - figures.oldest_us) // 10**6)}" if figures.oldest_us else ""
    )
    click.echo(f"{figures.waiting} waiting, {figures.taken} taken, {figures.overdue} overdue{oldest}")
    click.echo(f"expected loss {figures.loss:,.2f}")
    for name, allowed, declined, minutes in figures.reviewers:
        click.echo(f"{name}: {allowed} allowed, {declined} declined, half of them within {minutes:.1f} minutes")


def _show(view: CaseView, now_us: int, console: Console) -> None:
    case, decision = view.case, view.decision
    score = "no score" if decision.score is None else f"score {decision.score:.4f}"
    console.print(f"{case.id}  {_who(case, now_us) or 'waits'}", style="bold")
    due = f"expected loss {case.loss:,.2f} {case.currency}, due {moment(case.due_us)}"
    console.print(f"  {view.event.kind} at {moment(view.event.time_us)}, {score}, {due}")
    for reason in decision.reasons:
        console.print(f"  {reason.code}  {reason.analyst}  {reason.source}")
    if view.outcomes:
        console.print(f"  known since: {', '.join(view.outcomes)}", style="bold")
    for name, value in sorted(_fields(view).items()):
        console.print(f"    {name:<20} {value}")
    for step in view.steps:
        console.print(f"  {moment(step.at_us)}  {step.by} {step.what}  {step.text}".rstrip(), style="dim")
    console.print(f"{len(view.related)} related" if view.related else "nothing is related", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in view.related:
        action = one.action.name if one.action else ""
        told = (one.event.kind, ", ".join(one.shares), action, ", ".join(one.outcomes))
        table.add_row(f"  {moment(one.event.time_us)}", one.event.id, *told, style=COLOURS.get(action))
    console.print(table)


def _fields(view: CaseView) -> dict[str, Any]:
    return {
        name: moment(value) if FIELDS[name].type == "timestamp" else value for name, value in view.event.fields.items()
    }


def _who(case: ReviewCase, now_us: int) -> str:
    if case.action:
        return f"{case.action.name} by {case.decided_by} at {moment(case.decided_us)}"
    return f"{case.holder} until {moment(case.held_us)}" if case.held(now_us) else ""


def _document(case: ReviewCase, now_us: int) -> dict[str, Any]:
    named = {"action": case.action.name if case.action else None, "timeout_action": case.timeout_action.name}
    return asdict(case) | named | {"priority": case.priority(now_us)}


def _write(found: Any) -> None:
    sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
