"""The outside conformance suite of CEL, in dynamic mode."""

from __future__ import annotations

import json
import math
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.language import ExpressionError, UInt
from engine.language.functions_moments import parse_duration, parse_timestamp
from engine.language.interpret import evaluate_expression
from engine.language.quantities import Duration, Timestamp, outward

ROOT = Path(__file__).parents[2]
SUITE = Path(os.environ.get("ARBITER_SHARED_DATA", ROOT.parent / "shared" / "data")).parent / "conformance" / "cel.json"
OUT_OF_SCOPE = {("conversions", "type")}
"""Sections whose results are type values (docs/rules.md)."""
CONTRADICTORY = {("parse", "bytes_literals", "triple_single_quoted_unescaped_punctuation")}
"""Its expression has no backslash, its expected bytes have one; its siblings agree with the language."""
CASES = json.loads(SUITE.read_text()) if SUITE.exists() else []


def plain(value: Any) -> Any:
    """A value of the suite as plain Python; times are cut to microseconds."""
    if not isinstance(value, dict):
        return value
    [(kind, inner)] = value.items()
    readers: dict[str, Any] = {
        "int": int,
        "uint": lambda text: UInt(int(text)),
        "double": float,
        "bytes": bytes.fromhex,
        "list": lambda items: [plain(item) for item in items],
        "map": lambda pairs: {plain(key): plain(item) for key, item in pairs},
        "duration": lambda text: outward(Duration(parse_duration(text).ns // 1000 * 1000)),
        "timestamp": lambda text: outward(Timestamp(parse_timestamp(text).ns // 1000 * 1000)),
    }
    return readers[kind](inner)


def same(left: Any, right: Any) -> bool:
    """Equal in type and value; NaN is NaN."""
    if type(left) is not type(right):
        return isinstance(left, datetime) and left == right
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.skipif(not CASES, reason=f"the conformance suite is not at {SUITE}; set ARBITER_SHARED_DATA")
def test_every_case_in_scope() -> None:
    """Each case gives its value, or its error."""
    wrong = []
    for case in CASES:
        place = (case["file"], case["section"], case["name"])
        if place[:2] in OUT_OF_SCOPE or place in CONTRADICTORY:
            continue
        bindings = {name: plain(value) for name, value in case.get("bindings", {}).items()}
        try:
            got = evaluate_expression(case["expr"], bindings)
        except ExpressionError as error:
            if not case.get("error"):
                wrong.append((*place, case["expr"], str(error)))
        else:
            if case.get("error") or not same(got, plain(case["value"])):
                wrong.append((*place, case["expr"], repr(got)))
    assert not wrong
