"""Windows against a naive recount: both ways of computing features give what the definitions say, on any history."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batch.history import History, Seen
from engine.eventlog import hash64
from engine.features.columnar import build_frame
from engine.features.frame import Column, Frame
from engine.features.offline import Arrival, Heard, Item, Settled, build
from engine.features.spec import Aggregate
from engine.intake import read_event
from engine.program import Program
from engine.schema import DERIVED, DISPOSITIONS, ENTITIES, FIELDS
from engine.values import Event
from tests.conftest import NOW_US
from tests.memory import MemoryProfiles, program_of

HOUR_US = 3_600_000_000
LONG = os.environ.get("ARBITER_LONG") == "1"
KEEP = 6
FEATURES = """
keep: {user: 6, card: 6, ip: 6}
features:
  user.age: {measure: age, of: user.account_created, unit: days, meaning: x}
  card.age: {measure: age, unit: days, meaning: x}
  user.count: {measure: count, on: payment, window: 2h, unit: events, meaning: x}
  user.count_own: {measure: count, on: payment, window: 2h, include_current: true, unit: events, meaning: x}
  user.count_before: {measure: count, window: 1h, offset: 1h, unit: events, meaning: x}
  user.large: {measure: count, on: payment, where: txn.amount_base > 20, window: 3h, unit: events, meaning: x}
  user.lost: {measure: count, on: payment, disposition: abandoned, window: 3h, unit: events, meaning: x}
  user.refused:
    {measure: count, on: payment, disposition: [declined_by_issuer, challenge_failed], window: 3h, offset: 1h,
     unit: events, meaning: x}
  user.spent:
    {measure: sum, of: txn.amount_base, on: payment, disposition: [pending, approved], window: 2h,
     unit: money, meaning: x}
  user.pieces: {measure: sum, of: basket.quantity, window: 2h, include_current: true, unit: pieces, meaning: x}
  user.mean: {measure: mean, of: txn.amount_base, on: payment, window: 3h, unit: money, meaning: x}
  user.mean_approved:
    {measure: mean, of: txn.amount_base, disposition: approved, window: 3h, include_current: true,
     unit: money, meaning: x}
  user.stddev: {measure: stddev, of: txn.amount_base, window: 3h, unit: money, meaning: x}
  user.stddev_own:
    {measure: stddev, of: txn.amount_base, window: 3h, offset: 1h, include_current: true,
     unit: money, meaning: x}
  user.min: {measure: min, of: txn.amount_base, window: 3h, unit: money, meaning: x}
  user.max_own: {measure: max, of: basket.quantity, window: 3h, include_current: true, unit: pieces, meaning: x}
  user.max_refused:
    {measure: max, of: txn.amount_base, disposition: declined_by_issuer, window: 3h,
     unit: money, meaning: x}
  user.last: {measure: last, of: txn.amount_base, window: 1h, unit: money, meaning: x}
  user.last_before: {measure: last, of: basket.quantity, window: 2h, offset: 30min, unit: pieces, meaning: x}
  user.since: {measure: since_last, on: login, window: 2h, unit: seconds, meaning: x}
  user.cards: {measure: distinct, of: card.token, window: 2h, unit: events, meaning: x}
  user.cards_own:
    {measure: distinct, of: card.token, on: payment, window: 2h, include_current: true,
     unit: events, meaning: x}
  user.cards_before:
    {measure: distinct, of: card.token, on: payment, window: 2h, offset: 1h,
     unit: events, meaning: x}
  user.same_card: {measure: repeats, of: card.token, on: payment, window: 3h, unit: events, meaning: x}
  user.same_card_approved:
    {measure: repeats, of: card.token, disposition: approved, window: 3h, offset: 10min,
     unit: events, meaning: x}
  user.fraud_rate: {measure: rate, outcome: fraud, on: payment, window: 3h, default: 0.0, unit: share, meaning: x}
  user.fraud_rate_before: {measure: rate, outcome: fraud, window: 2h, offset: 1h, unit: share, meaning: x}
  user.frauds: {measure: count_received, outcome: fraud, window: 2h, unit: events, meaning: x}
  card.chargebacks: {measure: count_received, outcome: chargeback, window: 2h, offset: 1h, unit: events, meaning: x}
  card.count: {measure: count, on: payment, window: 3h, unit: events, meaning: x}
  ip.count: {measure: count, window: 3h, unit: events, meaning: x}
  user.median: {measure: median, of: txn.amount_base, on: payment, window: 3h, unit: money, meaning: x}
  user.median_own:
    {measure: median, of: basket.quantity, window: 3h, offset: 10min, include_current: true, unit: pieces, meaning: x}
  user.median_approved:
    {measure: median, of: txn.amount_base, disposition: approved, window: 3h, unit: money, meaning: x}
  user.first: {measure: first, of: txn.amount_base, on: payment, window: 2h, unit: money, meaning: x}
  user.first_own: {measure: first, of: basket.quantity, window: 1h, include_current: true, unit: pieces, meaning: x}
  user.ratio: {measure: ratio, of: txn.amount_base, on: payment, window: 3h, unit: ratio, meaning: x}
  user.ratio_approved:
    {measure: ratio, of: basket.quantity, disposition: [pending, approved], window: 3h, offset: 10min,
     unit: ratio, meaning: x}
  user.rhythm: {measure: gap_mean, on: payment, window: 3h, unit: seconds, meaning: x}
  user.rhythm_own: {measure: gap_mean, on: payment, window: 3h, include_current: true, unit: seconds, meaning: x}
  user.rhythm_spread: {measure: gap_stddev, window: 3h, unit: seconds, meaning: x}
  user.rhythm_spread_own:
    {measure: gap_stddev, on: payment, window: 6h, offset: 1h, include_current: true, unit: seconds, meaning: x}
  user.rhythm_approved: {measure: gap_mean, disposition: approved, window: 3h, unit: seconds, meaning: x}
  user.said: {measure: told, of: user.language, unit: text, meaning: x}
  user.language_own: {measure: told, of: user.language, include_current: true, unit: text, meaning: x}
  card.disposable: {measure: told, of: email.disposable, unit: yes-no, meaning: x}
  user.pieces_told: {measure: told, of: basket.quantity, include_current: true, unit: pieces, meaning: x}
  user.tiled: {measure: count, on: payment, window: 2h, precision: tiled, unit: events, meaning: x}
  user.tiled_own:
    {measure: sum, of: txn.amount_base, on: payment, window: 1h, precision: tiled, include_current: true,
     unit: money, meaning: x}
  user.tiled_mean: {measure: mean, of: basket.quantity, window: 90min, precision: tiled, unit: pieces, meaning: x}
  user.tiled_spread:
    {measure: stddev, of: txn.amount_base, window: 36h, precision: tiled, include_current: true,
     unit: money, meaning: x}
  ip.tiled: {measure: count, where: txn.amount_base > 20, window: 1h, precision: tiled, unit: events, meaning: x}
  user.own_share: {derive: "user.spent > 0.0 ? txn.amount_base / user.spent : 0.0", unit: share, meaning: x}
"""
WON = "dispute_won"


@cache
def small() -> Program:
    """Every measure, with offsets, filters and dispositions, over logs that keep six events."""
    with TemporaryDirectory() as folder:
        return program_of(Path(folder) / "rules", FEATURES)


# --- any history -----------------------------------------------------------------------------------------------------

MINUTES = st.integers(0, 40).map(lambda n: n * 10)
"""Few distinct times, so that many fall on one second and on the very edges of windows."""
KINDS = st.sampled_from(
    ["payment", "payment", "payment", "login", "account_created", "payment_result", "challenge_result"]
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """An event document of two people, two cards, one network; times in any order."""
    kind = draw(KINDS)
    document: dict[str, Any] = {
        "id": f"e{draw(st.integers(0, 40))}", "kind": kind, "time_us": NOW_US + draw(MINUTES) * 60_000_000,
        "user.id": draw(st.sampled_from(["u1", "u1", "u2", None])), "ip.address": "203.0.113.7",
        "card.token": draw(st.sampled_from(["c1", "c2", None])),
        "payment.id": draw(st.sampled_from([f"p{n}" for n in range(6)])),
        "user.language": draw(st.sampled_from(["de", "en", None, None])),
        "email.disposable": draw(st.sampled_from([True, False, None])),
    }  # fmt: skip
    if kind == "payment":
        pieces = draw(st.sampled_from([None, [1], [2, 1]]))
        document |= {
            "txn.amount_minor": draw(st.sampled_from([0, 999, 2_000, 2_001] * 10 + [150_000_000_000])),
            "txn.currency": draw(st.sampled_from(["EUR", "EUR", "JPY"])), "basket.quantities": pieces,
            "basket.items": pieces and [f"i{n}" for n in pieces],
            "payment.retry_of": draw(st.sampled_from([None, None, None, "e1"])),
        }  # fmt: skip
    elif kind == "payment_result":
        document["result.status"] = draw(st.sampled_from(["approved", "declined"]))
    elif kind == "challenge_result":
        document["challenge.status"] = draw(st.sampled_from(["passed", "failed", "abandoned"]))
    elif kind == "account_created":
        document["card.token"] = None
    return document


@st.composite
def outcomes(draw: st.DrawFn) -> dict[str, Any]:
    """An outcome of an event that may or may not be there, known at some time."""
    known_us = NOW_US + draw(MINUTES) * 60_000_000
    kind = draw(st.sampled_from(["chargeback", "confirmed_fraud", "fraud_warning", WON, "abuse"]))
    event_id = f"e{draw(st.integers(0, 40))}"
    return {"id": "o", "event_id": event_id, "kind": kind, "time_us": known_us, "known_us": known_us}


@dataclass(frozen=True, slots=True)
class Came:
    """An event as it arrived, with the clock of that moment."""

    event: Event
    now_us: int


LATE_US = 31 * 24 * HOUR_US
"""More than the lateness that the program allows."""


@st.composite
def histories(draw: st.DrawFn) -> list[Came | dict[str, Any]]:
    """Up to 30 arrivals; some events come while the clock shows another time, some too late to count."""
    came: list[Came | dict[str, Any]] = []
    for document in draw(st.lists(st.one_of(events(), events(), events(), outcomes()), min_size=1, max_size=30)):
        if "event_id" not in document:
            event = read_event(document, now_us=NOW_US + 10**15)
            came.append(Came(event, event.time_us + draw(st.sampled_from([0, 0, 0, 0, HOUR_US, LATE_US]))))
        else:
            came.append(document)
    return came


# --- the three ways --------------------------------------------------------------------------------------------------


def online_rows(came: Sequence[Came | Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Event by event, as the service does."""
    profiles, rows = MemoryProfiles(small()), {}
    for arrival in came:
        if isinstance(arrival, Came):
            case = profiles.admit(arrival.event, arrival.now_us)
            if case is not None and case.event.kind == "payment":
                rows[case.event.id] = case.row
        else:
            profiles.learn(arrival)
    return rows


def items(came: Sequence[Came | Mapping[str, Any]]) -> list[Item]:
    """The same as items for the columns; a known id and the outcome of an unknown event are left out, as online."""
    steps, known = [], set()
    for arrival in came:
        if isinstance(arrival, Came) and arrival.event.id not in known:
            known.add(arrival.event.id)
            steps.append(Seen(arrival.event, arrival.now_us, False))
        elif not isinstance(arrival, Came) and arrival["event_id"] in known:
            steps.append(arrival)
    return list(History(small(), iter(steps)).items())


HOW_FAR = [DISPOSITIONS.index(w) for w in ("pending", "abandoned", "declined_by_us", "challenge_failed",
                                           "declined_by_issuer", "approved")]  # fmt: skip
"""Dispositions on a payment's way: the farthest stays."""


@dataclass(frozen=True, slots=True)
class Naive:
    """Everything that had come before some arrival, recounted from scratch for one aggregate."""

    before: Sequence[Item]
    asked: Arrival
    aggregate: Aggregate

    def value(self) -> Any:
        """What the definition says."""
        a, end_us = self.aggregate, self.asked.as_of_us - self.aggregate.offset_us
        if a.measure == "age":
            return self._age()
        if a.measure == "told":
            return self._told()
        if a.tile_us:
            return self._tiled()
        rows = [row for row in self._kept() if end_us - a.window_us < row.event.time_us <= end_us]
        rows = [row for row in rows if self._passes(row)]
        if a.measure == "count_received":
            return sum(end_us - a.window_us < h.known_us <= end_us for h in self._heard() if h.kind in a.outcomes)
        if a.measure == "rate":
            return sum(map(self._is_bad, rows)) / len(rows) if rows else a.default
        rows = [row for row in rows if not a.dispositions or self._status(row) in a.dispositions]
        if a.measure == "repeats":
            own = self.asked.row.get(a.of)
            return None if own is None else sum(row.row[a.of] == own for row in rows)
        if a.measure == "since_last":
            return (self.asked.as_of_us - rows[-1].event.time_us) / 1e6 if rows else None
        if a.measure == "ratio":
            return self._ratio([round(row.row[a.of] * _scale(a.of)) for row in rows])
        if a.measure.startswith("gap"):
            return self._gap([row.event.time_us for row in rows])
        if a.include_current and self._passes(self.asked):
            rows = [*rows, self.asked]
        return self._fold([row.row[a.of] for row in rows] if a.of else rows)

    def _tiled(self) -> Any:
        """However many rows, from the beginning of the tile that the window begins in; not for one that is too old."""
        a, now_us = self.aggregate, self.asked.as_of_us
        times = [row.event.time_us for row in self._log()]
        newer = sum(time_us > now_us for time_us in times)
        if newer >= KEEP or (newer and max(times) - now_us > a.window_us):
            return None
        start_us = (now_us - a.window_us) // a.tile_us * a.tile_us
        rows = sorted((row for row in self._log() if start_us <= row.event.time_us <= now_us), key=by_time)
        rows = [row for row in rows if self._passes(row)] + [self.asked] * (
            a.include_current and self._passes(self.asked)
        )
        return self._fold([row.row[a.of] for row in rows] if a.of else rows)

    def _fold(self, found: list[Any]) -> Any:
        measure = self.aggregate.measure
        if measure in {"count", "distinct"}:
            return len(found) if measure == "count" else len(set(found))
        scale = _scale(self.aggregate.of)
        units = [round(value * scale) for value in found]
        if measure == "sum":
            return sum(units) / scale if scale > 1 else sum(units)
        if not units:
            return None
        if measure == "mean":
            return sum(units) / (len(units) * scale)
        if measure == "stddev":
            return math.sqrt(len(units) * sum(u * u for u in units) - sum(units) ** 2) / (len(units) * scale)
        if measure == "median":
            return float(median(Fraction(unit, scale) for unit in units))
        how = {"min": min, "max": max, "first": lambda values: values[0], "last": lambda values: values[-1]}
        one = how[measure](units)
        return one / scale if scale > 1 else one

    def _ratio(self, units: list[int]) -> float | None:
        """The own value over the mean of the others."""
        own = round(self.asked.row.get(self.aggregate.of, 0) * _scale(self.aggregate.of))
        return float(own / Fraction(sum(units), len(units))) if own and sum(units) else None

    def _gap(self, times: list[int]) -> float | None:
        """Mean or spread of the seconds between one and the next."""
        if self.aggregate.include_current and self._passes(self.asked):
            times.append(self.asked.as_of_us)
        steps = [later - earlier for earlier, later in pairwise(times)]
        if not steps:
            return None
        if self.aggregate.measure == "gap_mean":
            return float(Fraction(sum(steps), len(steps) * 1_000_000))
        spread = len(steps) * sum(step**2 for step in steps) - sum(steps) ** 2
        return math.sqrt(spread) / (len(steps) * 1_000_000)

    def _told(self) -> Any:
        """What the event says itself, if it counts, else what the newest of those before it said."""
        of = self.aggregate.of
        if self.aggregate.include_current and of in self.asked.row:
            return self.asked.row[of]
        said = [row for row in self._log() if of in row.row]
        newest = max(said, key=lambda row: (row.event.time_us, hash64(row.event.id)), default=None)
        return None if newest is None else newest.row[of]

    def _same(self, arrival: Arrival) -> bool:
        name = ENTITIES[self.aggregate.entity]
        return arrival.row.get(name) == self.asked.row[name]

    def _log(self) -> list[Arrival]:
        return [item for item in self.before if isinstance(item, Arrival) and self._same(item)]

    def _kept(self) -> list[Arrival]:
        """The newest six by (time, id), in order of time and arrival."""
        newest = sorted(self._log(), key=lambda row: (row.event.time_us, hash64(row.event.id)))[-KEEP:]
        return sorted((row for row in self._log() if row in newest), key=lambda row: row.event.time_us)

    def _passes(self, row: Arrival) -> bool:
        wanted = self.aggregate.filter
        if ("payment.retry_of" in row.row and row.event.kind == "payment") or _is_late(row):
            return False
        return wanted.passes(row.event.kind, row.row) and not self._repeated(row)

    def _repeated(self, row: Arrival) -> bool:
        """An earlier try of the same payment with the same card was counted."""
        log = self._log()
        earlier = log if row is self.asked else log[: log.index(row)]
        return any(_attempt(one) == _attempt(row) for one in earlier)

    def _status(self, row: Arrival) -> int:
        code, seen = 0, False
        for item in self.before:
            seen = seen or item is row
            if isinstance(item, Settled) and seen and item.event_id == row.event.id:
                code = max(code, item.code, key=HOW_FAR.index)
        overdue = self.asked.as_of_us - row.event.time_us > HOUR_US // 2
        return DISPOSITIONS.index("abandoned") if code == 0 and overdue else code

    def _heard(self) -> list[Heard]:
        """Outcomes of this entity's events; of each kind that which was known first."""
        mine = {row.event.id for row in self._log()}
        first: dict[tuple[str, str], Heard] = {}
        for item in self.before:
            if isinstance(item, Heard) and item.event_id in mine:
                told = first.get((item.event_id, item.kind), item)
                first[item.event_id, item.kind] = min(told, item, key=lambda heard: heard.known_us)
        return list(first.values())

    def _is_bad(self, row: Arrival) -> bool:
        kinds = {
            h.kind for h in self._heard() if h.event_id == row.event.id and h.known_us <= self.asked.as_of_us
        }  # fmt: skip
        return bool(kinds & set(self.aggregate.outcomes)) and WON not in kinds

    def _age(self) -> float:
        told = self.asked.row.get(self.aggregate.of) if self.aggregate.of else None
        created = [row for row in self._log() if row.event.kind == "account_created"]
        if told is None and self.aggregate.of and created:
            told = max((row.event.time_us, hash64(row.event.id)) for row in created)[0]
        born_us = told or min([row.event.time_us for row in self._log()] or [self.asked.as_of_us])
        return (self.asked.as_of_us - min(born_us, self.asked.as_of_us)) / (24 * HOUR_US)


def by_time(row: Arrival) -> int:
    """When it happened."""
    return row.event.time_us


def _scale(field: str) -> int:
    return 1_000_000 if FIELDS[field].type == "double" else 1


def _is_late(row: Arrival) -> bool:
    return row.as_of_us - row.event.time_us >= LATE_US


def _attempt(row: Arrival) -> Any:
    if row.event.kind != "payment" or "payment.retry_of" in row.row or _is_late(row):
        return object()
    return row.row["payment.id"], row.row.get("card.token")


@settings(max_examples=20_000 if LONG else 150, deadline=None)
@given(came=histories())
def test_three_ways_agree(came):
    """Late, repeated, same-second and retried events: service, columns and naive recount give the same values."""
    online, steps = online_rows(came), items(came)
    table = build(small().feature_set, small().features, steps).to_pylist()
    assert [row["event_id"] for row in table] == list(online)
    built = {row["event_id"]: row for row in table}
    for at, step in enumerate(steps):
        if isinstance(step, Arrival) and step.event.kind == "payment":
            for aggregate in small().feature_set.aggregates:
                wanted = None
                if ENTITIES[aggregate.entity] in step.row:
                    wanted = Naive(steps[:at], step, aggregate).value()
                got = online[step.event.id].get(aggregate.name), built[step.event.id][aggregate.name]
                assert got == (wanted, wanted), (aggregate.name, step.event)
            for derived in small().feature_set.derived:
                assert online[step.event.id].get(derived.name) == built[step.event.id][derived.name]


@settings(max_examples=60, deadline=None)
@given(came=histories(), cut=st.integers(1, 29))
def test_what_comes_later_changes_nothing_earlier(came, cut):
    """The rows of a history's beginning are the same, whatever follows."""
    steps = items(came)
    whole = build(small().feature_set, small().features, steps).to_pylist()
    part = build(small().feature_set, small().features, steps[:cut]).to_pylist()
    assert part == whole[: len(part)]


def framed(came: Sequence[Came | Mapping[str, Any]]) -> Frame | None:
    """The same as a frame, as a file would give it: in order of time, outcomes beside their events; None if empty."""
    first = {c.event.id: c.event for c in reversed(came) if isinstance(c, Came)}
    plain = [e for e in first.values() if e.kind not in {"payment_result", "challenge_result"}]
    plain.reverse()
    events = sorted(plain, key=lambda event: event.time_us)
    rows = {event.id: at for at, event in enumerate(events)}
    told: dict[str, dict[int, int]] = {}
    for outcome in came:
        if isinstance(outcome, dict) and outcome["event_id"] in rows:
            at = rows[outcome["event_id"]]
            known = max(outcome["known_us"], events[at].time_us)
            told.setdefault(outcome["kind"], {}).setdefault(at, known)
    fields = {name: coded([event.fields.get(name) for event in events]) for name in FIELDS.keys() - DERIVED}
    fields["event.kind"] = coded([event.kind for event in events])
    outcomes = {kind: (np.array([*by]), np.array([*by.values()])) for kind, by in told.items()}
    times = np.array([event.time_us for event in events], np.int64)
    if not events:
        return None
    return Frame(pa.array([e.id for e in events]), times, fields, outcomes, small().rates, lambda market: "")


def coded(values: Sequence[Any]) -> Column:
    """A column of plain values."""
    known = [value for value in values if value is not None]
    codes = np.full(len(values), -1)
    codes[[value is not None for value in values]] = np.arange(len(known))
    return Column(codes, known)


@settings(max_examples=5_000 if LONG else 150, deadline=None)
@given(came=histories())
def test_a_frame_gives_what_its_events_give(came):
    """Columns of events have the features of the same events opened one by one, in every bit and type."""
    frame = framed(came)
    if frame is None:
        return
    events = {c.event.id: c.event for c in reversed(came) if isinstance(c, Came)}
    ids, steps = frame.ids.to_pylist(), list[Seen | dict[str, Any]]()
    for kind, (rows, known) in frame.outcomes.items():
        for row, known_us in zip(rows.tolist(), known.tolist(), strict=True):
            steps.append({"event_id": ids[row], "kind": kind, "time_us": known_us, "known_us": known_us})
    steps += [Seen(events[event_id], events[event_id].time_us, False) for event_id in ids]
    fields = ("txn.amount_base", "user.language", "basket.quantity")
    program = small()
    opened = build(program.feature_set, program.features, History(program, iter(steps)).items(), fields=fields)
    columns = build_frame(program.feature_set, program.features, frame, program.identity.key, fields=fields)
    assert columns.schema == opened.schema
    assert columns.to_pylist() == opened.to_pylist()


def test_no_history():
    """Without a single event there is an empty table with every column."""
    table = build(small().feature_set, small().features, [])
    assert (table.num_rows, set(small().feature_set.names) <= set(table.column_names)) == (0, True)


def test_amounts_beyond_the_columns():
    """Sums of a thousand payments of ten thousand million are exact: they take the online way."""
    event = read_event(
        {"id": "e", "kind": "payment", "time_us": NOW_US, "user.id": "u1", "payment.id": "p", "txn.currency": "EUR",
         "txn.amount_minor": 10**12 - 1}, now_us=NOW_US,
    )  # fmt: skip
    came = [
        Came(replace(event, id=f"e{n}", fields=dict(event.fields) | {"payment.id": f"p{n}"}), NOW_US) for n in range(9)
    ]
    table = build(small().feature_set, small().features, items(came)).to_pylist()
    assert table[-1]["user.spent"] == KEEP * (10**12 - 1) / 100
    assert table[-1]["user.stddev"] == 0.0


def test_a_late_payment_takes_nobodys_attempt():
    """A payment that came too late to count does not make the same one a retry that comes in time."""
    document = {
        "kind": "payment", "time_us": NOW_US, "user.id": "u1", "ip.address": "203.0.113.7", "card.token": "c1",
        "payment.id": "p1", "txn.amount_minor": 100, "txn.currency": "EUR", "event.stage": "checkout",
    }  # fmt: skip
    came = []
    for number, late_us in enumerate((LATE_US, 0, 0)):
        own = {"id": f"e{number}", "time_us": NOW_US + number * 60_000_000, "payment.id": "p1" if number < 2 else "p2"}
        event = read_event(document | own, now_us=NOW_US + 10**15)
        came.append(Came(event, event.time_us + late_us))
    online = online_rows(came)
    built = {row["event_id"]: row for row in build(small().feature_set, small().features, items(came)).to_pylist()}
    for row in (online["e2"], built["e2"]):
        assert (row["card.count"], row["user.same_card"]) == (1, 1)


def test_a_tiled_window_begins_with_its_tile():
    """At 12:10 two hours reach back to 10:00 exactly, not to 10:10; what is older than the newest by more has none."""
    came = []
    for number, minutes in enumerate((-10, 0, 20, 130, 9)):
        document = {
            "id": f"e{number}", "kind": "payment", "time_us": NOW_US + minutes * 60_000_000, "user.id": "u1",
            "payment.id": f"p{number}", "txn.amount_minor": 100, "txn.currency": "EUR", "event.stage": "checkout",
        }  # fmt: skip
        event = read_event(document, now_us=NOW_US + 10**15)
        came.append(Came(event, event.time_us))
    for some in (came[:4], came):
        built = {row["event_id"]: row for row in build(small().feature_set, small().features, items(some)).to_pylist()}
        for rows in (online_rows(some), built):
            told = [(rows[one.event.id].get("user.count"), rows[one.event.id].get("user.tiled")) for one in some]
            assert told == [(0, 0), (1, 1), (2, 2), (1, 2), (2, None)][: len(some)]
