"""Requests → documents and checked events.

Requests are read by attribute, which costs 40 ns a field where `ListFields` costs 140.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from engine.errors import InvalidInput, Violation
from engine.intake import holds_card_number, read_event, read_outcome
from engine.schema import FIELDS
from engine.service._generated.arbiter.v1 import decision_pb2, event_pb2, recommendation_pb2
from engine.service.convert.places import HOMES, KIND_OF, LINES, OWN, Part, choice_of, places, root, time_us
from engine.values import Event

M = TypeVar("M", bound=Message)
T = TypeVar("T")
EventRequest = decision_pb2.DecideRequest | decision_pb2.RecordRequest


def parse(request_class: type[M], data: bytes) -> M:
    """Bytes off the wire → request; `InvalidInput` for broken bytes and for texts that are not UTF-8."""
    try:
        return request_class.FromString(data)
    except DecodeError:
        name = request_class.DESCRIPTOR.full_name
        raise InvalidInput([Violation("", f"is not a {name}: broken bytes, or a text that is not UTF-8")]) from None


def event_document(request: EventRequest) -> dict[str, Any]:
    """Request → flat event document with `id`, `kind`, `time_us` and the schema's fields; absent is absent.

    Raises `InvalidInput` with paths in the request for what the message itself makes impossible: no time, no detail,
    an enum that is 0 or unknown, uneven basket lines. Values are `engine.intake`'s to judge.
    """
    document, wrong = _read_event(request)
    if wrong:
        raise InvalidInput(_in_request(wrong, document.get("kind", "")))
    return document


def read_request(request: EventRequest, *, now_us: int) -> Event:
    """Request → checked Event; `InvalidInput` lists every wrong field at once, by its path in the request."""
    document, wrong = _read_event(request)
    event = _checked(lambda: read_event(document, now_us=now_us), wrong)
    if event is None:
        raise InvalidInput(_in_request(wrong, document.get("kind", "")))
    return event


def read_outcome_request(request: decision_pb2.RecordOutcomeRequest, *, now_us: int) -> dict[str, Any]:
    """Request → checked outcome as `engine.intake.read_outcome` gives it; `InvalidInput` as for `read_request`."""
    document, wrong = _read_outcome(request)
    outcome = _checked(lambda: read_outcome(document, now_us=now_us), wrong)
    if outcome is None:
        paths = {"amount_minor": "amount.minor_units", "currency": "amount.currency"}
        raise InvalidInput([Violation(paths.get(v.field, v.field), v.reason) for v in wrong])
    return outcome


def required_id(value: str, field: str) -> str:
    """The id that GetDecision or AssessUser asks for, or `InvalidInput` that never echoes it."""
    if not (1 <= len(value) <= 128 and value.isprintable() and " " not in value):
        raise InvalidInput([Violation(field, "is required: 1 to 128 printable characters without spaces")])
    if holds_card_number(value):
        raise InvalidInput([Violation(field, "looks like a card number; send a token or fingerprint instead")])
    return value


def _checked(read: Callable[[], T], wrong: list[Violation]) -> T | None:
    """Add what `read` finds to what the message itself got wrong; None if anything is wrong."""
    try:
        result = read()
    except InvalidInput as problem:
        known = {v.field for v in wrong}
        wrong += [v for v in problem.violations if v.field not in known]
    return None if wrong else result


def _read_event(request: EventRequest) -> tuple[dict[str, Any], list[Violation]]:
    """The document of a request and what is wrong with it, by schema names."""
    event = request.event
    document: dict[str, Any] = {"id": event.id}
    wrong: list[Violation] = []
    kind = KIND_OF.get(event.WhichOneof("detail") or "", "")
    if kind:
        document["kind"] = kind
    else:
        wrong.append(Violation("kind", "is required: set exactly one, also where it has no field of its own"))
    if event.HasField("time"):
        _read_time(event.time, "time", "time_us", document, wrong)
    else:
        wrong.append(Violation("time", "is required"))
    if isinstance(request, decision_pb2.DecideRequest):
        _read_stage(request.stage, kind, document, wrong)
    _read_part(root(kind), event, document, wrong)
    if lines := list(event.basket):
        _read_basket(lines, document, wrong)
    if attributes := event.attributes:
        document["attributes"] = dict(attributes)
    if event.HasField("known"):
        _refuse_strays(event.known, kind, wrong)
    return document, wrong


def _read_part(part: Part, message: Any, document: dict[str, Any], wrong: list[Violation]) -> None:
    for attribute, name in part.texts:
        if value := getattr(message, attribute):
            document[name] = value
    for attribute, name in part.numbers:
        if (value := getattr(message, attribute)) or message.HasField(attribute):
            document[name] = value
    for attribute, name, choice in part.enums:
        if (value := getattr(message, attribute)) in choice.words:
            document[name] = choice.words[value]
        elif value or message.HasField(attribute):
            wrong.append(Violation(name, choice.reason))
    for attribute, name in part.stamps:
        if message.HasField(attribute):
            _read_time(getattr(message, attribute), name, name, document, wrong)
    for attribute, inner in part.inner:
        if message.HasField(attribute):
            _read_part(inner, getattr(message, attribute), document, wrong)


def _read_time(stamp: Any, field: str, name: str, document: dict[str, Any], wrong: list[Violation]) -> None:
    """Timestamp → µs under `name`; the years 1 to 9999 and whole nanoseconds, as protobuf defines it."""
    if -62_135_596_800 <= stamp.seconds <= 253_402_300_799 and 0 <= stamp.nanos < 1_000_000_000:
        document[name] = time_us(stamp)
    else:
        wrong.append(Violation(field, "is not a valid google.protobuf.Timestamp"))


def _read_stage(stage: int, kind: str, document: dict[str, Any], wrong: list[Violation]) -> None:
    choice = choice_of(decision_pb2.Stage.DESCRIPTOR)
    if stage in choice.words:
        document["event.stage"] = choice.words[stage]
    elif stage or kind == "payment":
        wrong.append(Violation("event.stage", choice.reason))


def _read_basket(lines: list[recommendation_pb2.BasketLine], document: dict[str, Any], wrong: list[Violation]) -> None:
    """Lines → parallel lists; a list with holes could not be matched to the others."""
    empty = True
    for name, attribute in LINES.items():
        values = [getattr(line, attribute) for line in lines]
        zeros = attribute == "quantity" and not all(values)  # a quantity of 0 may be meant, an empty text never
        given = [line.HasField("quantity") for line in lines] if zeros else values
        if all(given):
            document[name] = values
        elif any(given):
            wrong.append(Violation(name, "is given on some lines only; give it on every line, or on none"))
        empty = empty and not any(given)
    if empty:
        wrong.append(Violation("basket", "has only empty lines; leave it out instead"))


def _refuse_strays(known: event_pb2.Known, kind: str, wrong: list[Violation]) -> None:
    """What a kind's own detail can hold has one place only: there."""
    for group, own in OWN.get(kind, {}).items():
        home = HOMES[group]
        if known.HasField(cast(Any, home.removeprefix("known."))):
            wrong.append(Violation(home, f"belongs in event.{own} for this kind of event"))


def _read_outcome(request: decision_pb2.RecordOutcomeRequest) -> tuple[dict[str, Any], list[Violation]]:
    document: dict[str, Any] = {"id": request.id, "event_id": request.event_id}
    wrong: list[Violation] = []
    choice = choice_of(decision_pb2.OutcomeKind.DESCRIPTOR)
    if request.kind in choice.words:
        document["kind"] = choice.words[request.kind]
    else:
        wrong.append(Violation("kind", choice.reason))
    if request.HasField("time"):
        _read_time(request.time, "time", "time_us", document, wrong)
    if request.code:
        document["code"] = request.code
    if request.amount.HasField("minor_units"):
        document["amount_minor"] = request.amount.minor_units
    if request.amount.currency:
        document["currency"] = request.amount.currency
    if ("amount_minor" in document) != ("currency" in document):
        wrong.append(Violation("amount", "an amount needs a currency, and a currency an amount"))
    return document, wrong


def _in_request(wrong: Sequence[Violation], kind: str) -> list[Violation]:
    """Violations by schema names → by paths in the request; the schema's name stays in the words."""
    return [_by_path(violation, kind) for violation in wrong]


def _by_path(violation: Violation, kind: str) -> Violation:
    name, reason = violation.field, violation.reason
    if name == "event.stage":
        return Violation("stage", reason)
    if name in LINES:
        path = f"event.basket.{LINES[name]}"
    else:
        path = "event." + (places(kind).get(name) or {"kind": "detail", "txn": "payment.amount"}.get(name, name))
    return Violation(path, f"{reason} (rules name it {name})" if name in FIELDS and path != f"event.{name}" else reason)
