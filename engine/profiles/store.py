"""The profile store's protocol: what every implementation (SQLite, later Redis) must do, held by one contract suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.eventlog import LogLayout
from engine.values import Admission, EntityEvent, EntityState


@dataclass(frozen=True, slots=True)
class Change:
    """One idempotent update of one entity; any order, any repetition, the same state."""

    entity: str
    key: bytes
    kind: str
    """disposition | flag | attribute | outcome."""
    id: int
    """64-bit id of the event that is spoken of (disposition, flag, outcome) or that speaks (attribute)."""
    name: str = ""
    """Attribute name, outcome kind, or flag column."""
    value: Any = None
    """Disposition code, attribute value, or the outcome's known-at time (µs)."""
    time_us: int = 0


@dataclass(frozen=True, slots=True)
class Admit:
    """One event on its way into the logs of its entities."""

    id: str
    digest: bytes
    pending: bytes
    """What the reconciler needs to journal the attempt if no decision follows; empty = leaves nothing pending."""
    entries: tuple[EntityEvent, ...]
    changes: tuple[Change, ...] = ()
    """Applied in the same step, after the states were read."""
    shape: str = ""
    """Of the layouts that the entries are made for; "" is not compared."""


class LayoutsMoved(Exception):
    """The store has other layouts by now: open the event anew, with the program that is live."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An admission without a journal record yet."""

    id: str
    digest: bytes
    number: int
    since_us: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Merge:
    """Everything known about one entity from some journal records, for bulk loading and rebuilding."""

    entity: str
    key: bytes
    rows: bytes
    """Encoded log rows, numbers set, any order."""
    changes: Sequence[Change] = ()
    first_us: int = 0


class ProfileStore(Protocol):
    """Profiles by keyed hash. Admission is atomic for each entity; everything else is an idempotent merge."""

    async def start(self, layouts: Mapping[str, LogLayout]) -> None:
        """Open, or raise `ProfilesUnavailable`; stored logs of another layout raise `PolicyError`."""

    async def admit(self, request: Admit, deadline: float | None) -> Admission:
        """Append where absent and return what was there before; `ProfilesUnavailable` when late or down.

        `LayoutsMoved` when the entries were made for other layouts than the store has now.
        """

    async def peek(self, keys: Mapping[str, bytes]) -> Mapping[str, EntityState]:
        """Read the same states by a path that never writes."""

    async def settle(self, changes: Sequence[Change], settled: Sequence[str] = ()) -> int:
        """Apply changes and forget the pending ids that the journal now holds; returns the number of the step."""

    def settle_soon(self, settled: Sequence[str]) -> None:
        """Forget pending ids with the next transaction; nobody waits for it."""

    async def pending(self, before_us: int) -> Sequence[Pending]:
        """Admissions older than `before_us` that no journal record has settled."""

    async def first(self, event_id: int, keys: Mapping[str, bytes]) -> Mapping[str, EntityState]:
        """The states as the first admission of an event returned them."""

    def merge(self, parts: Iterable[Merge], next_number: int) -> None:
        """Bulk, sorted by (entity, key); rows and changes already there change nothing."""

    async def close(self) -> None:
        """Release everything; what was admitted stays."""
