"""The journal's protocol: the durable, append-only truth. One contract suite holds every implementation to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.values import Activation, Bundle, DeskFigures, Record, ReviewCase, Stored, Worker


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


class Reviews(Protocol):
    """The queue of review cases: what the records say, kept ready. It can be derived anew from them at any time.

    A decision's record opens a case (`Record.opens`). Records of the kind `review` carry it on; their id is the case's,
    and their body says `step` (look, take, release, note, decide, timeout), `by`, and what belongs to the step.
    """

    def case(self, case_id: str) -> ReviewCase | None:
        """A case by its id."""

    def open(
        self, limit: int, now_us: int, held: bool | None = None, after: tuple[float, str] | None = None
    ) -> Sequence[ReviewCase]:
        """Open ones by falling rank, from behind (rank, id) on; `held`: those that somebody has now, or nobody has."""

    def decided(self, limit: int, after: tuple[float, str] | None = None) -> Sequence[ReviewCase]:
        """Decided ones, the newest first, from behind (decided_us, id) on."""

    def late(self, now_us: int, limit: int) -> Sequence[ReviewCase]:
        """Open ones that nobody has and that the policy decides by now."""

    def figures(self, now_us: int, since_us: int) -> DeskFigures:
        """Counts; `since_us`: from when on decided ones are counted."""

    def append(self, make: Callable[[], Sequence[Record]]) -> Sequence[Stored]:
        """Commit the records that `make` returns, called when nobody else can write, so that what it has read of the
        queue still holds; what it raises, it raises, and nothing is done. Blocks until it is durable."""

    def rebuild(self) -> int:
        """Derive the queue anew from the records; returns how many cases it has."""


class Journal(Protocol):
    """Appends are durable when they return. A record with a digest claims its id, once for all."""

    @property
    def programs(self) -> Programs:
        """What is and was live."""

    @property
    def reviews(self) -> Reviews:
        """The queue of review cases."""

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
