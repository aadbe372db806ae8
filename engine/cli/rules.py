"""`arbiter rules`: the policy as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.bootstrap import open_program
from engine.cli.endings import PROBLEMS, Ended
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.errors import ModelError, PolicyError


@click.group("rules")
def command() -> None:
    """Check the policy."""


@arbiter_command("check", """
    arbiter rules check
    arbiter rules check --folder shop && git commit
""")  # fmt: skip
@place_options
def check(folder: Path, **flags: Any) -> None:
    """Load the policy with its models as the server would, and show every mistake at its place.

    Exit code 1 when there are mistakes.
    """
    settings = settings_of(folder, flags)
    try:
        program = open_program(settings)
    except (PolicyError, ModelError) as problem:
        raise Ended(f"the policy in {settings.rules} can't be used:\n{problem}", PROBLEMS) from problem
    rules, features = len(program.policy.rules), len(program.feature_set.names)
    models = f"{len(program.models)} model" + "s" * (len(program.models) != 1)
    click.echo(f"ok: {rules} rules, {features} features, {models}, digest {program.digest}")


command.add_command(check)
