"""`arbiter serve`: every setting is a flag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from engine.cli.options import arbiter_command, folder_option, settings_of
from engine.service.supervisor import serve
from engine.settings import Settings


def setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each setting; an option that is not given leaves the setting to folder and environment."""
    for name in reversed([name for name in Settings.model_fields if name != "folder"]):
        function = _option(name)(function)
    return function


def _option(name: str) -> Callable[..., Any]:
    field, flag = Settings.model_fields[name], name.replace("_", "-")
    kinds = get_args(field.annotation) or (field.annotation,)
    default = "" if field.default in (None, "", False) else f"  [default: {field.default}]"
    text = f"{field.description}{default}"
    if bool in kinds:
        return click.option(f"--{flag}/--no-{flag}", name, default=None, help=text)
    if isinstance(kinds[0], str):
        return click.option(f"--{flag}", name, type=click.Choice([kind for kind in kinds if kind]), help=text)
    metavar = "NUMBER" if kinds[0] in (int, float) else "PATH" if Path in kinds else "TEXT"
    return click.option(f"--{flag}", name, metavar=metavar, help=text)


@arbiter_command("serve", """
    arbiter serve
    arbiter serve --workers 2 --port 50052
    arbiter serve --host 0.0.0.0 --plaintext --metrics-port 9090 --log-format text
""")  # fmt: skip
@folder_option
@setting_options
def command(folder: Path, **flags: Any) -> None:
    """Answer callers over gRPC.

    Prints one line when every worker is ready, and serves until Ctrl-C or SIGTERM, which let calls in flight finish.
    Saved changes of the policy take effect within two seconds. Log lines go to standard error.

    Each option is a setting; it stands above the environment (ARBITER_PORT=50052) and above arbiter.yaml.
    """
    serve(settings_of(folder, flags))
