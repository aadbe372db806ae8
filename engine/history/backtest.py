"""A backtest: payments of a journal or a file, decided anew by a draft, and the document that tells what it means.

Open loop: what was declined, approved and known of earlier payments stays as it was. Closed loop: what the draft
declines is no spend, gets no issuer's answer and no chargeback, and so changes the draft's own later velocities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from engine.batch.history import DECLINED_BY_US
from engine.features.offline import Arrival, Heard, Item, Settled
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
from engine.history.ledger import Ledger, rows_of
from engine.program import Program
from engine.rescore.decided import rules_of
from engine.values import Action

PASSES = 6
"""So often a closed loop is gone through before it is given up; two or three are usual."""


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

    def side(self, name: str, decided: pa.Table) -> tuple[Side, int]:
        """The side of decided rows in any order, and how many rows lack; those stay as they were live."""
        at = pa.compute.index_in(pa.array(self.row_ids), decided["event_id"].combine_chunks())
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
        {rule: np.unique(attempt[rows]) for rule, rows in rows_of(table[name])} for name in ("hits", "observed")
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
        "payments": len(payments.time_us), "as_of_us": labels.as_of_us, "mature_after_us": labels.mature_after_us,
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


def closed_loop(
    decide: Callable[[frozenset[str]], pa.Table], first: pa.Table, told: Callable[[int], None]
) -> tuple[pa.Table, int]:
    """Decided rows that agree with their own declines, and how many rows still moved in the last pass.

    A decision depends on earlier ones only, so each pass makes at least one more step of every chain right: when
    nothing moves any more, it is what the draft would have done. `decide`: declined event ids → decided rows.
    """
    declined, decided, moved = _declined(first), first, 0
    for number in range(PASSES):
        told(number + 1)
        decided = decide(declined)
        now = _declined(decided)
        moved = len(now ^ declined)
        declined = now
        if not moved:
            break
    return decided, moved


def _declined(decided: pa.Table) -> frozenset[str]:
    return frozenset(decided.filter(pa.compute.equal(decided["action"], int(Action.DECLINE)))["event_id"].to_pylist())


def with_declines(items: Iterable[Item], declined: frozenset[str], window_ids: frozenset[str]) -> Iterator[Item]:
    """A history as it had been if just these events of the window had been declined by us."""
    for item in items:
        if isinstance(item, Arrival):
            yield item
            if item.event.id in declined:
                yield Settled(item.event.id, DECLINED_BY_US)
        elif isinstance(item, Heard):
            if item.event_id not in declined:
                yield item
        elif item.event_id not in window_ids or (item.event_id not in declined and item.code != DECLINED_BY_US):
            yield item
