"""`arbiter simulate`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from engine.cli.options import Share, arbiter_command
from engine.cli.screen import Meter
from engine.errors import SettingsError
from engine.simulator import Simulation, SimulatorConfig, write

_DEFAULT = SimulatorConfig()


@arbiter_command("simulate", """
    arbiter simulate --out shop/history --days 30 --seed 7
    arbiter simulate --out big --days 365 --shoppers 200000 --payments-per-day 20000 --format jsonl.gz
    arbiter simulate --out unseen --held-out-from-day 0 --seed 8
""")  # fmt: skip
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write into.")
@click.option("--seed", default=1, show_default=True, help="The same seed and options give the same bytes.")
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), default="2026-01-01", show_default=True,
              help="First day, UTC.")  # fmt: skip
@click.option("--days", default=_DEFAULT.days, show_default=True, help="Length of the period.")
@click.option("--tail-days", default=_DEFAULT.tail_days, show_default=True,
              help="Days after it in which deliveries, refunds and chargebacks still arrive.")  # fmt: skip
@click.option("--shoppers", default=_DEFAULT.shoppers, show_default=True, help="People who may come.")
@click.option("--payments-per-day", default=_DEFAULT.payments_per_day, show_default=True,
              help="Honest payments, on average; at most a quarter of the shoppers.")  # fmt: skip
@click.option("--fraud-share", type=Share(), default=_DEFAULT.fraud_share, show_default=True,
              help="Fraudulent share of the payments.")  # fmt: skip
@click.option("--abuse-share", type=Share(), default=_DEFAULT.abuse_share, show_default=True,
              help="Share of the payments that abuse refunds, coupons or stock.")  # fmt: skip
@click.option("--held-out-from-day", type=int,
              help="Day from which a scheme runs that neither rules nor model know; 0 is from the start.")  # fmt: skip
@click.option("--browsing", default=_DEFAULT.browsing, show_default=True,
              help="Multiplies the pages looked at; 0 leaves accounts, carts and payments.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["jsonl", "jsonl.gz"]), default="jsonl", show_default=True,
              help="Form of the files.")  # fmt: skip
@click.option("--shards", default=1, show_default=True, help="Cut the events by time into so many files.")
def command(out: Path, seed: int, start: datetime, form: str, shards: int, **wanted: Any) -> None:
    """Make up a shop's history, with fraud and its truth.

    Writes four files: `events` and `outcomes`, which Arbiter may see (`arbiter import`, `arbiter train`), `truth`,
    which it may not, and `items`, the catalogue. All are complete at the end, or none is there.
    """
    try:
        simulation = Simulation(SimulatorConfig(start=start.replace(tzinfo=UTC), **wanted), seed)
        with Meter("simulating") as meter:
            written = write(
                simulation, out, format=form, shards=shards,
                progress=lambda share, documents: meter(share, f"{documents:,} documents"),
            )  # fmt: skip
    except SettingsError as problem:
        raise click.UsageError(str(problem).removeprefix("simulator: ")) from problem
    click.echo(
        f"{written.events:,} events, {written.outcomes:,} outcomes; {written.payments:,} payments, "
        f"{written.frauds:,} of them fraud, in {written.folder}"
    )
