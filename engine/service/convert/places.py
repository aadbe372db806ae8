"""Where each field of `engine/schema.py` sits in an `arbiter.v1.Event`, from two small tables and the descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from engine.schema import DERIVED, FIELDS, KINDS, Field
from engine.service._generated.arbiter.v1 import event_pb2

_DETAILS = {
    "payment_result": "result", "challenge_result": "challenge", "coupon_redeemed": "coupon",
    "refund_requested": "refund", "refund": "refund", "return": "refund", "review": "review",
    "complaint": "complaint", "reported": "complaint", "search": "search", "view": "page",
}  # fmt: skip
"""Kind → the group of the schema that is its own detail."""
HOMES = {
    "event": "context", "address": "shipping", "geo": "place", "txn": "payment.amount",
    **{group: f"known.{group}" for group in _DETAILS.values()}, "page": "known.view",
}  # fmt: skip
"""Group of the schema (the part before the dot) → path inside Event, where that is not the group's own name."""
OWN: dict[str, dict[str, str]] = {
    "payment": {group: f"payment_detail.{group}" for group in ("result", "challenge", "coupon")},
    **{kind: {group: f"{kind}_detail"} for kind, group in _DETAILS.items()},
}
"""Kind → group → path of the group in the kind's own detail, which takes the place of its home in `known`."""
_RENAMED = {"txn.amount_minor": "minor_units"}
LINES = {"basket.items": "item_id", "basket.categories": "category", "basket.quantities": "quantity"}
"""Lists of the schema that are one field of each basket line."""
_PLAIN: tuple[Field, ...] = tuple(
    f for f in FIELDS.values() if f.name not in DERIVED | LINES.keys() | {"event.stage", "attributes"}
)
"""Fields that are one field of one message in Event."""
KIND_OF = {f"{kind}_detail": kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Choice:
    """What an enum's numbers mean; 0 is never among them."""

    words: dict[int, str]
    """Number → word of the schema: CARD_TYPE_CREDIT is `credit`."""
    numbers: dict[str, int]
    reason: str
    """What is said to a caller who sent another number."""


@cache
def choice_of(enum: EnumDescriptor) -> Choice:
    """The words of an enum: its values without the prefix that its zero value shows, in lower case."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    words = {v.number: v.name.removeprefix(prefix).lower() for v in enum.values if v.number}
    names = ", ".join(v.name for v in enum.values if v.number)
    return Choice(words, {word: number for number, word in words.items()}, f"must be one of {names}")


@dataclass(frozen=True, slots=True)
class Part:
    """One message inside Event: what is read of it, as (attribute, schema name …), and the messages inside it."""

    texts: tuple[tuple[str, str], ...]
    """Fields whose default means absent."""
    numbers: tuple[tuple[str, str], ...]
    """Fields with presence, whose default may be meant."""
    enums: tuple[tuple[str, str, Choice], ...]
    stamps: tuple[tuple[str, str], ...]
    inner: tuple[tuple[str, Part], ...]


@cache
def places(kind: str) -> dict[str, str]:
    """Schema field → path inside an Event of that kind."""
    places = {}
    for field in _PLAIN:
        group, _, attribute = field.name.partition(".")
        home = OWN.get(kind, {}).get(group) or HOMES.get(group, group)
        places[field.name] = f"{home}.{_RENAMED.get(field.name, attribute)}"
    return places


@cache
def root(kind: str) -> Part:
    """All that may be read of an Event of one kind."""
    paths = {path: name for name, path in places(kind).items()}
    return _part(event_pb2.Event.DESCRIPTOR, paths)


def _part(descriptor: Descriptor, paths: Mapping[str, str]) -> Part:
    texts, numbers, stamps = list[tuple[str, str]](), list[tuple[str, str]](), list[tuple[str, str]]()
    enums, inner = list[tuple[str, str, Choice]](), dict[str, dict[str, str]]()
    for path, name in paths.items():
        head, _, rest = path.partition(".")
        field = descriptor.fields_by_name[head]
        if rest:
            inner.setdefault(head, {})[rest] = name
        elif field.message_type is not None:
            stamps.append((head, name))
        elif field.enum_type is not None:
            enums.append((head, name, choice_of(field.enum_type)))
        else:
            (numbers if field.has_presence else texts).append((head, name))
    below = ((head, _part(_below(descriptor, head), rest)) for head, rest in inner.items())
    return Part(tuple(texts), tuple(numbers), tuple(enums), tuple(stamps), tuple(below))


def _below(descriptor: Descriptor, field: str) -> Descriptor:
    below = descriptor.fields_by_name[field].message_type
    assert below is not None, f"{descriptor.full_name}.{field} holds no message"
    return below


def time_us(stamp: Timestamp) -> int:
    """Timestamp → µs since 1970; finer digits are cut off."""
    return stamp.seconds * 1_000_000 + stamp.nanos // 1_000


def timestamp(time_us: int) -> Timestamp:
    """µs since 1970 → Timestamp."""
    seconds, micros = divmod(time_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1_000)
