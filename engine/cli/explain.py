"""`arbiter explain`: a stored decision, shown as `arbiter decide` shows one that is not stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from engine.bootstrap import looking_back
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import output
from engine.cli.show import show
from engine.explanation import as_document


@arbiter_command("explain", """
    arbiter explain pay-8841
    arbiter explain pay-8841 --json | jq '.rules[] | select(.missed_by_one)'
""")  # fmt: skip
@click.argument("decision")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with stable keys.")
@click.option(
    "--misses", is_flag=True, help="Show every rule that missed, not only those that missed by one condition."
)
@place_options
def command(decision: str, as_json: bool, misses: bool, folder: Path, **flags: Any) -> None:
    """Show a stored decision and everything that led to it.

    DECISION is its id. What each rule gave is what it gave then; conditions and values come from the record and from
    the policy that was live, which is kept with its digest. A running server is not disturbed.
    """
    with looking_back(settings_of(folder, flags, policy=False)) as past:
        explanation = past.explain(decision)
    if as_json:
        sys.stdout.write(orjson.dumps(as_document(explanation), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(explanation, output(), misses=misses)
