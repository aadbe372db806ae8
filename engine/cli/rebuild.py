"""`arbiter rebuild`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.bootstrap import rebuild
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import Meter


@arbiter_command("rebuild", """
    arbiter rebuild
    arbiter rebuild --folder shop
""")  # fmt: skip
@place_options
def command(folder: Path, **flags: Any) -> None:
    """Derive all profiles anew from the journal.

    For when profiles were lost, or when the features ask for columns that the stored profiles lack. Stop the server
    first. What was decided is not touched.
    """
    settings = settings_of(folder, flags)
    with Meter("rebuilding profiles") as meter:
        count = rebuild(settings, lambda read: meter(None, f"{read:,} records"))
    click.echo(f"profiles rebuilt from {count:,} journal records in {settings.state}")
