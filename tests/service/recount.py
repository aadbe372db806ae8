"""An independent recount: what the journal's file says, read with nothing of the engine but SQL, JSON and hashes.

It derives every counter of the small test policy from events, results and outcomes, never from the changes or
features that the engine wrote beside them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
_BETTER = ["pending", "abandoned", "declined_by_us", "challenge_failed", "declined_by_issuer", "approved"]
_RESULTS = {
    ("payment_result", "approved"): "approved", ("payment_result", "declined"): "declined_by_issuer",
    ("challenge_result", "failed"): "challenge_failed", ("challenge_result", "abandoned"): "abandoned",
}  # fmt: skip
ENTITIES = {"user": "user.id", "card": "card.token", "device": "device.id"}


@dataclass
class Fact:
    """One admitted event."""

    id: str
    kind: str
    time_us: int
    number: int
    seq: int
    fields: dict[str, Any]
    decided: bool
    declined: bool
    late: bool
    snapshot: dict[str, Any]
    status: str = "pending"


@dataclass
class Journal:
    """The journal's rows, and what they say happened."""

    rows: list[dict[str, Any]]
    facts: dict[str, Fact] = field(default_factory=dict)
    outcomes: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    """Event id → (kind of outcome, known at in µs)."""
    kinds: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    """Event id → how many decisions the journal holds."""


def read_journal(folder: Path) -> Journal:
    """Read `journal.sqlite` of a state folder."""
    with sqlite3.connect(folder / "journal.sqlite") as db:
        db.row_factory = sqlite3.Row
        journal = Journal([dict(row) for row in db.execute("SELECT * FROM record ORDER BY seq")])
    numbers: dict[str, int] = {}
    for row in journal.rows:
        journal.kinds[row["kind"]] += 1
        if row["kind"] == "admitted":
            numbers[row["id"]] = row["number"]
        elif row["kind"] == "outcome":
            said = json.loads(row["public"])["outcome"]
            journal.outcomes[said["event_id"]].append((said["kind"], row["known_us"]))
        elif row["kind"] in ("decision", "event", "undecided"):
            journal.decisions[row["id"]] += row["kind"] == "decision"
            journal.facts[row["id"]] = _fact(row)
    for event_id, fact in list(journal.facts.items()):
        fact.number = fact.number or numbers.get(event_id, 0)
        if not fact.number:
            del journal.facts[event_id]  # Not admitted (yet).
    _settle(journal.facts.values())
    return journal


def _fact(row: dict[str, Any]) -> Fact:
    body = json.loads(row["public"])
    fields = body["fields"] | (json.loads(row["personal"]) if row["personal"] else {})
    declined = body["kind"] == "payment" and body.get("decision", {}).get("action") == 4
    return Fact(
        row["id"], body["kind"], row["event_us"], row["number"], row["seq"], fields,
        row["kind"] == "decision", declined, body.get("late", False), body.get("features", {}),
    )  # fmt: skip


def _settle(facts: Iterable[Fact]) -> None:
    """What became of each payment: the farthest that our decision or a result of it said."""
    paid: dict[str, list[Fact]] = defaultdict(list)
    for fact in sorted(facts, key=lambda f: f.seq):
        payment = fact.fields.get("payment.id")
        if fact.kind == "payment":
            _reach(fact, "declined_by_us" if fact.declined else "pending")
            if payment:
                paid[payment].append(fact)
        word = _RESULTS.get((fact.kind, fact.fields.get("result.status") or fact.fields.get("challenge.status") or ""))
        for target in paid.get(payment, ()) if word and payment else ():
            own = fact.fields.get("card.token")
            if own is None or own == target.fields.get("card.token"):
                _reach(target, word or "")


def _reach(fact: Fact, status: str) -> None:
    fact.status = max(fact.status, status, key=_BETTER.index)


def _counted(facts: Iterable[Fact]) -> Iterator[Fact]:
    """Of one entity's events in order of admission, those that count: an attempt does so once."""
    seen = set()
    for fact in facts:
        attempt = (fact.fields.get("payment.id"), fact.fields.get("card.token"))
        again = fact.kind == "payment" and attempt[0] is not None and attempt in seen
        if fact.kind == "payment":
            seen.add(attempt)
        if not again and not fact.late and "payment.retry_of" not in fact.fields:
            yield fact


class Counts:
    """The counters of `tests/policy/features.yaml`, by brute force over the facts of one entity."""

    def __init__(self, journal: Journal) -> None:
        self._outcomes = journal.outcomes
        self._facts: dict[tuple[str, str], list[Fact]] = defaultdict(list)
        for fact in sorted(journal.facts.values(), key=lambda f: f.number):
            for entity, name in ENTITIES.items():
                if name in fact.fields:
                    self._facts[entity, fact.fields[name]].append(fact)
        self._counted = {key: list(_counted(facts)) for key, facts in self._facts.items()}

    def known(self, entity: str) -> list[str]:
        """Every value of an entity."""
        return sorted(value for kind, value in self._facts if kind == entity)

    def ids(self, entity: str, value: str) -> list[str]:
        """Event ids of one entity in order of admission."""
        return [fact.id for fact in self._facts[entity, value]]

    def simple(self, user: str, card: str, device: str, as_of_us: int, before: int = 2**62) -> dict[str, int]:
        """The counters that no later result or outcome touches, of what was admitted before a number."""
        cards = {f.fields["card.token"] for f in self._seen("device", device, as_of_us, DAY_US, before)}
        changes = self._seen("user", user, as_of_us, 30 * DAY_US, before, "contact_changed")
        return {
            "user.payments_1h": sum(1 for _ in self._seen("user", user, as_of_us, HOUR_US, before)),
            "card.payments_1h": sum(1 for _ in self._seen("card", card, as_of_us, HOUR_US, before)),
            "device.cards_24h": len(cards),
            "user.contact_changes_30d": sum(1 for _ in changes),
        }

    def everything(self, user: str, card: str, device: str, as_of_us: int) -> dict[str, float]:
        """All counters, as of a time, of everything that was admitted."""
        day = list(self._seen("user", user, as_of_us, DAY_US, 2**62))
        status = [(_now(f, as_of_us), f.fields["txn.amount_minor"]) for f in day]
        spent = sum(minor for word, minor in status if word in ("pending", "approved"))
        declined = sum(1 for word, _ in status if word in ("declined_by_us", "declined_by_issuer"))
        paid = list(self._seen("user", user, as_of_us, 90 * DAY_US, 2**62))
        bad = sum(1 for f in paid if self._fraud(f.id, as_of_us))
        return self.simple(user, card, device, as_of_us) | {
            "user.spend_24h": spent / 100, "user.declined_24h": declined,
            "user.fraud_rate_90d": bad / len(paid) if paid else 0.0,
        }  # fmt: skip

    def _seen(
        self, entity: str, value: str, as_of_us: int, window_us: int, before: int, kind: str = "payment"
    ) -> Iterator[Fact]:
        for fact in self._counted.get((entity, value), ()):
            in_window = as_of_us - window_us < fact.time_us <= as_of_us
            if in_window and fact.number < before and fact.kind == kind:
                yield fact

    def _fraud(self, event_id: str, as_of_us: int) -> bool:
        said = {kind for kind, known_us in self._outcomes.get(event_id, ()) if known_us <= as_of_us}
        return bool(said & {"chargeback", "fraud_warning", "confirmed_fraud"}) and "dispute_won" not in said


def _now(fact: Fact, as_of_us: int) -> str:
    return "abandoned" if fact.status == "pending" and as_of_us - fact.time_us > HOUR_US // 2 else fact.status


def broken_links(journal: Journal) -> list[int]:
    """Sequence numbers of records whose chain does not hold, computed from the columns alone."""
    last: dict[str, tuple[int, bytes]] = defaultdict(lambda: (0, bytes(16)))
    broken = []
    for row in journal.rows:
        position, previous = last[row["writer"]]
        digest = _blake(row["personal"], row["salt"]) if row["personal"] else b""
        names = ("kind", "id", "event_us", "known_us", "number", "payment", "writer", "position")
        text = "\0".join(str(row[name]) for name in names).encode()
        expected = _blake(b"\0".join((previous, text, row["digest"], _blake(row["public"]), digest)))
        if (row["position"], row["previous"], row["personal_digest"], row["hash"]) != (
            position + 1, previous, digest, expected,
        ):  # fmt: skip
            broken.append(row["seq"])
        last[row["writer"]] = (row["position"], row["hash"])
    return broken


def _blake(data: bytes, salt: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=16, salt=salt).digest()
