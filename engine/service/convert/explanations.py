"""An explanation as a message: what `arbiter explain` shows, for those who ask over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from engine.explanation import Condition, Explanation, FeatureView, RuleView
from engine.service._generated.arbiter.v1 import decision_pb2, policy_pb2
from engine.service.convert.decisions import RESULTS, decision_bytes, reason_message, set_parameter
from engine.values import Result

_CONDITIONS = {"true": Result.HIT, "false": Result.MISS, "unknown": Result.UNKNOWN, "error": Result.ERROR}


def explanation_bytes(explanation: Explanation) -> bytes:
    """Explanation → the bytes of its reply; the decision in it is as it was answered."""
    return decision_pb2.Explanation(
        decision=decision_pb2.Decision.FromString(decision_bytes(explanation.decision)),
        rules=map(_rule, explanation.rules), features=map(_feature, explanation.features),
        flips=[
            decision_pb2.Flip(action=f.action, tier=f.tier, condition=f.condition, value=_value(f.condition, f.value))  # type: ignore[arg-type]  # an IntEnum with the wire's numbers
            for f in explanation.flips
        ],
        score_reasons=map(reason_message, explanation.score_reasons),
    ).SerializeToString()  # fmt: skip


def _rule(view: RuleView) -> decision_pb2.ExplainedRule:
    rule = view.rule
    message = decision_pb2.ExplainedRule(
        rule=rule.id, ruleset=rule.ruleset, place=rule.place, result=RESULTS[view.result],  # type: ignore[arg-type]
        enforced=view.enforced, missed_by_one=view.near, reason=reason_message(rule.reason),
        conditions=map(_condition, view.conditions),
    )  # fmt: skip
    if view.failing >= 0:
        message.first_failing = view.failing
    return message


def _condition(condition: Condition) -> decision_pb2.ExplainedCondition:
    known = {name: value for name, value in condition.inputs.items() if value is not None}
    return decision_pb2.ExplainedCondition(
        text=condition.text, result=RESULTS[_CONDITIONS[condition.result]],  # type: ignore[arg-type]
        inputs=_values(known), missing=[name for name in condition.inputs if name not in known], note=condition.note,
    )  # fmt: skip


def _feature(view: FeatureView) -> decision_pb2.ExplainedFeature:
    value = None if view.value is None else _value(view.name, view.value)
    return decision_pb2.ExplainedFeature(
        name=view.name, value=value, unit=view.unit, meaning=view.meaning, truncated=view.truncated
    )


def _values(values: Mapping[str, Any]) -> dict[str, policy_pb2.Parameter]:
    return {name: _value(name, value) for name, value in values.items()}


def _value(name: str, value: Any) -> policy_pb2.Parameter:
    """A value of a row; what is neither plain nor a list of texts is told as JSON."""
    plain = isinstance(value, bool | int | float | str)
    texts = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    message = policy_pb2.Parameter()
    set_parameter(message, name, value if plain or texts else orjson.dumps(value, default=str).decode())
    return message
