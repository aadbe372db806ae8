"""The journal as columns: decisions with what came of them, read record by record, kept as Arrow.

    ledger = read_ledger(journal, rates_of, Window(from_us, to_us))
    ledger.decisions            # a row for each decision about a payment, and each payment that was only recorded
    ledger.attempts             # a row for each attempt to pay: its last decision is in force

Memory follows the payments of the window (about 500 bytes each), not the journal: everything else passes by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from engine.eventlog import hash64
from engine.features.enrich import Rates
from engine.history.labels import Codes, Ints, Mask, Told, day_of
from engine.history.money import loss_micro
from engine.journal.sqlite import SqliteJournal
from engine.program import Program
from engine.projection import result_of, speaks_of, stored_changes
from engine.records import event_of
from engine.schema import DISPOSITIONS
from engine.scoring.codec import DAY_US
from engine.standing import MEASURE, measure_name
from engine.values import Action, Activation, Event, Measure, Result, Stored

KINDS = ("decision", "event", "outcome", "joined", "review", "risk", "activation")
BATCH = 10_000
UNKNOWN_MICRO = -1
NOT_TOLD = "not told"
Texts = np.ndarray[tuple[int], np.dtype[np.object_]]
REFUSED = frozenset(
    DISPOSITIONS.index(word) for word in ("declined_by_us", "challenge_failed", "declined_by_issuer", "abandoned")
)
"""What was not sold."""
NEVER_US = 2**62
_RESULTS = (b'{"kind":"payment_result"', b'{"kind":"challenge_result"')
_ENDS = {"passed": 1, "failed": 2, "abandoned": 3}
_TOLD = frozenset({"NOTIFY", "EDUCATE", "LIMIT_ACCOUNT", "LIMIT_AMOUNT"})
"""Measures of which the shop is told."""
GROUPS = ("card.token", "user.id", "device.id")
"""Whose payment it is, for intervals: the first that the event names."""
_POINTS = re.compile(r"(#\d+)[+-]\d+$")
"""What a scorecard's line added; it is left out, so that a line has one name."""
_TEXT, _TEXTS = pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.string())
DECISIONS = pa.schema([
    ("event_id", pa.string()), ("attempt", pa.int64()), ("time_us", pa.int64()), ("known_us", pa.int64()),
    ("market", _TEXT), ("method", _TEXT), ("bin", pa.string()), ("amount_micro", pa.int64()), ("tier", pa.int8()),
    ("action", pa.int8()), ("score", pa.float64()), ("program", _TEXT), ("group", pa.int64()), ("hits", _TEXTS),
    ("observed", _TEXTS), ("sources", _TEXTS), ("challengers", pa.map_(pa.string(), pa.float64())),
])  # fmt: skip
"""`amount_micro` is -1 where no rate was known; `action` and `tier` are 0 where a payment was only recorded."""


@dataclass(frozen=True, slots=True)
class Window:
    """Event times from `from_us` on and before `to_us`."""

    from_us: int
    to_us: int

    def __contains__(self, time_us: object) -> bool:
        return isinstance(time_us, int) and self.from_us <= time_us < self.to_us


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts to pay, one entry each: a payment id and a card, through all stages and technical retries."""

    last: Ints
    """Row of the decision in force."""
    challenge: Codes
    """How its challenge ended: 0 not told, 1 passed, 2 failed, 3 abandoned."""
    challenged: Mask
    """Some stage answered CHALLENGE."""
    reviewed: Mask
    let_through: Mask
    """Neither we nor the issuer refused it, and no challenge ended it."""


@dataclass(frozen=True)
class Ledger:
    """What the journal tells of a window's payments, with everything known up to now about them."""

    window: Window
    decisions: pa.Table
    attempts: Attempts
    outcomes: Mapping[int, Sequence[Mapping[str, Any]]]
    """Attempt → outcomes, as recorded, each with `known_us`."""
    orphans: int
    """Outcomes of the window that speak of an event that the journal does not hold."""
    activations: Sequence[Activation]
    """All, oldest first."""
    measures: Mapping[str, Mapping[str, int]]
    """Kind → given (with decisions), told (to the outbox), begun, lifted, and in force at the end of the window."""
    empty_days: Sequence[str]
    """Days of the window without any payment, before the last one."""
    last_us: int
    """When the newest of all this became known."""
    rates: Mapping[int, Rates] = field(repr=False)
    """Attempt → the rates of its decision."""

    def gaps(self) -> list[str]:
        """Days that are missing, in words."""
        if not self.empty_days:
            return []
        days = " to ".join(dict.fromkeys((self.empty_days[0], self.empty_days[-1])))
        return [f"the journal holds no payment on {len(self.empty_days)} days of the period ({days})"]

    def remarks(self) -> list[str]:
        """What else to know: amounts without a rate, outcomes of events that nobody told of."""
        unknown = int((self.column("amount_micro") < 0).sum())
        texts = (
            (unknown, "payments have no amount in base currency (no rate was known); they are in no sum"),
            (self.orphans, "outcomes of the period speak of events that the journal does not hold"),
        )
        return [f"{count:,} {text}" for count, text in texts if count]

    @property
    def currency(self) -> str:
        """The base currency of the newest attempt."""
        return next((rates.base for rates in reversed([*self.rates.values()])), "")

    def column(self, name: str) -> Any:
        """A numeric column of the decisions in force, one entry an attempt."""
        return self.decisions.column(name).to_numpy()[self.attempts.last]

    def texts(self, name: str, absent: str | None = NOT_TOLD) -> Texts:
        """The same of a column of texts."""
        column = self.decisions.column(name).take(pa.array(self.attempts.last))
        return np.array([absent if text is None else text for text in column.to_pylist()], object)

    def told(self) -> dict[int, Told]:
        """Attempt → (kind, known at) of its outcomes, for labels."""
        return {row: [(told["kind"], told["known_us"]) for told in every] for row, every in self.outcomes.items()}

    def losses(self, fraud: frozenset[str], as_of_us: int = NEVER_US) -> Ints:
        """What each attempt costs if it is fraud: the claims known then, in base currency, else its amount."""
        losses: Ints = np.maximum(self.column("amount_micro"), 0)
        for row, every in self.outcomes.items():
            claims: dict[str, list[int | None]] = {}
            for told in every:
                if told["kind"] in fraud and told["known_us"] <= as_of_us:
                    claims.setdefault(told["kind"], []).append(self._claimed(row, told))
            losses[row] = loss_micro(int(losses[row]), claims)
        return losses

    def _claimed(self, row: int, told: Mapping[str, Any]) -> int | None:
        if "amount_minor" not in told:
            return None
        at_us = int(self.column("time_us")[row])
        return self.rates[row].base_micro(told["amount_minor"], told["currency"], at_us)


def rates_of(programs: Callable[[str], Program]) -> Callable[[str], Rates]:
    """Digest of a program → its exchange rates, each loaded once; "" is for what was only recorded."""
    return cache(lambda digest: programs(digest).rates)


def read_ledger(
    journal: SqliteJournal, rates_of: Callable[[str], Rates], window: Window,
    told: Callable[[float, int], None] = lambda _, __: None, earlier_us: int = 0, *, decided: bool = False,
) -> Ledger:  # fmt: skip
    """Read the journal once. `rates_of`: digest of a program, or "", → its exchange rates.

    Payments from so long before the window are read too, as `earlier_us` says; measures are counted in the window.
    `decided` leaves out payments that were only recorded.
    """
    reader = _Reader(rates_of, window, Window(window.from_us - earlier_us, window.to_us), decided)
    last_seq = max(1, journal.last_seq())
    for count, stored in enumerate(journal.read(0, KINDS)):
        reader.take(stored)
        if count % BATCH == 0:
            told(stored.seq / last_seq, count)
    return reader.ledger()


class _Reader:
    """One pass over the journal."""

    def __init__(self, rates_of: Callable[[str], Rates], window: Window, wider: Window, decided: bool) -> None:
        self._rates_of, self.window, self._wider = rates_of, window, wider
        self._kinds = ("decision",) if decided else ("decision", "event")
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._count = 0
        self._attempt_of: dict[str, int] = {}
        """Event id → attempt."""
        self._attempts: dict[tuple[str, str], int] = {}
        self._paid: dict[str, list[tuple[str | None, int]]] = {}
        """Payment → (card, attempt)."""
        self._state: list[list[int]] = []
        """Of each attempt: last row, status, challenge, challenged, reviewed."""
        self._outcomes: list[tuple[str, dict[str, Any]]] = []
        self._orphans: set[str] = set()
        self._wrong: set[str] = set()
        """Outcomes that contradicted their event when it came."""
        self._activations: list[Activation] = []
        self._measures: dict[str, dict[str, int]] = {}
        self._in_force: dict[tuple[bytes, str], int] = {}
        self._rates: dict[int, Rates] = {}
        self._last_us = 0

    def take(self, stored: Stored) -> None:
        """One record."""
        kind, public = stored.record.kind, stored.record.public
        if kind == "activation":
            self._activations.append(Activation(**orjson.loads(public), seq=stored.seq, since_us=stored.known_us))
        else:
            self._last_us = max(self._last_us, stored.known_us)
        if kind == "outcome":
            self._outcome(stored, orjson.loads(public))
        elif kind == "joined":
            self._wrong |= {said["outcome"]} if (said := orjson.loads(public)).get("contradicted") else set()
        elif kind == "review":
            self._reviewed(stored.record.id, orjson.loads(public))
        elif kind in self._kinds and public.startswith(b'{"kind":"payment"'):
            if stored.record.event_us in self._wider:
                self._payment(stored, orjson.loads(public))
        elif stored.record.payment_id in self._paid and public.startswith(_RESULTS):
            self._result(event_of(stored.record))
        if b'"measure:' in public and stored.known_us < self.window.to_us:
            self._standing(stored)

    def _payment(self, stored: Stored, body: Mapping[str, Any]) -> None:
        fields = event_of(stored.record).fields
        decision = body.get("decision", {})
        row = self._attempt(stored, fields, decision.get("action", 0))
        rates = self._rates[row] = self._rates_of(decision.get("program", ""))
        amount, minor = None, fields.get("txn.amount_minor")
        if minor is not None:
            amount = rates.base_micro(minor, fields["txn.currency"], stored.record.event_us)
        hits = decision.get("hits", ())
        who = next((f"{name}={fields[name]}" for name in GROUPS if name in fields), stored.record.id)
        self._rows.append({
            "event_id": stored.record.id, "attempt": row, "time_us": stored.record.event_us,
            "known_us": stored.known_us, "market": fields.get("event.market"), "method": fields.get("payment.method"),
            "bin": fields.get("card.bin"), "amount_micro": UNKNOWN_MICRO if amount is None else amount,
            "tier": decision.get("tier", 0), "action": decision.get("action", 0), "score": decision.get("score"),
            "program": decision.get("program"), "group": hash64(who), "hits": _hits(hits, True),
            "observed": _hits(hits, False), "sources": [reason[3] for reason in decision.get("reasons", ())],
            "challengers": [(n, s) for n, s in body.get("challengers", {}).items() if s is not None],
        })  # fmt: skip
        if len(self._rows) == BATCH:
            self._flush()
        if decision:
            self._given(decision["measures"], body.get("measures_before", ()))

    def _attempt(self, stored: Stored, fields: Mapping[str, Any], action: int) -> int:
        """The attempt that a decision is about; from here on it is the one in force."""
        payment, card = stored.record.payment_id or stored.record.id, fields.get("card.token")
        row = self._attempts.setdefault((payment, card or ""), len(self._attempts))
        if row == len(self._state):
            self._state.append([0, 0, 0, 0, 0])
            self._paid.setdefault(payment, []).append((card, row))
        state = self._state[row]
        state[0] = self._count
        state[3] |= action == Action.CHALLENGE
        state[4] |= action == Action.REVIEW
        self._attempt_of[stored.record.id], self._count = row, self._count + 1
        return row

    def _result(self, result: Event) -> None:
        """What the issuer or the challenge said of a payment; the last word stands."""
        code, ended = result_of(result), _ENDS.get(result.fields.get("challenge.status", ""), 0)
        for card, row in self._paid[result.fields["payment.id"]]:
            if speaks_of(result, card):
                self._state[row][1] = code or self._state[row][1]
                self._state[row][2] = ended or self._state[row][2]

    def _reviewed(self, event_id: str, step: Mapping[str, Any]) -> None:
        """What a reviewer declined, or the policy where nobody looked, is not sold."""
        if step.get("action") == Action.DECLINE and event_id in self._attempt_of:
            self._state[self._attempt_of[event_id]][1] = DISPOSITIONS.index("declined_by_us")

    def _outcome(self, stored: Stored, body: Mapping[str, Any]) -> None:
        outcome = body["outcome"]
        known_us = outcome.get("known_us") or stored.known_us
        self._outcomes.append((outcome["event_id"], outcome | {"known_us": known_us}))
        if body.get("orphan") and known_us in self.window:
            self._orphans.add(outcome["event_id"])

    def _given(self, given: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> None:
        known = {measure_name(Measure(**measure)) for measure in before}
        for measure in given:
            self._count_measure(measure["kind"], "given")
            if measure["kind"] in _TOLD and measure_name(Measure(**measure)) not in known:
                self._count_measure(measure["kind"], "told")

    def _count_measure(self, kind: str, what: str, number: int = 1) -> None:
        counts = self._measures.setdefault(kind, dict.fromkeys(("given", "told", "begun", "lifted", "in_force"), 0))
        counts[what] += number

    def _standing(self, stored: Stored) -> None:
        """Measures that began or were lifted with this record."""
        inside = stored.known_us >= self.window.from_us
        for change in stored_changes(stored.record.public):
            if change.kind == "attribute" and change.name.startswith(MEASURE):
                kind, key = change.name.split(":")[1], (change.key, change.name)
                if change.value is not None:
                    self._count_measure(kind, "begun", inside)
                    self._in_force[key] = change.value[3] or NEVER_US
                elif self._in_force.pop(key, None) is not None:
                    self._count_measure(kind, "lifted", inside)

    def _flush(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, DECISIONS))
        self._rows = []

    def ledger(self) -> Ledger:
        """Everything that was read."""
        self._flush()
        for (_, name), until_us in self._in_force.items():
            self._count_measure(name.split(":")[1], "in_force", until_us > self.window.to_us)
        outcomes: dict[int, list[Mapping[str, Any]]] = {}
        for event_id, outcome in self._outcomes:
            if event_id in self._attempt_of and outcome["id"] not in self._wrong:
                outcomes.setdefault(self._attempt_of[event_id], []).append(outcome)
        table = pa.Table.from_batches(self._batches, DECISIONS).unify_dictionaries()
        attempts = self._frozen(table)
        orphans = len(self._orphans - self._attempt_of.keys())
        days = table.column("time_us").to_numpy() // DAY_US
        return Ledger(
            self.window, table, attempts, outcomes, orphans, self._activations, self._measures,
            _without(days, self.window), self._last_us, self._rates,
        )  # fmt: skip

    def _frozen(self, table: pa.Table) -> Attempts:
        last, status, challenge, challenged, reviewed = np.array(self._state, np.int64).reshape(-1, 5).T
        refused = np.isin(status, list(REFUSED)) | (table.column("action").to_numpy()[last] == Action.DECLINE)
        return Attempts(last, challenge.astype(np.int8), challenged > 0, reviewed > 0, ~refused)


def _hits(hits: Sequence[Sequence[Any]], enforced: bool) -> list[str]:
    return [_POINTS.sub(r"\1", rule) for rule, result, _, shown in hits if result == Result.HIT and shown is enforced]


def _without(days: Ints, window: Window) -> list[str]:
    """Whole days of the window without a payment, up to the last that has one."""
    if not len(days):
        return []
    first = -(-window.from_us // DAY_US)
    return [day_of(day).isoformat() for day in sorted(set(range(first, int(days.max()))) - set(days.tolist()))]


def rows_of(lists: pa.ChunkedArray, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Ints]:
    """Text → rows whose list holds it, of a column of lists."""
    flat, parents = pc.list_flatten(lists).combine_chunks(), pc.list_parent_indices(lists.combine_chunks()).to_numpy()
    encoded = flat.dictionary_encode()
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    return {name: np.unique(parents[codes == code]) for code, name in enumerate(names) if wanted(name)}
