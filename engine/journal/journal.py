"""The journal's protocol: the durable, append-only truth. One contract suite holds every implementation to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.values import Activation, Bundle, Record, Stored, Worker


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the outbox has to deliver: once, and again until it succeeded."""

    id: int
    body: Mapping[str, Any]
    attempts: int


class Programs(Protocol):
    """What is and was live, and who has it. Bundles never change; activations are records of the journal."""

    def keep(self, bundle: Bundle) -> None:
        """Durable when it returns; a known digest stays as it is."""

    def bundle(self, digest: str) -> Bundle | None:
        """A bundle by the digest of its program."""

    def digests(self, beginning: str) -> Sequence[str]:
        """Digests of bundles that begin so, the newest first."""

    def activate(self, activation: Activation, after: int | None = None) -> Activation | None:
        """Durable when it returns, with its number; None, and nothing done, if `after` is not the newest's."""

    def newest(self, at_us: int | None = None) -> Activation | None:
        """What is live, or was live at a time."""

    def activations(self, limit: int) -> Sequence[Activation]:
        """The newest first."""

    def sign_in(self, worker: Worker) -> None:
        """Say that a worker lives and what it decides with."""

    def sign_out(self, worker_id: str) -> None:
        """A worker leaves."""

    def workers(self, since_us: int) -> Sequence[Worker]:
        """Those that signed in since."""


class Journal(Protocol):
    """Appends are durable when they return. A record with a digest claims its id, once for all."""

    @property
    def programs(self) -> Programs:
        """What is and was live."""

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
