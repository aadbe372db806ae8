"""`arbiter features`: what is known of an event beyond its own fields, who reads it, the same numbers for a file."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from engine.batch.mapping import load_mapping
from engine.bootstrap import open_program, open_stores
from engine.cli.endings import BAD_INPUT, PROBLEMS, Ended
from engine.cli.options import Share, arbiter_command, place_options, settings_of
from engine.cli.screen import Meter
from engine.errors import ModelError
from engine.features.catalogue import catalogue, history_of
from engine.features.load import load_features
from engine.language import Diagnostics, Scalar, Table, check_text, did_you_mean, load_yaml
from engine.loader import rule_schema
from engine.policy.load import PolicyReader
from engine.schema import FIELDS, KINDS
from engine.scoring.manifest import read_manifest

if TYPE_CHECKING:
    from engine.features.spec import Aggregate, Derived
    from engine.program import Program
    from engine.settings import Settings

STANDING_READS = {"user.spend_24h": "LIMIT_AMOUNT", "user.contact_changes_30d": "NOTIFY"}
"""Features that standing measures read by name."""
RECENT = 1_000
"""How many of the last records the example values are taken from."""
Readers = Mapping[str, Sequence[str]]


@click.group("features")
def command() -> None:
    """Check, list and show features; build them for a file."""


@arbiter_command("check", """
    arbiter features check
    arbiter features check --folder shop && git commit
""")  # fmt: skip
@place_options
def check(folder: Path, **flags: Any) -> None:
    """Read features.yaml as the server would, and show every mistake at its place.

    Exit code 1 when there are mistakes.
    """
    settings, diagnostics = settings_of(folder, flags), Diagnostics()
    policy = PolicyReader.of(settings.rules, diagnostics).settings()
    found = load_features(settings.rules / "features.yaml", "features.yaml", policy.fraud_outcomes, diagnostics)
    if diagnostics.failed:
        raise Ended(f"the features in {settings.rules} can't be used:\n{diagnostics.render()}", PROBLEMS)
    if diagnostics.items:
        click.echo(diagnostics.render(), err=True)
    entities = sorted({aggregate.entity for aggregate in found.aggregates})
    click.echo(
        f"ok: {len(found.aggregates)} of the history of {', '.join(entities) or 'nobody'}, "
        f"{len(found.derived)} derived, digest {found.digest}"
    )


@arbiter_command("list", """
    arbiter features list
    arbiter features list --unused
    arbiter features list --format markdown > features.md
""")  # fmt: skip
@click.option("--unused", is_flag=True, help="Only those that nobody reads.")
@click.option("--format", "form", type=click.Choice(("text", "markdown", "json")), default="text", show_default=True,
              help="For people; a table for a page; one JSON object a line.")  # fmt: skip
@place_options
def list_command(unused: bool, form: str, folder: Path, **flags: Any) -> None:
    """Show the catalogue: of whose history, over which window, unit, meaning, who reads it and who doesn't any more.

    Readers are reason codes of rules, scorecards, patterns, models, standing measures and other features. No longer:
    rules that are off or over, and versions of models that policy.yaml does not name.
    """
    settings = settings_of(folder, flags)
    program = open_program(settings)
    now, before = readers(program, settings.rules, settings.models)
    chosen = [name for name in sorted(program.feature_set.names) if not (unused and now.get(name))]
    if form == "markdown":
        click.echo(catalogue(program.feature_set, now, before, chosen), nl=False)
        return
    for name in chosen:
        known = _described(_of(program, name), now, before)
        if form == "json":
            click.echo(orjson.dumps(known).decode())
        else:
            click.echo(f"{name}  ({known['of']}{', ' + known['window'] if known['window'] else ''}; {known['unit']})")
            click.echo(f"    {known['meaning']}")
            click.echo(f"    read by {_named(known['read_by'], known['no_longer'])}")


@arbiter_command("show", """
    arbiter features show user.amount_z
""")  # fmt: skip
@click.argument("name")
@place_options
def show(name: str, folder: Path, **flags: Any) -> None:
    """Show one feature: as it is defined, where, who reads it, and its values in the last decisions."""
    settings = settings_of(folder, flags)
    program = open_program(settings)
    if name not in program.feature_set.names:
        hint = "it is a field of the event" if name in FIELDS else did_you_mean(name, program.feature_set.names)
        raise Ended(f"no feature is called {name!r}; {hint or '`arbiter features list` shows all'}", BAD_INPUT)
    now, before = readers(program, settings.rules, settings.models)
    known = _described(_of(program, name), now, before)
    click.echo(f"{name}: {known['meaning']}\n")
    line, text = _written(settings.rules / "features.yaml", name)
    click.echo(f"{settings.rules / 'features.yaml'}:{line}\n{text}\n")
    click.echo(f"of       {known['of']}\nwindow   {known['window'] or '–'}\nunit     {known['unit']}")
    click.echo(f"read by  {_named(known['read_by'], known['no_longer'])}")
    click.echo(f"values   {_values(_seen(settings, name))}")


@arbiter_command("build", """
    arbiter features build payments.parquet --mapping mappings/payments.yaml --out features.parquet
    arbiter features build old.csv --mapping old.yaml --out old.parquet --field txn.amount_base
""")  # fmt: skip
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--mapping", required=True, type=click.Path(exists=True, path_type=Path, dir_okay=False),
              help="What the columns mean (docs/import.md).")  # fmt: skip
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Parquet file to write.")
@click.option("--kind", type=click.Choice(KINDS), default="payment", show_default=True, help="Events that get a row.")
@click.option("--field", "fields", multiple=True, type=click.Choice(sorted(FIELDS.keys() - {"attributes"})),
              metavar="NAME", help="Field of the event to put beside; may be said again.")  # fmt: skip
@click.option("--max-bad", type=Share(), default=0.05, show_default="5%", help="Share of bad rows that is let pass.")
@place_options
def build(
    file: Path, mapping: Path, out: Path, kind: str, fields: tuple[str, ...], max_bad: float, folder: Path, **flags: Any
) -> None:
    """Compute every feature for the events of a file, as the service would have seen them.

    The file needs no stores: its own history is all that is known. Labels count from when they were known. Bad rows are
    noted beside OUT with line, field and reason.

    Exit code 1 when rows were bad; their events are in no window.
    """
    from engine.rescore.build import build_features

    settings = settings_of(folder, flags)
    if not out.absolute().parent.is_dir():
        raise Ended(f"{out.parent} is no folder", BAD_INPUT)
    program, began_s = open_program(settings, with_models=False), time.monotonic()
    away = out.with_suffix(".quarantine.jsonl")
    try:
        with Meter("computing features") as meter:
            built = build_features(
                program, file, load_mapping(mapping), out, quarantine=away, kind=kind, fields=fields,
                now_us=time.time_ns() // 1000, max_bad=max_bad,
                told=lambda stage, done, total: meter(done / total if total else None, "", stage),
            )  # fmt: skip
    except OSError as problem:
        raise Ended(f"{out} can't be written: {problem.strerror or problem}; nothing was left behind", 3) from problem
    seconds = time.monotonic() - began_s
    click.echo(f"{out}: {built.rows:,} rows, {len(program.feature_set.names)} features, in {seconds:.1f} s")
    if built.bad_rows:
        raise Ended(f"{built.bad_rows:,} bad rows left out; {away} says why", PROBLEMS)


def readers(program: Program, rules: Path, models: Path) -> tuple[Readers, Readers]:
    """Feature → who reads it, and → who did: rules that are off or over, versions of models that are not in use."""
    now: defaultdict[str, set[str]] = defaultdict(set)
    before: defaultdict[str, set[str]] = defaultdict(set)
    policy, features, at_us = program.policy, program.feature_set, time.time_ns() // 1000
    schema = rule_schema(features, policy.plan.signals, policy.lists, policy.settings.parameters)
    reader = PolicyReader.of(rules, Diagnostics())
    reader.settings()
    for rule, condition in reader.rules(schema):
        over = rule.status == "off" or 0 < rule.until_us <= at_us
        for name in condition.names:
            (before if over else now)[name].add(rule.reason.code)
    for card in reader.cards:
        for line in card.lines:
            for name in line.condition.names:
                now[name].add(f"scorecard {card.name}")
    for tests in policy.plan.tests.values():
        for test in tests:
            for name in check_text(test.filter.where, schema).names if test.filter.where else ():
                now[name].add("patterns")
    for derived in features.derived:
        for name in derived.needs:
            now[name].add(derived.name)
    for name, measure in STANDING_READS.items():
        now[name].add(measure)
    _models(program, models, now, before)
    named = set(features.names)
    kept = ({n: sorted(who) for n, who in found.items() if n in named} for found in (now, before))
    return next(kept), next(kept)


def _models(program: Program, folder: Path, now: dict[str, set[str]], before: dict[str, set[str]]) -> None:
    """Models in use and those beside them."""
    live = {name: f"model of {kind}" for kind, name in program.policy.settings.models.items()}
    live |= {name: f"challenger {name}" for names in program.policy.settings.challengers.values() for name in names}
    for path in sorted(folder.glob("*/*/manifest.yaml")):
        version = f"{path.parts[-3]}/{path.parts[-2]}"
        try:
            manifest = read_manifest(path.read_bytes(), str(path))
        except (ModelError, OSError):
            continue  # `arbiter rules check` says what is wrong with a model in use; others can't be read by anybody
        for name in manifest.features:
            (now if version in live else before)[name].add(live.get(version, f"model {version}"))


def _of(program: Program, name: str) -> Aggregate | Derived:
    every: list[Aggregate | Derived] = [*program.feature_set.aggregates, *program.feature_set.derived]
    return next(feature for feature in every if feature.name == name)


def _described(feature: Aggregate | Derived, now: Readers, before: Readers) -> dict[str, Any]:
    of, window = history_of(feature)
    return {
        "name": feature.name, "of": of, "window": window, "unit": feature.unit, "type": feature.type,
        "meaning": feature.meaning, "read_by": now.get(feature.name, ()), "no_longer": before.get(feature.name, ()),
    }  # fmt: skip


def _named(now: Sequence[str], before: Sequence[str]) -> str:
    return (", ".join(now) or "nobody") + (f"; no longer {', '.join(before)}" if before else "")


def _written(path: Path, name: str) -> tuple[int, str]:
    """Line and text of a definition."""
    top = load_yaml(path, Diagnostics(), path.name)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert isinstance(top, Table)
    features = next(node for key, node in top.entries if key.value == "features")
    assert isinstance(features, Table)
    starts = [(key.value, key.position().line) for key, _ in features.entries if isinstance(key, Scalar)]
    start = dict(starts)[name]
    after = min((line for _, line in starts if line > start), default=len(lines) + 1)
    text = [line for line in lines[start - 1 : after - 1] if line.strip() and not line.strip().startswith("#")]
    return start, "\n".join(text)


def _seen(settings: Settings, name: str) -> list[Any]:
    """The values in the last decisions, the newest first; None where it was not known."""
    if not (settings.state / "journal.sqlite").exists():
        return []
    _, journal = open_stores(settings)
    journal.open()
    try:
        after = max(journal.last_seq() - RECENT, 0)
        bodies = [orjson.loads(stored.record.public) for stored in journal.read(after, ("decision",))]
    finally:
        asyncio.run(journal.close())
    return [body["features"].get(name) for body in reversed(bodies) if "features" in body]


def _values(seen: Sequence[Any]) -> str:
    known = [value for value in seen if value is not None]
    if not known:
        return f"unknown in the last {len(seen)} decisions" if seen else "no decision yet"
    shown = ", ".join(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in known[:50]))
    text = f"{shown if len(shown) < 60 else shown[:57] + '…'}"
    numbers = [float(value) for value in known if not isinstance(value, str)]
    if numbers:
        text += f"  (median {statistics.median(numbers):g}, {min(numbers):g} to {max(numbers):g})"
    return f"{text}, known in {len(known)} of the last {len(seen)} decisions"


for part in (check, list_command, show, build):
    command.add_command(part)
