"""What the commands have in common: how they are declared, which folder they work on, how a share is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from engine.settings import Settings

Function = Callable[..., Any]
_PLACES = {
    "state": "Folder of profiles and journal, from the folder on.",
    "rules": "Folder of the policy, from the folder on.",
    "models": "Folder of the models, from the folder on.",
}


def arbiter_command(name: str, examples: str) -> Callable[[Function], click.Command]:
    """Declare a command whose help ends with examples."""

    def declared(function: Function) -> click.Command:
        epilog = "\b\nExamples:\n" + indent(dedent(examples).strip(), "  ")
        made = click.command(name, epilog=epilog)(function)
        made.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_remember,
                help="Show where in the code an error came from.",
            )
        )
        return made

    return declared


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = value


def folder_option(function: Function) -> Function:
    """`--folder`: where the policy, the models and the state live."""
    return click.option(
        "--folder", default=".", type=click.Path(file_okay=False, path_type=Path), show_default=True,
        help="Folder of this Arbiter, as `arbiter init` wrote it.",
    )(function)  # fmt: skip


def place_options(function: Function) -> Function:
    """`--folder`, and the settings that lead elsewhere."""
    for name, text in reversed(_PLACES.items()):
        function = click.option(f"--{name}", metavar="PATH", help=text)(function)
    return folder_option(function)


def settings_of(folder: Path, flags: Mapping[str, Any], *, policy: bool = True) -> Settings:
    """The settings of a folder; SettingsError when it holds no policy although one is needed."""
    from engine.errors import SettingsError
    from engine.settings import read_settings

    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder; `arbiter init {folder}` makes one to start from")
    settings = read_settings(folder, flags)
    if policy and not (settings.rules / "policy.yaml").exists():
        raise SettingsError(
            f"there is no policy in {settings.rules} (no policy.yaml); run this in a folder that `arbiter init` wrote, "
            "or name it with --folder or --rules"
        )
    return settings


class Share(click.ParamType[float]):
    """A share as `0.05` or `5%`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number in 0..1."""
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is not a share such as 5% or 0.05", param, ctx)
        return share
