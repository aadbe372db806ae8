"""`arbiter rules`: the policy as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.bootstrap import open_program
from engine.cli import findings
from engine.cli.endings import PROBLEMS, Ended
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.errors import ModelError, PolicyError
from engine.language import Diagnostics, DiagnosticsError

if TYPE_CHECKING:
    from engine.program import Program


@click.group("rules")
def command() -> None:
    """Check the policy."""


@arbiter_command("check", """
    arbiter rules check
    arbiter rules check --folder shop && git commit
    arbiter rules check --format sarif > arbiter.sarif
""")  # fmt: skip
@click.option("--format", "form", type=click.Choice(findings.FORMATS), default="text", show_default=True,
              help="For people; one JSON object; SARIF 2.1.0; commands of GitHub workflows.")  # fmt: skip
@place_options
def check(form: str, folder: Path, **flags: Any) -> None:
    """Load the policy with its models as the server would, and show every mistake at its place.

    Exit code 1 when there are mistakes, in every format.
    """
    settings = settings_of(folder, flags)
    found, failure, program = Diagnostics(), "", None
    try:
        program = open_program(settings, diagnostics=found)
    except (PolicyError, ModelError) as problem:
        failure = "" if isinstance(problem, DiagnosticsError) else str(problem)
    if form == "text":
        _tell(settings.rules, found, failure, program)
        return
    summary = _summary(program) if program else {}
    if form == "json":
        click.echo(findings.as_json(found, settings.rules, failure, summary))
    elif form == "sarif":
        click.echo(findings.as_sarif(found, settings.rules, failure))
    elif told := findings.as_github(found, settings.rules, failure):
        click.echo(told)
    if found.failed or failure:
        raise click.exceptions.Exit(PROBLEMS)


def _summary(program: Program) -> dict[str, Any]:
    return {
        "rules": len(program.policy.rules), "features": len(program.feature_set.names), "models": len(program.models),
        "digest": program.digest,
    }  # fmt: skip


def _tell(rules: Path, found: Diagnostics, failure: str, program: Program | None) -> None:
    """For people: what was found, then whether the policy can be used."""
    text = "\n".join(part for part in (found.render(), failure) if part)
    if program is None or found.failed:
        raise Ended(f"the policy in {rules} can't be used:\n{text}", PROBLEMS)
    if text:
        click.echo(text, err=True)
    counts = _summary(program)
    models = f"{counts['models']} model" + "s" * (counts["models"] != 1)
    click.echo(f"ok: {counts['rules']} rules, {counts['features']} features, {models}, digest {counts['digest']}")


command.add_command(check)
