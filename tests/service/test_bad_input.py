"""The table of bad input: each is refused over real gRPC with every wrong field named, and reaches nothing."""

from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest

from engine.intake import MAX_LINES
from engine.service import convert
from tests.service.conftest import PAYMENT, Service

CARD = "4111 1111 1111 1111"
DIGITS = "5500005555555559"

Change = Callable[[Any], object]
"""Spoils a good DecideRequest in place."""


def changed(request: Any, path: str, value: Any) -> None:
    """Set one field of a request, `event.card.token` or so."""
    *parents, leaf = path.split(".")
    for parent in parents:
        request = getattr(request, parent)
    setattr(request, leaf, value)


def put(path: str, value: Any) -> Change:
    """A change that sets one field."""
    return lambda request: changed(request, path, value)


def line(**fields: Any) -> Change:
    """A change that adds a basket line."""
    return lambda request: request.event.basket.add(**fields)


def attributes(entries: dict[str, str]) -> Change:
    """A change that adds attributes."""
    return lambda request: request.event.attributes.update(entries)


MINOR = "event.payment.amount.minor_units"
WORTH = "event.payment_detail.coupon.value_base"
TABLE: list[tuple[str, Change, set[str]]] = [
    ("no stage", put("stage", 0), {"stage"}),
    ("stage that is not listed", put("stage", 99), {"stage"}),
    ("no id", put("event.id", ""), {"event.id"}),
    ("id of spaces", put("event.id", "   "), {"event.id"}),
    ("id with a space", put("event.id", "a b"), {"event.id"}),
    ("over-long id", put("event.id", "x" * 129), {"event.id"}),
    ("id with a control character", put("event.id", "a\x07b"), {"event.id"}),
    ("id that is a card number", put("event.id", DIGITS), {"event.id"}),
    ("no time", lambda r: r.event.ClearField("time"), {"event.time"}),
    ("time of 1970", put("event.time.seconds", 0), {"event.time"}),
    ("time in milliseconds", put("event.time.seconds", 1_795_000_000_000), {"event.time"}),
    ("time in the next century", put("event.time.seconds", 4_000_000_000), {"event.time"}),
    ("negative time", put("event.time.seconds", -5), {"event.time"}),
    ("time that overflows", put("event.time.seconds", 2**62), {"event.time"}),
    ("nanoseconds out of range", put("event.time.nanos", 2_000_000_000), {"event.time"}),
    ("no detail", lambda r: r.event.ClearField("payment_detail"), {"event.detail"}),
    ("no currency", put("event.payment.amount.currency", ""), {"event.payment.amount"}),
    ("no amount", lambda r: r.event.payment.amount.ClearField("minor_units"), {"event.payment.amount"}),
    ("unknown currency", put("event.payment.amount.currency", "EUX"), {"event.payment.amount.currency"}),
    ("lower-case currency", put("event.payment.amount.currency", "eur"), {"event.payment.amount.currency"}),
    ("negative money", put(MINOR, -1), {MINOR}),
    ("money that overflows", put(MINOR, 2**62), {MINOR}),
    ("smallest money there is", put(MINOR, -(2**63)), {MINOR}),
    ("over-long payment id", put("event.payment.id", "p" * 200), {"event.payment.id"}),
    ("payment id with a space", put("event.payment.id", "p 1"), {"event.payment.id"}),
    ("over-long user id", put("event.user.id", "u" * 129), {"event.user.id"}),
    ("card number as token", put("event.card.token", DIGITS), {"event.card.token"}),
    ("card number with spaces as method", put("event.payment.method", CARD), {"event.payment.method"}),
    ("card number inside a street", put("event.shipping.street", f"Weg 5, {CARD}"), {"event.shipping.street"}),
    ("card number as email name", put("event.email.address", f"{DIGITS}@x.org"), {"event.email.address"}),
    ("card number as BIN", put("event.card.bin", DIGITS), {"event.card.bin"}),
    ("five digits as last four", put("event.card.last4", "12345"), {"event.card.last4"}),
    ("month 13", put("event.card.expiry", "2027-13"), {"event.card.expiry"}),
    ("expiry as printed on the card", put("event.card.expiry", "11/27"), {"event.card.expiry"}),
    ("unspecified card type", put("event.card.type", 0), {"event.card.type"}),
    ("card type that is not listed", put("event.card.type", 77), {"event.card.type"}),
    ("unspecified channel", put("event.context.channel", 0), {"event.context.channel"}),
    ("unknown market", put("event.context.market", "XX"), {"event.context.market"}),
    ("market in words", put("event.context.market", "Germany"), {"event.context.market"}),
    ("unknown zone", put("event.context.zone", "Europe/Atlantis"), {"event.context.zone"}),
    ("no email", put("event.email.address", "anna at example"), {"event.email.address"}),
    ("phone without a country", put("event.phone.number", "030 123456"), {"event.phone.number"}),
    ("no ip", put("event.ip.address", "300.1.1.1"), {"event.ip.address"}),
    ("latitude that is no number", put("event.place.latitude", float("nan")), {"event.place.latitude"}),
    ("latitude without end", put("event.place.latitude", float("inf")), {"event.place.latitude"}),
    ("latitude off the earth", put("event.place.latitude", 91.0), {"event.place.latitude"}),
    ("longitude off the earth", put("event.place.longitude", -180.5), {"event.place.longitude"}),
    ("control characters", put("event.device.os", "Linux\x00"), {"event.device.os"}),
    ("over-long text", put("event.device.os", "x" * 257), {"event.device.os"}),
    ("language that is none", put("event.user.language", "German, mostly"), {"event.user.language"}),
    ("10,000 attributes", attributes({f"k{n}": "v" for n in range(10_000)}), {"event.attributes"}),
    ("over-long attribute", attributes({"k": "v" * 257}), {"event.attributes"}),
    ("over-long attribute name", attributes({"k" * 65: "v"}), {"event.attributes"}),
    ("empty attribute", attributes({"k": ""}), {"event.attributes"}),
    ("card number as attribute", attributes({"k": DIGITS}), {"event.attributes"}),
    ("card number as attribute name", attributes({DIGITS: "v"}), {"event.attributes"}),
    ("basket line without anything", line(), {"event.basket"}),
    ("card number in the basket", line(item_id=DIGITS), {"event.basket.item_id"}),
    (
        "too many basket lines",
        lambda r: [r.event.basket.add(item_id="i") for _ in range(MAX_LINES + 1)],
        {"event.basket.item_id"},
    ),
    ("unspecified result", put("event.payment_detail.result.status", 0), {"event.payment_detail.result.status"}),
    ("negative coupon", put(WORTH, -1.0), {WORTH}),
    ("rating of six", put("event.known.review.rating", 6), {"event.known.review.rating"}),
    ("result in two places", put("event.known.result.code", "51"), {"event.known.result"}),
    (
        "many at once",
        lambda r: [put("event.id", "")(r), put("event.card.last4", "x")(r), put("event.ip.address", "x")(r)],
        {"event.id", "event.card.last4", "event.ip.address"},
    ),
]


def wire(tag: int, body: bytes) -> bytes:
    """One length-delimited protobuf field."""
    assert tag < 16
    assert len(body) < 128
    return bytes([tag << 3 | 2, len(body)]) + body


RAW: dict[str, bytes] = {
    "broken bytes": b"\xff\xff\xff\xff",
    "cut short": wire(1, wire(1, b"e1"))[:-1],
    "a text that is not UTF-8": wire(1, wire(1, b"e\xff1")),
    "half of a surrogate": wire(1, wire(1, b"\xed\xa0\x80")),
    "a field number of zero": b"\x02\x00",
    "JSON": b'{"event": {"id": "e1"}}',
    "5 MB": b"\0" * 5_000_000,
}


async def refused(service: Service, method: str, request: Any) -> tuple[set[str], str]:
    """The fields that a refusal names, and all that it says; it must be INVALID_ARGUMENT and leave no trace."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.call(method, request)
    error = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert not service.engine.decided
    assert not service.engine.recorded
    violations = convert.violations_of(error)
    assert violations
    assert all(violation.reason for violation in violations)
    return {violation.field for violation in violations}, repr(error) + repr(error.trailing_metadata())


@pytest.mark.parametrize(("change", "fields"), [pytest.param(c, f, id=name) for name, c, f in TABLE])
async def test_bad_input_is_refused_by_field(service: Service, change: Change, fields: set[str]) -> None:
    """Each wrong field is named by its path in the request, no other is, and no value that may be a card is echoed."""
    request = convert.decide_request(PAYMENT)
    change(request)
    named, words = await refused(service, "Decide", request)
    assert named == fields
    assert not [secret for secret in (CARD, DIGITS, PAYMENT["email.address"]) if secret in words]


@pytest.mark.parametrize("body", RAW.values(), ids=RAW)
async def test_what_is_no_request_is_refused(service: Service, body: bytes) -> None:
    """Bytes that are no request are refused as the caller's mistake, by every method."""
    for method in convert.METHODS:
        await refused(service, method, body)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"id": ""}, {"id"}),
        ({"event_id": "a b"}, {"event_id"}),
        ({"kind": 0}, {"kind"}),
        ({"kind": 99}, {"kind"}),
        ({"code": DIGITS}, {"code"}),
        ({"id": "", "event_id": ""}, {"id", "event_id"}),
    ],
)
async def test_a_bad_outcome_is_refused(service: Service, change: dict[str, Any], fields: set[str]) -> None:
    """RecordOutcome names its wrong fields as Decide does."""
    outcome = {"id": "o1", "kind": "chargeback", "event_id": "e1", "time": "2024-11-24T10:00:00Z"}
    request = convert.outcome_request(outcome)
    for name, value in change.items():
        setattr(request, name, value)
    named, words = await refused(service, "RecordOutcome", request)
    assert named == fields
    assert DIGITS not in words


async def test_an_empty_request_is_refused_by_every_method(service: Service) -> None:
    """A request with nothing in it is refused; no field is silently taken as its zero."""
    for method in convert.METHODS:
        await refused(service, method, b"")


async def test_nothing_is_wrong_with_the_good_one(service: Service) -> None:
    """The request that the table spoils is itself accepted."""
    assert (await service.decide()).id == "e1"


async def test_nothing_bad_reaches_the_stores(real_service: Service) -> None:
    """The whole table leaves the stores of the engine that ships empty: the good request is then the first."""
    bodies = list(RAW.values())
    for _, change, _ in TABLE:
        request = convert.decide_request(PAYMENT)
        change(request)
        bodies.append(request.SerializeToString())
    for body in bodies:
        with pytest.raises(grpc.aio.AioRpcError):
            await real_service.call("Decide", body)
    assert [s.record.kind for s in real_service.engine.journal.read(0)] == ["activation"]
    await real_service.decide()
    stored = await real_service.engine.journal.find(PAYMENT["id"])
    assert (stored.seq, stored.record.number) == (2, 1)
