"""Card schemes and the limits of their monitoring programmes, declared in `schemes.yaml` or a file like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError
from engine.schema import OUTCOMES
from engine.scoring.codec import decode

DEFAULTS = Path(__file__).with_name("schemes.yaml")
SAME, BEFORE = "same month", "month before"


@dataclass(frozen=True, slots=True)
class Limit:
    """A line that a scheme draws; exceeded when both its rate and its number are reached."""

    name: str
    rate: float
    """Counted outcomes by payments, 0..1."""
    at_least: int
    """Outcomes in the month."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One card scheme."""

    name: str
    bins: tuple[str, ...]
    """First digits of its card numbers."""
    counts: tuple[str, ...]
    """Outcomes that it counts, by the month in which they became known."""
    over: str
    """Payments of the same month, or of the month before."""
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Schemes:
    """All of a file."""

    schemes: tuple[Scheme, ...]

    def of(self, card_bin: str | None, method: str | None) -> str:
        """Scheme of a payment: by the longest first digits that fit, else how it was paid."""
        fitting = [(len(b), s.name) for s in self.schemes for b in s.bins if (card_bin or "").startswith(b)]
        return max(fitting)[1] if fitting else (method or "not told")


def read_schemes(path: Path = DEFAULTS) -> Schemes:
    """Read a file; ModelError shows every mistake at its place."""
    found = decode(Schemes, path.read_bytes(), str(path))
    for scheme in found.schemes:
        if scheme.over not in {SAME, BEFORE} or not set(scheme.counts) <= set(OUTCOMES):
            raise ModelError(
                f"{path}: scheme {scheme.name}: over is {scheme.over!r} (of {SAME!r}, {BEFORE!r}), counts are "
                f"{', '.join(scheme.counts)} (of {', '.join(OUTCOMES)})"
            )
    return found


def exceeded(scheme: Scheme, count: int, payments: int) -> Sequence[Limit]:
    """Limits that a month reached."""
    return [each for each in scheme.limits if count >= each.at_least and payments and count / payments >= each.rate]
