"""Requests and documents say the same, and what is wrong is named by its path in the request, all at once."""

import random
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.intake import read_event, read_outcome
from engine.schema import DERIVED, FIELDS, KINDS, OUTCOMES
from engine.service import convert
from engine.service._generated.arbiter.v1 import decision_pb2, event_pb2
from engine.service.convert.places import OWN, places

NOW_US = 1_795_514_400_000_000
TIME_US = NOW_US - 5_000_000
CARD_NUMBER = "4111111111111111"

_word = st.text("abcXYZ äöß-'0", min_size=1, max_size=12).map(str.strip).filter(bool)
_id = st.text("abcXYZäöß-_:0", min_size=1, max_size=128)
_VALID: dict[str, st.SearchStrategy[Any]] = {
    "event.market": st.sampled_from(["DE", "FR"]),
    "event.zone": st.sampled_from(["Europe/Berlin", "Asia/Tokyo"]),
    "user.language": st.sampled_from(["de", "de-AT"]),
    "card.bin": st.sampled_from(["411111", "41111122"]),
    "card.last4": st.just("1881"),
    "card.expiry": st.just("2028-03"),
    "ip.address": st.sampled_from(["203.0.113.7", "2001:db8::1"]),
    "email.address": st.just("Anna.Lind+shop@example.org"),
    "phone.number": st.just("+4930123456"),
    "txn.currency": st.sampled_from(["EUR", "JPY"]),
    "txn.amount_minor": st.integers(0, 10**12),
    "geo.latitude": st.floats(-90, 90),
    "geo.longitude": st.floats(-180, 180),
    "page.seconds": st.floats(0, 86_400),
    "coupon.value_base": st.floats(0, 1e9),
    "review.rating": st.integers(1, 5),
    "user.account_created": st.integers(0, NOW_US),
    "attributes": st.dictionaries(_word, _word, min_size=1, max_size=4),
}
"""Valid values of the fields that don't take just any text."""


def _values(name: str) -> st.SearchStrategy[Any]:
    field = FIELDS[name]
    if name in _VALID:
        return _VALID[name]
    if name.endswith(".country"):
        return st.just("DE")
    if field.choices:
        return st.sampled_from(field.choices)
    if field.type == "bool":
        return st.booleans()
    return _id if name.endswith(".id") or name in {"card.token", "payment.retry_of"} else _word


@st.composite
def _baskets(draw: st.DrawFn) -> dict[str, list[Any]]:
    size = draw(st.integers(1, 4))
    columns = {"basket.items": _word, "basket.categories": _word, "basket.quantities": st.integers(0, 10**6)}
    chosen = draw(st.lists(st.sampled_from(sorted(columns)), unique=True))
    return {name: draw(st.lists(columns[name], min_size=size, max_size=size)) for name in chosen}


_SENT = sorted(FIELDS.keys() - DERIVED - {"basket.items", "basket.categories", "basket.quantities"})
_fields = st.fixed_dictionaries({}, optional={name: _values(name) for name in _SENT})


@st.composite
def _documents(draw: st.DrawFn) -> dict[str, Any]:
    document = {"id": draw(_id), "kind": draw(st.sampled_from(KINDS)), "time_us": draw(st.integers(10**15, NOW_US))}
    document |= draw(_fields) | draw(_baskets())
    if ("txn.amount_minor" in document) != ("txn.currency" in document):
        document |= {"txn.amount_minor": 4_990, "txn.currency": "EUR"}
    if document["kind"] == "payment":
        document.setdefault("event.stage", "checkout")
    return document


def _sent(request: Any) -> Any:
    """The request as the server parses it."""
    return convert.parse(type(request), request.SerializeToString())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(_documents())
def test_a_document_is_the_same_after_the_wire(document):
    """Every field in every kind of event comes out as it went in, and gives the same event as without gRPC."""
    request = _sent(convert.decide_request(document))
    assert convert.event_document(request) == document
    assert convert.read_request(request, now_us=NOW_US) == read_event(document, now_us=NOW_US)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(_documents().filter(lambda d: "event.stage" not in d))
def test_a_recorded_document_is_the_same_after_the_wire(document):
    """RecordRequest carries all of an event except a stage."""
    assert convert.event_document(_sent(convert.record_request(document))) == document


def test_every_field_of_the_schema_is_covered_by_the_round_trip():
    """The property speaks of the whole schema: the three basket lists, the stage and all that `places` knows."""
    assert set(_SENT) == set(places("payment")) | {"event.stage", "attributes"}


def test_nested_documents_and_rfc_3339_times_are_taken():
    """A document as people write it gives the request of its flat form."""
    nested = {
        "id": "e1", "kind": "login", "time": "2026-11-24T10:00:00.5+01:00", "payment": None,
        "user": {"id": "u1", "account_created": "2020-01-01T00:00:00Z"}, "attributes": {"a.b": "c"},
    }  # fmt: skip
    flat = {
        "id": "e1", "kind": "login", "time_us": 1_795_510_800_500_000, "user.id": "u1",
        "user.account_created": 1_577_836_800_000_000, "attributes": {"a.b": "c"},
    }  # fmt: skip
    assert convert.decide_request(nested) == convert.decide_request(flat)


def test_a_payment_without_stage_is_asked_about_at_checkout():
    """The shortest document of a payment is one that a server takes; `dry_run` is passed on."""
    request = convert.decide_request({"id": "e1", "kind": "payment", "time_us": TIME_US}, dry_run=True)
    assert request.stage == decision_pb2.STAGE_CHECKOUT
    assert request.dry_run


def _violations(call, *arguments, **named) -> dict[str, str]:
    with pytest.raises(InvalidInput) as caught:
        call(*arguments, **named)
    return {violation.field: violation.reason for violation in caught.value.violations}


def test_a_document_that_has_no_place_is_refused_by_its_own_names():
    """Everything that a request can't hold is named at once, in the words of the document."""
    wrong = {
        "id": "", "kind": "pay", "time": "yesterday", "event.stage": "later", "user.id": 7, "user.nick": "x",
        "txn.amount": 5.0, "txn.amount_minor": True, "review.rating": 2**40, "geo.latitude": "north",
        "card.type": "gold", "consent.marketing": 1, "basket.items": ["a"], "basket.quantities": [1, 2],
        "attributes": {"a": 1}, "email.address": "\ud800", "device.id": "",
    }  # fmt: skip
    found = _violations(convert.decide_request, wrong)
    assert found.keys() == wrong.keys() - {"basket.items", "basket.quantities"} | {"basket"}
    assert found["txn.amount"] == "is computed by Arbiter; leave it out"


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"event.stage": "checkout"}, "event.stage"),
        ({"basket.items": []}, "basket"),
        ({"basket.items": "abc"}, "basket"),
        ({"basket.items": ["a", ""]}, "basket.items"),
        ({"basket.quantities": [1.5]}, "basket.quantities"),
        ({"attributes": {}}, "attributes"),
        ({"time": None}, "time"),
        ({"user.account_created": "2020-01-01"}, "user.account_created"),
    ],
)
def test_what_a_record_request_cannot_say_is_refused(document, field):
    """Nothing is dropped silently on the way into a request."""
    whole = {"id": "e1", "kind": "login", "time": "2026-11-24T10:00:00Z"} | document
    assert field in _violations(convert.record_request, whole)


def _request(**event: Any) -> decision_pb2.DecideRequest:
    """A good payment request with these parts of the event replaced."""
    document = {
        "id": "e1", "kind": "payment", "time_us": TIME_US, "user.id": "u1", "txn.amount_minor": 4_990,
        "txn.currency": "EUR", "payment.id": "p1",
    }  # fmt: skip
    request = convert.decide_request(document)
    request.event.MergeFrom(event_pb2.Event(**event))
    return request


def _with_time(seconds: int, nanos: int) -> decision_pb2.DecideRequest:
    request = _request()
    request.event.time.seconds, request.event.time.nanos = seconds, nanos
    return request


def _without(*parts: str) -> decision_pb2.DecideRequest:
    request = _request()
    for part in parts:
        request.event.ClearField(part)
    return request


def _staged(stage: int) -> decision_pb2.DecideRequest:
    request = _request()
    request.stage = stage
    return request


_LINE = {"item_id": "a", "quantity": 1}
BAD = {
    "no event at all": (decision_pb2.DecideRequest(), {"event.id", "event.time", "event.detail"}),
    "no id": (_without("id"), {"event.id"}),
    "no time": (_without("time"), {"event.time"}),
    "no detail": (_without("payment_detail"), {"event.detail"}),
    "negative nanoseconds": (_with_time(TIME_US // 10**6, -1), {"event.time"}),
    "a second of nanoseconds": (_with_time(TIME_US // 10**6, 10**9), {"event.time"}),
    "the year 10000": (_with_time(253_402_300_800, 0), {"event.time"}),
    "seconds that overflow": (_with_time(2**63 - 1, 0), {"event.time"}),
    "far in the future": (_with_time(TIME_US // 10**6 + 10**6, 0), {"event.time"}),
    "stage left out": (_staged(0), {"stage"}),
    "unknown stage": (_staged(99), {"stage"}),
    "unspecified channel": (_request(context={"channel": 0}), {"event.context.channel"}),
    "unknown channel": (_request(context={"channel": 77}), {"event.context.channel"}),
    "negative enum": (_request(card={"type": -1}), {"event.card.type"}),
    "unspecified result": (_request(payment_detail={"result": {"avs": 0}}), {"event.payment_detail.result.avs"}),
    "result of a payment in known": (_request(known={"result": {"code": "51"}}), {"event.known.result"}),
    "unknown currency": (
        _request(payment={"amount": {"currency": "EURO", "minor_units": 1}}), {"event.payment.amount.currency"},
    ),
    "negative money": (_request(payment={"amount": {"minor_units": -1}}), {"event.payment.amount.minor_units"}),
    "overflowing money": (_request(payment={"amount": {"minor_units": 2**62}}), {"event.payment.amount.minor_units"}),
    "not a number": (_request(place={"latitude": float("nan")}), {"event.place.latitude"}),
    "off the earth": (_request(place={"longitude": 181.0}), {"event.place.longitude"}),
    "uneven quantities": (_request(basket=[_LINE, {"item_id": "b"}]), {"event.basket.quantity"}),
    "uneven items": (_request(basket=[_LINE, {"quantity": 0}]), {"event.basket.item_id"}),
    "empty lines": (_request(basket=[{}]), {"event.basket"}),
    "unknown market": (_request(context={"market": "XX"}), {"event.context.market"}),
    "over-long id": (_request(user={"id": "u" * 129}), {"event.user.id"}),
    "account from before protobuf's time": (
        _request(user={"account_created": {"seconds": -(10**12)}}), {"event.user.account_created"},
    ),
    "10,000 attributes": (_request(attributes={f"k{i}": "v" for i in range(10_000)}), {"event.attributes"}),
    "rating of 6 and a wrong kind of card": (
        _request(known={"review": {"rating": 6}}, card={"type": 9}), {"event.known.review.rating", "event.card.type"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_name_every_wrong_field_by_its_path(case):
    """Each wrong field, and no other, is named once by its path in the request."""
    request, fields = BAD[case]
    assert _violations(convert.read_request, _sent(request), now_us=NOW_US).keys() == fields


def test_an_amount_without_currency_is_named_as_one_thing():
    """The violation speaks of the Money message when its halves don't fit."""
    request = _request()
    request.event.payment.amount.ClearField("currency")
    assert _violations(convert.read_request, request, now_us=NOW_US).keys() == {"event.payment.amount"}


def test_violations_keep_the_name_that_rules_use():
    """Who reads the status finds the field in the request, and in the rule."""
    found = _violations(convert.read_request, _request(context={"market": "XX"}), now_us=NOW_US)
    assert "rules name it event.market" in found["event.context.market"]


def test_event_document_refuses_what_the_message_itself_makes_impossible():
    """Without intake, time, detail, enums and lines are still refused by path; good requests pass."""
    assert _violations(convert.event_document, _without("time", "payment_detail")).keys() == {
        "event.time", "event.detail",
    }  # fmt: skip
    assert convert.event_document(_request())["event.stage"] == "checkout"


def test_finer_digits_of_a_time_are_cut_off():
    """A clock of nanoseconds is welcome; microseconds are what counts."""
    assert convert.event_document(_with_time(1_795_514_395, 123_456_789))["time_us"] == 1_795_514_395_123_456


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x04\x0a\x02\xc3\x28"], ids=["broken", "not UTF-8"])
def test_bytes_that_are_no_request_are_invalid_input(data):
    """Broken bytes and texts that are not UTF-8 are the caller's mistake, never INTERNAL."""
    assert "arbiter.v1.DecideRequest" in _violations(convert.parse, decision_pb2.DecideRequest, data)[""]


@pytest.mark.parametrize("kind", ["payment", "payment_result", "review", "return"])
def test_a_card_number_is_refused_in_every_text_and_never_echoed(kind):
    """Whatever text field holds it, and also as id or attribute, it is refused and is not in the error."""
    paths = [path for name, path in places(kind).items() if FIELDS[name].type == "string" and not FIELDS[name].choices]
    for path in [*paths, "id"]:
        request = convert.decide_request({"id": "e1", "kind": kind, "time_us": TIME_US})
        *parents, leaf = path.split(".")
        message: Any = request.event
        for parent in parents:
            message = getattr(message, parent)
        setattr(message, leaf, CARD_NUMBER)
        found = _violations(convert.read_request, request, now_us=NOW_US)
        assert f"event.{path}" in found
        assert CARD_NUMBER not in str(found)


@pytest.mark.parametrize("attributes", [{"note": CARD_NUMBER}, {CARD_NUMBER: "note"}], ids=["value", "key"])
def test_a_card_number_in_an_attribute_is_refused(attributes):
    """The attribute map is no way around it, in neither direction."""
    found = _violations(convert.read_request, _request(attributes=attributes), now_us=NOW_US)
    assert found.keys() == {"event.attributes"}
    assert CARD_NUMBER not in str(found)


@pytest.mark.parametrize("kind", sorted(OWN))
def test_what_the_detail_holds_has_no_second_place(kind):
    """A fact of the kind's own is refused in `known`, so that a request can't contradict itself."""
    for group in OWN[kind]:
        request = convert.decide_request({"id": "e1", "kind": kind, "time_us": TIME_US})
        attribute = "view" if group == "page" else group
        getattr(request.event.known, attribute).SetInParent()
        assert f"event.known.{attribute}" in _violations(convert.event_document, request)


_outcomes = st.fixed_dictionaries(
    {"id": _id, "event_id": _id, "kind": st.sampled_from(OUTCOMES), "time_us": st.integers(10**15, NOW_US)},
    optional={"code": _word, "money": st.tuples(st.integers(0, 10**12), st.sampled_from(["EUR", "JPY"]))},
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(_outcomes)
def test_an_outcome_is_the_same_after_the_wire(outcome):
    """Each kind of outcome, with and without code and money, is read as the document is."""
    if "money" in outcome:
        outcome["amount_minor"], outcome["currency"] = outcome.pop("money")
    request = _sent(convert.outcome_request(outcome))
    assert convert.read_outcome_request(request, now_us=NOW_US) == read_outcome(outcome, now_us=NOW_US)


def test_a_bad_outcome_names_every_wrong_field_by_its_path():
    """Unspecified kind, no time, no ids, half an amount and a negative one are named at once."""
    request = decision_pb2.RecordOutcomeRequest(code=CARD_NUMBER, amount={"minor_units": -5})
    found = _violations(convert.read_outcome_request, request, now_us=NOW_US)
    assert found.keys() == {"id", "event_id", "kind", "time", "amount", "amount.minor_units", "code"}
    assert CARD_NUMBER not in str(found)


def test_known_at_is_refused_over_the_wire():
    """Only an import may say when an outcome was known."""
    outcome = {"id": "o1", "event_id": "e1", "kind": "abuse", "time_us": TIME_US, "known_at": "2030-01-01T00:00:00Z"}
    assert _violations(convert.outcome_request, outcome).keys() == {"known_at"}


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, "tab\t", CARD_NUMBER])
def test_an_id_to_look_up_is_checked_and_not_echoed(value):
    """GetDecision and AssessUser refuse what can't be an id."""
    found = _violations(convert.required_id, value, "id")
    assert found.keys() == {"id"}
    assert CARD_NUMBER not in str(found)
    assert convert.required_id("e-1:ä", "id") == "e-1:ä"


def test_random_bytes_never_give_anything_but_an_event_or_invalid_input():
    """Flipped bytes of a good request are read, or refused as the caller's mistake; nothing else is raised."""
    rng = random.Random(7)
    good = _request(card={"type": 1}, basket=[_LINE], known={"review": {"rating": 3}}).SerializeToString()
    refused = 0
    for _ in range(3_000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            convert.read_request(convert.parse(decision_pb2.DecideRequest, bytes(data)), now_us=NOW_US)
        except InvalidInput:
            refused += 1
    assert 0 < refused < 3_000


def test_every_plain_field_of_an_event_is_read():
    """No field of the protos is dropped: each one that a caller can set is a field of the schema."""
    read = {path for kind in KINDS for path in places(kind).values()}
    missing = [path for path in _leaves(event_pb2.Event.DESCRIPTOR, "") if path not in read]
    assert missing == ["id", "time", "attributes"]


def _leaves(descriptor, prefix: str) -> list[str]:
    leaves = []
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        inner = field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.file.package == "arbiter.v1"
        if path == "attributes" or not inner:
            leaves.append(path)
        elif path != "basket":
            leaves += _leaves(field.message_type, path + ".")
    return leaves
