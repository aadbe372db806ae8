"""Decisions of the journal as tables that can be decided again: what live saw, in the order of admission."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa

from engine.errors import PolicyError
from engine.features.enrich import enrich
from engine.features.load import event_types
from engine.features.offline import ARROW
from engine.hindsight import Hindsight
from engine.program import Program
from engine.records import event_of
from engine.rescore.parts import derived
from engine.rescore.rows import LOW
from engine.snapshot import kept_features
from engine.standing import pack_risk
from engine.values import Stored

TABLE_ROWS = 65_536
_TEXTS = pa.list_(pa.string())
_TYPES: Mapping[str, pa.DataType] = {
    **ARROW,
    "list(string)": _TEXTS,
    "list(int)": pa.list_(pa.int64()),
    "map(string, string)": pa.map_(pa.string(), pa.string()),
}
_OWN = {
    "event_id": pa.string(), "event_time": pa.int64(), "as_of_us": pa.int64(), "known_us": pa.int64(),
    "signals": _TEXTS, "degraded": _TEXTS, "risk_before": pa.string(), "measures_before": pa.string(),
    "challenge_passed": pa.bool_(), "control": pa.bool_(), "event.lists": _TEXTS,
}  # fmt: skip


def from_records(
    past: Hindsight, program: Program, since_us: int, until_us: int = 2**62, counted: pa.Table | None = None,
    told: Callable[[int], None] = lambda _: None,
) -> Iterator[pa.Table]:  # fmt: skip
    """Tables for `Decider(standing="given")` of the decisions known in a span of time.

    Aggregates are those in the records, which must mean what the program means by them (PolicyError), or those of
    `counted`, a table with `event_id` that was built from the journal's events.
    """
    rows: list[dict[str, Any]] = []
    known = pd.Index(counted["event_id"].to_pandas()) if counted is not None else None
    count = 0
    for stored in past.since(since_us):
        if stored.known_us < until_us:
            rows.append(_row(stored, past, program, counted is None))
        if len(rows) >= TABLE_ROWS:
            yield _table(program, rows, counted, known)
            count += len(rows)
            told(count)
            rows = []
    if rows:
        yield _table(program, rows, counted, known)


def _row(stored: Stored, past: Hindsight, program: Program, kept: bool) -> dict[str, Any]:
    """What the record keeps, as columns want it."""
    body, event = orjson.loads(stored.record.public), event_of(stored.record)
    decision, markets = body["decision"], program.policy.settings.markets
    row, _ = enrich(event, program.rates, lambda market: markets.get(market, ""))
    if kept:
        if decision["program"] == program.digest:
            row |= body["features"]
        else:
            row |= _same_features(stored, past, program)
    risk = decision["user_risk"]
    before = body.get("risk_before") or (
        risk and [risk[k] for k in ("tier", "reasons", "since_us", "until_us", "digest")]
    )
    measures = body.get("measures_before")
    return row | {
        "event_id": event.id, "event_time": event.time_us, "known_us": stored.known_us,
        "as_of_us": body["opened_us"] if "STALE_CLOCK" in decision["flags"] else event.time_us,
        "signals": decision["signals"], "degraded": [d for d in decision["degraded"] if not d.startswith("fx:")],
        "risk_before": orjson.dumps(before).decode() if before and before != pack_risk(LOW) else None,
        "measures_before": orjson.dumps(measures).decode() if measures else None,
        "challenge_passed": body.get("challenge_passed", False), "control": body.get("control", True),
        "event.lists": body.get("lists", []),
    }  # fmt: skip


def _same_features(stored: Stored, past: Hindsight, program: Program) -> Mapping[str, Any]:
    found = kept_features(stored, past.program_of(stored), program)
    names = {aggregate.name for aggregate in program.feature_set.aggregates}
    lost = sorted((orjson.loads(stored.record.public)["features"].keys() & names) - found.keys())
    if lost:
        raise PolicyError(
            f"the record of {stored.record.id} was made when {', '.join(lost[:5])} meant something else; "
            "compute the features anew from the journal's events: leave out --stored"
        )
    return found


def _table(program: Program, rows: list[dict[str, Any]], counted: pa.Table | None, known: Any) -> pa.Table:
    features, kinds = program.feature_set, event_types()
    aggregates = [a.name for a in features.aggregates] if counted is None else []
    schema = {**_OWN, **{name: _TYPES.get(kind) for name, kind in kinds.items()}}
    schema |= {name: ARROW[features.types[name]] for name in aggregates}
    table = pa.Table.from_pylist(rows, pa.schema([(name, kind) for name, kind in schema.items() if kind is not None]))
    table = table.drop([name for name in table.column_names if name in kinds and table[name].null_count == len(table)])
    if counted is not None:
        at = known.get_indexer(table["event_id"].to_pandas())
        places = pa.array(at, mask=at < 0)
        for aggregate in features.aggregates:
            table = table.append_column(aggregate.name, counted[aggregate.name].combine_chunks().take(places))
    return derived(program, table)
