"""What a decision was made from, as its record keeps it, and the case that this gives again.

    snapshot(case, decision)          → what the record holds beside event and decision
    recall(stored, program)           → the case as it was, under any program that knows the features
    redecide(stored, program)         → what that program decides from it

Kept are the features, the person's standing and measures, and what each rule gave (`policy/trace.py`). Everything else
follows from the event and the program. Signals and what was degraded are taken from the decision itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from engine.policy.trace import pack_trace
from engine.program import Case, Program
from engine.records import CANONICAL, decision_of, event_of, pack_decision
from engine.standing import pack_risk, unpack_risk
from engine.values import Admission, Decision, Measure, Stored


def snapshot(case: Case, decision: Decision) -> dict[str, Any]:
    """What the record of a decision keeps of its case."""
    row = case.row
    kept = {
        "features": {name: row[name] for name in case.program.feature_set.names if name in row},
        "truncated": case.truncated, "opened_us": case.opened_us, "trace": [pack_trace(found) for found in case.found],
    }  # fmt: skip
    if case.score is not None:
        kept["model"] = case.program.models[case.event.kind].name
    if case.challenged:
        kept["challengers"] = case.challenged
    if case.risk is not None and case.risk is not decision.user_risk:
        kept["risk_before"] = pack_risk(case.risk)
    if case.measures:
        kept["measures_before"] = case.measures
    if row.get("event.lists"):
        kept["lists"] = row["event.lists"]
    if case.challenge_passed:
        kept["challenge_passed"] = True
    if not case.control:
        kept["control"] = False
    return kept


def recall(stored: Stored, program: Program, features: Mapping[str, Any] | None = None) -> Case:
    """The case of a stored decision, ready to conclude; `features`: aggregates to take instead of the record's.

    Derived features and the score are computed anew.
    """
    body, decided = orjson.loads(stored.record.public), decision_of(stored)
    case = program.open(event_of(stored.record), body["opened_us"])
    case.admission = Admission(stored.record.number, {}, True)
    risk = decided.user_risk
    if risk is not None:
        before = unpack_risk(body["risk_before"]) if "risk_before" in body else risk
        program.stand(case, before, tuple(Measure(**measure) for measure in body.get("measures_before", ())))
    case.row["event.lists"] = body.get("lists", [])
    kept = body["features"] if features is None else features
    case.row.update({a.name: kept[a.name] for a in program.feature_set.aggregates if a.name in kept})
    case.truncated = body["truncated"]
    program.features.derive(case.row)
    case.degraded += [source for source in decided.degraded if source == "profiles"]
    if "model" in decided.degraded:
        case.degraded.append("model")
    else:
        program.rate(case)
    case.degraded += [source for source in decided.degraded if source == "patterns"]
    case.challenge_passed, case.control = body.get("challenge_passed", False), body.get("control", True)
    return case


def kept_features(stored: Stored, then: Program, program: Program) -> dict[str, Any]:
    """The aggregates in a record that mean the same under another program; the others are not known from it."""
    kept = orjson.loads(stored.record.public)["features"]
    if then is program:
        return kept if isinstance(kept, dict) else {}
    old, new = ({a.name: a.definition(p.feature_set.keep.get(a.entity, 0)) for a in p.feature_set.aggregates}
                for p in (then, program))  # fmt: skip
    return {name: value for name, value in kept.items() if name in new and old.get(name) == new[name]}


def redecide(stored: Stored, program: Program, features: Mapping[str, Any] | None = None) -> Decision:
    """What a program decides from what a record keeps."""
    decided = decision_of(stored)
    case = recall(stored, program, features)
    return program.conclude(case, decided.signals, decided.decided_us, dry_run=False)


def canonical(decision: Decision) -> bytes:
    """The bytes of a decision; equal ones are the same decision."""
    return orjson.dumps(pack_decision(decision), option=CANONICAL)
