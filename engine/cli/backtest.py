"""`arbiter backtest`."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from engine.batch.mapping import load_mapping
from engine.bootstrap import looking_back, open_program, open_programs
from engine.cli.endings import BAD_INPUT, PROBLEMS, Ended
from engine.cli.options import Share, arbiter_command, place_options, settings_of
from engine.cli.report import hand_over, period_options, window_of
from engine.cli.screen import Meter
from engine.hindsight import Hindsight
from engine.history import backtest
from engine.history.compare import Assumptions, moment
from engine.history.ledger import NOT_TOLD, Window, rates_of, read_ledger
from engine.history.money import MICRO
from engine.history.pages import backtest_page
from engine.loader import load_fitting
from engine.policy.bundle import laid_out
from engine.program import Program
from engine.rescore.decide import Decider, Then
from engine.settings import Settings

LIVE = "live"
CLOSED = (
    "Closed loop: what the draft declines is no spend, has no issuer's answer and no chargeback; what it lets through "
    "although it was declined stays pending."
)


@arbiter_command("backtest", """
    arbiter backtest --policy ../draft/rules --from 2026-07-01 --to 2026-10-01 --html draft.html
    arbiter backtest --policy live --model payment/2 --from 2026-10-01 --html model.html
    arbiter backtest payments.parquet --mapping mappings/payments.yaml --policy rules --html rules.html
""")  # fmt: skip
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--policy",
    default=LIVE,
    show_default=True,
    help="The draft: a folder; for a journal also a bundle's digest, or `live`.",
)
@click.option("--model", metavar="NAME/VERSION", help="Model that scores payments instead of the draft's.")
@click.option("--mapping", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What the columns of FILE mean (docs/import.md).")  # fmt: skip
@click.option("--against", help="For a FILE: folder of the policy to compare with.  [default: let all through]")
@period_options
@click.option("--stored", is_flag=True, help="Take features from the records instead of counting them from events.")
@click.option("--open-loop", is_flag=True, help="Leave out the closed loop, which counts features several times.")
@click.option("--review-minutes", type=click.FloatRange(0), default=6.0, show_default=True, help="What a review takes.")
@click.option("--margin", type=Share(), default=0.1, show_default="10%", help="What is lost of a good order declined.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there.")
@click.option("--json", "machine", is_flag=True, help="Print JSON.")
@click.option("--expect-same", is_flag=True, help="Exit with 1 when anything differs from what was live.")
@place_options
def command(
    file: Path | None, policy: str, model: str | None, html: Path | None, machine: bool, expect_same: bool,
    folder: Path, **given: Any,
) -> None:  # fmt: skip
    """What a draft would have done, in money, before it goes live: of a policy or a model.

    Decisions of the journal, or payments of FILE, are made again with velocities, lists, rates and outcomes as they
    were known then, and laid beside what was live. Nothing is stored, counted or changed.

    Exit code 1 when the report is partial: days are missing, rows could not be decided, the closed loop did not end.
    """
    flags = {name: given.pop(name) for name in ("state", "rules", "models")}
    settings = settings_of(folder, flags, policy=False)
    if (file is None) != (given["mapping"] is None):
        raise Ended("FILE and --mapping come together; without them the journal is read", BAD_INPUT)
    if file is None and given["against"]:
        raise Ended("--against is for a FILE; a journal's decisions are compared with what was live", BAD_INPUT)
    window = window_of(given.pop("from_us"), given.pop("to_us")) if file is None else _all_of(given)
    document = (_of_journal if file is None else _of_file)(settings, file, policy, model, window, given)
    hand_over(document, backtest_page, html, machine=machine)
    if not machine:
        _show(document)
    if document["partial"] or (expect_same and any(document["differences"].values())):
        raise click.exceptions.Exit(PROBLEMS)


def _all_of(given: dict[str, Any]) -> Window:
    from_us, to_us = given.pop("from_us"), given.pop("to_us")
    return window_of(0 if from_us is None else from_us, to_us)


def _program(
    settings: Settings, policy: str, model: str | None, then: Then, past: Hindsight | None, window: Window
) -> tuple[Program, list[str]]:
    """The program that is meant, whose lists are asked as of `then`, and what to know of them."""
    with ExitStack() as stack:
        folder = Path(policy)
        if not folder.is_dir():
            if past is None:
                raise Ended(f"{policy!r} is no folder; name one with --policy", BAD_INPUT)
            folder = stack.enter_context(laid_out(past.bundle(None if policy == LIVE else policy).files))
        program = open_program(settings.model_copy(update={"rules": folder}), clock=then)
        remarks = _hindsight_of(folder, window)
    if model is not None:
        fitting = load_fitting(model, "payment", program.feature_set, settings.models)
        program = replace(program, models={**program.models, "payment": fitting})
    return program, remarks


def _hindsight_of(folder: Path, window: Window) -> list[str]:
    """Entries of lists end as of each payment, but have no beginning: those that were added later are told."""
    day, late = moment(window.from_us)[:10], 0
    for path in (folder / "lists").glob("*.csv") if window.from_us else ():
        with path.open(newline="", encoding="utf-8-sig") as rows:
            late += sum((row.get("added") or "") > day for row in csv.DictReader(rows))
    return [f"{late:,} entries of lists were added after {day}; they count from the beginning."] if late else []


def _of_journal(
    settings: Settings, _: Path | None, policy: str, model: str | None, window: Window, given: Mapping[str, Any]
) -> Mapping[str, Any]:
    then = Then()
    with looking_back(settings) as past, Meter("reading the journal") as meter:
        draft, notes = _program(settings, policy, model, then, past, window)

        def told(what: str, count: int) -> None:
            meter(None, f"{count:,} {what}", "counting anew")

        programs = open_programs(settings, past.journal)
        ledger = read_ledger(
            past.journal, rates_of(programs), window, lambda share, count: meter(share, f"{count:,} records"),
            decided=True,
        )  # fmt: skip
        if not len(ledger.decisions):
            when = f"from {moment(window.from_us)} to {moment(window.to_us)}"
            raise Ended(f"no payment was decided {when}; {_spoken_of(past)}", BAD_INPUT)
        rules, as_of_us = draft.policy.settings, given["as_of_us"] or ledger.last_us
        ground = backtest.ground_of(ledger, frozenset(rules.fraud_outcomes), rules.mature_after_us, as_of_us)
        again = partial(backtest.redecided, past, draft, then, ledger, given["stored"], told)
        first = again()
        side, lacking = ground.side("draft, open loop", first)
        sides, missing = [side], ledger.gaps()
        if lacking:
            missing.append(f"{lacking:,} decisions could not be made again; they stand as they were")
        if not given["open_loop"] and not given["stored"]:
            decided, passes, moved = backtest.closed_loop(again, first, ground.declined_live())
            sides.append(ground.side("draft, closed loop", decided)[0])
            if moved:
                missing.append(f"the closed loop did not settle: {moved:,} declines still moved in pass {passes}")
        digests = [digest for digest in ledger.texts("program").tolist() if digest != NOT_TOLD]
        counted = "those of the records" if given["stored"] else "counted anew from the events of the journal"
        return backtest.document(
            ground, sides, (draft, programs(digests[-1])), Assumptions(given["review_minutes"], given["margin"]),
            draft=policy if model is None else f"{policy} with {model}", against="what was live",
            currency=ledger.currency, from_us=window.from_us, to_us=window.to_us, partial=missing, remarks=[
                "Open loop: what was declined, approved and known of earlier payments is as it was.",
                CLOSED if len(sides) > 1 else "The closed loop was left out.",
                f"Features: {counted}; how persons stood, and which patterns were complete, as recorded.",
                *notes, *ledger.remarks(),
            ],
        )  # fmt: skip


def _spoken_of(past: Any) -> str:
    times = [stored.record.event_us for stored in past.since(0)]
    return f"it holds decisions from {moment(min(times))} to {moment(max(times))}" if times else "it holds none at all"


def _of_file(
    settings: Settings, file: Path | None, policy: str, model: str | None, window: Window, given: Mapping[str, Any]
) -> Mapping[str, Any]:
    assert file is not None
    then, mapping, live, live_program = Then(), load_mapping(given["mapping"]), None, None
    with Meter("computing features") as meter, tempfile.TemporaryDirectory() as scratch:
        draft, notes = _program(settings, policy, model, then, None, window)
        away = Path(f"{file.name}.quarantine.jsonl")

        def told(done: float, rows: int) -> None:
            meter(done, f"{rows:,} rows")

        table, history, bad = backtest.file_table(draft, file, mapping, Path(scratch), away, told)
        if given["against"]:
            live_program, _ = _program(settings, given["against"], None, then, None, window)
            same = live_program.feature_set.digest == draft.feature_set.digest
            seen = table if same else backtest.file_table(live_program, file, mapping, Path(scratch), away, told)[0]
            live = pa.concat_tables(Decider(live_program, then=then).decide_rows([seen]))
        meter(None, f"{len(table):,} rows", "deciding")
        decided = pa.concat_tables(Decider(draft, then=then).decide_rows([table]))
        rules = draft.policy.settings
        ground, rows = backtest.file_ground(
            table, history, live, window, frozenset(rules.fraud_outcomes), rules.mature_after_us, given["as_of_us"]
        )  # fmt: skip
        if not len(rows):
            raise Ended(f"{file} holds no payment in that time", BAD_INPUT)
        side, _ = ground.side("draft", decided.take(rows))
        meter(None, f"{len(table):,} rows", "measuring")
        times = ground.payments.time_us
        return backtest.document(
            ground, [side], (draft, live_program), Assumptions(given["review_minutes"], given["margin"]),
            draft=policy if model is None else f"{policy} with {model}",
            against=given["against"] or "letting all of them through", currency=rules.base_currency,
            from_us=int(times.min()), to_us=int(times.max()) + 1,
            partial=[f"{bad:,} bad rows were left out; {away} says why"] if bad else [],
            remarks=[
                "Open loop: earlier payments count as the file tells them; only a journal has a closed loop.", *notes,
            ],
        )  # fmt: skip


def _show(document: Mapping[str, Any]) -> None:
    currency, before = document["currency"], document["live"]
    click.echo(f"{document['payments']:,} payments, {document['draft']} beside {document['against']}")
    for side in document["sides"]:
        click.echo(f"  {side['name']}: {side['changed']:,} with another tier or action")
        for name, words in (("fraud_stopped", "fraud stopped"), ("good_hurt", "good orders hurt")):
            count, paid = side[name], [value / MICRO for value in side[f"{name}_micro"]]
            click.echo(
                f"    {words:17} {count[0]:+,.0f} ({count[1]:+,.0f} to {count[2]:+,.0f}), "
                f"{paid[0]:+,.2f} {currency} ({paid[1]:+,.2f} to {paid[2]:+,.2f})"
            )
        click.echo(f"    {'review hours':17} {before['review_hours']:,.1f} → {side['review_hours']:,.1f}")
    immature = sum(not week["mature"] for week in document["weeks"])
    click.echo(f"  immature: {immature} of {len(document['weeks'])} weeks")
    for remark in document["partial"]:
        click.echo(f"  partial: {remark}")
