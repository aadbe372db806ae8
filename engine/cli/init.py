"""`arbiter init`."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import click

from engine.cli.endings import BAD_INPUT, Ended
from engine.cli.options import arbiter_command

TEMPLATE = Path(__file__).parent / "template"
"""What is written. Its `rules` and `models` are the project's own: links in a checkout, files in a package."""


@arbiter_command("init", """
    arbiter init shop
    arbiter init . --force
""")  # fmt: skip
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--force", is_flag=True, help="Write into a folder that is not empty; files of the same name are replaced."
)
def command(folder: Path, force: bool) -> None:
    """Write a folder to start from: policy, model, mapping, settings.

    The policy is commented, its rules are those of a payments analyst. Examples to try and a README are there too.
    """
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise Ended(f"{folder} is not empty; name a new folder, or write into this one with --force", BAD_INPUT)
    shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.py"))
    click.echo(f"{folder} is ready; its README.md explains what is in it. Next:\n")
    if folder.resolve() != Path.cwd():
        click.echo(f"  cd {shlex.quote(str(folder))}")
    click.echo("  arbiter import examples/orders.csv --mapping mappings/orders.yaml --max-bad 20%")
    click.echo("  arbiter decide examples/payment.json --clock event")
    click.echo("  arbiter serve")
