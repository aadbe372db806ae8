"""`arbiter rescore`: a history decided again in columns, as live would have, or how persons stand renewed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from engine.cli.endings import BAD_INPUT, CANNOT_RUN, PROBLEMS, Ended
from engine.cli.options import Share, arbiter_command, place_options, settings_of
from engine.cli.screen import Meter, output
from engine.language import parse_timestamp_us
from engine.schema import KINDS

if TYPE_CHECKING:
    from engine.rescore.job import Crew, Plan, Report
    from engine.settings import Settings


@arbiter_command("rescore", """
    arbiter rescore year.parquet --mapping mappings/payments.yaml --out decided.parquet
    arbiter rescore features.parquet --stored --out decided.csv
    arbiter rescore --since 2026-11-01T00:00Z --out november.parquet
    arbiter rescore year.parquet --mapping payments.yaml --out decided.parquet --cluster local
    arbiter rescore --users
""")  # fmt: skip
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--since", metavar="TIME", help="Decisions of the journal since a time such as 2026-11-24T00:00Z.")
@click.option("--users", is_flag=True, help="Renew how every person of the journal stands; this is stored.")
@click.option("--mapping", type=click.Path(exists=True, path_type=Path, dir_okay=False),
              help="What the columns of FILE mean (docs/import.md).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Parquet or CSV file to write.")
@click.option(
    "--stored", is_flag=True, help="Take features as FILE or the journal holds them, instead of computing them."
)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), default=("payment",), show_default=True,
              help="Events that are decided; may be said again.")  # fmt: skip
@click.option("--cluster", metavar="ADDRESS", help="Dask scheduler such as tcp://10.0.0.1:8786, or local.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=os.cpu_count() or 1,
    help="Threads, or processes of --cluster local.  [default: one for each core]",
)
@click.option("--shard-rows", type=click.IntRange(1_000, 2_000_000), default=131_072, show_default=True,
              help="Rows that are decided together and kept when the command is stopped.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for what is done so far.  [default: OUT.work]")  # fmt: skip
@click.option("--max-bad", type=Share(), default=0.05, show_default="5%", help="Share of bad rows that is let pass.")
@place_options
def command(file: Path | None, since: str | None, users: bool, out: Path | None, folder: Path, **given: Any) -> None:
    """Decide a history again in columns, as live would have: features as of each row, score, rules, tier and action.

    FILE is a history as `arbiter import` takes it. Each row is what live would have decided, to the bit; nothing is
    stored or counted. Bad rows are noted beside OUT. A command that was stopped goes on where it was when it is given
    again. Columns of OUT: docs/rescore.md.

    Exit code 1 when rows were bad; they were left out.
    """
    flags: dict[str, Any] = {name: given.pop(name) for name in ("state", "rules", "models")}
    settings = settings_of(folder, flags)
    if [file is not None, since is not None, users].count(True) != 1:
        raise Ended("name a FILE, --since a time, or --users", BAD_INPUT)
    if users:
        click.echo(asyncio.run(_renew(settings)))
        return
    since_us = parse_timestamp_us(since) if since else None
    if since and since_us is None:
        raise Ended(f"{since!r} is not a time with a zone, such as 2026-11-24T14:03Z", BAD_INPUT)
    if out is None or out.suffix not in (".parquet", ".csv"):
        raise Ended("name the file to write with --out; it ends in .parquet or .csv", BAD_INPUT)
    if not out.absolute().parent.is_dir():
        raise Ended(f"{out.parent} is no folder", BAD_INPUT)
    if file is not None and not given["stored"] and given["mapping"] is None:
        raise Ended(
            "say what the columns of FILE mean with --mapping, or that it holds features with --stored", BAD_INPUT
        )
    began_s = time.monotonic()
    report = _rescore(settings, file, since_us, out.absolute(), given)
    _show(report, out, time.monotonic() - began_s)
    if report.bad_rows:
        raise Ended(f"{report.bad_rows:,} bad rows left out; {out.with_suffix('.quarantine.jsonl')} says why", PROBLEMS)


def _rescore(settings: Settings, file: Path | None, since_us: int | None, out: Path, given: dict[str, Any]) -> Report:
    from engine.rescore.job import Threads, run

    work: Path = (given["work"] or out.with_name(f"{out.name}.work")).absolute()
    crew: Any = nullcontext(Threads(given["workers"]))
    if given["cluster"]:
        from engine.rescore.cluster import open_crew

        crew = open_crew(given["cluster"], given["workers"], work)
    try:
        with Meter("re-scoring") as meter, crew as hands:

            def told(stage: str, done: int, total: int) -> None:
                meter(done / total if total else None, f"{done:,} rows", stage)

            plan = _plan(settings, file, since_us, work, out, hands, given, told)
            return run(settings, plan, work, out, hands, told)
    except OSError as problem:
        raise Ended(
            f"{problem.filename or out.parent}: {problem.strerror or problem}. {out.name} is not complete: what is "
            f"written so far is {out.name}.partial; mend this and give the same command again, it goes on from {work}",
            CANNOT_RUN,
        ) from problem


def _plan(
    settings: Settings, file: Path | None, since_us: int | None, work: Path, out: Path, crew: Crew,
    given: dict[str, Any], told: Any,
) -> Plan:  # fmt: skip
    """What is to be done: that of an earlier run, or the source read anew."""
    from engine.batch.mapping import load_mapping
    from engine.bootstrap import open_program
    from engine.rescore import job, parts

    program, kinds = open_program(settings), tuple(given["kinds"])
    what = hashlib.blake2b(repr((since_us, given["stored"], given["shard_rows"])).encode(), digest_size=16)
    for path in filter(None, (file, given["mapping"])):
        with path.open("rb") as held:
            what.update(hashlib.file_digest(held, "sha256").digest())
    standing = "given" if since_us is not None or given["stored"] else "chained"
    wanted = {"source": what.hexdigest(), "program": program.digest, "kinds": kinds, "standing": standing}
    known = job.open_work(work, wanted)
    if known is not None:
        return known
    cuts = {"shards": 0, "rows": 0, "parts": 0}
    if since_us is not None:
        cuts["shards"], cuts["rows"] = _from_journal(settings, program, since_us, work, given, told)
    elif given["stored"]:
        assert file is not None
        return job.keep(work, job.plan_stored(program, file, wanted))
    else:
        assert file is not None
        cuts["shards"], cuts["rows"], columnar, bad = parts.read_shards(
            program, file, load_mapping(given["mapping"]), work, given["shard_rows"], time.time_ns() // 1000,
            out.with_suffix(".quarantine.jsonl"), given["max_bad"], lambda stage, rows: told(stage, rows, 0),
        )  # fmt: skip
        cuts["parts"] = max(crew.size, -(-cuts["rows"] // job.PART_ROWS)) if columnar else 0
        return job.keep(work, job.Plan(**wanted, **cuts, bad_rows=bad))  # type: ignore[arg-type]
    return job.keep(work, job.Plan(**wanted, **cuts))  # type: ignore[arg-type]


def _from_journal(
    settings: Settings, program: Any, since_us: int, work: Path, given: dict[str, Any], told: Any
) -> tuple[int, int]:
    from engine.batch.history import History, from_journal
    from engine.bootstrap import looking_back
    from engine.features.offline import build
    from engine.rescore import parts
    from engine.rescore.stored import from_records

    with looking_back(settings) as past:
        counted = None
        if not given["stored"]:
            steps = from_journal(past.journal, lambda what, count, share: told(f"reading {what}", count, 0))
            counted = build(program.feature_set, program.features, History(program, steps).items(), kind="")
        tables = from_records(past, program, since_us, counted=counted, told=lambda rows: told("reading", rows, 0))
        return parts.write_shards(work, tables, given["shard_rows"])


async def _renew(settings: Settings) -> str:
    """Judge every person that the journal knows by the rules on the user, and keep what changed."""
    import orjson

    from engine.bootstrap import open_engine
    from engine.errors import NotFound

    engine = open_engine(settings)
    await engine.start(watch=False)
    try:
        people, tiers, changed = dict[str, None](), dict[str, int](), 0
        for stored in engine.journal.read(0, ("decision", "event", "undecided")):
            told = orjson.loads(stored.record.personal or b"{}").get("user.id")
            if told:
                people[told] = None
        with Meter("renewing") as meter:
            for done, user in enumerate(people, 1):
                before = (await engine.assess_user(user, dry_run=True)).risk
                after = (await engine.assess_user(user)).risk
                changed += before != after
                tiers[after.tier.name] = tiers.get(after.tier.name, 0) + 1
                meter(done / len(people), f"{done:,} persons")
    except NotFound as problem:
        raise Ended(str(problem), CANNOT_RUN) from None
    finally:
        await engine.close()
    return f"{len(people):,} persons: " + ", ".join(f"{count:,} {tier}" for tier, count in sorted(tiers.items()))


def _show(report: Report, out: Path, seconds: float) -> None:
    console, table = output(), Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    table.add_row(
        "rows decided", f"{report.rows:,}", f"in {seconds:,.1f} s, {report.rows / max(seconds, 1e-9):,.0f} a second"
    )
    if report.resumed:
        table.add_row("shards decided before", f"{report.resumed:,}", "it went on from there")
    for what, count in sorted(report.roads.items()):
        if what != "rows decided":
            table.add_row(f"  {what}", f"{count:,}", "")
    for name, counts in (("tier", report.tiers), ("action", report.actions)):
        for word, count in counts.items():
            table.add_row(f"{name} {word}", f"{count:,}", f"{count / max(report.rows, 1):.2%}")
    console.print(str(out), style="bold", soft_wrap=True)
    console.print(table)
    click.echo(f"digest {report.digest}")
