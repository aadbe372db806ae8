"""Which changes to the protos would break a caller: anything that is not an addition.

Compared by full name, wherever a message lives: a caller's stubs and stored bytes hold names and numbers, not files.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
)

Facts = dict[str, str]
"""What callers rely on: full name → what it is, in words that can be compared and read."""


def breaking_changes(stored: FileDescriptorSet, current: FileDescriptorSet) -> list[str]:
    """What a caller of `stored` would miss or misread in `current`, one sentence each; empty if all is additive."""
    before, now = _facts(stored), _facts(current)
    gone = [f"{name} was removed; it was {fact}" for name, fact in before.items() if name not in now]
    changed = [
        f"{name} was {fact} and is now {now[name]}" for name, fact in before.items() if now.get(name, fact) != fact
    ]
    return sorted(gone + changed)


def _facts(files: FileDescriptorSet) -> Facts:
    facts: Facts = {}
    for file in files.file:
        for message in file.message_type:
            facts.update(_message_facts(file.package, message))
        for enum in file.enum_type:
            facts.update(_enum_facts(file.package, enum))
        for service in file.service:
            for method in service.method:
                streams = ("stream " if method.client_streaming else "", "stream " if method.server_streaming else "")
                facts[f"{file.package}.{service.name}.{method.name}"] = (
                    f"a call {streams[0]}{method.input_type} → {streams[1]}{method.output_type}"
                )
    return facts


def _message_facts(scope: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    name = f"{scope}.{message.name}"
    yield name, "a message"
    for field in message.field:
        yield f"{name}.{field.name}", _field_fact(message, field)
    for nested in message.nested_type:
        yield from _message_facts(name, nested)
    for enum in message.enum_type:
        yield from _enum_facts(name, enum)


def _field_fact(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.proto3_optional:
        label += " with presence"
    elif field.HasField("oneof_index"):
        label += f" in oneof {message.oneof_decl[field.oneof_index].name}"
    return f"field {field.number}, {label} {kind}"


def _enum_facts(scope: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    name = f"{scope}.{enum.name}"
    yield name, "an enum"
    for value in enum.value:
        yield f"{name}.{value.name}", f"number {value.number}"
