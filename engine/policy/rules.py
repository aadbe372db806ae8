"""What a policy is made of: frozen rules, bands, fallbacks, reasons. `load.py` reads them, `combine.py` uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.language import Position
from engine.values import Action, Reason, Tier

MEASURES: Mapping[str, frozenset[str]] = {
    "STEP_UP": frozenset({"method"}),
    "MONITOR": frozenset({"level"}),
    "NOTIFY": frozenset({"whom", "template"}),
    "LIMIT_ACCOUNT": frozenset({"what"}),
    "LIMIT_AMOUNT": frozenset({"max", "currency", "per", "action"}),
    "EDUCATE": frozenset({"topic"}),
}
"""Measure → the parameters it may carry, beside `for` (its life) and `lift`."""


@dataclass(frozen=True, slots=True)
class MeasureSpec:
    """A measure as a rule states it."""

    kind: str
    parameters: Mapping[str, Any]
    life_us: int
    """How long it stays in force; 0 = only with this decision, or until lifted for limits."""
    lift: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a hit, a band or a fallback gives: exactly what it states."""

    tier: Tier | None
    action: Action | None
    measures: tuple[MeasureSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a rule set; its condition lives in the compiled program under the same index."""

    id: str
    ruleset: str
    on: tuple[str, ...]
    """Event kinds, or ("user",) for the standing risk of a person."""
    outcome: Outcome
    reason: Reason
    status: str
    """enforce | observe | off."""
    from_us: int
    until_us: int
    rollout: float
    """Share of users, 0..1, for whom it is enforced; for the others it is observed."""
    unknown_hits: bool
    """`when_unknown: hit`: UNKNOWN and ERROR count as a hit."""
    final: bool
    """Nothing that lowers a decision cancels it: block lists, confirmed links, takeover, legal."""
    place: str
    """file:line of the rule."""
    first: str = ""
    """Of the rules with one such name only the first that hits counts: rows of a table with that hit policy."""

    def state_at(self, time_us: int) -> str:
        """enforce, observe or off at a time."""
        if time_us < self.from_us or 0 < self.until_us <= time_us:
            return "off"
        return self.status


@dataclass(frozen=True, slots=True)
class Band:
    """A range of scores, from `from_score` up to the next band's."""

    from_score: float
    outcome: Outcome
    reason: Reason


@dataclass(frozen=True, slots=True)
class Required:
    """Fields that must be there, and what happens when one is missing."""

    on: str
    fields: tuple[str, ...]
    above_base: float
    """Only above this amount in base currency; an unknown amount counts as above."""
    outcome: Outcome
    reason: Reason


@dataclass(frozen=True, slots=True)
class Fallback:
    """What replaces a source that failed: model, profiles or patterns."""

    source: str
    above_base: float
    outcome: Outcome
    reason: Reason


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """Who is let through although the policy would not, so that it can be seen what the policy prevents."""

    share: float
    """Of devices, 0..1, drawn anew each week."""
    max_base: float
    """Largest amount in base currency."""
    daily_loss_base: float
    """Sum of amounts let through in one day in UTC, as though all of them were lost; above it the group is off."""
    author: str
    until_us: int
    id: str = "control_group"


@dataclass(frozen=True, slots=True)
class OutcomeList:
    """Outcomes that put an entity of their event on a list for a while, and those that take it off again."""

    list: str
    entity: str
    on: tuple[str, ...]
    undo: tuple[str, ...]
    life_us: int
    place: Position


@dataclass(frozen=True, slots=True)
class ReviewDesk:
    """How the review desk works."""

    answer_us: int = 4 * 3_600_000_000
    """From a decision until its case should be answered."""
    lease_us: int = 15 * 60_000_000
    """How long a reviewer has a case to himself."""
    timeout_us: int = 0
    """From a decision until the policy decides a case at which nobody looked; 0 = never."""
    timeout_action: Action = Action.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class Settings:
    """`policy.yaml`: everything that isn't a rule."""

    name: str
    base_currency: str
    activation: str
    """on_save | explicit."""
    markets: Mapping[str, str]
    """Market → its IANA zone."""
    bands: Mapping[str, tuple[Band, ...]]
    """Event kind → bands by rising score."""
    parameters: Mapping[str, Any]
    """`param.NAME` → the constant that rules mean by it; a tuple for a list."""
    default_actions: Mapping[Tier, Action]
    """The action that a hit with only a tier brings."""
    required: tuple[Required, ...]
    fallbacks: tuple[Fallback, ...]
    models: Mapping[str, str]
    """Event kind → `name/version` under the models folder."""
    hold_us: int
    """How long a person's tier holds before it may fall."""
    lateness_us: int
    """An event older than this at its arrival is kept and reported, but not counted."""
    fraud_outcomes: tuple[str, ...]
    mature_after_us: int
    limit_reason: Reason
    """Given when a limit in force is exceeded."""
    control: ControlGroup | None
    challengers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Event kind → up to three models that are scored too, and decide nothing."""
    explains: Mapping[str, Reason] = field(default_factory=dict)
    """Feature → the reason when it raises a model's score; one without has its own meaning."""
    listings: tuple[OutcomeList, ...] = ()
    """What outcomes put on lists."""
    review: ReviewDesk = ReviewDesk()
