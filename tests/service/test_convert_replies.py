"""Decisions, assessments and errors as callers get them."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import errors
from engine.errors import BodyConflict, InvalidInput, JournalUnavailable, Leaving, NotFound, Overloaded, Violation
from engine.schema import DERIVED, FIELDS
from engine.service import convert
from engine.service._generated.arbiter.v1 import decision_pb2, policy_pb2
from engine.values import Action, Decision, Measure, Reason, Result, RuleHit, Tier, UserRisk

NOW_US = 1_795_514_400_123_456

_text = st.text("abcXYZ äöß:-", max_size=12)
_texts = st.lists(_text, max_size=3).map(tuple)
_instant = st.integers(1, 2**53)
_end = st.one_of(st.just(0), _instant)
_tier = st.sampled_from([t for t in Tier if t])
_measure = st.builds(
    Measure,
    kind=st.sampled_from(["STEP_UP", "MONITOR", "NOTIFY", "LIMIT_ACCOUNT", "LIMIT_AMOUNT", "EDUCATE"]),
    parameters=st.dictionaries(
        _text,
        st.one_of(_text, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(-1e9, 1e9), st.lists(_text)),
        max_size=3,
    ),
    from_us=_instant,
    until_us=_end,
    source=_text,
    lift=_text,
)
_hit = st.builds(
    RuleHit, rule=_text, result=st.sampled_from(Result), failing=st.integers(-1, 200), enforced=st.booleans()
)
_risk = st.builds(UserRisk, tier=_tier, reasons=_texts, since_us=_instant, until_us=_end, digest=_text)
_reason = st.builds(Reason, code=_text, analyst=_text, customer=_text, source=_text)
_decision = st.builds(
    Decision,
    id=_text,
    tier=_tier,
    action=st.sampled_from([a for a in Action if a]),
    measures=st.lists(_measure, max_size=3).map(tuple),
    score=st.one_of(st.none(), st.floats(0, 1)),
    reasons=st.lists(_reason, max_size=3).map(tuple),
    hits=st.lists(_hit, max_size=5).map(tuple),
    signals=_texts,
    degraded=_texts,
    flags=_texts,
    user_risk=st.one_of(st.none(), _risk),
    program=_text,
    decided_us=_instant,
    dry_run=st.booleans(),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(_decision)
def test_a_decision_is_the_same_after_the_wire(decision):
    """Whatever was decided comes back as it was: a score of 0 is not an absent one, texts and order stay."""
    reply = decision_pb2.Decision.FromString(convert.decision_bytes(decision))
    assert convert.decision_value(reply) == decision
    assert convert.decision_bytes(decision) == convert.decision_bytes(decision)


def test_absent_parts_of_a_decision_are_absent():
    """No score, no person, no end of a measure and no failing condition are unset, not zero."""
    measure = Measure("MONITOR", {}, NOW_US, 0, "rule:r1")
    hit = RuleHit("r1", Result.HIT, -1, True)
    decision = Decision(
        "e1", Tier.LOW, Action.ALLOW, (measure,), None, (), (hit,), (), (), (), None, "71" * 16, NOW_US
    )  # fmt: skip
    reply = decision_pb2.Decision.FromString(convert.decision_bytes(decision))
    assert not reply.HasField("score")
    assert not reply.HasField("user_risk")
    assert not reply.measures[0].HasField("until")
    assert not reply.hits[0].HasField("first_failing")
    assert reply.decided_at.ToMicroseconds() == NOW_US


def test_a_parameter_that_no_reply_can_hold_is_named():
    """A measure's parameter of a foreign type is a defect that says its name and type."""
    measure = Measure("MONITOR", {"level": {"deep": 1}}, NOW_US, 0, "rule:r1")
    decision = Decision("e1", Tier.LOW, Action.ALLOW, (measure,), None, (), (), (), (), (), None, "", NOW_US)
    with pytest.raises(TypeError, match="level is of type dict"):
        convert.decision_bytes(decision)


def test_an_assessment_says_how_the_person_stands():
    """AssessUser's reply carries risk, reasons, measures, hits and what was missing."""
    risk = UserRisk(Tier.HIGH, ("R012",), NOW_US - 5, 0, "71" * 16)
    reply = convert.assessment_message(
        "u1", risk, reasons=[Reason("R012", "young account", "We need to check.", "rule:r1")],
        measures=[Measure("LIMIT_AMOUNT", {"max": 5_000, "currency": "EUR"}, NOW_US, NOW_US + 9, "rule:r1")],
        hits=[RuleHit("r2", Result.UNKNOWN, 1, False)], degraded=["fx:USD"], program="71" * 16, assessed_us=NOW_US,
        dry_run=True,
    )  # fmt: skip
    assert reply.user_risk.tier == policy_pb2.TIER_HIGH
    assert not reply.user_risk.HasField("until")
    assert reply.measures[0].parameters["max"].whole == 5_000
    assert (reply.hits[0].result, reply.hits[0].first_failing) == (policy_pb2.RESULT_UNKNOWN, 1)
    assert (reply.user_id, list(reply.degraded), reply.dry_run) == ("u1", ["fx:USD"], True)
    assert reply.reasons[0].customer == "We need to check."


def test_an_unknown_person_has_no_risk():
    """Nothing known is an absent UserRisk, not TIER_UNSPECIFIED."""
    reply = convert.assessment_message(
        "u1", None, reasons=(), measures=(), hits=(), degraded=(), program="", assessed_us=NOW_US, dry_run=False
    )
    assert not reply.HasField("user_risk")


def test_replies_to_what_is_recorded():
    """Record and RecordOutcome answer with the id and the server's clock."""
    assert convert.record_reply("e1", NOW_US, ["STALE_CLOCK"]).flags == ["STALE_CLOCK"]
    reply = convert.outcome_reply("o1", NOW_US)
    assert (reply.id, reply.known_at.ToMicroseconds()) == ("o1", NOW_US)


def _details(error: BaseException, request_id: str = "") -> dict[str, Any]:
    """Details of an error's status by the names of their types."""
    found = {}
    for detail in convert.status_details(error, request_id).details:
        kind = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
        assert detail.Unpack(kind)
        found[type(kind).__name__] = kind
    return found


def _examples() -> list[errors.ArbiterError]:
    special = {
        "InvalidInput": InvalidInput([Violation("event.id", "is required")]),
        "BodyConflict": BodyConflict("e1", b"\x01", b"\x02"),
        "Overloaded": Overloaded(1_250),
        "Leaving": Leaving(150),
    }
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.ArbiterError)]
    return [special.get(c.__name__) or c("/var/secret.sqlite is locked") for c in classes]


@pytest.mark.parametrize("error", _examples(), ids=lambda e: type(e).__name__)
def test_each_error_has_its_status_and_its_name(error):
    """The status is the one that the error tree names, and ErrorInfo says which error it is."""
    status = convert.status_details(error)
    assert grpc.StatusCode[error.status].value[0] == status.code
    assert _details(error)["ErrorInfo"].domain == "arbiter.v1"
    assert status.message


def test_the_inside_stays_inside():
    """Unexpected errors, and stores that fail, tell nothing but what to do next."""
    for error in (RuntimeError("/var/secret"), JournalUnavailable("/var/secret is locked")):
        assert "secret" not in str(convert.status_details(error, "r-9"))
    assert "r-9" in convert.status_details(RuntimeError("x"), "r-9").message
    assert _details(RuntimeError("x"), "r-9")["ErrorInfo"].metadata["request_id"] == "r-9"


def test_details_tell_a_program_what_to_do():
    """Violations, the delay of a retry and both digests of a conflict can be read without parsing words."""
    bad = _details(InvalidInput([Violation("event.id", "is required"), Violation("stage", "must be one of A")]))
    assert [v.field for v in bad["BadRequest"].field_violations] == ["event.id", "stage"]
    delay = _details(Overloaded(1_250))["RetryInfo"].retry_delay
    assert (delay.seconds, delay.nanos) == (1, 250_000_000)
    conflict = _details(BodyConflict("e1", b"\x01", b"\x02"))["ErrorInfo"]
    assert (conflict.reason, conflict.metadata["stored_digest"]) == ("BODY_CONFLICT", "01")
    assert _details(NotFound("no decision e1"))["ErrorInfo"].reason == "NOT_FOUND"


def _all_wrong() -> InvalidInput:
    names = sorted(FIELDS.keys() - DERIVED)
    return InvalidInput([Violation(f"event.known.result.{name}", "must be one of " + "A" * 200) for name in names])


def test_the_largest_status_fits_into_trailing_metadata():
    """With every field wrong all of them are named, in less than the 8 KiB of headers that callers take."""
    status = convert.status_details(_all_wrong())
    size = len(base64.b64encode(status.SerializeToString())) + len(status.message)
    assert size < 7_500
    fields = [v.field for v in _details(_all_wrong())["BadRequest"].field_violations]
    assert fields == [v.field for v in _all_wrong().violations]


def test_a_caller_reads_every_violation_from_a_failed_call():
    """Over real gRPC the largest status arrives whole."""

    def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(rpc_status.to_status(convert.status_details(_all_wrong())))

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(convert.SERVICE, {"Decide": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{convert.SERVICE}/Decide")(b"", timeout=10)
    server.stop(None).wait()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert [v.field for v in convert.violations_of(caught.value)] == [v.field for v in _all_wrong().violations]


def test_a_failure_of_another_kind_has_no_violations():
    """A caller may ask any failed call, also one that never reached a server."""
    assert convert.violations_of(grpc.RpcError()) == []
