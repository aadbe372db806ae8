"""Documents → requests: what clients, the demo and the load generator send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from engine.errors import InvalidInput, Violation
from engine.intake import flatten, read_outcome, timestamp_us
from engine.schema import DERIVED, FIELDS, KINDS, Field
from engine.service._generated.arbiter.v1 import decision_pb2, event_pb2
from engine.service.convert.places import LINES, choice_of, places, timestamp


def decide_request(document: Mapping[str, Any], *, dry_run: bool = False) -> decision_pb2.DecideRequest:
    """Event document, nested or dotted, → request. A payment without `event.stage` is asked about at checkout.

    Raises `InvalidInput`, by schema names, for what has no place or another type there; the server judges the rest.
    """
    flat = flatten(document)
    stage = flat.pop("event.stage", None)
    if stage is None and flat.get("kind") == "payment":
        stage = "checkout"
    choice = choice_of(decision_pb2.Stage.DESCRIPTOR)
    wrong: list[Violation] = []
    if stage is not None and stage not in choice.numbers:
        wrong.append(Violation("event.stage", "must be one of " + ", ".join(choice.numbers)))
    event = _write_event(flat, wrong)
    number = cast(decision_pb2.Stage.ValueType, choice.numbers.get(stage or "", 0))
    return decision_pb2.DecideRequest(event=event, stage=number, dry_run=dry_run)


def record_request(document: Mapping[str, Any]) -> decision_pb2.RecordRequest:
    """Event document → request to record it; `InvalidInput` as for `decide_request`, also for a stage."""
    return decision_pb2.RecordRequest(event=_write_event(flatten(document), []))


def outcome_request(document: Mapping[str, Any]) -> decision_pb2.RecordOutcomeRequest:
    """Outcome document → request; `InvalidInput` for an unknown kind, name or time, and for `known_at`."""
    checked = read_outcome(document, now_us=2**62)
    if "known_us" in checked:
        raise InvalidInput([Violation("known_at", "is for imports only: a request is known when it arrives")])
    kind = choice_of(decision_pb2.OutcomeKind.DESCRIPTOR).numbers[checked["kind"]]
    request = decision_pb2.RecordOutcomeRequest(
        id=checked["id"], event_id=checked["event_id"], kind=cast(decision_pb2.OutcomeKind.ValueType, kind),
        time=timestamp(checked["time_us"]), code=checked.get("code", ""),
    )  # fmt: skip
    if "amount_minor" in checked:
        request.amount.minor_units = checked["amount_minor"]
        request.amount.currency = checked.get("currency", "")
    return request


def _write_event(flat: dict[str, Any], wrong: list[Violation]) -> event_pb2.Event:
    flat = {name: value for name, value in flat.items() if value is not None}
    event = event_pb2.Event()
    kind = flat.pop("kind", "")
    if kind in KINDS:
        getattr(event, f"{kind}_detail").SetInParent()
    else:
        wrong.append(Violation("kind", "is required: one of " + ", ".join(KINDS)))
    flat["id"] = flat.get("id", "")
    flat["time_us"] = flat.pop("time", None) if "time_us" not in flat else flat["time_us"]
    columns = {name: flat.pop(name) for name in LINES if name in flat}
    for name, value in flat.items():
        try:
            _write_field(event, kind, name, value)
        except (ValueError, TypeError, OverflowError) as problem:
            wrong.append(Violation(name.removesuffix("_us") if name == "time_us" else name, str(problem)))
    _write_basket(event, columns, wrong)
    if wrong:
        raise InvalidInput(wrong)
    return event


def _write_field(event: event_pb2.Event, kind: str, name: str, value: Any) -> None:
    """Set one field; ValueError or TypeError in words for the document's author."""
    if name == "time_us":
        event.time.CopyFrom(timestamp(_instant(value)))
    elif name == "id":
        event.id = _typed(value, "string")
    elif name == "attributes":
        if not isinstance(value, Mapping) or not value:
            raise ValueError("must be a map of texts, and not empty")
        event.attributes.update({_typed(k, "string"): _typed(v, "string") for k, v in value.items()})
    elif name in places(kind):
        _write_place(event, places(kind)[name], FIELDS[name], value)
    else:
        raise ValueError("is computed by Arbiter; leave it out" if name in DERIVED else "has no place in this request")


def _write_place(event: event_pb2.Event, path: str, field: Field, value: Any) -> None:
    *parents, leaf = path.split(".")
    message: Any = event
    for parent in parents:
        message = getattr(message, parent)
    if field.choices:
        numbers = choice_of(message.DESCRIPTOR.fields_by_name[leaf].enum_type).numbers
        if value not in numbers:
            raise ValueError("must be one of " + ", ".join(numbers))
        setattr(message, leaf, numbers[value])
    elif field.type == "timestamp":
        getattr(message, leaf).CopyFrom(timestamp(_instant(value)))
    else:
        setattr(message, leaf, _typed(value, field.type))


def _write_basket(event: event_pb2.Event, columns: Mapping[str, Any], wrong: list[Violation]) -> None:
    lengths = {len(column) if isinstance(column, (list, tuple)) else 0 for column in columns.values()}
    if columns and (len(lengths) > 1 or 0 in lengths):
        wrong.append(Violation("basket", "needs lists that are equally long, with one entry for each line"))
        return
    lines = [event.basket.add() for _ in range(max(lengths, default=0))]
    for name, column in columns.items():
        kind = FIELDS[name].type.removeprefix("list(").removesuffix(")")
        try:
            for line, value in zip(lines, column, strict=True):
                setattr(line, LINES[name], _typed(value, kind))
        except (ValueError, TypeError) as problem:
            wrong.append(Violation(name, str(problem)))


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "int": (int,), "double": (int, float), "bool": (bool,)}
_WANTED = {"string": "a text that is not empty", "int": "a whole number", "double": "a number", "bool": "true or false"}


def _typed(value: Any, kind: str) -> Any:
    right = isinstance(value, _PYTHON_TYPES[kind]) and (kind == "bool") == isinstance(value, bool)
    if not right or value == "":
        raise TypeError(f"must be {_WANTED[kind]}")
    return value


def _instant(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else timestamp_us(value)
