"""The journal's protocol: the durable, append-only truth. One contract suite holds every implementation to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.values import Record, Stored


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the outbox has to deliver: once, and again until it succeeded."""

    id: int
    body: Mapping[str, Any]
    attempts: int


class Journal(Protocol):
    """Appends are durable when they return. A record with a digest claims its id, once for all."""

    async def start(self) -> None:
        """Open, or raise `JournalUnavailable`."""

    async def append(self, record: Record) -> Stored:
        """Durable when it returns. An id already claimed with this digest gives the winner's record instead;

        with another digest it raises `BodyConflict` and the attempt is journaled as refused.
        """

    async def find(self, record_id: str) -> Stored | None:
        """The record that claimed an id."""

    async def of_payment(self, payment_id: str) -> Sequence[Stored]:
        """All records of one payment, oldest first."""

    def read(self, after_seq: int, kinds: Sequence[str] = ()) -> Iterator[Stored]:
        """Records with a larger sequence number, in order, at bounded memory."""

    def writable(self) -> bool:
        """False after a failed commit, until a later one succeeds."""

    async def close(self) -> None:
        """Commit what is queued and release everything."""
