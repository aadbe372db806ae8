"""A draft beside what was live, on the same payments: what it would have stopped, what it would have cost.

    live, draft = side_of("live", …), side_of("draft", …)
    worth(payments, live, draft, Assumptions())         rule_lines(payments, draft, program)

Every figure counts attempts to pay; the last decision of one is in force. *Stopped* is anything but ALLOW; `steps`
tells the actions apart. Fraud and good are known labels; declined payments without one are a class of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from engine.history.labels import Codes, Floats, Ints, Label, Labels, Mask
from engine.history.ledger import rows_of
from engine.history.money import MICRO, interval
from engine.program import Program
from engine.rescore.decided import OBSERVED, RULE, rules_of
from engine.values import Action, Result, Tier

ACTIONS = tuple(action for action in Action if action)
TIERS = tuple(tier for tier in Tier if tier)
EXAMPLES = 20
BANDS = 20
Line = dict[str, Any]
"""One row of a table of the report, by column."""


@dataclass(frozen=True, slots=True)
class Payments:
    """Attempts to pay with what is known of them, one entry each."""

    event_id: Sequence[str]
    """Of the decision in force."""
    time_us: Ints
    amount_micro: Ints
    """0 where no rate was known."""
    loss_micro: Ints
    """What each costs if it is fraud and let through."""
    group: Ints
    """Whose payment it is: intervals draw whole groups."""
    labels: Labels

    def sums(self, here: Mask | Ints) -> Line:
        """What is known of some of them; `precision`: fraud among those that are old enough to be judged."""
        codes, mature = (
            self.labels.codes[here],
            self.time_us[here] + self.labels.mature_after_us <= self.labels.as_of_us,
        )
        fraud, good = codes == Label.FRAUD, codes == Label.GOOD
        judged = int((mature & (fraud | good)).sum())
        return {
            "payments": len(codes), "fraud": int(fraud.sum()), "fraud_micro": int(self.loss_micro[here][fraud].sum()),
            "good": int(good.sum()), "good_micro": int(self.amount_micro[here][good].sum()),
            "immature": int((codes == Label.IMMATURE).sum()), "unseen": int((codes == Label.UNSEEN).sum()),
            "other": int((codes == Label.OTHER).sum()),
            "precision": int((mature & fraud).sum()) / judged if judged else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """What one policy made of each payment."""

    name: str
    tier: Codes
    action: Codes
    score: Floats
    """NaN without one."""
    hits: dict[str, Ints]
    """Rule → payments that it hit, enforced."""
    observed: dict[str, Ints] = field(default_factory=dict)
    others: Mask | None = None
    """Payments where something else than band and rules spoke: a missing field, a fallback, a limit."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the money rests on beside the records; each is printed."""

    review_minutes: float = 6.0
    """What a reviewer needs for one case."""
    margin: float = 0.10
    """Share of a good order's amount that is lost when it is declined, 0..1."""


def side_of(name: str, decided: pa.Table, attempt: Ints, last: Ints, live_action: Codes | None = None) -> Side:
    """The side of decided rows (`engine.rescore.decided`); `attempt` and `last` fold rows into attempts.

    A stage that this side declines where the journal's did not ends the payment, whatever later stages say.
    """
    action = decided["action"].to_numpy()
    made = action[last].astype(np.int8)
    if live_action is not None:
        made[attempt[(action == Action.DECLINE) & (live_action != Action.DECLINE)]] = Action.DECLINE
    hits: dict[str, Ints] = {}
    observed: dict[str, Ints] = {}
    for column in (name for name in decided.column_names if name.startswith(RULE)):
        codes = decided[column].to_numpy()
        for found, wanted in ((hits, int(Result.HIT)), (observed, Result.HIT + OBSERVED)):
            if len(rows := np.flatnonzero(codes == wanted)):
                found[column.removeprefix(RULE)] = rows if len(last) == len(attempt) else np.unique(attempt[rows])
    others = np.zeros(len(last), np.bool_)
    for rows in rows_of(decided["sources"], lambda source: not source.startswith(("rule:", "band:"))).values():
        others[attempt[rows]] = True
    score = decided["score"].to_numpy()[last].astype(np.float64)
    return Side(name, decided["tier"].to_numpy()[last].astype(np.int8), made, score, hits, observed, others)


def confusion(live: Codes, draft: Codes, values: Sequence[Action] | Sequence[Tier]) -> list[list[int]]:
    """Payments by what was live (rows) and by the draft (columns), in the order of `values`."""
    return [[int(((live == one) & (draft == other)).sum()) for other in values] for one in values]


def worth(payments: Payments, live: Side, side: Side, assumed: Assumptions) -> Line:
    """What a side does, and its difference to live with intervals: fraud stopped, good orders hurt."""
    stopped = (side.action > Action.ALLOW).astype(np.int64) - (live.action > Action.ALLOW)
    found: Line = {
        "name": side.name, "steps": {a.name: payments.sums(side.action == a) for a in ACTIONS},
        "stopped": payments.sums(side.action > Action.ALLOW),
        "review_hours": float((side.action == Action.REVIEW).sum()) * assumed.review_minutes / 60,
        "freed_unknown": payments.sums(
            (payments.labels.codes == Label.UNSEEN) & (live.action > Action.ALLOW) & (side.action == Action.ALLOW)
        ),
        "changed": int(((side.action != live.action) | (side.tier != live.tier)).sum()),
    }  # fmt: skip
    what = (("fraud_stopped", Label.FRAUD, payments.loss_micro), ("good_hurt", Label.GOOD, payments.amount_micro))
    for name, label, money in what:
        of = payments.labels.codes == label
        found[name] = interval(payments.group[of], [stopped[of]])
        found[f"{name}_micro"] = interval(payments.group[of], [(stopped * money)[of]])
    return found


def rule_lines(payments: Payments, side: Side, program: Program | None, live: Side | None = None) -> list[Line]:
    """Every rule that hit, the most fraud money first.

    `only`: payments that would have got a milder action without it; of an observed rule, those that it would have made
    severer. `live_hits`: what the same rule hit live. `program`: whose rules they are; None leaves `only` out.
    """
    alone = _alone(side, program) if program else {}
    found = []
    for observed, hits in ((False, side.hits), (True, side.observed)):
        for rule, rows in hits.items():
            line = {"rule": rule, "observed": observed, **payments.sums(rows)}
            if program:
                line["only"] = payments.sums(alone.get(rule, rows[:0]))
            if live:
                line["live_hits"] = len((live.hits | live.observed).get(rule, ()))
            found.append(line)
    return sorted(found, key=lambda line: (line["observed"], -line["fraud_micro"], -line["payments"], line["rule"]))


def _alone(side: Side, program: Program) -> dict[str, Ints]:
    """Rule → payments whose action it alone gives, or, observed, would have given."""
    settings = program.policy.settings
    gives = {
        name.removeprefix(RULE): int(rule.outcome.action or settings.default_actions[rule.outcome.tier or Tier.LOW])
        for name, rule in rules_of(program).items()
    }
    support = np.zeros(len(side.action), np.int64) if side.others is None else side.others.astype(np.int64)
    bands = settings.bands.get("payment", ())
    reached = np.searchsorted([band.from_score for band in bands], side.score, side="right") - 1
    for number, band in enumerate(bands):
        action = band.outcome.action or settings.default_actions[band.outcome.tier or Tier.LOW]
        support += (reached == number) & ~np.isnan(side.score) & (side.action == action)
    deciding = {rule: rows[side.action[rows] == gives.get(rule, 0)] for rule, rows in side.hits.items()}
    for rows in deciding.values():
        support[rows] += 1
    severer = {rule: rows[side.action[rows] < gives.get(rule, 0)] for rule, rows in side.observed.items()}
    return {
        rule: rows[(support[rows] == 1) & (side.action[rows] > Action.ALLOW)] for rule, rows in deciding.items()
    } | severer


def overlaps(side: Side, rules: Sequence[str]) -> list[list[float]]:
    """Share of a rule's hits (row) that another one (column) hits too, 0..1."""
    hits, found = side.hits | side.observed, []
    for one in rules:
        mine = np.zeros(len(side.action), np.bool_)
        mine[hits[one]] = True
        found.append([float(mine[hits[other]].sum()) / len(hits[one]) for other in rules])
    return found


def curve(payments: Payments, side: Side, margin: float) -> list[Line]:
    """Payments in bands of score with about as many frauds each, the highest first.

    `net_micro`: the loss that is saved less the margin of good orders that is lost, if all from here on were declined.
    """
    scored, fraud = ~np.isnan(side.score), payments.labels.codes == Label.FRAUD
    if not (scored & fraud).any():
        return []
    edges = np.unique(np.quantile(side.score[scored & fraud], np.linspace(0, 1, BANDS + 1)[:-1]))[::-1].tolist()
    found, above, net = [], np.inf, 0
    for edge in [*edges, *([0.0] if (side.score[scored] < edges[-1]).any() else [])]:
        line = payments.sums(scored & (side.score >= edge) & (side.score < above))
        net, above = net + line["fraud_micro"] - round(line["good_micro"] * margin), edge
        found.append({"from_score": edge, **line, "net_micro": net})
    return found


def examples(payments: Payments, live: Side, draft: Side) -> list[Line]:
    """Payments whose action changes, to look at: the largest of each kind of change by turns."""
    flipped = np.flatnonzero(live.action != draft.action)
    order = flipped[np.lexsort((flipped, -payments.amount_micro[flipped]))]
    kinds: dict[tuple[int, bool], list[int]] = {}
    for row in order.tolist():
        kind = int(payments.labels.codes[row]), bool(draft.action[row] > live.action[row])
        kinds.setdefault(kind, []).append(row)
    turns = sorted((turn, kind, row) for kind, rows in kinds.items() for turn, row in enumerate(rows[:EXAMPLES]))
    return [_example(payments, live, draft, row) for _, _, row in turns[:EXAMPLES]]


def _example(payments: Payments, live: Side, draft: Side, row: int) -> Line:
    hits = [[rule for rule, rows in side.hits.items() if row in rows] for side in (live, draft)]
    score = float(draft.score[row])
    return {
        "event_id": str(payments.event_id[row]), "time": moment(int(payments.time_us[row])),
        "amount": int(payments.amount_micro[row]) / MICRO, "label": Label(payments.labels.codes[row]).name,
        "live": Action(live.action[row]).name, "draft": Action(draft.action[row]).name,
        "score": None if np.isnan(score) else score, "live_rules": hits[0], "draft_rules": hits[1],
    }  # fmt: skip


def challengers(payments: Payments, live: Side, scores: Mapping[str, Floats], program: Program) -> list[Line]:
    """Models that were scored on live traffic, beside the one that decided: as though the bands were read by theirs.

    `average_precision`: over payments with a fraud or good label that both scored; None without both.
    """
    from sklearn.metrics import average_precision_score

    bands, codes, found = program.policy.settings.bands.get("payment", ()), payments.labels.codes, []
    for name, score in scores.items():
        both = ~np.isnan(score) & ~np.isnan(live.score)
        labelled, line = both & (codes <= Label.FRAUD), Line(model=name, scored=int(both.sum()))
        for side, values in (("live", live.score), ("challenger", score)):
            at = np.searchsorted([band.from_score for band in bands], values, side="right") - 1
            stops = np.array([(band.outcome.action or 0) > Action.ALLOW for band in bands] or [False])
            line[side] = payments.sums(both & stops[at])
            truth = codes[labelled] == Label.FRAUD
            known = truth.any() and not truth.all()
            line[side]["average_precision"] = float(average_precision_score(truth, values[labelled])) if known else None
        found.append(line)
    return found


def moment(time_us: int) -> str:
    """`2026-11-24 10:00`, UTC."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")
