"""Why a decision came out as it did: every rule with its conditions and what they saw, every feature with its value.

    explanation = explain(decision, case, stages_s)     # of a case that was considered just now
    explanation = explain_stored(stored, program)       # of a record, with the program of then
    as_document(explanation)                            # plain values with stable keys, for `--json`

Results are those that the decision had. The conditions are asked one by one of the rule language's reference
interpreter, to which the compiled rules are proven equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from engine.features.spec import Aggregate, Derived
from engine.flips import Flip, flips
from engine.language import UNKNOWN, Checked, Failure, evaluate
from engine.language.expression import Name, Node
from engine.language.resolve import Present
from engine.policy.evaluate import RuleSet
from engine.policy.rules import Rule
from engine.policy.trace import pack_trace, unpack_trace
from engine.program import Case, Program
from engine.records import decision_of
from engine.schema import ENTITIES
from engine.snapshot import recall
from engine.values import Decision, Reason, Result, Stored


@dataclass(frozen=True, slots=True)
class Condition:
    """One of the conditions that a rule joins with `&&`."""

    text: str
    result: str
    """true, false, unknown or error."""
    inputs: Mapping[str, Any]
    """Name → the value it saw, None where there was none; parameters too."""
    note: str
    """The reason of an error."""


@dataclass(frozen=True, slots=True)
class RuleView:
    """One rule and what became of it."""

    rule: Rule
    result: Result
    enforced: bool
    """False for an observed rule, or one outside its rollout share."""
    conditions: tuple[Condition, ...]
    failing: int
    """Number of the first condition that was not true; -1 for a hit."""

    @property
    def near(self) -> bool:
        """Missed by one condition of several."""
        holds = sum(condition.result == "true" for condition in self.conditions)
        return self.result is Result.MISS and holds == len(self.conditions) - 1 and holds > 0


@dataclass(frozen=True, slots=True)
class FeatureView:
    """One feature of the event."""

    name: str
    value: Any
    """None when it can't be known."""
    unit: str
    meaning: str
    truncated: bool
    """It reaches past the oldest event that its log keeps, so it is a lower bound."""


@dataclass(frozen=True, slots=True)
class EntityView:
    """What was known of one entity before the event."""

    named: bool
    """Whether the event names one."""
    first_us: int | None
    """Its first event; 0 = never seen, None where it is not known."""
    events: int | None
    """Events that its log holds; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and everything that led to it."""

    decision: Decision
    kind: str
    event_us: int
    rules: tuple[RuleView, ...]
    entities: Mapping[str, EntityView]
    features: tuple[FeatureView, ...]
    stages_s: Mapping[str, float]
    currency: str
    """The policy's base currency, in which money features count."""
    flips: tuple[Flip, ...]
    """What would have led to another action, the nearest first."""
    score_reasons: tuple[Reason, ...] = ()
    """What raised the score most; empty where it has not been explained (yet)."""


def explain(decision: Decision, case: Case, stages_s: Mapping[str, float]) -> Explanation:
    """Put together what is known about a case that was concluded."""
    return _explain(decision, case, stages_s, [pack_trace(found) for found in case.found])


def explain_stored(stored: Stored, program: Program) -> Explanation:
    """A stored decision, explained with the program that made it."""
    case = recall(stored, program)
    decision = decision_of(stored)
    program.conclude(case, decision.signals, decision.decided_us, dry_run=True)
    return _explain(decision, case, {}, orjson.loads(stored.record.public)["trace"])


def _explain(decision: Decision, case: Case, stages_s: Mapping[str, float], traces: Sequence[str]) -> Explanation:
    program = case.program
    program.moment.now_us = case.as_of_us  # another case may have been judged since
    sets = [rules for kind in (case.event.kind, "user") if (rules := program.policy.by_kind.get(kind))]
    enforced = {hit.rule: hit.enforced for hit in decision.hits}
    views = [
        view
        for rules, trace in zip(sets, traces, strict=True)
        for view in _rules(rules, case, unpack_trace(trace), enforced)
        if case.risk or view.rule.on != ("user",)
    ]
    likely = [view.rule.id for view in views if view.enforced and (view.result is Result.HIT or view.near)]
    return Explanation(
        decision, case.event.kind, case.event.time_us, tuple(views), _entities(case, program),
        tuple(_features(case, program)), dict(stages_s), program.policy.settings.base_currency,
        flips(decision, case, likely),
    )  # fmt: skip


def _rules(
    rules: RuleSet, case: Case, trace: Mapping[int, tuple[int, int]], enforced: Mapping[str, bool]
) -> Iterator[RuleView]:
    for index, (rule, checked) in enumerate(zip(rules.rules, rules.conditions, strict=True)):
        state = rule.state_at(case.as_of_us)
        if state != "off":
            conditions = tuple(_conditions(checked, case))
            first = next((at for at, one in enumerate(conditions) if one.result != "true"), -1)
            result, failing = trace.get(index, (Result.MISS, first))
            late = bool(rule.first) and result == Result.HIT  # a row above it in its table hit first
            told = enforced.get(rule.id, state == "enforce" and not late)
            yield RuleView(rule, Result(result), told, conditions, -1 if result == Result.HIT else failing)


def _conditions(checked: Checked, case: Case) -> Iterator[Condition]:
    for index, node in enumerate(checked.conjuncts):
        value = evaluate(replace(checked, tree=node), case.row, case.program.policy.lists)
        result = "unknown" if value is UNKNOWN else "error" if isinstance(value, Failure) else str(value).lower()
        note = value.reason if isinstance(value, Failure) else ""
        yield Condition(checked.conjunct_text(index), result, seen(checked, index, case), note)


def seen(checked: Checked, index: int, case: Case) -> dict[str, Any]:
    """Name → what one condition saw in a case, None where there was none; then the parameters that it names."""
    known = case.program.policy.settings.parameters
    named = [name for name in _PARAMETER.findall(checked.conjunct_text(index)) if name in known]
    read = inputs_of(checked.conjuncts[index])
    return {name: case.row.get(name) for name in read} | {name: known[name] for name in named}


def inputs_of(node: Node) -> list[str]:
    """Declared inputs that an expression reads, each once, in the order in which they stand."""
    return list(dict.fromkeys(_inputs(node)))


_PARAMETER = re.compile(r"\bparam\.\w+")


def _inputs(part: Any) -> Iterator[str]:
    if isinstance(part, tuple):
        for inner in part:
            yield from _inputs(inner)
    elif isinstance(part, Name | Present):
        if isinstance(part, Present) or not part.local:
            yield part.path
    elif isinstance(part, Node):
        for field in fields(part):
            yield from _inputs(getattr(part, field.name))


def _entities(case: Case, program: Program) -> dict[str, EntityView]:
    views = {}
    for entity in (name for name in ENTITIES if name in program.layouts):
        state = case.admission.states.get(entity)
        named = any(entry.entity == entity for entry in case.entries)
        events = len(state.log) // program.layouts[entity].size if state else None
        views[entity] = EntityView(named, int(state.head.get("first", 0)) if state else None, events)
    return views


def _features(case: Case, program: Program) -> Iterator[FeatureView]:
    known: tuple[Aggregate | Derived, ...] = (*program.feature_set.aggregates, *program.feature_set.derived)
    for one in known:
        yield FeatureView(one.name, case.row.get(one.name), one.unit, one.meaning, one.name in case.truncated)


# --- for machines ----------------------------------------------------------------------------------------------------


def as_document(explanation: Explanation) -> dict[str, Any]:
    """Plain values under keys that stay; times in RFC 3339, durations in microseconds."""
    decision = explanation.decision
    risk = decision.user_risk
    return {
        "id": decision.id, "kind": explanation.kind, "time": moment(explanation.event_us),
        "tier": decision.tier.name, "action": decision.action.name, "score": decision.score,
        "reasons": list(map(_reason_document, decision.reasons)),
        "score_reasons": list(map(_reason_document, explanation.score_reasons)),
        "measures": [
            {"kind": m.kind, "parameters": dict(m.parameters), "source": m.source, "until": moment(m.until_us)}
            for m in decision.measures
        ],
        "user_risk": {"tier": risk.tier.name, "reasons": list(risk.reasons), "since": moment(risk.since_us)}
        if risk else None,
        "signals": list(decision.signals), "degraded": list(decision.degraded), "flags": list(decision.flags),
        "rules": [_rule_document(view) for view in explanation.rules],
        "features": {feature.name: feature.value for feature in explanation.features},
        "truncated": [feature.name for feature in explanation.features if feature.truncated],
        "entities": {
            name: {"named": view.named, "first_seen": moment(view.first_us), "events": view.events}
            for name, view in explanation.entities.items()
        },
        "flips": [
            {"action": f.action.name, "tier": f.tier.name, "if": f.condition, "is": f.value} for f in explanation.flips
        ],
        "lowered": [
            {"by": one.kind, "id": one.id, "author": one.author, "until": moment(one.until_us),
             "cancelled": list(one.cancelled), "tier": one.tier.name, "action": one.action.name}
            for one in decision.lowered
        ],
        "stages_us": {stage: round(seconds * 1e6, 1) for stage, seconds in explanation.stages_s.items()},
        "program": decision.program, "decided_at": moment(decision.decided_us), "dry_run": decision.dry_run,
    }  # fmt: skip


def _reason_document(reason: Reason) -> dict[str, str]:
    return {
        "code": reason.code, "analyst": reason.analyst, "customer": reason.customer, "source": reason.source,
        "category": reason.category,
    }  # fmt: skip


def _rule_document(view: RuleView) -> dict[str, Any]:
    rule = view.rule
    return {
        "id": rule.id, "ruleset": rule.ruleset, "place": rule.place, "result": view.result.name,
        "enforced": view.enforced, "missed_by_one": view.near, "first_failing": view.failing,
        "reason": rule.reason.code,
        "conditions": [
            {"text": c.text, "result": c.result, "inputs": dict(c.inputs), "note": c.note} for c in view.conditions
        ],
    }  # fmt: skip


def moment(time_us: int | None) -> str | None:
    """RFC 3339 in UTC; None for 0, which means never, and for what is not known."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat().replace("+00:00", "Z") if time_us else None
