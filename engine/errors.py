"""The one error tree. Each error names its gRPC status; the service's interceptor applies it.

ArbiterError                      INTERNAL
├── InvalidInput                  INVALID_ARGUMENT     every wrong field at once, never a value that may be a card
├── PolicyError                   FAILED_PRECONDITION  rules, features, lists or bundle refused
├── MappingError                  INVALID_ARGUMENT     an import mapping or file that can't be read
├── SettingsError                 FAILED_PRECONDITION  unknown or impossible setting
├── ModelError                    FAILED_PRECONDITION  model file refused
├── BodyConflict                  ALREADY_EXISTS       a known id came with another body
├── NotFound                      NOT_FOUND
├── CaseConflict                  FAILED_PRECONDITION  a step of a review case that can't be taken now
│   ├── CaseHeld                                       somebody else has it
│   ├── LeaseEnded                                     it is not, or no longer, the reviewer's
│   └── CaseDecided               ALREADY_EXISTS       it was decided before, otherwise
├── Unavailable                   UNAVAILABLE
│   ├── ProfilesUnavailable
│   ├── JournalUnavailable
│   ├── PatternsUnavailable
│   └── Leaving                                        sent away with a retry hint: this server ends
├── Overloaded                    RESOURCE_EXHAUSTED   shed early, with a retry hint
└── DeadlinePassed                DEADLINE_EXCEEDED
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class ArbiterError(Exception):
    """Anything that Arbiter itself refuses or can't do; `status` is the gRPC status name a caller gets."""

    status: ClassVar[str] = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its dotted name and what is wrong, in words that are safe to show and to log."""

    field: str
    reason: str


class InvalidInput(ArbiterError):
    """The request can't be read as an event; `violations` lists every wrong field."""

    status = "INVALID_ARGUMENT"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.reason}" for v in self.violations))


class PolicyError(ArbiterError):
    """The policy can't be used; the live one stays."""

    status = "FAILED_PRECONDITION"


class MappingError(ArbiterError):
    """An import's mapping or file can't be read as declared."""

    status = "INVALID_ARGUMENT"


class SettingsError(ArbiterError):
    """A setting is unknown or impossible; the start stops."""

    status = "FAILED_PRECONDITION"


class ModelError(ArbiterError):
    """A model file is corrupt, foreign, oversized or made for other features."""

    status = "FAILED_PRECONDITION"


class BodyConflict(ArbiterError):
    """A known id came with another body; nothing was changed. Both digests are hex."""

    status = "ALREADY_EXISTS"

    def __init__(self, event_id: str, stored: bytes, given: bytes) -> None:
        self.event_id, self.stored, self.given = event_id, stored, given
        super().__init__(
            f"id {event_id!r} is already known with body digest {stored.hex()}; this body's digest is {given.hex()}. "
            "Send the first body again to get its stored answer, or use a new id."
        )


class NotFound(ArbiterError):
    """What was asked for is not in the journal or the registry."""

    status = "NOT_FOUND"


class CaseConflict(ArbiterError):
    """A step of a review case that can't be taken now."""

    status = "FAILED_PRECONDITION"


class CaseHeld(CaseConflict):
    """Somebody else has the case."""


class LeaseEnded(CaseConflict):
    """The reviewer never took the case, or not for so long."""


class CaseDecided(CaseConflict):
    """The case was decided before, otherwise or by somebody else; decisions of cases are final."""

    status = "ALREADY_EXISTS"


class Unavailable(ArbiterError):
    """A part that Arbiter depends on does not answer."""

    status = "UNAVAILABLE"


class ProfilesUnavailable(Unavailable):
    """The profile store does not answer in time."""


class JournalUnavailable(Unavailable):
    """The journal can't be written; nothing may be answered as decided."""


class PatternsUnavailable(Unavailable):
    """The pattern matcher's child process is dead or late."""


class Leaving(Unavailable):
    """Sent away before any work was done, because this server ends; retry after the hint."""

    def __init__(self, retry_after_ms: int) -> None:
        self.retry_after_ms = retry_after_ms
        super().__init__(f"this server is leaving; send the same request again after {retry_after_ms} ms")


class Overloaded(ArbiterError):
    """Shed before any work was done; retry after the hint."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, retry_after_ms: int) -> None:
        self.retry_after_ms = retry_after_ms
        super().__init__(f"overloaded; retry the same request, with the same id, after {retry_after_ms} ms")


class DeadlinePassed(ArbiterError):
    """The caller's deadline passed before the answer was durable; a retry with the same id is safe."""

    status = "DEADLINE_EXCEEDED"
