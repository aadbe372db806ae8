"""`arbiter policy`: what is live, what was, what would change, and how to change it or go back."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Any

import click

from engine.activation import Activations, awaits, verdict
from engine.batch.rule_tests import run_tests
from engine.bootstrap import open_activations, open_stores
from engine.cli.endings import BAD_INPUT, PROBLEMS, Ended
from engine.cli.findings import report_as_json
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.errors import ModelError, PolicyError
from engine.explanation import moment
from engine.language import parse_timestamp_us
from engine.policy.diff import Thing, described, differences
from engine.program import Program
from engine.settings import Settings
from engine.values import Activation, Bundle

WAIT_S = 5.0
SHOWN = 30
LIVE = "live"
why_options = [
    click.option("--reason", required=True, help="Why; it is kept for good."),
    click.option("--author", default=getpass.getuser, help="Who; the system's user if it is not said."),
]


@click.group("policy")
def command() -> None:
    """What is live and what was; change it, or go back."""


@arbiter_command("list", """
    arbiter policy list
    arbiter policy list --all
""")  # fmt: skip
@click.option("--all", "every", is_flag=True, help=f"Not only the last {SHOWN}.")
@place_options
def list_command(every: bool, folder: Path, **flags: Any) -> None:
    """Show what was live since when, the newest first; * is live now. Then the workers, and what they have."""
    with _opened(settings_of(folder, flags, policy=False)) as activations:
        found = activations.store.activations(10**6 if every else SHOWN)
        for number, one in enumerate(found):
            click.echo(_line(one, "*" if number == 0 else " "))
        if not found:
            click.echo("nothing was live yet")
        for worker in activations.workers():
            click.echo(f"worker {worker.id} has {worker.program[:12]} since {moment(worker.since_us)}")
            if worker.problem:
                click.echo(indent(worker.problem, "    "))


@arbiter_command("show", """
    arbiter policy show
    arbiter policy show 1a2b3c --into /tmp/then
""")  # fmt: skip
@click.argument("digest", default=LIVE)
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), help="Write its files into this folder.")
@place_options
def show_command(digest: str, into: Path | None, folder: Path, **flags: Any) -> None:
    """Show a bundle: files, models, author, reason, tests, and when it was live.

    DIGEST is the beginning of one's digest, or `live`.
    """
    with _opened(settings_of(folder, flags, policy=False)) as activations:
        bundle = _bundle(activations, digest)
        click.echo(f"program {bundle.digest}\nfiles   {bundle.policy}")
        for name, content in bundle.files.items():
            click.echo(f"          {name}  {len(content):,}")
        for kind, model in bundle.models.items():
            click.echo(f"model   {kind}: {model}")
        click.echo(f"kept    {moment(bundle.created_us)} by {bundle.author}: {bundle.reason}")
        click.echo(f"tests   {bundle.tests or 'none were run'}")
        for one in activations.store.activations(10**6):
            if one.digest == bundle.digest:
                click.echo(f"live    since {moment(one.since_us)} by {one.author}: {one.reason}")
        for name, content in bundle.files.items() if into else ():
            target = (into or folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


@arbiter_command("diff", """
    arbiter policy diff                 # what is live and the folder
    arbiter policy diff 1a2b3c live
    arbiter policy diff live ../draft/rules
""")  # fmt: skip
@click.argument("old", default=LIVE)
@click.argument("new", required=False)
@place_options
def diff_command(old: str, new: str | None, folder: Path, **flags: Any) -> None:
    """Say what changed from OLD to NEW: a digest's beginning, a policy's folder, or `live`; NEW is else the folder."""
    settings = settings_of(folder, flags, policy=False)
    with _opened(settings) as activations:
        before, after = (_program(activations, name)[0] for name in (old, new or str(settings.rules)))
        lines = list(differences(*(described(p.policy, _others(p)) for p in (before, after))))
    same = "no difference" if before.digest == after.digest else "no difference but in remarks or order"
    click.echo("\n".join(lines) or same)


@arbiter_command("activate", """
    arbiter policy activate --reason "lower limit for new accounts"
    arbiter policy activate 1a2b3c --reason "as it was on Monday" --author ann
""")  # fmt: skip
@click.argument("policy", required=False)
@click.option("--reason", required=True, help="Why; it is kept for good.")
@click.option("--author", default=getpass.getuser, help="Who; the system's user if it is not said.")
@place_options
def activate_command(policy: str | None, reason: str, author: str, folder: Path, **flags: Any) -> None:
    """Make a policy live in every worker: the folder's, another folder's, or the bundle with this digest.

    It must load without a mistake, and a folder's tests must pass (the setting activation_needs asks for less or more).
    Waits until every worker has it.

    Exit code 1 when it has mistakes, or when a worker does not have it after 5 seconds; both are named.
    """
    settings = settings_of(folder, flags, policy=policy is None)
    with _opened(settings) as activations:
        name = policy or str(settings.rules)
        program, bundle = _program(activations, name)
        if Path(name).is_dir():
            bundle = replace(bundle, tests=_tested(program, Path(name), settings.activation_needs or "tests"))
        _go_live(activations, program, replace(bundle, author=author, reason=reason))


@arbiter_command("rollback", """
    arbiter policy rollback
    arbiter policy rollback --reason "too many challenges"
""")  # fmt: skip
@click.option("--reason", default="", help="Why; it is kept for good.")
@click.option("--author", default=getpass.getuser, help="Who; the system's user if it is not said.")
@place_options
def rollback_command(reason: str, author: str, folder: Path, **flags: Any) -> None:
    """Make live again what was live before; once more goes back one further.

    A file of the folder that is saved afterwards goes live as ever, unless the policy says `activation: explicit`.
    """
    settings = settings_of(folder, flags, policy=False)
    with _opened(settings) as activations:
        live = _newest(activations)
        before = activations.before(live)
        bundle = activations.bundle(before.digest)
        why = f"rollback of {live.digest[:12]}" + (f": {reason}" if reason else "")
        program = activations.of(bundle)
        _go_live(activations, program, replace(bundle, author=author, reason=why), before.origin)


@arbiter_command("at", """
    arbiter policy at 2026-11-24T14:03Z
""")  # fmt: skip
@click.argument("time")
@place_options
def at_command(time: str, folder: Path, **flags: Any) -> None:
    """Say what was live at a TIME, such as 2026-11-24T14:03Z."""
    at_us = parse_timestamp_us(time)
    if at_us is None:
        raise Ended(f"{time!r} is not a time with a zone, such as 2026-11-24T14:03Z", BAD_INPUT)
    with _opened(settings_of(folder, flags, policy=False)) as activations:
        one = activations.store.newest(at_us)
        click.echo(_line(one, "") if one else f"nothing was live at {time}")


@contextmanager
def _opened(settings: Settings) -> Iterator[Activations]:
    _, journal = open_stores(settings)
    journal.open()
    try:
        yield open_activations(settings, journal)
    finally:
        asyncio.run(journal.close())


def _line(one: Activation, mark: str) -> str:
    return f"{mark}{' ' if mark else ''}{moment(one.since_us)}  {one.digest[:12]}  {one.author}: {one.reason}"


def _newest(activations: Activations) -> Activation:
    newest = activations.store.newest()
    if newest is None:
        raise Ended("nothing was live yet; `arbiter serve` or `arbiter policy activate` begins", BAD_INPUT)
    return newest


def _bundle(activations: Activations, name: str) -> Bundle:
    return activations.bundle(_newest(activations).digest if name == LIVE else name)


def _program(activations: Activations, name: str) -> tuple[Program, Bundle]:
    """The program of a folder, a digest's beginning or `live`; its mistakes end the command."""
    try:
        if name != LIVE and Path(name).is_dir():
            return activations.draft(Path(name))
        bundle = _bundle(activations, name)
        return activations.of(bundle), bundle
    except (PolicyError, ModelError) as problem:
        raise Ended(f"the policy {name} can't be used:\n{problem}", PROBLEMS) from problem


def _others(program: Program) -> dict[str, Thing]:
    """What each feature means, without remarks; exchange rates; models."""
    keep, told = program.feature_set.keep, dict[str, Thing]()
    told |= {f"rates of {name}": {"entries": dict(entries)} for name, entries in program.rates.table.items()}
    told |= {f"model for {kind}": {"": model.digest[:12]} for kind, model in program.models.items()}
    for one in program.feature_set.aggregates:
        told[f"feature {one.name}"] = {
            "entity": one.entity, "measure": one.measure, "of": one.of, "on": one.filter.on, "where": one.filter.where,
            "window": one.window_us, "tile": one.tile_us, "offset": one.offset_us,
            "with the current event": one.include_current,
            "dispositions": one.dispositions, "outcomes": one.outcomes, "default": one.default,
            "keep": keep.get(one.entity, 0),
        }  # fmt: skip
    return told | {f"feature {one.name}": {"condition": one.expression} for one in program.feature_set.derived}


def _tested(program: Program, folder: Path, needs: str) -> str:
    """What the tests of a folder say, in words; Ended when they don't say what the setting asks for."""
    if needs == "nothing":
        return ""
    try:
        return verdict(report_as_json(run_tests(program, folder)), needs)
    except PolicyError as problem:
        raise Ended(f"{problem}\nnothing was activated", PROBLEMS) from problem


def _go_live(activations: Activations, program: Program, bundle: Bundle, origin: int = 0) -> None:
    live = activations.go_live(program, bundle, origin=origin)
    assert live is not None, "without a number to come after it is always done"
    click.echo(f"activated {live.digest} ({bundle.author}: {bundle.reason})")
    workers = activations.wait_for(live, WAIT_S)
    late = [worker for worker in workers if worker.program != live.digest]
    waiting = [worker for worker in late if worker.problem == awaits(live)]
    for worker in workers:
        after_s = max(0, worker.since_us - live.since_us) / 1e6
        words = (
            f"has it, after {after_s:.1f} s" if worker not in late else f"has it not: {worker.problem or 'no answer'}"
        )
        click.echo(f"  worker {worker.id} {words}")
    if not workers:
        click.echo("  no worker is running; the next start takes it")
    if late and late != waiting:
        raise Ended(f"{len(late)} of {len(workers)} workers still decide with another policy", PROBLEMS)


_SUBCOMMANDS: Sequence[click.Command] = (
    list_command, show_command, diff_command, activate_command, rollback_command, at_command,
)  # fmt: skip
for _one in _SUBCOMMANDS:
    command.add_command(_one)
