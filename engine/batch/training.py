"""From a history to a training table and a plan: features as online, labels as they were known.

A label of an event that was let through is *fraud* when one of the policy's fraud outcomes (`rules/labels.yaml`) is
known, unless a dispute was won since; *good* when it was confirmed, when that dispute was won, or when no outcome spoke
against it until `mature_after` had passed. Other outcomes (a service dispute, friendly fraud, abuse), our own declines,
the issuer's and failed challenges are neither. Fraud stands above those, and those above good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.batch.declared import Mapping as Declared
from engine.batch.frames import features_of
from engine.batch.history import History
from engine.batch.load import Summary
from engine.errors import ModelError
from engine.features.offline import build
from engine.program import Program
from engine.schema import FIELDS, NEUTRAL
from engine.scoring.codec import DAY_US, Span, time_text
from engine.scoring.config import TrainConfig

NUMBERS = frozenset({"int", "double", "bool"})
OWN_FIELDS = ("txn.amount_base", "basket.quantity", "event.local_hour", "event.weekday", "ip.proxy", "email.disposable")
"""Fields of the event itself that a model without a configuration learns from, beside every numeric feature."""
GROUPS = ("card.token", "user.id", "device.id")
"""Whose payment it is: the first of these that the event names."""
MOST_UNKNOWN = 0.05
"""Share of outcomes that may name an event that isn't there, as of bad rows in an import."""
NEVER_US = 2**62
CLOCKS_DIFFER_US = 5 * 60_000_000
"""What two clocks may differ by: a label that was known so little before its event counts from the event on."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is known about one event at some time."""

    fraud: bool | None
    """None is neither fraud nor good."""
    known_us: int
    """When that was known."""


def label_at(
    time_us: int, outcomes: Sequence[tuple[str, int]], as_of_us: int, fraud: frozenset[str], mature_after_us: int
) -> Label | None:
    """The label of an event that was let through, as known at a time; None while it can't be told.

    `outcomes`: (kind, known at) of all its outcomes.
    """
    known = sorted((at, kind) for kind, at in outcomes if at <= as_of_us)
    won_us = next((at for at, kind in known if kind == "dispute_won"), None)
    bad_us = next((at for at, kind in known if kind in fraud), None)
    if bad_us is not None:
        return Label(True, bad_us) if won_us is None else Label(False, max(won_us, bad_us))
    other_us = next((at for at, kind in known if kind not in NEUTRAL), None)
    if other_us is not None:
        return Label(None, other_us)
    good_us = min([at for at, kind in known if kind == "confirmed_good"] + [time_us + mature_after_us])
    return Label(False, good_us) if good_us <= as_of_us else None


def default_features(program: Program) -> tuple[str, ...]:
    """Every numeric feature of the policy but places, and the numeric fields of the event itself."""
    types = program.feature_set.types
    named = [name for name, kind in types.items() if kind in NUMBERS and not name.endswith(("itude_24h", "itude"))]
    return (*named, *OWN_FIELDS)


def training_table(program: Program, history: History, config: TrainConfig) -> pa.Table:
    """A row for each event of the model's kind: id, time, features, and the fields that tell whose it is."""
    fields = _fields(program, config)
    items = history.items()
    table = build(program.feature_set, program.features, items, kind=config.event_kind, fields=fields)
    return table.select([*dict.fromkeys(["event_id", "event_time", *config.features, *fields])])


def table_of_file(
    program: Program, path: Path, mapping: Declared, config: TrainConfig, *, workdir: Path, quarantine: Path,
    now_us: int,
) -> tuple[pa.Table, History, Summary | None]:  # fmt: skip
    """The same from a file as it is, read through a mapping; the outcomes that its rows tell are in the history.

    Such a file knows what became of its newest event, however long that takes to be heard of.
    """
    fields, history = _fields(program, config), History(program, iter(()))
    table, summary = features_of(
        program, path, mapping, workdir=workdir, quarantine=quarantine, now_us=now_us, kind=config.event_kind,
        fields=fields, history=history,
    )  # fmt: skip
    if not len(table):
        raise ModelError(
            f"{path} holds no {config.event_kind} events; the mapping {mapping.name} says what its rows are"
        )
    times = times_us(table)
    history.start_us = int(times.min())
    history.horizon_us = int(times.max()) + max((rule.delay_us for rule in mapping.outcomes), default=0)
    return table.select([*dict.fromkeys(["event_id", "event_time", *config.features, *fields])]), history, summary


def _fields(program: Program, config: TrainConfig) -> tuple[str, ...]:
    """Event fields that a table needs beside features; ModelError names what is neither."""
    known = {name for name, field in FIELDS.items() if field.type in NUMBERS}
    own = [name for name in config.features if name not in program.feature_set.names]
    if unknown := [name for name in own if name not in known]:
        raise ModelError(
            f"no feature or numeric field of an event: {', '.join(unknown)}; `docs/features.md` lists them"
        )
    amount = [config.columns.amount] if config.columns.amount in known else []
    return tuple(dict.fromkeys([*own, *amount, *GROUPS]))


def check_known(history: History) -> str:
    """What is to say of outcomes whose event the history lacks; ModelError when they are more than a few."""
    unknown = sorted(history.outcomes.keys() - history.met)
    if not unknown:
        return ""
    told = (
        f"{len(unknown):,} of {len(history.outcomes):,} outcomes name an event that the history lacks, such as "
        f"{', '.join(unknown[:3])}"
    )
    if len(unknown) > MOST_UNKNOWN * len(history.outcomes):
        raise ModelError(f"{told}; they would be learnt as good. Do the ids of both files come from the same source?")
    return f"{told}; nothing is learnt from these"


def with_labels(
    table: pa.Table, program: Program, history: History, config: TrainConfig, mature_after_us: int
) -> pa.Table:
    """The same with `label`, `label_known` and `group`.

    Rows that are learnt from carry the label that was known at the cut-off; what only came later counts as not known
    yet. Rows after that carry what is known at the end, as far as they are mature then.
    """
    settings = program.policy.settings
    fraud, columns = frozenset(settings.fraud_outcomes), config.columns
    learnt = [span for span in (config.window, config.calibrate) if span is not None]
    labels: list[bool | None] = []
    known: list[int | None] = []
    early: list[str] = []
    times = times_us(table)
    for event_id, time_us in zip(table.column("event_id").to_pylist(), times.tolist(), strict=True):
        outcomes = history.outcomes.get(event_id, ())
        at_cut_off = any(span.start_us <= time_us < span.end_us for span in learnt)
        found = None
        if event_id not in history.refused:
            if at_cut_off:
                found = label_at(time_us, outcomes, config.cut_off, fraud, mature_after_us)
            if found is None and (at_cut_off or time_us + mature_after_us <= history.horizon_us):
                found = label_at(time_us, outcomes, NEVER_US, fraud, mature_after_us)
        if found and found.known_us < time_us - CLOCKS_DIFFER_US:
            early.append(event_id)
        labels.append(found.fraud if found else None)
        known.append(max(found.known_us, time_us) if found else None)
    if early:
        raise ModelError(
            f"{len(early):,} events have a label that was known before they happened, such as {', '.join(early[:5])}; "
            "correct the times of these events or the known_at of their outcomes, and import them again"
        )
    return (
        table.append_column(columns.label, pa.array(labels, pa.bool_()))
        .append_column(columns.label_known, pa.array(known, pa.int64()))
        .append_column(columns.group, _groups(table))
    )


def times_us(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Event times of a table that `build` made, µs."""
    column = table.column("event_time")
    times: np.ndarray[Any, np.dtype[np.int64]] = column.cast(pa.int64()).to_numpy()
    return times


def _groups(table: pa.Table) -> pa.Array:
    columns = [table.column(name).to_pylist() for name in GROUPS]
    return pa.array([next((value for value in row if value is not None), None) for row in zip(*columns, strict=True)])


def plan(start_us: int, horizon_us: int, mature_after_us: int) -> tuple[Span, Span]:
    """A window to learn from and a later one to test on, so that the labels of both were known when they had to be.

    The first days only fill the windows of features. ModelError when the history is too short.
    """
    free_us = horizon_us - start_us - 2 * mature_after_us
    if free_us < 20 * DAY_US:
        raise ModelError(
            f"the history of {(horizon_us - start_us) / DAY_US:.0f} days is too short: learning and testing both wait "
            f"{mature_after_us / DAY_US:.0f} days for their labels, so {(2 * mature_after_us) / DAY_US + 20:.0f} days "
            "are needed; bring more, or say how soon labels are known, with --mature-after"
        )
    warm_us = min(30 * DAY_US, free_us // 5 // DAY_US * DAY_US)
    test_us = free_us // 4 // DAY_US * DAY_US
    first_us = (start_us + warm_us) // DAY_US * DAY_US + DAY_US
    end_us = horizon_us // DAY_US * DAY_US
    test = Span(end_us - mature_after_us - test_us, end_us - mature_after_us)
    return Span(first_us, test.start_us - mature_after_us), test


def with_windows(config: TrainConfig, history: History, mature_after_us: int) -> TrainConfig:
    """The configuration with planned windows and a cut-off at which the last learning row is mature."""
    window, test = plan(history.start_us, history.horizon_us, mature_after_us)
    return replace(config, window=window, test=test, cut_off_us=window.end_us + mature_after_us)


def remarks(config: TrainConfig, table: pa.Table, mature_after_us: int) -> list[str]:
    """What a reader of the result should know about its labels."""
    end_us = (config.calibrate or config.window).end_us
    found = []
    if config.cut_off < end_us + mature_after_us:
        days = (end_us + mature_after_us - config.cut_off) / DAY_US
        found.append(
            f"labels of the last {days:.0f} days before {time_text(end_us)} are not mature at the cut-off "
            f"{time_text(config.cut_off)}: early frauds count there, good payments are left out"
        )
    if config.test is not None:
        inside = (times_us(table) >= config.test.start_us) & (times_us(table) < config.test.end_us)
        labels = table.column(config.columns.label).to_numpy(zero_copy_only=False)
        left = int(np.count_nonzero(inside & np.array([label is None for label in labels], np.bool_)))
        if left:
            found.append(
                f"{left:,} of {int(inside.sum()):,} payments of the test window have no label: refused, or young"
            )
    return found


def classes(table: pa.Table, config: TrainConfig) -> Mapping[str, int]:
    """How many rows have which label."""
    labels = table.column(config.columns.label).to_pylist()
    return {"fraud": labels.count(True), "good": labels.count(False), "neither, or not known": labels.count(None)}
