"""`arbiter decide`: one event considered as the server would, shown to a person or a program."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson

from engine.bootstrap import open_engine
from engine.cli.endings import PROBLEMS
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import output
from engine.cli.show import show
from engine.errors import InvalidInput, Violation
from engine.explanation import Explanation, as_document, explain
from engine.intake import read_event
from engine.settings import Settings
from engine.values import Event

CLOCKS = ("wall", "event")


class Stopwatch:
    """Takes the time of each stage; of several runs the last counts."""

    def __init__(self) -> None:
        self.stages_s: dict[str, float] = {}

    def observe(self, stage: str, seconds: float) -> None:
        """One stage took so long."""
        self.stages_s[stage] = seconds


@arbiter_command("decide", """
    arbiter decide examples/payment.json
    arbiter decide examples/payment.json --json | jq .action
    head -1 history/events.jsonl | arbiter decide - --clock event
""")  # fmt: skip
@click.argument("event", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object with stable keys.")
@click.option(
    "--misses", is_flag=True, help="Show every rule that missed, not only those that missed by one condition."
)
@click.option("--clock", type=click.Choice(CLOCKS),
              help="Decide as of now (wall), or as of the event's own time.")  # fmt: skip
@click.option("--dry-run", is_flag=True, default=True, help="Always on: nothing is stored or counted.")
@place_options
def command(event: Any, as_json: bool, misses: bool, dry_run: bool, folder: Path, **flags: Any) -> None:
    """Show one decision and everything that led to it.

    EVENT is a file with one event as JSON, or - for standard input. It is considered with the policy, the models and
    the profiles of the folder as they are now, and leaves no trace: it is not stored, and counts nowhere. A running
    server is not disturbed.

    Exit code 1 when a part was missing and the decision is degraded.
    """
    settings = settings_of(folder, flags)
    with _scratch_state(settings) as quiet:
        explanation = asyncio.run(consider(quiet, read(event.read(), getattr(event, "name", "-"))))
    if as_json:
        sys.stdout.write(orjson.dumps(as_document(explanation), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(explanation, output(), misses=misses)
    if explanation.decision.degraded:
        raise click.exceptions.Exit(PROBLEMS)


def read(data: bytes, name: str) -> Event:
    """The event of a JSON text; InvalidInput with every wrong field, or with the place where it stops being JSON."""
    try:
        document = orjson.loads(data.rstrip())
    except orjson.JSONDecodeError as problem:
        place = f"{name}:{problem.lineno}:{problem.colno}"
        raise InvalidInput([Violation(place, f"is not JSON: {problem.msg}")]) from None
    if not isinstance(document, dict):
        raise InvalidInput([Violation("event", "must be one JSON object")])
    return read_event(document, now_us=time.time_ns() // 1000)


async def consider(settings: Settings, event: Event) -> Explanation:
    """Consider an event twice, so that the stages' times are those of a process that is warm."""
    watch = Stopwatch()
    engine = open_engine(settings, recorder=watch)
    await engine.start(watch=False)
    try:
        await engine.consider(event)
        decision, case = await engine.consider(event)
        return explain(decision, case, watch.stages_s)
    finally:
        await engine.close()


@contextmanager
def _scratch_state(settings: Settings) -> Iterator[Settings]:
    """The same settings; where the folder has no state yet, with one that is gone afterwards."""
    if settings.state.exists():
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="arbiter-") as name:
        scratch = Path(name)
        key = scratch / "hash.key"
        key.touch(mode=0o600)
        key.write_text("00" * 32)  # nobody's secret, so that rollouts are drawn alike each time
        yield settings.model_copy(update={"state": scratch, "hash_key_file": key})
