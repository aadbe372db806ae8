"""A backtest: payments of a journal or a file, decided anew by a draft, and the document that tells what it means.

Open loop: what was declined, approved and known of earlier payments stays as it was. Closed loop: what the draft
declines is no spend, gets no issuer's answer and no chargeback, and so changes the draft's own later velocities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.batch.declared import Mapping as Declared
from engine.batch.frames import features_of
from engine.batch.history import DECLINED_BY_US, History, from_journal
from engine.features.columnar import KIND
from engine.features.offline import Arrival, Item, Settled, build
from engine.hindsight import Hindsight
from engine.history.compare import (
    ACTIONS,
    TIERS,
    Assumptions,
    Line,
    Payments,
    Side,
    challengers,
    confusion,
    curve,
    examples,
    overlaps,
    rule_lines,
    side_of,
    worth,
)
from engine.history.labels import Codes, Floats, Ints, arrival, labels_of, weeks
from engine.history.ledger import GROUPS, Ledger, Window, rows_of
from engine.history.money import MICRO
from engine.program import Program
from engine.rescore.decide import Decider, Then
from engine.rescore.decided import rules_of
from engine.rescore.stored import from_records
from engine.schema import FIELDS
from engine.values import Action

PASSES = 6
"""So often a closed loop is gone through before it is given up; two or three are usual."""
_SHOWN = ("txn.amount_base", "txn.amount_minor", "txn.currency", "payment.id", "event.market", "event.stage")


@dataclass(frozen=True)
class Ground:
    """What is decided anew: payments, what was live, and how rows fold into attempts."""

    payments: Payments
    live: Side
    row_ids: Sequence[str]
    """Event ids of the rows to decide."""
    attempt: Ints
    """Attempt of each row."""
    last: Ints
    """Row in force of each attempt."""
    row_action: Codes
    """What was live, by row."""
    scores: dict[str, Floats]
    """Challenger → its scores, NaN where it had none."""

    def declined_live(self) -> frozenset[str]:
        """Ids of events that were declined."""
        return frozenset(np.array(self.row_ids, object)[self.row_action == Action.DECLINE].tolist())

    def differences(self, side: Side) -> dict[str, int]:
        """Payments where a side differs from live: in tier or action, in the bits of the score, in what rules hit."""
        live, hits = self.live, (self.live.hits, side.hits, self.live.observed, side.observed)
        rules = {rule for found in hits for rule in found}
        none = np.zeros(0, np.int64)
        pairs = [(was.get(rule, none), now.get(rule, none)) for was, now in (hits[:2], hits[2:]) for rule in rules]
        other = [np.setxor1d(*pair) for pair in pairs]
        return {
            "tier or action": int(((live.action != side.action) | (live.tier != side.tier)).sum()),
            "score": int((~((live.score == side.score) | (np.isnan(live.score) & np.isnan(side.score)))).sum()),
            "rules": len(np.unique(np.concatenate(other))) if other else 0,
        }

    def side(self, name: str, decided: pa.Table) -> tuple[Side, int]:
        """The side of decided rows in any order, and how many rows lack; those stay as they were live."""
        at = pc.index_in(pa.array(self.row_ids, pa.string()), decided["event_id"].combine_chunks())
        taken = decided.take(at.fill_null(0))
        lacking = np.flatnonzero(at.is_null().to_numpy(zero_copy_only=False))
        side = side_of(name, taken, self.attempt, self.last, self.row_action)
        gone = np.unique(self.attempt[lacking])
        side.action[gone], side.tier[gone] = self.live.action[gone], self.live.tier[gone]
        return side, len(lacking)


def ground_of(ledger: Ledger, fraud: frozenset[str], mature_us: int, as_of_us: int) -> Ground:
    """Decided payments of a journal."""
    attempts, table = ledger.attempts, ledger.decisions
    time_us = ledger.column("time_us")
    labels = labels_of(time_us, attempts.let_through, ledger.told(), as_of_us, fraud, mature_us)
    attempt, last = table["attempt"].to_numpy(), attempts.last
    hits, observed = (
        {rule: np.unique(attempt[rows]) for rule, rows in rows_of(table[name]).items()} for name in ("hits", "observed")
    )
    action = ledger.column("action").astype(np.int8)
    live = Side("live", ledger.column("tier").astype(np.int8), action, ledger.column("score"), hits, observed)
    ids = table["event_id"].to_pylist()
    payments = Payments(
        [ids[row] for row in last.tolist()], time_us, np.maximum(ledger.column("amount_micro"), 0),
        ledger.losses(fraud, as_of_us), ledger.column("group"), labels,
    )  # fmt: skip
    scores: dict[str, Floats] = {}
    for row, told in enumerate(table["challengers"].take(pa.array(last)).to_pylist()):
        for name, score in told or ():
            scores.setdefault(name, np.full(len(last), np.nan))[row] = score
    return Ground(payments, live, ids, attempt, last, table["action"].to_numpy(), scores)


def document(
    ground: Ground, sides: Sequence[Side], programs: tuple[Program, Program | None], assumed: Assumptions, **head: Any
) -> Line:
    """Every number of a backtest. `sides`: the draft in open loop first; `programs`: the draft's and the live one."""
    payments, live, draft = ground.payments, ground.live, sides[0]
    labels, (program, live_program) = payments.labels, programs
    learnt = arrival(payments.time_us, labels)
    lines = rule_lines(payments, draft, program, live)
    named = [line["rule"] for line in lines]
    net = curve(payments, draft, assumed.margin)
    best = max(net, key=lambda line: line["net_micro"], default=None)
    side_by_side = rule_lines(payments, live, live_program) if live.observed else []
    return head | {
        "payments": len(payments.time_us), "differences": ground.differences(draft),
        "as_of_us": labels.as_of_us, "mature_after_us": labels.mature_after_us,
        "assumed": {"review_minutes": assumed.review_minutes, "margin": assumed.margin},
        "live": worth(payments, live, live, assumed), "sides": [worth(payments, live, side, assumed) for side in sides],
        "actions": confusion(live.action, draft.action, ACTIONS), "tiers": confusion(live.tier, draft.tier, TIERS),
        "weeks": weeks(payments.time_us, labels, learnt), "arrival": learnt.share.tolist(),
        "arrival_frauds": learnt.frauds, "rules": lines, "silent": sorted(_silent(program, draft)),
        "overlap": {"rules": named, "share": overlaps(draft, named)}, "side_by_side": side_by_side,
        "challengers": challengers(payments, live, ground.scores, live_program or program), "curve": net,
        "proposed_score": best["from_score"] if best and best["net_micro"] > 0 else None,
        "examples": examples(payments, live, draft),
    }  # fmt: skip


def _silent(program: Program, side: Side) -> set[str]:
    """Rules that hit nothing."""
    return {rule.id for rule in rules_of(program).values()} - side.hits.keys() - side.observed.keys()


def redecided(
    past: Hindsight, program: Program, then: Then, ledger: Ledger, stored: bool, told: Callable[[str, int], None],
    loop: Mapping[str, frozenset[str]] | None = None,
) -> pa.Table:  # fmt: skip
    """A journal's decisions made again: features counted anew from its events, or those of the records if `stored`.

    How persons stood comes from the records either way; lists are asked `then`. `loop`: `was` and `declined`, ids of
    events that were declined live and shall be; features are counted as though just those had been.
    """
    counted = None
    if not stored:
        items = History(program, from_journal(past.journal, lambda what, count, _: told(what, count))).items()
        counted = build(program.feature_set, program.features, items if loop is None else with_declines(items, **loop))
    known = ledger.decisions["known_us"].to_numpy()
    seen = from_records(
        past, program, int(known.min()), int(known.max()) + 1, counted, lambda rows: told("records", rows)
    )
    return pa.concat_tables(Decider(program, then=then, standing="given").decide_rows(seen))


def closed_loop(
    again: Callable[[Mapping[str, frozenset[str]]], pa.Table], first: pa.Table, was: frozenset[str]
) -> tuple[pa.Table, int, int]:
    """Decided rows that agree with their own declines; passes made, and rows that still moved in the last one.

    A decision depends on earlier ones only, so each pass makes at least one more step of every chain right: when
    nothing moves any more, it is what the draft would have done. `first`: the open loop; `was`: events declined live.
    """
    decided, declined, passes, moved = first, declined_in(first), 0, 1
    while moved and passes < PASSES:
        decided, passes = again({"declined": declined, "was": was}), passes + 1
        now = declined_in(decided)
        moved, declined = len(now ^ declined), now
    return decided, passes, moved


def declined_in(decided: pa.Table) -> frozenset[str]:
    """Ids of declined events."""
    return frozenset(decided.filter(pc.equal(decided["action"], int(Action.DECLINE)))["event_id"].to_pylist())


def with_declines(items: Iterable[Item], declined: frozenset[str], was: frozenset[str]) -> Iterator[Item]:
    """A history as it had been if `declined` had been declined by us, and not those that were.

    What is declined now has no result and no outcome. What is not any more stays pending where no issuer was asked.
    """
    new = declined - was
    for item in items:
        if isinstance(item, Arrival):
            yield item
            if item.event.id in new:
                yield Settled(item.event.id, DECLINED_BY_US)
        elif item.event_id not in new and not (
            isinstance(item, Settled) and item.code == DECLINED_BY_US and item.event_id in was - declined
        ):
            yield item


# --- of a file -------------------------------------------------------------------------------------------------------


def file_table(
    program: Program, path: Path, mapping: Declared, workdir: Path, quarantine: Path, told: Callable[[float, int], None]
) -> tuple[pa.Table, History, int]:
    """Payments of a file with their fields and features, what it tells of outcomes, and how many rows are bad."""
    history = History(program, iter(()))
    table, summary = features_of(
        program, path, mapping, workdir=workdir, quarantine=quarantine, now_us=time.time_ns() // 1000,
        fields=sorted(_read_by(program)), history=history,
        progress=lambda p: told(p.bytes_done / max(p.bytes_total, 1), p.rows),
    )  # fmt: skip
    return table, history, summary.bad_rows if summary else 0


def _read_by(program: Program) -> set[str]:
    """Event fields that may have a say in a decision, and those that the report shows."""
    policy, names = program.policy, {*GROUPS, *_SHOWN}
    for rules in policy.by_kind.values():
        names |= {n for c in rules.conditions for n in c.names} | {n for a in rules.adders for n in a.program.names}
    for model in program.models.values():
        names |= set(model.features)
    names |= {name for required in policy.settings.required for name in required.fields}
    names |= {name for one in program.feature_set.derived for name in one.needs}
    return names & (FIELDS.keys() | {KIND}) | {KIND}


def file_ground(
    table: pa.Table, history: History, live: pa.Table | None, window: Window, fraud: frozenset[str], mature_us: int,
    as_of_us: int | None,
) -> tuple[Ground, pa.Table]:  # fmt: skip
    """The same for payments of a file in a window, and their rows; `live`: what another policy decided of them."""
    time_us = table["event_time"].cast(pa.int64()).to_numpy()
    rows = pa.array(np.flatnonzero((time_us >= window.from_us) & (time_us < window.to_us)))
    table, time_us = table.take(rows), time_us[rows.to_numpy()]
    ids, size = table["event_id"].combine_chunks(), len(table)
    told = list(history.outcomes.items())
    at = pc.index_in(pa.array([name for name, _ in told], pa.string()), ids).to_pylist()
    outcomes = {row: every for row, (_, every) in zip(at, told, strict=True) if row is not None}
    known = [at_us for every in outcomes.values() for _, at_us in every]
    as_of_us = as_of_us or max([int(time_us.max(initial=0)), *known])
    refused = pc.is_in(ids, pa.array(sorted(history.refused), pa.string())).to_numpy(zero_copy_only=False)
    labels = labels_of(time_us, ~refused, outcomes, as_of_us, fraud, mature_us)
    base = table["txn.amount_base"].to_numpy() if "txn.amount_base" in table.column_names else np.zeros(size)
    amount = np.rint(np.nan_to_num(base) * MICRO).astype(np.int64)
    group = pc.coalesce(*(table[name] for name in GROUPS), ids).combine_chunks().dictionary_encode()
    payments = Payments(ids, time_us, amount, amount, group.indices.to_numpy().astype(np.int64), labels)
    every, ones = np.arange(size), np.ones(size, np.int8)
    side = Side("live", ones, ones, np.full(size, np.nan), {})
    if live is not None:
        side = side_of("live", live.take(rows), every, every)
    return Ground(payments, side, ids, every, every, side.action, {}), rows
