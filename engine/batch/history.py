"""A history to learn from: the journal's records, or files of documents, in the order in which features saw them.

    history = History(program, from_files(Path("history")), told)
    table = build(program.feature_set, program.features, history.items(), …)     # engine.features.offline
    history.outcomes, history.refused, history.horizon_us                        # complete after that

Outcomes go first: what decides whether one was seen is when it was known, and an import may tell it years later.
"""

from __future__ import annotations

import gzip
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, merge
from pathlib import Path
from typing import Any

import orjson

from engine.errors import InvalidInput, MappingError
from engine.features.offline import Arrival, Heard, Item, Settled
from engine.intake import read_event, read_outcome
from engine.journal.sqlite import SqliteJournal
from engine.program import Program
from engine.projection import result_of, speaks_of
from engine.records import event_of
from engine.schema import DISPOSITIONS, OUTCOMES
from engine.values import Action, Event, Stored

DECLINED_BY_US = DISPOSITIONS.index("declined_by_us")
APPROVED = DISPOSITIONS.index("approved")
REFUSED = frozenset(DISPOSITIONS.index(word) for word in ("declined_by_us", "declined_by_issuer", "challenge_failed"))
"""What was not let through: it can't turn out to be fraud, so it says nothing about good and bad."""
REORDERED = 10_000
"""Records that may stand between an admission and an earlier one; a journal mixes no more than its calls in flight."""
_EVERY = 5_000
_NO_CLOCK_US = 2**62
"""A history that was made up may lie in the future; no time is too late for it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An event, with the time at which it was seen."""

    event: Event
    now_us: int
    declined: bool
    """Our own answer was DECLINE."""
    answer_later: bool = False
    """When profiles knew that is a step of its own."""


@dataclass(frozen=True, slots=True)
class Answered:
    """From here on profiles knew our answer to an event: between the two, others saw it as pending."""

    event_id: str
    reviewed: bool = False
    """A reviewer declined it, or the policy where nobody looked."""


Step = Seen | Answered | Mapping[str, Any]
"""An event, what profiles learned of one, or an outcome as `read_outcome` gives it."""
Progress = Callable[[str, int, float | None], None]
"""Called with what is being read, how many of it, and the share that is done where that can be known."""


@dataclass(slots=True)
class History:
    """Turns steps into the items that features are built from, and keeps what labels need."""

    program: Program
    steps: Iterator[Step]
    outcomes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Event id → (kind, known at) of its outcomes."""
    met: set[str] = field(default_factory=set)
    """Events that came after an outcome of theirs was told."""
    refused: set[str] = field(default_factory=set)
    """Events that were not let through."""
    horizon_us: int = 0
    """Up to when the history tells: its newest event."""
    start_us: int = 0
    """Its oldest event."""
    _payments: dict[str, list[tuple[str | None, str]]] = field(default_factory=dict)
    """Payment → (card, event id) of its attempts."""
    _declined: set[str] = field(default_factory=set)
    """Events that we declined, which profiles learn later."""

    def items(self) -> Iterator[Item]:
        """Everything, once."""
        for step in self.steps:
            yield from self.take(step)

    def take(self, step: Step) -> Iterator[Item]:
        """What one step gives."""
        if isinstance(step, Seen):
            yield from self._seen(step)
        elif isinstance(step, Answered):
            if step.reviewed or step.event_id in self._declined:
                yield self._settled(step.event_id, DECLINED_BY_US)
        else:
            known_us = step.get("known_us") or step["time_us"]
            self.outcomes.setdefault(step["event_id"], []).append((step["kind"], known_us))
            yield Heard(step["event_id"], step["kind"], known_us)

    def _seen(self, step: Seen) -> Iterator[Item]:
        event = step.event
        if event.id in self.outcomes:
            self.met.add(event.id)
        case = self.program.open(event, step.now_us)
        self.horizon_us = max(self.horizon_us, event.time_us)
        self.start_us = min(self.start_us or event.time_us, event.time_us)
        yield Arrival(event, case.row, case.entries, case.as_of_us)
        payment = event.fields.get("payment.id")
        if event.kind == "payment":
            self._payments.setdefault(payment or event.id, []).append((event.fields.get("card.token"), event.id))
            if step.declined and step.answer_later:
                self._declined.add(event.id)
            elif step.declined:
                yield self._settled(event.id, DECLINED_BY_US)
        elif payment and (code := result_of(event)):
            for card, paid in self._payments.get(payment, ()):
                if speaks_of(event, card):
                    yield self._settled(paid, code)

    def _settled(self, event_id: str, code: int) -> Settled:
        (self.refused.add if code in REFUSED else self.refused.discard)(event_id)
        return Settled(event_id, code)


# --- from files ------------------------------------------------------------------------------------------------------


def from_files(path: Path, told: Progress) -> Iterator[Step]:
    """Steps of a folder that `arbiter simulate` wrote, or of one file of event and outcome documents.

    MappingError names the first line that can't be read, or that goes back in time.
    """
    if path.is_dir():
        events, outcomes = _files(path, "events"), _files(path, "outcomes")
        if not events:
            raise MappingError(f"{path} holds no events.jsonl, as `arbiter simulate` writes it")
    else:
        events = outcomes = [path]
    for document, where, _ in _documents(outcomes, told, "outcomes"):
        if document.get("kind") in OUTCOMES:
            yield _checked(read_outcome, document, where)
        elif outcomes != events:
            raise MappingError(f"{where}: {document.get('kind')!r} is no kind of outcome")
    newest_us = 0
    for document, where, again in _documents(events, told, "events"):
        if document.get("kind") not in OUTCOMES:
            event = _checked(read_event, document, where)
            if event.time_us < newest_us:
                raise MappingError(f"{where}: goes back in time; `arbiter import {again}` puts events in order")
            newest_us = event.time_us
            yield Seen(event, event.time_us, False)


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(p for p in folder.glob(f"{name}*") if p.name.endswith((".jsonl", ".jsonl.gz")))


def _documents(paths: Sequence[Path], told: Progress, what: str) -> Iterator[tuple[dict[str, Any], str, Path]]:
    """Every document with its place, for messages."""
    total, before, count = sum(path.stat().st_size for path in paths), 0, 0
    for path in paths:
        with path.open("rb") as raw:
            lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            for number, line in enumerate(lines, 1):
                count += 1
                if count % _EVERY == 0:
                    told(what, count, (before + raw.tell()) / total)
                yield _parsed(line, f"{path}:{number}"), f"{path}:{number}", path
        before += path.stat().st_size


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise MappingError(f"{where}: is not JSON") from None
    if not isinstance(document, dict):
        raise MappingError(f"{where}: is not a JSON object")
    return document


def _checked(read: Callable[..., Any], document: dict[str, Any], where: str) -> Any:
    try:
        return read(document, now_us=_NO_CLOCK_US)
    except InvalidInput as problem:
        raise MappingError(f"{where}: {problem}") from problem


# --- from the journal ------------------------------------------------------------------------------------------------


def from_journal(journal: SqliteJournal, told: Progress) -> Iterator[Step]:
    """Steps of all that a journal holds: outcomes, then events by their admission."""
    for stored in journal.read(0, ("outcome",)):
        outcome = orjson.loads(stored.record.public)["outcome"]
        yield {**outcome, "known_us": outcome.get("known_us") or stored.known_us}
    last = max(journal.last_seq(), 1)
    settled = sorted((s.record.number, s.seq, s.record.id) for s in journal.read(0, ("settle",)))
    known = {event_id for _, _, event_id in settled}
    answered = ((number, seq, Answered(event_id)) for number, seq, event_id in settled)
    ways: list[Iterable[tuple[int, int, Stored | Answered]]] = [*_admissions(journal), answered]
    steps = merge(*ways, key=lambda numbered: numbered[:2])
    reviews = deque(
        s for s in journal.read(0, ("review",)) if orjson.loads(s.record.public).get("action") == Action.DECLINE
    )
    for count, (_, seq, found) in enumerate(steps):
        if count % _EVERY == 0:
            told("events", count, seq / last)
        while reviews and reviews[0].seq < seq:
            yield Answered(reviews.popleft().record.id, reviewed=True)
        yield found if isinstance(found, Answered) else _step(found, known)
    yield from (Answered(stored.record.id, reviewed=True) for stored in reviews)


def _step(stored: Stored, answered: Collection[str]) -> Seen:
    record, declined, now_us = stored.record, False, stored.known_us
    if record.kind == "decision":
        decision = orjson.loads(record.public)["decision"]
        declined, now_us = decision["action"] == Action.DECLINE, decision["decided_us"]
    return Seen(event_of(record), now_us, declined, record.id in answered)


def _admissions(journal: SqliteJournal) -> tuple[Iterator[tuple[int, int, Stored]], list[tuple[int, int, Stored]]]:
    """(admission number, sequence number, record) by number: those admitted at once, and those admitted later."""
    later = {stored.record.id: stored.record.number for stored in journal.read(0, ("admitted",))}
    held = [journal.find_now(event_id) for event_id in later]
    return _reordered(journal, later), sorted((later[s.record.id], s.seq, s) for s in held if s is not None)


def _reordered(journal: SqliteJournal, later: Mapping[str, int]) -> Iterator[tuple[int, int, Stored]]:
    waiting: list[tuple[int, int, Stored]] = []
    for stored in journal.read(0, ("decision", "event", "undecided")):
        if stored.record.id not in later:
            heappush(waiting, (stored.record.number, stored.seq, stored))
        if len(waiting) > REORDERED:
            yield heappop(waiting)
    while waiting:
        yield heappop(waiting)
