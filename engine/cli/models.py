"""`arbiter models`: the models folder, and which of them decides."""

from __future__ import annotations

import asyncio
import getpass
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.table import Table

from engine import promotion
from engine.bootstrap import open_program, open_programs, open_stores
from engine.cli.endings import BAD_INPUT, PROBLEMS, Ended
from engine.cli.options import Share, arbiter_command, place_options, settings_of
from engine.cli.screen import output
from engine.errors import ModelError, NotFound, PolicyError, SettingsError
from engine.explaining import Explained, Explainers, explain, read_record
from engine.loader import load_fitting
from engine.promotion import Shift
from engine.scoring import registry
from engine.scoring.manifest import Manifest
from engine.scoring.model import ScoringModel, load_model
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.journal.sqlite import SqliteJournal
    from engine.program import Program
    from engine.values import Stored

NAME = "name/version"
RECENT = 2_000
recent_option = click.option("--recent", type=click.IntRange(0), default=RECENT, show_default=True,
                             help="So many of the newest decisions are made again.")  # fmt: skip


@click.group("models")
def command() -> None:
    """List, judge and compare models, and say which decides."""


@arbiter_command("list", """
    arbiter models list
""")  # fmt: skip
@place_options
def list_(folder: Path, **flags: Any) -> None:
    """Every version in the models folder, what it does, and how good it was on its test rows."""
    settings = settings_of(folder, flags)
    roles, table = _roles(settings), _grid("model", "does", "trees", "features", "auc", "average precision")
    notes: list[str] = []
    for version in registry.versions(settings.models):
        role = roles.get(version.name, "")
        if version.retired:
            role, notes = "retired", [*notes, f"{version.name} was retired: {version.retired}"]
        if version.manifest is None:
            table.add_row(version.name, role)
            notes.append(f"{version.name} can't be read: {version.problem.splitlines()[0]}")
            continue
        card, metrics = version.manifest, version.manifest.test.metrics if version.manifest.test else {}
        worth = [f"{metrics[name]:.3f}" if name in metrics else "" for name in ("auc", "average_precision")]
        table.add_row(version.name, role, str(card.training.rounds), str(len(card.features)), *worth)
    console = output()
    console.print(table if table.row_count else f"no models in {settings.models}; `arbiter train` makes one")
    for note in notes:
        console.print(note)


@arbiter_command("show", """
    arbiter models show payment/1
""")  # fmt: skip
@click.argument("name", metavar=NAME)
@place_options
def show(name: str, folder: Path, **flags: Any) -> None:
    """The card of one model: what it is for, what it learnt from, what it is worth, and where its limits are.

    The model is loaded as the server would, so what is shown is sound; else it says what is wrong.
    """
    settings = settings_of(folder, flags)
    model, console = load_model(registry.find(settings.models, name)), output()
    card, role = model.manifest, _roles(settings).get(name, "decides nothing")
    retired = registry.retired(settings.models / name)
    console.print(f"{name}  {f'retired: {retired}' if retired else role}", style="bold")
    table = _grid("", "")
    table.show_header = False
    for label, words in _facts(model):
        table.add_row(label, words)
    console.print(table)
    for limit in card.limits:
        console.print(f"  limit: {limit}")


def _facts(model: ScoringModel) -> Iterator[tuple[str, str]]:
    card = model.manifest
    training, fit = card.training, card.calibration
    yield "scores", f"{card.event_kind} events"
    yield "intended use", card.intended_use
    yield "learnt from", f"{training.window}, {training.classes.fraud:,} fraud, {training.classes.good:,} good"
    yield "labels", f"{training.label}; as known at {training.cut_off}"
    yield "trees", f"{training.rounds}, depth at most {training.booster.max_depth}, {len(card.features)} features"
    yield "calibration", f"{fit.kind}, {fit.method}, on {fit.rows:,} rows with {fit.fraud:,} fraud"
    if card.test is not None:
        yield "tested on", str(card.test.window)
        for name, value in card.test.metrics.items():
            yield name.replace("_", " "), _number(value)
    for threshold in card.thresholds:
        worth = f"precision {threshold.precision:.1%}, recall {threshold.recall:.1%}"
        yield f"proposed for {threshold.name}", f"from {threshold.from_score:.3f}: {worth}"
    yield "digest", model.digest


@arbiter_command("compare", """
    arbiter models compare payment/1 payment/2
""")  # fmt: skip
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@recent_option
@place_options
def compare(first: str, second: str, recent: int, folder: Path, **flags: Any) -> None:
    """Two models side by side: metrics, features, and what recent decisions would be with one and with the other."""
    settings, console = settings_of(folder, flags), output()
    program = open_program(settings)
    cards = [load_model(registry.find(settings.models, name)).manifest for name in (first, second)]
    table = _grid("", first, second)
    for label, words in _side_by_side(*cards):
        table.add_row(label, *words)
    console.print(table)
    windows = {str(card.test.window) if card.test else "" for card in cards}
    if len(windows) > 1:
        console.print("the test windows differ, so the metrics are no comparison; what follows is", style="yellow")
    kind = cards[0].event_kind
    models = [load_fitting(name, kind, program.feature_set, settings.models) for name in (first, second)]
    with _decisions(settings, kind, recent) as found:
        _tell(promotion.shift(found, program, kind, *models), program, kind, console)


def _side_by_side(one: Manifest, other: Manifest) -> Iterator[tuple[str, Sequence[str]]]:
    both = (one, other)
    yield "learnt from", [str(card.training.window) for card in both]
    yield "tested on", [str(card.test.window) if card.test else "–" for card in both]
    yield "trees", [str(card.training.rounds) for card in both]
    metrics = [card.test.metrics if card.test else {} for card in both]
    for name in dict.fromkeys([*metrics[0], *metrics[1]]):
        yield name.replace("_", " "), [_number(found[name]) if name in found else "–" for found in metrics]
    for label, card, lacks in (("features only here", one, other), ("", other, one)):
        names = ", ".join(name for name in card.features if name not in lacks.features)
        if names:
            yield "features only here", (names, "") if label else ("", names)


@arbiter_command("promote", """
    arbiter models promote payment/2
    arbiter models promote payment/2 --limit 1% --yes
""")  # fmt: skip
@click.argument("name", metavar=NAME)
@click.option("--limit", type=Share(), default="5%", show_default=True,
              help="Ask when a larger share of recent decisions would change.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Don't ask.")
@recent_option
@place_options
def promote(name: str, limit: float, yes: bool, recent: int, folder: Path, **flags: Any) -> None:
    """Let another model decide: write its name into policy.yaml, where it takes effect as any saved change does.

    The newest decisions are made again from their records first, and how many would change is told, per band. Only
    the name is replaced; comments and lines stay. A challenger changes places with the model before it, so going back
    is promoting that one.
    """
    settings, console = settings_of(folder, flags), output()
    model = load_model(registry.find(settings.models, name))
    kind, program = model.event_kind, open_program(settings)
    before = program.models.get(kind)
    if before is not None and before.name == name:
        raise Ended(f"{name} decides already", BAD_INPUT)
    model = load_fitting(name, kind, program.feature_set, settings.models)
    seen = promotion.policy_text(settings.rules)
    text = promotion.promoted(seen, kind, name)
    with tempfile.TemporaryDirectory() as made:  # before anybody is asked: would the policy load?
        open_program(settings.model_copy(update={"rules": promotion.draft(settings.rules, text, Path(made))}))
    console.print(f"{name} instead of {before.name if before else 'no model'} for {kind} events", style="bold")
    with _decisions(settings, kind, recent) as found:
        change = promotion.shift(found, program, kind, before, model)
    _tell(change, program, kind, console)
    if change.share > limit and not yes:
        _ask(change.share, limit)
    promotion.write_policy(settings.rules, text, seen)
    click.echo(f"{settings.rules / promotion.POLICY} names {name} now")


def _ask(share: float, limit: float) -> None:
    try:
        agreed = click.confirm(f"{share:.1%} of recent decisions would change, more than {limit:.1%}; go on?", err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise Ended("nothing was changed; `--yes` promotes without asking", PROBLEMS)


@contextmanager
def _decisions(settings: Settings, kind: str, most: int) -> Iterator[deque[Stored]]:
    """The newest decisions of the folder's journal; none where there is no journal."""
    if not (settings.state / "journal.sqlite").exists():
        yield deque()
        return
    with _journal(settings) as journal:
        yield promotion.recent(journal, kind, most)


@contextmanager
def _journal(settings: Settings) -> Iterator[SqliteJournal]:
    _, journal = open_stores(settings)
    if not (settings.state / "journal.sqlite").exists():
        raise SettingsError(f"there is no journal in {settings.state}; it comes with the first decision or import")
    journal.open()
    try:
        yield journal
    finally:
        asyncio.run(journal.close())


def _tell(change: Shift, program: Program, kind: str, console: Console) -> None:
    """What would change, by band and by action."""
    if not change.decisions:
        console.print(f"no recent {kind} decisions to compare on", style="yellow")
        return
    console.print(
        f"of the {change.decisions:,} newest decisions {change.changed:,} would change ({change.share:.1%}), "
        "made again from their records, all else being equal"
    )
    bands = program.policy.settings.bands.get(kind, ())
    labels = {promotion.NONE: "no score"} | {
        index: f"from {band.from_score:g}" + (f" {band.outcome.action.name}" if band.outcome.action else "")
        for index, band in enumerate(bands)
    }
    table = _grid("band", "now", "then", "leave", "join")
    for index, label in labels.items():
        now = sum(count for (was, _), count in change.bands.items() if was == index)
        then = sum(count for (_, will), count in change.bands.items() if will == index)
        stay = change.bands[index, index]
        if now or then or index >= 0:
            table.add_row(label, *(f"{count:,}" for count in (now, then, now - stay, then - stay)))
    console.print(table)
    moves = sorted((pair, count) for pair, count in change.actions.items() if pair[0] is not pair[1])
    for (was, will), count in moves:
        console.print(f"  {count:,} {was.name} → {will.name}")


@arbiter_command("retire", """
    arbiter models retire payment/1 --reason "replaced by payment/2"
""")  # fmt: skip
@click.argument("name", metavar=NAME)
@click.option("--reason", required=True, help="Why; it is kept with the model.")
@click.option("--author", default=getpass.getuser, help="Who; the system's user if it is not said.")
@place_options
def retire(name: str, reason: str, author: str, folder: Path, **flags: Any) -> None:
    """Take a model out of service: no policy that names it goes live any more.

    Nothing is deleted, since decisions of the past are explained with the model that made them.
    """
    settings = settings_of(folder, flags)
    found = registry.find(settings.models, name)
    if role := _roles(settings).get(name):
        raise Ended(f"{name} {role}: take it out of {settings.rules / promotion.POLICY} first", BAD_INPUT)
    if name in _live(settings):
        raise Ended(f"{name} decides in the policy that is live; activate one without it first", BAD_INPUT)
    if words := registry.retired(found):
        raise Ended(f"{name} is retired already: {words}", BAD_INPUT)
    today = datetime.now(UTC).date().isoformat()
    registry.retire(found, f"{today} by {author}: {' '.join(reason.split())}")
    click.echo(f"{name} is retired; remove {found / registry.RETIRED} to bring it back")


@arbiter_command("explain", """
    arbiter models explain order-4711
    arbiter models explain order-4711 --json
""")  # fmt: skip
@click.argument("event_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@place_options
def explain_(event_id: str, as_json: bool, folder: Path, **flags: Any) -> None:
    """Why the score of a decision is what it is: what each feature added to the log-odds.

    Decisions other than ALLOW are explained as they are made, and that is shown; any other is explained now.
    """
    settings = settings_of(folder, flags)
    with _journal(settings) as journal:
        found = _explained(event_id, settings, journal)
    if as_json:
        sys.stdout.write(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    console = output()
    console.print(f"score {found.score:.4f} of {event_id} by {found.model}", style="bold")
    for reason in found.reasons:
        console.print(f"  {reason.code}  {reason.analyst}")
    table = _grid("feature", "value", "log-odds")
    for part in found.contributions:
        table.add_row(part.feature, "missing" if part.value is None else f"{part.value:g}", f"{part.log_odds:+.3f}")
    table.add_row("what nothing is known of", "", f"{found.bias:+.3f}")
    table.add_row("log-odds before calibration", "", f"{found.margin:+.3f}", style="bold")
    console.print(table)


def _explained(event_id: str, settings: Settings, journal: SqliteJournal) -> Explained:
    kept = journal.explanation_of(event_id)
    if kept is not None:
        return read_record(kept.record)
    stored = journal.find_now(event_id)
    if stored is None:
        raise NotFound(f"no decision with id {event_id!r}")
    digest = orjson.loads(stored.record.public).get("decision", {}).get("program", "")
    return explain(stored, open_programs(settings, journal)(digest), Explainers(settings.models))


def _roles(settings: Settings) -> Mapping[str, str]:
    """Model → what the policy lets it do."""
    try:
        named = open_program(settings, with_models=False).policy.settings
    except (PolicyError, ModelError) as problem:
        raise Ended(f"the policy in {settings.rules} can't be used:\n{problem}", PROBLEMS) from problem
    roles = {name: f"challenges for {kind}" for kind, names in named.challengers.items() for name in names}
    return roles | {name: f"decides {kind}" for kind, name in named.models.items()}


def _live(settings: Settings) -> set[str]:
    """Models of the policy that is live, which need not be the folder's."""
    if not (settings.state / "journal.sqlite").exists():
        return set()
    with _journal(settings) as journal:
        newest = journal.programs.newest()
        bundle = journal.programs.bundle(newest.digest) if newest else None
        return {named.split()[0] for named in bundle.models.values()} if bundle else set()


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _grid(*heads: str) -> Table:
    """A table without lines, whose numbers stand to the right."""
    table = Table(box=None, pad_edge=True, header_style="dim")
    for head in heads:
        right = head in {"trees", "features", "auc", "average precision", "now", "then", "leave", "join", "log-odds"}
        table.add_column(head, justify="right" if right else "left", overflow="fold")
    return table


for one in (list_, show, compare, promote, retire, explain_):
    command.add_command(one)
