"""Tests beside the rules: `rules/tests/*.yaml` says what must come out, and the live code decides whether it does.

    report = run_tests(program, folder)        # .passed, .failed, .coverage by rule

Earlier events of a case are admitted into scratch stores, each case under a profile key of its own; then its event
goes through the same pipeline as a live one, as a dry run. `set:` replaces values on the way: features before what is
derived from them, the score before the bands, signals before the rules. Dispositions come from the file: a payment
that the policy would have declined stays as the case tells it.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.batch.rule_cases import Expected, RuleCase, read_cases
from engine.errors import PatternsUnavailable
from engine.explanation import seen
from engine.journal.sqlite import SqliteJournal
from engine.language import Checked, Diagnostics
from engine.loader import rule_schema
from engine.pipeline import Live, Pipeline
from engine.policy.signals import PatternMatcher
from engine.profiles.identity import Identity
from engine.profiles.sqlite import SqliteProfiles
from engine.program import Case, Program
from engine.runtime import EventClock
from engine.values import Decision, Result, Row

PATIENCE_S = 10.0
"""How long patterns may take in a test: a busy machine changes no result."""


@dataclass(slots=True)
class Coverage:
    """How often a rule gave what, over all cases in which it ran."""

    hit: int = 0
    miss: int = 0
    unknown: int = 0
    """UNKNOWN or ERROR."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A case that came out differently."""

    case: RuleCase
    differences: tuple[tuple[str, str, str], ...]
    """What, expected, got."""


@dataclass(frozen=True, slots=True)
class TestReport:
    """What became of the tests of one policy."""

    __test__ = False  # pytest: a report is no test
    cases: int
    failed: tuple[Failed, ...]
    coverage: Mapping[str, Coverage]
    """Rule → what it gave; every rule that isn't off."""
    uncovered: tuple[str, ...]
    """Enforced rules without a hit, or without a miss."""
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether all cases came out as expected; without any case there is nothing to fail."""
        return not self.failed


def run_tests(program: Program, folder: Path, only: Path | None = None) -> TestReport:
    """Run the tests of a policy's folder, or of one file or folder; DiagnosticsError when a file can't be read."""
    diagnostics = Diagnostics()
    schema = rule_schema(program.feature_set, program.policy.plan.signals, program.policy.lists)
    rules = [rule.id for rule in program.policy.rules]
    cases = list(read_cases(folder / "tests", schema.names, rules, diagnostics, only))
    diagnostics.raise_if_failed()
    return asyncio.run(_run(program, cases))


async def _run(program: Program, cases: Sequence[RuleCase]) -> TestReport:
    began = time.perf_counter()
    coverage = {rule.id: Coverage() for rule in program.policy.rules if rule.status != "off"}
    failed = []
    async with _scratch(program) as pipeline:
        for number, case in enumerate(cases):
            supposed = _Supposed.of(program, case.given, number)
            pipeline.live = Live(supposed, pipeline.live.matcher)
            await _remember(pipeline, case)
            decision, found = await pipeline.consider(case.event, dry_run=True, deadline=None)
            results = dict(_results(found, decision))
            for rule, (result, _) in results.items():
                kind = {Result.HIT: "hit", Result.MISS: "miss"}.get(result, "unknown")
                setattr(coverage[rule], kind, getattr(coverage[rule], kind) + 1)
            differences = tuple(_differences(case.expected, decision, results))
            failed += [Failed(case, differences)] if differences else []
    enforced = [rule.id for rule in program.policy.rules if rule.status == "enforce"]
    uncovered = tuple(rule for rule in enforced if not (coverage[rule].hit and coverage[rule].miss))
    return TestReport(len(cases), tuple(failed), coverage, uncovered, time.perf_counter() - began)


@asynccontextmanager
async def _scratch(program: Program) -> Any:
    """A pipeline over stores that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="arbiter-tests-") as name:
        profiles, journal = (
            SqliteProfiles(Path(name) / "profiles.sqlite"),
            SqliteJournal(Path(name) / "journal.sqlite", 0),
        )
        matcher = PatternMatcher(program.policy.plan.patterns, PATIENCE_S)
        await profiles.start(program.layouts)
        await journal.start()
        with suppress(PatternsUnavailable):
            await matcher.start()
        try:
            yield Pipeline(Live(program, matcher), profiles, journal, EventClock(), _Silent())
        finally:
            matcher.close()
            await profiles.close()
            await journal.close()


class _Silent:
    def observe(self, stage: str, seconds: float) -> None:
        """Nothing."""


async def _remember(pipeline: Pipeline, case: RuleCase) -> None:
    """Take in the earlier events."""
    for event in case.before:
        await pipeline.record(event)
        await pipeline.drain()


@dataclass(frozen=True)
class _Supposed(Program):
    """The live program for a case with values of its own."""

    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, program: Program, given: Mapping[str, Any], number: int) -> _Supposed:
        """With a profile key of its own, so that no case sees another's history."""
        parts = {name: getattr(program, name) for name in Program.__dataclass_fields__}
        key = hashlib.blake2b(f"case {number}".encode(), digest_size=32).digest()
        return cls(**parts | {"identity": Identity(key)}, given=given)

    def see(self, case: Case) -> None:
        super().see(case)
        if not self.given:
            return
        row = case.row
        derived = {one.name: one for one in self.feature_set.derived}
        _put(row, {name: value for name, value in self.given.items() if name not in derived})
        for name, one in derived.items():
            value = self.given.get(name) if name in self.given else one.evaluate(row)
            _put(row, {name: value if isinstance(value, int | float | str) else None})
        case.degraded += self.given.get("degraded") or ()
        plan = self.policy.plan
        for entity in plan.tests.keys() & case.admission.states.keys():
            case.step_flags[entity] = plan.flags(entity, case.event.kind, row)

    def rate(self, case: Case) -> None:
        if "score" not in self.given:
            super().rate(case)
            return
        case.score = self.given["score"]
        _put(case.row, {"score": case.score})

    def conclude(self, case: Case, signals: tuple[str, ...], decided_us: int, *, dry_run: bool) -> Decision:
        said = {name.removeprefix("signal."): on for name, on in self.given.items() if name.startswith("signal.")}
        raised = {*signals, *(name for name, on in said.items() if on)} - {name for name, on in said.items() if not on}
        return super().conclude(case, tuple(sorted(raised)), decided_us, dry_run=dry_run)


def _put(row: Row, values: Mapping[str, Any]) -> None:
    """Set values; None takes one away."""
    for name, value in values.items():
        if value is None:
            row.pop(name, None)
        else:
            row[name] = value


# --- what came out ---------------------------------------------------------------------------------------------------


def _results(case: Case, decision: Decision) -> Iterator[tuple[str, tuple[Result, str]]]:
    """Each rule that ran, its result, and for what was no hit the first condition that failed, with what it saw."""
    policy, counted = case.program.policy, {hit.rule for hit in decision.hits}
    sets = [policy.by_kind.get(case.event.kind), policy.by_kind.get("user")]
    for rules, found in zip(filter(None, sets), case.found, strict=True):
        for rule, condition, result, failing in zip(
            rules.rules, rules.conditions, found.results, found.failing, strict=True
        ):
            if result == Result.HIT and rule.first and rule.id not in counted:
                yield rule.id, (Result.MISS, "a row above hit, which")
            elif rule.state_at(case.as_of_us) != "off":
                yield rule.id, (Result(result), _failing(condition, failing, case))


def _failing(checked: Checked, index: int, case: Case) -> str:
    values = seen(checked, index, case).items()
    told = ", ".join(f"{name} is absent" if value is None else f"{name} = {value!r}" for name, value in values)
    return f"`{checked.conjunct_text(index)}`" + (f" ({told})" if told else "")


def _differences(
    expected: Expected, decision: Decision, results: Mapping[str, tuple[Result, str]]
) -> Iterator[tuple[str, str, str]]:
    """What, expected, got; in the order in which a case states them."""
    for rule, wanted in expected.results.items():
        if rule not in results:
            yield rule, wanted, "did not run: not for this kind of event, off, or outside its time"
            continue
        result, failing = results[rule]
        given = "unknown" if result in {Result.UNKNOWN, Result.ERROR} else result.name.lower()
        if given != wanted:
            became = {Result.UNKNOWN: "is unknown", Result.ERROR: "failed"}.get(result, "is false")
            yield rule, wanted, given if result is Result.HIT else f"{given}: {failing} {became}"
    if expected.hits is not None:
        hits = {rule for rule, (result, _) in results.items() if result is Result.HIT}
        for rule in sorted(expected.hits - hits):
            yield rule, "hit", f"no hit: {results[rule][1]}" if rule in results else "did not run"
        for rule in sorted(hits - expected.hits):
            yield rule, "no hit", "hit"
    measures, reasons = (m.kind for m in decision.measures), (r.code for r in decision.reasons)
    for what, wanted_one, given_one in (
        ("tier", expected.tier, decision.tier.name), ("action", expected.action, decision.action.name),
    ):  # fmt: skip
        if wanted_one and wanted_one != given_one:
            yield what, wanted_one, given_one
    yield from _sets("measures", expected.measures, measures)
    yield from _sets("reasons", expected.reasons, reasons)


def _sets(what: str, wanted: frozenset[str] | None, given: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    found = set(given)
    if wanted is not None and wanted != found:
        yield what, ", ".join(sorted(wanted)) or "none", ", ".join(sorted(found)) or "none"
