"""`arbiter report`: what happened, on a page for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import orjson

from engine.bootstrap import looking_back, open_activations, open_programs
from engine.cli.endings import BAD_INPUT, CANNOT_RUN, PROBLEMS, Ended
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import Meter
from engine.history.compare import moment
from engine.history.ledger import Window, rates_of, read_ledger
from engine.history.money import money_text
from engine.history.pages import number, risk_page, share
from engine.history.risk import EARLIER_US, Book, rates, risk_report
from engine.history.schemes import DEFAULTS, read_schemes
from engine.language import parse_timestamp_us
from engine.page import Page

DEFAULT_US = 91 * 86_400_000_000
"""What a report covers if nobody says: thirteen weeks."""


class Moment(click.ParamType[int]):
    """A day such as 2026-11-01 (its midnight in UTC), or a time with a zone, as µs."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Microseconds since 1970."""
        text = str(value)
        found = value if isinstance(value, int) else parse_timestamp_us(f"{text}T00:00Z" if len(text) == 10 else text)
        if found is None:
            self.fail(f"{value!r} is neither a day such as 2026-11-01 nor a time such as 2026-11-01T14:00Z", param, ctx)
        return found


def period_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--from`, `--to` and `--as-of`."""
    for names, text in (
        (["--as-of", "as_of_us"], "Labels as they were known then.  [default: all that is known]"),
        (["--to", "to_us"], "Payments before this day or time.  [default: now]"),
        (["--from", "from_us"], "Payments from this day or time on.  [default: 13 weeks before --to]"),
    ):
        function = click.option(*names, type=Moment(), metavar="TIME", help=text)(function)
    return function


def window_of(from_us: int | None, to_us: int | None) -> Window:
    """The period; Ended when it goes backwards."""
    to_us = to_us or time.time_ns() // 1000
    window = Window(to_us - DEFAULT_US if from_us is None else from_us, to_us)
    if window.from_us >= window.to_us:
        both = f"--from {moment(window.from_us)} is not before --to {moment(to_us)}"
        raise Ended(f"{both}; the first names the beginning, the second the end", BAD_INPUT)
    return window


def hand_over(
    document: Mapping[str, Any], page: Callable[[Mapping[str, Any]], Page], html: Path | None, *, machine: bool
) -> None:
    """Write the page where it is wanted, whole or not at all, and print the document if a machine reads."""
    try:
        if html is not None:
            page(document).write(html)
    except OSError as error:
        assert html is not None
        why = error.strerror or str(error)
        raise Ended(f"{html} can't be written: {why}; what was there before is as it was", CANNOT_RUN) from error
    if machine:
        click.echo(orjson.dumps(document, default=list, option=orjson.OPT_INDENT_2))


@click.group("report")
def command() -> None:
    """What happened: fraud, loss and what stopped it."""


@arbiter_command("risk", """
    arbiter report risk --html risk.html
    arbiter report risk --from 2026-07-01 --to 2026-10-01 --html q3.html
    arbiter report risk --from 2026-07-01 --limits limits.yaml --json
""")  # fmt: skip
@period_options
@click.option("--limits", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Limits of the card schemes (docs/risk_report.md).  [default: those published]")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page there.")
@click.option("--json", "machine", is_flag=True, help="Print JSON.")
@place_options
def risk(
    from_us: int | None, to_us: int | None, as_of_us: int | None, limits: Path | None, html: Path | None,
    machine: bool, folder: Path, **flags: Any,
) -> None:  # fmt: skip
    """Fraud, loss and what stopped it, by week, market and scheme, from the journal.

    Every number can be recounted from the journal's records (docs/risk_report.md says how).

    Exit code 1 when a scheme's limit is exceeded, or when days of the period are missing in the journal.
    """
    window, schemes, settings = window_of(from_us, to_us), read_schemes(limits or DEFAULTS), settings_of(folder, flags)
    with looking_back(settings) as past, Meter("reading the journal") as meter:
        policy = open_activations(settings, past.journal, with_models=False).current().policy.settings
        ledger = read_ledger(
            past.journal, rates_of(open_programs(settings, past.journal)), window,
            lambda done, count: meter(done, f"{count:,} records"), EARLIER_US,
        )  # fmt: skip
    if not len(ledger.decisions):
        when = f"from {moment(window.from_us)} to {moment(window.to_us)}"
        raise Ended(f"the journal holds no payment {when}; name another time with --from and --to", BAD_INPUT)
    book = Book.of(ledger, frozenset(policy.fraud_outcomes), policy.mature_after_us, as_of_us or ledger.last_us)
    document = risk_report(book, schemes)
    hand_over(document, risk_page, html, machine=machine)
    if not machine:
        _show(document)
    if document["partial"] or any(month["exceeded"] for month in document["months"]):
        raise click.exceptions.Exit(PROBLEMS)


def _show(document: Mapping[str, Any]) -> None:
    total, found, currency = document["total"], rates(document["total"]), document["currency"]
    immature = sum(not week["mature"] for week in document["weeks"])
    click.echo(
        f"{moment(document['from_us'])[:10]} to {moment(document['to_us'])[:10]}: {total['payments']:,} payments, "
        f"{total['approved']:,} approved for {money_text(total['approved_micro'], currency)}\n"
        f"  fraud      {total['fraud']:,} ({share(found['fraud_rate'])}), {money_text(total['loss_micro'], currency)}, "
        f"{number(found['loss_bps'])} basis points\n"
        f"  caught     {total['caught']:,} ({share(found['caught_share'])} of known fraud), "
        f"{money_text(total['caught_micro'], currency)}\n"
        f"  good       {share(found['false_positive_rate'])} of {total['good']:,} challenged, reviewed or declined\n"
        f"  not known  {total['unseen']:,} were stopped, and nobody told what they were\n"
        f"  immature   {immature} of {len(document['weeks'])} weeks"
    )
    for month in document["months"]:
        for name in month["exceeded"]:
            click.echo(f"  {month['scheme']} {month['month']}: {name} is exceeded")
    for remark in (*document["partial"], *document["remarks"]):
        click.echo(f"  {remark}")


command.add_command(risk)
