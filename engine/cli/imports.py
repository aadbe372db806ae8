"""`arbiter import`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from engine.batch.declared import Mapping
from engine.batch.documents import EVENTS, OUTCOMES
from engine.batch.load import Progress, Summary, load
from engine.batch.mapping import load_mapping
from engine.bootstrap import open_program, open_stores
from engine.cli.endings import PROBLEMS, Ended
from engine.cli.options import Share, arbiter_command, place_options, settings_of
from engine.cli.screen import Meter, output
from engine.errors import MappingError
from engine.settings import Settings
from engine.sink import ImportSink

KINDS = {"events": EVENTS, "outcomes": OUTCOMES}
SHOWN_REASONS = 8


@arbiter_command("import", """
    arbiter import orders.csv --mapping mappings/orders.yaml
    arbiter import history/events.jsonl
    arbiter import history/outcomes.jsonl --kind outcomes
    arbiter import disputes.csv --kind outcomes --mapping mappings/disputes.yaml
    zcat orders.csv.gz | arbiter import - --mapping orders.yaml --max-bad 1%
""")  # fmt: skip
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--mapping", type=click.Path(path_type=Path, dir_okay=False),
              help="What the columns mean (docs/import.md); without it each line is a document of --kind.")  # fmt: skip
@click.option(
    "--kind", type=click.Choice(list(KINDS)), help="What the lines of a file without a mapping are.  [default: events]"
)
@click.option("--max-bad", type=Share(), default=0.05, show_default="5%", help="Share of bad rows that is let pass.")
@click.option("--quarantine", type=click.Path(path_type=Path, dir_okay=False),
              help="Where bad rows are noted.  [default: NAME.quarantine.jsonl here]")  # fmt: skip
@place_options
def command(
    file: str, mapping: Path | None, kind: str | None, max_bad: float, quarantine: Path | None, folder: Path,
    **flags: Any,
) -> None:  # fmt: skip
    """Take in a history from a file.

    FILE is CSV, JSON lines, Parquet or item sequences, also gzipped, or - for standard input. Rows become events with
    the help of a mapping; event documents, such as `arbiter simulate` writes, need none. Bad rows are noted with line,
    field and reason. An interrupted import is simply started again; what is known already changes nothing.

    Exit code 1 when it stopped half way because too many rows were bad, or when ids were known with another body.
    """
    settings = settings_of(folder, flags)
    declared = load_mapping(mapping) if mapping is not None else KINDS[kind or "events"]
    if kind not in (None, declared.produces):
        raise click.UsageError(f"the mapping {mapping} produces {declared.produces}, not {kind}; leave out --kind")
    away = quarantine or Path(f"{'stdin' if file == '-' else Path(file).name}.quarantine.jsonl")
    began_s = time.monotonic()
    summary = _import(None if file == "-" else Path(file), declared, settings, away, max_bad)
    _show(summary, time.monotonic() - began_s)
    if summary.conflicts:
        raise click.exceptions.Exit(PROBLEMS)


def _import(path: Path | None, mapping: Mapping, settings: Settings, away: Path, max_bad: float) -> Summary:
    with Meter("opening the stores") as meter:
        told = _Told(meter)
        with opened(settings) as sink:
            try:
                return load(
                    path, mapping, _Announcing(sink, meter), workdir=settings.state, quarantine=away,
                    now_us=time.time_ns() // 1000, max_bad=max_bad, progress=told, stdin=sys.stdin.buffer,
                )  # fmt: skip
            except MappingError as problem:
                if not told.rows:
                    raise
                raise Ended(str(problem), PROBLEMS) from problem


@contextmanager
def opened(settings: Settings) -> Iterator[ImportSink]:
    """A sink over the folder's stores."""
    program = open_program(settings, with_models=False)
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    try:
        with closing(ImportSink(program, profiles, journal, settings.state)) as sink:
            yield sink
    finally:
        asyncio.run(profiles.close())
        asyncio.run(journal.close())


class _Told:
    """Hands progress on, and remembers whether rows were read."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self.rows = meter, 0

    def __call__(self, progress: Progress) -> None:
        self.rows = progress.rows
        done, total = progress.bytes_done, progress.bytes_total
        if progress.stage == "writing":
            done, total = progress.rows, progress.rows_total or 0
        self._meter(done / total if total else None, f"{progress.rows:,} rows", progress.stage)


class _Announcing:
    """The sink, telling when it begins the last step, which may be long."""

    def __init__(self, sink: ImportSink, meter: Meter) -> None:
        self._sink, self._meter = sink, meter
        self.position, self.write = sink.position, sink.write

    def finish(self) -> None:
        """Merge into profiles."""
        self._meter(None, "", "merging into profiles")
        self._sink.finish()


def _show(summary: Summary, seconds: float) -> None:
    console, table = output(), Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    rows: list[tuple[str, int, str]] = [
        ("rows read", summary.rows, f"in {seconds:,.1f} s, {summary.rows / max(seconds, 1e-9):,.0f} a second"),
        ("events and outcomes taken in", summary.new, ""),
        ("  of events not seen yet", summary.orphans, "kept, and joined when they come"),
        ("outcomes joined", summary.joined, "they had come before their events"),
        ("known already", summary.repeated, ""),
        ("known with another body", summary.conflicts, "the known one stays"),
        (
            "durable before",
            summary.resumed_at,
            "all of it was imported before" if summary.resumed_at == summary.events else "it went on from there",
        ),
        ("bad rows", summary.bad_rows, f"in {summary.quarantine}"),
        *((f"  {reason}", count, "") for reason, count in list(summary.reasons.items())[:SHOWN_REASONS]),
        *((f"  skipped: {reason}", count, "") for reason, count in summary.skipped.items()),
        *((f"  cleaned: {what}", count, "") for what, count in sorted(summary.cleaned.items())),
    ]
    for label, count, remark in rows:
        if count or label.startswith(("rows", "events", "bad")):
            table.add_row(label, f"{count:,}", remark if count else "")
    console.print(f"{summary.source} as {summary.mapping}", style="bold")
    console.print(table)
    if summary.unseen:
        console.print(f"no row had: {', '.join(summary.unseen)}", style="yellow")
