"""The live program: policy, features, patterns and models as one immutable value with one digest.

A request takes the reference once. A reload makes a new program beside the old one and swaps the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from engine.errors import ModelError
from engine.eventlog import LogLayout
from engine.features.enrich import Rates, enrich
from engine.features.online import OnlineFeatures
from engine.features.spec import FeatureSet
from engine.language import RowResult
from engine.policy.combine import Source, Verdict, band_of, combine
from engine.policy.evaluate import Policy
from engine.policy.lists import Moment
from engine.policy.patterns import History
from engine.policy.reasons import said_in
from engine.policy.rules import Fallback
from engine.profiles.identity import Identity
from engine.scoring.model import ScoringModel
from engine.standing import begin, enforce_limits, lists_of, measures_of, next_risk, risk_of
from engine.values import Action, Admission, Decision, EntityEvent, Event, Measure, Row, RuleHit, Tier, UserRisk

STALE_CLOCK_US = 5 * 60_000_000
MISSING = float("nan")
"""An absent feature, as the model wants it: a None would be found only after packing the row has failed."""


@dataclass(slots=True)
class Case:
    """One event on its way: what is known of it so far. Each stage adds its part and none takes back another's."""

    program: Program
    """The program that opened it; a reload on the way changes nothing for this event."""
    event: Event
    row: Row
    entries: tuple[EntityEvent, ...]
    as_of_us: int
    late: bool
    degraded: list[str]
    flags: list[str]
    admission: Admission = field(default_factory=lambda: Admission(0, {}, True))
    truncated: list[str] = field(default_factory=list)
    score: float | None = None
    challenged: dict[str, float | None] = field(default_factory=dict)
    """Challenger → its score; None when there was no time for it, or it failed."""
    step_flags: dict[str, int] = field(default_factory=dict)
    """Entity → pattern steps that this event satisfies, as bits."""
    risk: UserRisk | None = None
    measures: tuple[Measure, ...] = ()
    """In force before this event."""
    opened_us: int = 0
    """When it was opened."""
    challenge_passed: bool = False
    """Whether its payment has passed a challenge."""
    found: list[RowResult] = field(default_factory=list)
    """What became of each rule: those of its kind, then those on the user."""
    control: bool = True
    """False when the control group's budget of the day is spent."""


@dataclass(frozen=True)
class Program:
    """What decides. Every method is pure: the same case gives the same answer."""

    digest: str
    policy: Policy
    feature_set: FeatureSet
    features: OnlineFeatures
    layouts: Mapping[str, LogLayout]
    models: Mapping[str, ScoringModel]
    rates: Rates
    identity: Identity
    challengers: Mapping[str, tuple[ScoringModel, ...]] = field(default_factory=dict)
    """Event kind → models that are scored too, and decide nothing."""
    moment: Moment = field(default_factory=Moment)
    """What lists take for now: the time of the case that is judged."""

    def open(self, event: Event, now_us: int) -> Case:
        """Derive the event's own fields and what it puts into each log."""
        settings = self.policy.settings
        row, missing = enrich(event, self.rates, lambda market: settings.markets.get(market, ""))
        stale = abs(event.time_us - now_us) > STALE_CLOCK_US
        late = now_us - event.time_us > settings.lateness_us
        entries = self.features.entries(event, row, self.identity.key, late=late)
        flags = [name for name, is_set in (("STALE_CLOCK", stale), ("LATE", late)) if is_set]
        as_of_us = now_us if stale else event.time_us
        return Case(self, event, row, entries, as_of_us, late, list(missing), flags, opened_us=now_us)

    def see(self, case: Case) -> None:
        """Compute features, standing and pattern steps from the states that the admission returned."""
        states, row = case.admission.states, case.row
        if "user" in states:
            self.stand(case, risk_of(states["user"]), measures_of(states["user"], case.as_of_us))
        listings = self.policy.settings.listings
        row["event.lists"] = lists_of(states, {one.entity for one in listings}, case.as_of_us) if listings else []
        case.truncated = self.features.compute(row, case.entries, states, case.as_of_us)
        plan = self.policy.plan
        for entity in plan.tests:
            if entity in states:
                case.step_flags[entity] = plan.flags(entity, case.event.kind, row)

    def stand(self, case: Case, risk: UserRisk, measures: tuple[Measure, ...]) -> None:
        """How the person stands before this event."""
        case.risk, case.measures = risk, measures
        case.row["user.risk.tier"] = risk.tier.name
        case.row["user.measures"] = [measure.kind for measure in measures]

    def histories(self, case: Case) -> list[History]:
        """What the pattern matcher must see; empty for most events."""
        plan, found = self.policy.plan, []
        for entry in case.entries:
            flags = case.step_flags.get(entry.entity, 0)
            if flags:
                state, layout = case.admission.states[entry.entity], self.layouts[entry.entity]
                number = case.admission.number or 2**62
                history = plan.history(entry, state, layout, case.row, flags, number)
                if history is not None:
                    found.append(history)
        return found

    def rate(self, case: Case) -> None:
        """Score the event with the model of its kind; without one the score stays absent."""
        model = self.models.get(case.event.kind)
        if model is None:
            return
        try:
            case.row["score"] = case.score = _score(case, model)
        except ModelError:
            case.degraded.append("model")

    def challenge(self, case: Case, model: ScoringModel) -> None:
        """Let a challenger score the event beside the model that decides; only the record learns of it."""
        with suppress(ModelError):
            case.challenged[model.name] = _score(case, model)

    def conclude(self, case: Case, signals: tuple[str, ...], decided_us: int, *, dry_run: bool) -> Decision:
        """The decision about a case that was seen and rated. Live, replay and tests of rules all end here."""
        verdict, hits = self.judge(case, signals, case.challenge_passed)
        user_hits, sources = self.judge_user(case)
        return Decision(
            id=case.event.id, tier=verdict.tier, action=verdict.action,
            measures=begin(verdict.measures, case.as_of_us) if verdict.measures else (), score=case.score,
            reasons=verdict.reasons, hits=(*hits, *user_hits), signals=signals,
            degraded=tuple(case.degraded), flags=tuple(case.flags),
            user_risk=self.next_risk(case, sources), program=self.digest, decided_us=decided_us, dry_run=dry_run,
            lowered=verdict.lowered, propensity=verdict.propensity,
        )  # fmt: skip

    def next_risk(self, case: Case, sources: Sequence[Source]) -> UserRisk | None:
        """How the person stands after this event, from what the `on: user` rules say; None for a guest."""
        if case.risk is None:
            return None
        return next_risk(case.risk, sources, case.as_of_us, self.policy.settings.hold_us, self.digest)

    def judge(self, case: Case, signals: Sequence[str], challenge_passed: bool) -> tuple[Verdict, list[RuleHit]]:
        """Signals and rules, then everything that speaks combined into tier, action and measures."""
        for name in self.policy.plan.signals:
            case.row[f"signal.{name}"] = name in signals
        case.row["degraded"] = case.degraded
        self.moment.now_us = case.as_of_us
        rules = self.policy.by_kind.get(case.event.kind)
        hits, sources = rules.evaluate(case.row, case.as_of_us, case.found.append) if rules else ([], [])
        sources += self._band(case)
        sources += self._missing(case)
        sources += enforce_limits(case.event.kind, case.row, case.measures, self.policy.settings)
        defaults, lowering = self.policy.settings.default_actions, self.policy.lowering
        verdict = combine(sources, defaults, challenge_passed=challenge_passed)
        if lowering is not None and (verdict.tier > Tier.LOW or verdict.action > Action.ALLOW):
            left, lowered, chance = lowering.lower(sources, case.row, case.as_of_us, verdict, case.control)
            if lowered:
                verdict = combine(left, defaults, challenge_passed=challenge_passed)
            verdict = replace(verdict, lowered=tuple(lowered), propensity=chance)
        language = case.row.get("user.language")
        if language:
            verdict = replace(verdict, reasons=said_in(language, verdict.reasons, self.policy.translations))
        return verdict, hits

    def judge_user(self, case: Case) -> tuple[list[RuleHit], list[Source]]:
        """The `on: user` rules."""
        self.moment.now_us = case.as_of_us
        rules = self.policy.by_kind.get("user")
        return rules.evaluate(case.row, case.as_of_us, case.found.append) if rules else ([], [])

    def _band(self, case: Case) -> list[Source]:
        bands = self.policy.settings.bands.get(case.event.kind, ())
        band = band_of(bands, case.score) if case.score is not None else None
        return [Source(band.outcome, band.reason)] if band else []

    def _missing(self, case: Case) -> list[Source]:
        """Required fields that are absent, and the fallback of each source that failed."""
        row, settings = case.row, self.policy.settings
        amount = row.get("txn.amount_base", float("inf"))
        sources = []
        for required in settings.required:
            absent = [name for name in required.fields if name not in row] if required.on == case.event.kind else []
            if absent and amount > required.above_base:
                sources.append(Source(required.outcome, replace(required.reason, source=f"required:{absent[0]}")))
        return sources + [Source(f.outcome, f.reason) for f in settings.fallbacks if _applies(f, case, amount)]


def _score(case: Case, model: ScoringModel) -> float:
    read = case.row.get
    return model.score([read(name, MISSING) for name in model.features])[1]


def _applies(fallback: Fallback, case: Case, amount: float) -> bool:
    return fallback.source in case.degraded and amount > fallback.above_base
