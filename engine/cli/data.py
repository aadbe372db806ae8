"""`arbiter data`: how clean a file is, before it is taken in."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import click
import orjson
from rich.table import Table

from engine.batch.declared import FileFormat
from engine.batch.mapping import load_mapping
from engine.batch.read import open_source
from engine.cli.endings import PROBLEMS
from engine.cli.options import arbiter_command
from engine.cli.screen import Meter, output
from engine.quality.findings import SEVERITIES
from engine.quality.report import Report, as_json, as_page, examine, share_text

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "dim"}


@click.group("data")
def command() -> None:
    """Say how clean a file is."""


@arbiter_command("report", """
    arbiter data report orders.csv
    arbiter data report orders.csv --mapping mappings/orders.yaml --html report.html
    arbiter data report orders.parquet --expect orders.expect.yaml --fail-on warning --json
""")  # fmt: skip
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--mapping", type=click.Path(path_type=Path, dir_okay=False),
              help="How the file is to be read, and which rows an import would refuse (docs/import.md).")  # fmt: skip
@click.option("--expect", type=click.Path(path_type=Path, dir_okay=False),
              help="What its columns should be (docs/data.md).")  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with pictures there.")
@click.option("--json", "machine", is_flag=True, help="Print JSON.")
@click.option("--fail-on", type=click.Choice(SEVERITIES[::-1]), default="error", show_default=True,
              help="The least severity that makes the exit code 1.")  # fmt: skip
def report(
    file: str, mapping: Path | None, expect: Path | None, html: Path | None, machine: bool, fail_on: str
) -> None:  # fmt: skip
    """Find what is incomplete, invalid, repeated, inconsistent or out of time in a file.

    FILE is CSV, JSON lines or Parquet, also gzipped, or - for standard input with a mapping that tells its format.
    Nothing needs to be declared. Examples are masked: no card number, no email address, nobody's whole name.

    Exit code 1 when there are findings of the severity --fail-on or graver.
    """
    declared = load_mapping(mapping) if mapping is not None else None
    path, form = None if file == "-" else Path(file), declared.format if declared else FileFormat()
    now_us = time.time_ns() // 1000
    with tempfile.TemporaryDirectory() as made, Meter("reading") as meter:
        workdir = Path(made)
        with open_source(path, form, workdir, sys.stdin.buffer) as source:

            def told(stage: str, rows: int, bytes_done: int) -> None:
                meter(bytes_done / max(1, source.size_bytes), f"{rows:,} rows", stage)

            found = examine(source, declared, expect, workdir, now_us, told)
    if html is not None:
        html.write_text(as_page(found), encoding="utf-8")
    if machine:
        click.echo(orjson.dumps(as_json(found), option=orjson.OPT_INDENT_2))
    else:
        _show(found)
    if found.at_least(fail_on):
        raise click.exceptions.Exit(PROBLEMS)


def _show(report: Report) -> None:
    console, profile = output(), report.profile
    console.print(f"{profile.name}: {profile.rows:,} rows, {len(profile.columns)} columns", style="bold")
    if not report.findings:
        console.print("nothing found")
    for each in report.findings:
        table = Table.grid(padding=(0, 1))
        for width in (8, 18, 20):
            table.add_column(min_width=width)
        count = f"{'about ' * each.about}{each.count:,} ({share_text(each.share)})"
        table.add_row(each.severity, each.check, each.column or "whole rows", count, style=_COLOURS[each.severity])
        console.print(table)
        for line in (each.message, each.shown("; "), f"→ {each.mend}"):
            if line:
                console.print(f"         {line}", soft_wrap=True)
    totals = [(word, sum(each.severity == word for each in report.findings)) for word in reversed(SEVERITIES)]
    console.print(", ".join(f"{count} {word}{'s' * (count != 1 and word != 'info')}" for word, count in totals))


command.add_command(report)
