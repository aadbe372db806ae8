"""`arbiter replay`: stored decisions made again, with the policy of then or with a draft."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from engine.batch.history import History, from_journal
from engine.bootstrap import looking_back
from engine.cli.endings import BAD_INPUT, PROBLEMS, Ended
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.cli.screen import Meter
from engine.errors import NotFound
from engine.features.offline import build
from engine.hindsight import Again, Hindsight
from engine.language import parse_timestamp_us
from engine.program import Program
from engine.records import decision_of
from engine.snapshot import kept_features
from engine.values import Result, Stored

SHOWN = 20
Counted = Mapping[str, Mapping[str, Any]]
"""Event id → its aggregates, counted anew."""


@arbiter_command("replay", """
    arbiter replay pay-8841 pay-8842
    arbiter replay --since 2026-11-24T00:00Z
    arbiter replay --since 2026-11-01T00:00Z --policy rules
    arbiter replay --since 2026-11-24T00:00Z --recount
""")  # fmt: skip
@click.argument("decisions", nargs=-1)
@click.option("--since", metavar="TIME", help="All decisions known since a time such as 2026-11-24T00:00Z.")
@click.option("--policy", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="What would be with the policy in this folder.")  # fmt: skip
@click.option("--recount", is_flag=True, help="Count features anew from the journal's events, instead of reading them.")
@place_options
def command(
    decisions: tuple[str, ...], since: str | None, policy: Path | None, recount: bool, folder: Path, **flags: Any
) -> None:
    """Decide stored decisions again: same, or differs because.

    DECISIONS are their ids. Each is made again from its record with the policy and the models of then: score, rules,
    lists as of then, tier, action, measures and reasons are computed anew and compared byte for byte. Nothing is stored
    or counted.

    Exit code 1 when one differs. With --policy differences are what is asked for, and the code is 0.
    """
    since_us = parse_timestamp_us(since) if since else None
    if since and since_us is None:
        raise Ended(f"{since!r} is not a time with a zone, such as 2026-11-24T14:03Z", BAD_INPUT)
    if bool(decisions) == bool(since):
        raise Ended("name the ids of decisions, or --since a time", BAD_INPUT)
    with looking_back(settings_of(folder, flags, policy=False)) as past:
        chosen = past.since(since_us) if since_us is not None else map(past.stored, decisions)
        draft = past.draft(policy) if policy else None
        began_s = time.monotonic()
        found = _replayed(past, chosen, draft, recount)
        if draft:
            _compare(found, draft)
        else:
            _verify(found, began_s, every=bool(decisions))


def _replayed(past: Hindsight, chosen: Iterable[Stored], draft: Program | None, recount: bool) -> Iterator[Again]:
    tables: dict[str, Counted] = {}
    for stored in chosen:
        try:
            then = past.program_of(stored)
        except NotFound as problem:
            yield Again(decision_of(stored), None, str(problem))
            continue
        program, counted = draft or then, None
        if recount:
            if program.digest not in tables:
                tables[program.digest] = _recounted(past, program)
            counted = tables[program.digest].get(stored.record.id)
        kept = kept_features(stored, then, program)
        if counted is not None and draft is None and (wrong := _other_feature(kept, counted, then)):
            yield Again(decision_of(stored), None, wrong)
        else:
            yield past.again(stored, draft, kept if counted is None else counted)


def _recounted(past: Hindsight, program: Program) -> Counted:
    """Every event's aggregates as the events of the journal give them."""
    with Meter("counting anew") as meter:
        steps = from_journal(past.journal, lambda what, count, share: meter(share, f"{count:,} {what}"))
        table = build(program.feature_set, program.features, History(program, steps).items())
    names = [aggregate.name for aggregate in program.feature_set.aggregates]
    rows = table.select(["event_id", *names]).to_pylist()
    return {row["event_id"]: {name: row[name] for name in names if row[name] is not None} for row in rows}


def _other_feature(kept: Mapping[str, Any], counted: Mapping[str, Any], then: Program) -> str:
    for one in then.feature_set.aggregates:
        if kept.get(one.name) != counted.get(one.name):
            return f"feature {one.name}: recorded {kept.get(one.name)}, counted anew {counted.get(one.name)}"
    return ""


def _verify(found: Iterable[Again], began_s: float, *, every: bool) -> None:
    count = Counter[bool]()
    for again in found:
        count[not again.why] += 1
        if every or (again.why and count[False] <= SHOWN):
            click.echo(f"{again.stored.id} {f'differs: {again.why}' if again.why else 'same'}")
    if not every:
        per_s = count.total() / max(time.monotonic() - began_s, 1e-9)
        click.echo(f"{count.total():,} decisions: {count[True]:,} same, {count[False]:,} differ; {per_s:,.0f} a second")
    if count[False]:
        raise click.exceptions.Exit(PROBLEMS)


def _compare(found: Iterable[Again], draft: Program) -> None:
    """What would be: how many, from which tier and action to which, and the rules whose hits change."""
    moved, hits, total, undone = Counter[str](), {True: Counter[str](), False: Counter[str]()}, 0, Counter[str]()
    for again in found:
        old, new, total = again.stored, again.made, total + 1
        if new is None:
            undone[again.why] += 1
            continue
        for name in ("action", "tier"):
            was, now = getattr(old, name), getattr(new, name)
            moved[f"{name} {was.name} → {now.name}"] += was is not now
        for which, decision in ((False, old), (True, new)):
            hits[which].update(hit.rule for hit in decision.hits if hit.result is Result.HIT)
    click.echo(f"{total:,} decisions with the draft {draft.digest[:12]}")
    for what, count in sorted(moved.items()):
        if count:
            click.echo(f"  {what}  {count:,}")
    if not moved.total():
        click.echo("  no tier and no action changes")
    for rule in sorted({*hits[False], *hits[True]}):
        if hits[False][rule] != hits[True][rule]:
            click.echo(f"  rule {rule} hits  {hits[False][rule]:,} → {hits[True][rule]:,}")
    for why, count in undone.items():
        click.echo(f"  {count:,} can't be made again: {why}")
