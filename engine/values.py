"""The frozen values that one stage hands to the next.

    request → Event → Admission → features → score → signals, RuleHits → Decision → Record → reply

What is made several times for each decision is a named tuple, which costs a third of a frozen dataclass.
Times are int64 microseconds since 1970-01-01 UTC (`_us`). Field names are those of `engine/schema.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple

HOUR_US = 3_600_000_000
Row = dict[str, Any]
"""Dotted name → value: what conditions and features read. An absent name is UNKNOWN."""


class Tier(IntEnum):
    """Risk tier, ordered; 0 is an error."""

    UNSPECIFIED = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3


class Action(IntEnum):
    """What to do, ordered by severity; 0 is an error."""

    UNSPECIFIED = 0
    ALLOW = 1
    CHALLENGE = 2
    REVIEW = 3
    DECLINE = 4


class Result(IntEnum):
    """What became of one rule's condition."""

    MISS = 0
    HIT = 1
    UNKNOWN = 2
    ERROR = 3


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, as the caller sent it, checked and in canonical form."""

    id: str
    """Request id = event id, 1..128 printable characters; one id space for Decide and Record."""
    kind: str
    time_us: int
    fields: Mapping[str, Any]
    """Fields as sent, never derived ones; timestamps as int µs, texts stripped."""
    body: bytes
    """Canonical JSON of id, kind, time and fields with sorted keys."""
    digest: bytes
    """BLAKE2b-128 of `body`: two requests with one digest are the same request."""


class EntityEvent(NamedTuple):
    """What one event puts into one entity's log, and asks of it."""

    entity: str
    """Entity kind: user, device, card …"""
    key: bytes
    """Keyed hash of the entity's value, 17 bytes: key id, then 128 bits."""
    id: int
    """Signed 64-bit hash of the event id."""
    time_us: int
    attempt: int
    """64-bit hash of (payment id, card) or 0; a second entry with the same attempt is kept but not counted."""
    flags: bytes
    """One byte 0|1 for each flag column of the entity's layout."""
    values: tuple[int, ...]
    """One int64 for each value column of the entity's layout."""
    attributes: Mapping[str, Any] = MappingProxyType({})
    """What the event says about the entity itself; the newest by (event time, id) stays."""


class EntityState(NamedTuple):
    """An entity as it was just before an admission."""

    head: Mapping[str, Any]
    """`attributes` {name: [value, time_us, id]}, `outcomes` [[id, kind, time_us, known_us]], `first_us` …"""
    log: bytes
    """Rows of the event log in admission order, encoded by the entity's `LogLayout`."""


class Admission(NamedTuple):
    """The answer of the profile store to one event: its number and what was there before it."""

    number: int
    """Store-wide, growing; smaller means seen earlier. 0 when nothing was written (dry run)."""
    states: Mapping[str, EntityState]
    """Entity kind → state before this event. An entity that the event doesn't name is absent."""
    fresh: bool
    """False when this id had been admitted before: the states are those of the first admission."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One of the policy's stable reason codes, as it applies here."""

    code: str
    analyst: str
    customer: str
    source: str
    """What gave it: `rule:ID`, `band:payment`, `list:NAME`, `measure:LIMIT_AMOUNT`, `required:FIELD`."""
    category: str = ""
    """What it counts under, such as `takeover`."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What else to do, with parameters and a life."""

    kind: str
    """STEP_UP, MONITOR, NOTIFY, LIMIT_ACCOUNT, LIMIT_AMOUNT or EDUCATE."""
    parameters: Mapping[str, Any]
    from_us: int
    until_us: int
    """0 = until lifted."""
    source: str
    """`rule:ID` that gave it."""
    lift: str = ""
    """How it ends before its time: the outcome or event kind that lifts it."""


@dataclass(frozen=True, slots=True)
class RuleHit:
    """One rule's result on one event."""

    rule: str
    result: Result
    failing: int
    """Index of the first top-level condition that was not true; -1 for a hit."""
    enforced: bool


@dataclass(frozen=True, slots=True)
class UserRisk:
    """The standing risk of a person (semantics, "Users")."""

    tier: Tier
    reasons: tuple[str, ...]
    since_us: int
    until_us: int
    """Earliest time it may fall; 0 = it holds until an event changes it."""
    digest: str
    """Program that set it."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """One thing that lowered a decision."""

    kind: str
    """allow, snooze or control."""
    id: str
    """Of the snooze; `LIST:LINE` of an allow entry; `control_group`."""
    author: str
    until_us: int
    cancelled: tuple[str, ...]
    """What it took away: `rule:ID`, `band:payment`."""
    tier: Tier
    """What the decision would have been if nothing had lowered it."""
    action: Action


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one event, and what it came from."""

    id: str
    tier: Tier
    action: Action
    measures: tuple[Measure, ...]
    score: float | None
    """Calibrated probability of fraud, 0..1, higher is riskier; None without a model or when it failed."""
    reasons: tuple[Reason, ...]
    hits: tuple[RuleHit, ...]
    """HIT, UNKNOWN and ERROR results; a rule that is not listed missed."""
    signals: tuple[str, ...]
    degraded: tuple[str, ...]
    """Sources that were missing or late: profiles, model, patterns, fx:USD …"""
    flags: tuple[str, ...]
    """Remarks such as STALE_CLOCK."""
    user_risk: UserRisk | None
    program: str
    """Digest of the live program."""
    decided_us: int
    dry_run: bool = False
    lowered: tuple[Lowered, ...] = ()
    propensity: float = 0.0
    """The chance that the control group had to let this event through, 0 where it could not."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a person stands, judged without an event."""

    risk: UserRisk
    reasons: tuple[Reason, ...]
    measures: tuple[Measure, ...]
    """Those in force."""
    hits: tuple[RuleHit, ...]
    degraded: tuple[str, ...]
    program: str
    assessed_us: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to what was recorded; the same again for a repetition, but for `new`."""

    new: bool
    known_us: int
    """When the journal made it durable."""
    flags: tuple[str, ...] = ()
    """Remarks such as STALE_CLOCK, LATE or ORPHAN."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the journal before it is committed."""

    kind: str
    """decision, event, outcome, settle, control, refused, undecided, risk, activation."""
    id: str
    """Event id, or the id that the record speaks of."""
    digest: bytes
    """Body digest: the claim on the id. Empty for kinds that claim nothing."""
    event_us: int
    payment_id: str
    public: bytes
    """Canonical JSON of what is kept for good."""
    personal: bytes
    """Canonical JSON of the personal fields, kept apart so that they can be erased."""
    number: int
    """Admission number, 0 when not admitted."""
    notices: Sequence[Mapping[str, Any]] = ()
    """What the outbox has to deliver, committed with the record."""
    known_us: int = 0
    """When it became known, where an import states it; 0 = when the journal commits it."""
    opens: Mapping[str, Any] | None = None
    """The review case that a decision opens, committed with the record, which holds it too."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as the journal holds it."""

    seq: int
    record: Record
    known_us: int
    writer: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """A policy that went live, kept for good; with its models it makes one program."""

    digest: str
    """The program's."""
    policy: str
    """Digest of the files alone."""
    files: Mapping[str, bytes]
    """Name below the policy's folder → content."""
    models: Mapping[str, str]
    """Event kind → name/version and digest of its model."""
    author: str
    reason: str
    created_us: int
    tests: str
    """What its tests said, in words; "" = it has none."""


@dataclass(frozen=True, slots=True)
class Activation:
    """From when on a program was to be live, and who said so."""

    digest: str
    author: str
    reason: str
    explicit: bool
    """By a command, and its policy asks for that; else a saved file takes effect by itself."""
    folder: str
    """Digest of the files in the policy's folder at that time; "" where it was not looked at."""
    origin: int = 0
    """Of a rollback: the number of the activation that it went back to."""
    seq: int = 0
    """Its number in the journal; 0 before it is there."""
    since_us: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that decides, as it signs in every second."""

    id: str
    """`host:pid`."""
    program: str
    """Digest of what it decides with."""
    since_us: int
    """When it took that."""
    seen_us: int
    problem: str = ""
    """Why it could not take what was activated since."""


@dataclass(frozen=True, slots=True)
class ReviewCase:
    """A decision that a person is to look at, as the journal's records make it. Times in µs, money in base currency."""

    id: str
    """The decision's, which is the event's."""
    payment_id: str
    currency: str
    loss: float
    """Expected: score × amount."""
    rank: float
    """log2 of the loss less hours until the deadline: its order among cases never changes with time."""
    opened_us: int
    due_us: int
    """Until when it should be answered."""
    timeout_us: int
    """When the policy decides it; 0 = never."""
    timeout_action: Action
    holder: str = ""
    """Who took it, "" where nobody did or it was given back."""
    held_us: int = 0
    """Until when: after that anybody may take it."""
    action: Action = Action.UNSPECIFIED
    """What was decided; unspecified while it is open."""
    decided_by: str = ""
    decided_us: int = 0
    reason: str = ""
    notes: int = 0

    def priority(self, now_us: int) -> float:
        """Expected loss, doubled with each hour that the deadline comes nearer; at the deadline it is the loss."""
        return float(2.0 ** min(self.rank + now_us / HOUR_US, 1_000.0))

    def held(self, now_us: int) -> bool:
        """Whether a reviewer has it now."""
        return not self.action and bool(self.holder) and now_us < self.held_us


@dataclass(frozen=True, slots=True)
class DeskFigures:
    """How a review desk is doing."""

    waiting: int
    taken: int
    overdue: int
    """Of the open ones, past their deadline."""
    loss: float
    """Expected of the open ones."""
    oldest_us: int
    """Opening of the oldest open one; 0 = there is none."""
    reviewers: Sequence[tuple[str, int, int, float]]
    """(reviewer, allowed, declined, median minutes from opening to decision) of what was decided in a time."""
