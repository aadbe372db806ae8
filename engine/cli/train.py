"""`arbiter train`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from engine.batch.history import History, Step, from_files, from_journal
from engine.batch.mapping import load_mapping
from engine.batch.training import (
    check_known,
    classes,
    default_features,
    remarks,
    table_of_file,
    training_table,
    with_labels,
    with_windows,
)
from engine.bootstrap import open_program, open_stores
from engine.cli.endings import BAD_INPUT, Ended
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import Meter, output
from engine.errors import ModelError, SettingsError
from engine.language import parse_duration_us
from engine.program import Program
from engine.schema import KINDS
from engine.scoring.codec import Span
from engine.scoring.config import TrainConfig, read_config
from engine.scoring.folder import TrainedModel, write_model
from engine.scoring.manifest import Validated
from engine.scoring.train import train
from engine.settings import Settings

_LATER = Span(0, 1)
"""Stands for windows that are planned when the history has been read."""


class Duration(click.ParamType[int]):
    """A time such as `45d` or `12h`, as µs."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Microseconds."""
        found = value if isinstance(value, int) else parse_duration_us(str(value))
        if not found:
            self.fail(f"{value!r} is not a time such as 45d or 12h", param, ctx)
        return found


@arbiter_command("train", """
    arbiter train
    arbiter train --from history --mature-after 60d
    arbiter train models/payment.yaml --from history
    arbiter train train.yaml --from transactions.parquet --mapping mappings/handbook.yaml
""")  # fmt: skip
@click.argument("config", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--from", "source", type=click.Path(path_type=Path, exists=True),
              help="Folder or file of event and outcome documents; without it the folder's journal.")  # fmt: skip
@click.option("--mapping", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="What the columns of the file mean (docs/import.md), if it holds no documents.")  # fmt: skip
@click.option("--kind", type=click.Choice(KINDS), help="Event kind that the model scores.  [default: payment]")
@click.option("--version", help="Name of the version.  [default: the next number]")
@click.option("--mature-after", type=Duration(),
              help="So long without a fraud outcome makes a payment good.  [default: labels.yaml]")  # fmt: skip
@place_options
def command(
    config: Path | None, source: Path | None, mapping: Path | None, kind: str | None, version: str | None,
    mature_after: int | None, folder: Path, **flags: Any,
) -> None:  # fmt: skip
    """Train a model on a labelled history.

    The history is the journal of the folder, or documents such as `arbiter simulate` writes, or a file with a mapping.
    Features are computed with the policy's definitions and the code that serves them; labels are what was known at a
    cut-off (docs/models.md).
    Without CONFIG the model learns from every numeric feature, over windows that leave labels time to arrive.

    The result is a new folder models/NAME/VERSION with the model, its manifest and report.html. It decides nothing
    until policy.yaml names it; the line to put there is printed.
    """
    settings = settings_of(folder, flags)
    if mapping is not None and (source is None or source.is_dir()):
        raise click.UsageError("--mapping reads one file; name it with --from")
    program = open_program(settings, with_models=False)
    wanted = _wanted(config, program, settings, kind, version)
    mature_us = mature_after or program.policy.settings.mature_after_us
    began_s = time.monotonic()
    with Meter("reading the history") as meter:
        wanted, trained, told = _trained(program, wanted, source, mapping, settings, mature_us, meter)
    made = write_model(settings.models, trained)
    show(trained, told, output())
    click.echo(
        f"\n{made} written in {time.monotonic() - began_s:.0f} s; {made / 'report.html'} shows more.\n"
        f"It decides nothing yet. To use it, write into {settings.rules / 'policy.yaml'}:\n\n"
        f"  models: {{{wanted.event_kind}: {wanted.name}/{wanted.version}}}"
    )


def _wanted(
    path: Path | None, program: Program, settings: Settings, kind: str | None, version: str | None
) -> TrainConfig:
    """What to train: as the file says, or everything about one event kind."""
    if path is None:
        chosen = kind or "payment"
        wanted = TrainConfig(
            name=chosen, version="", event_kind=chosen, features=default_features(program), window=_LATER
        )
    else:
        try:
            wanted = read_config(path.read_bytes(), str(path))
        except (ModelError, OSError) as problem:
            raise Ended(str(problem), BAD_INPUT) from problem
        if kind not in {None, wanted.event_kind}:
            raise click.UsageError(f"{path} is about {wanted.event_kind} events; leave out --kind")
    named = version or wanted.version or next_version(settings.models / wanted.name)
    if (settings.models / wanted.name / named).exists():
        raise Ended(
            f"{wanted.name}/{named} exists, and a version is never changed; name another with --version", BAD_INPUT
        )
    return replace(wanted, version=named, definitions_digest=program.feature_set.digest_of(wanted.features))


def next_version(folder: Path) -> str:
    """The number after the largest one there."""
    numbers = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    return str(max(numbers, default=0) + 1)


def _trained(
    program: Program, wanted: TrainConfig, source: Path | None, mapping: Path | None, settings: Settings,
    mature_us: int, meter: Meter,
) -> tuple[TrainConfig, TrainedModel, list[str]]:  # fmt: skip
    """The configuration with its windows, the model, and what should be said about its labels."""
    table, history, told = _history(program, wanted, source, mapping, settings, meter)
    if wanted.window == _LATER:
        wanted = with_windows(wanted, history, mature_us)
    table = with_labels(table, program, history, wanted, mature_us)
    counts = ", ".join(f"{count:,} {name}" for name, count in classes(table, wanted).items())
    trained = train(table, wanted, lambda what: meter(None, what, "training"))
    kept = trained.manifest.features
    if kept != wanted.features:
        digest = program.feature_set.digest_of(kept)
        trained = replace(trained, manifest=replace(trained.manifest, definitions_digest=digest))
    told = [f"{len(table):,} events: {counts}", *told, *remarks(wanted, table, mature_us), *trained.remarks]
    return wanted, trained, told


def _history(
    program: Program, wanted: TrainConfig, source: Path | None, mapping: Path | None, settings: Settings, meter: Meter
) -> tuple[pa.Table, History, list[str]]:
    """The table without labels, what it comes from, and what should be said of that."""

    def progress(what: str, count: int, share: float | None) -> None:
        meter(share, f"{count:,} {what}", "reading the history")

    if source is not None and mapping is not None:
        with tempfile.TemporaryDirectory() as scratch:
            table, history, summary = table_of_file(
                program, source, load_mapping(mapping), wanted, workdir=Path(scratch),
                quarantine=Path(f"{source.name}.quarantine.jsonl"), now_us=time.time_ns() // 1000,
            )  # fmt: skip
        bad = summary.bad_rows if summary else 0
        return table, history, [f"{bad:,} bad rows are in {source.name}.quarantine.jsonl"] if bad else []
    with _steps(source, settings, progress) as steps:
        history = History(program, steps)
        table = training_table(program, history, wanted)
    told = check_known(history)
    return table, history, [told] if told else []


@contextmanager
def _steps(source: Path | None, settings: Settings, told: Any) -> Iterator[Iterator[Step]]:
    if source is not None:
        yield from_files(source, told)
        return
    _, journal = open_stores(settings)
    if not (settings.state / "journal.sqlite").exists():
        raise SettingsError(
            f"there is no history in {settings.state}; `arbiter import` brings one in, or name files with --from"
        )
    journal.open()
    try:
        yield from_journal(journal, told)
    finally:
        asyncio.run(journal.close())


def show(trained: TrainedModel, told: list[str], console: Console) -> None:
    """What was learnt from, how good it is on later data, and where thresholds might lie."""
    manifest = trained.manifest
    training = manifest.training
    console.print(
        f"{manifest.name}/{manifest.version}: {len(manifest.features)} features, {training.rounds} trees", style="bold"
    )
    for remark in told:
        console.print(f"  {remark}")
    console.print(f"  learnt from {training.window}: {training.classes.fraud:,} fraud, {training.classes.good:,} good")
    console.print(f"  labels as known at {training.cut_off}")
    if manifest.test is not None:
        console.print(f"  tested on {manifest.test.window}, which it never saw:")
        _metrics(manifest.test.metrics, console)
    if len(training.validated) > 1:
        console.print("  candidates on the validation blocks, mean and spread:")
        _candidates(training.validated, console)
    for threshold in manifest.thresholds:
        console.print(
            f"  proposed threshold {threshold.name}: from {threshold.from_score:.3f}, "
            f"precision {threshold.precision:.1%}, recall {threshold.recall:.1%}"
        )


def _candidates(validated: Sequence[Validated], console: Console) -> None:
    table = Table(box=None, header_style="dim")
    for name in ("   ", *validated[0].mean):
        table.add_column(name.replace("_", " "), justify="left" if name == "   " else "right")
    for one in validated:
        table.add_row(f"    {one.name}", *(f"{one.mean[name]:.3f} ± {one.spread[name]:.3f}" for name in one.mean))
    console.print(table)


def _metrics(metrics: dict[str, float], console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    for name, value in metrics.items():
        whole = name in {"rows", "fraud", "groups_that_fit"}
        table.add_row("   ", name.replace("_", " "), f"{value:,.0f}" if whole else f"{value:.4f}")
    console.print(table)
