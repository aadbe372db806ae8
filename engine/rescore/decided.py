"""What decided rows look like: one row an event, in the order in which the events were admitted.

    event_id           string    request id = event id
    kind               string    event kind
    time_us            int64     event time, µs UTC
    known_us           int64?    when the journal knew it; null for a file
    user               string?   the user's id as given, or its keyed hash in hex; null for a guest
    payment_id         string?
    amount_base_micro  int64?    millionths of the base currency; null without an amount or a rate
    score              float64?  calibrated probability, the very bits of the live score; null without a model
    tier               int8      `engine.values.Tier`
    action             int8      `engine.values.Action`
    user_tier          int8?     `Tier` of the person after this event; null for a guest
    reasons            list      reason codes, the most severe first
    sources            list      what gave each reason: `rule:ID`, `band:payment`, `required:FIELD`, `model` …
    measures           list      `KIND@SOURCE`
    lowered            list      `kind:id` of what lowered the decision: allow, snooze, control
    propensity         float64   the chance that the control group had to let it through
    degraded           list      sources that were missing: `profiles`, `model`, `fx:USD` …
    signals            list      patterns that the event completed
    by_row             bool      decided by `Program.conclude`, since columns could not
    rule.ID            int8      one column for each rule of the kind, then those on the user, then lines of scorecards
                                 as `rule.CARD#LINE`: `engine.values.Result`, + `OBSERVED` where it was not enforced;
                                 0 is a miss, and stands too where the rule was outside its schedule

All codes are fixed by `engine/values.py`; lists are never null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.policy.rules import Rule
from engine.program import Program

RULE = "rule."
OBSERVED = 4
"""Added to a rule's result where it ran as an observation: status, rollout."""
ENFORCED_HIT = 1
_SAID = ("", "", "=UNKNOWN", "=ERROR")
_TEXTS = pa.list_(pa.string())
PLAIN: dict[str, pa.DataType] = {
    "event_id": pa.string(), "kind": pa.string(), "time_us": pa.int64(), "known_us": pa.int64(), "user": pa.string(),
    "payment_id": pa.string(), "amount_base_micro": pa.int64(), "score": pa.float64(), "tier": pa.int8(),
    "action": pa.int8(), "user_tier": pa.int8(), "reasons": _TEXTS, "sources": _TEXTS, "measures": _TEXTS,
    "lowered": _TEXTS, "propensity": pa.float64(), "degraded": _TEXTS, "signals": _TEXTS, "by_row": pa.bool_(),
}  # fmt: skip


def schema_of(program: Program, kinds: tuple[str, ...] = ("payment",)) -> pa.Schema:
    """The columns of decided rows under a program; a rule that runs on several of the kinds has one column."""
    names = [*PLAIN, *dict.fromkeys(RULE + name for name in _columns_of(program, kinds))]
    return pa.schema([pa.field(name, PLAIN.get(name, pa.int8())) for name in names])


def rules_of(program: Program, kinds: tuple[str, ...] = ("payment",)) -> dict[str, Rule]:
    """Column name → its rule, of those that can say something about a decision of these kinds."""
    sets = [program.policy.by_kind[kind] for kind in kinds if kind in program.policy.by_kind]
    return {RULE + rule.id: rule for rules in sets for rule in rules.rules}


def packed(table: pa.Table) -> pa.Table:
    """For files: in place of the rule columns one list `hits`, in the order of the rules.

    A rule that hit stands there by its id; `ID=UNKNOWN` and `ID=ERROR` could not be told; `observed:` goes before what
    was not enforced.
    """
    names = [name for name in table.column_names if name.startswith(RULE)]
    codes = np.array([table[name].to_numpy() for name in names], np.int8).reshape(len(names), len(table))
    return with_hits(table.drop(names), [name[len(RULE) :] for name in names], codes)


def with_hits(table: pa.Table, names: Sequence[str], codes: npt.NDArray[np.int8]) -> pa.Table:
    """The same from the rules' codes, rule × row."""
    rule, row = np.divmod(np.flatnonzero(codes != 0), max(len(table), 1))
    order = np.argsort(row, kind="stable")
    rule, row = rule[order], row[order]
    words = [f"{'observed:' * (code >= OBSERVED)}{name}{_SAID[code & 3]}" for name in names for code in range(8)]
    hits = pa.array(words, pa.string()).take(pa.array(rule * 8 + codes[rule, row]))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=len(table))))).astype(np.int32)
    return table.append_column("hits", pa.ListArray.from_arrays(pa.array(offsets), hits))


def _columns_of(program: Program, kinds: tuple[str, ...]) -> Iterator[str]:
    sets = [rules for kind in (*kinds, "user") if (rules := program.policy.by_kind.get(kind)) is not None]
    for rules in sets:
        yield from (rule.id for rule in rules.rules)
    for rules in sets:
        for card in rules.adders:
            yield from (f"{card.name.partition('.')[2]}#{line + 1}" for line in range(len(card.program.conditions)))
