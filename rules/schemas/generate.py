"""Makes the JSON Schemas of all files that people write: `python rules/schemas/generate.py`.

Nothing about a file is said twice: the loaders read real policies while everything they ask for is noted (which keys a
mapping may have and must have, which words, which numbers), and that is the schema. What they read without asking a
`Reader` is in `SAID`. A test holds the files fresh.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from engine.batch.mapping import load_mapping  # noqa: E402  the project may be used without being installed
from engine.batch.rule_cases import read_cases  # noqa: E402
from engine.language import Diagnostics, Fields, Listing, Reader, Scalar, Table  # noqa: E402
from engine.loader import load_program, rule_schema  # noqa: E402
from engine.profiles.identity import Identity  # noqa: E402
from engine.schema import DERIVED, FIELDS, KINDS  # noqa: E402
from engine.settings import Settings  # noqa: E402

SCALAR = {"type": ["string", "number", "boolean"]}
SIMPLE: dict[str, dict[str, Any]] = {
    "text": SCALAR, "scalar": SCALAR, "constant": SCALAR, "integer": {"type": "integer"}, "number": {"type": "number"},
    "boolean": {"type": "boolean"}, "duration_us": {"type": "string", "pattern": r"^(\d+(us|ms|s|m|h|d|w))+$"},
    "timestamp_us": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*(Z|[+-]\d\d:\d\d)$"},
    "share": {"type": "string", "pattern": r"^\d{1,3}(\.\d+)?%$"},
}  # fmt: skip
FILES = {
    "policy.yaml": "policy", "labels.yaml": "labels", "features.yaml": "features", "reasons.yaml": "reasons",
    "snoozes.yaml": "snoozes", "lists/lists.yaml": "lists", "risk/": "rules", "patterns/": "patterns",
    "tests/defaults.yaml": "test_defaults", "tests/": "tests", "mappings/": "mapping",
}  # fmt: skip
"""Beginning of a file's name → its kind."""
ONE_OR_MORE_KINDS = {
    "anyOf": [{"enum": [*KINDS, "user"]}, {"type": "array", "items": {"enum": [*KINDS, "user"]}, "minItems": 1}]
}
_EVENT: dict[str, Any] = {
    "type": "object", "additionalProperties": False,
    "properties": {key: {} for key in sorted({*FIELDS, "result"} - DERIVED)} | {"kind": {"enum": list(KINDS)}},
}  # fmt: skip
_EARLIER = {
    **_EVENT,
    "properties": {**_EVENT["properties"], "ago": SIMPLE["duration_us"], "at": SIMPLE["timestamp_us"]},
}
_CELL = {"type": ["string", "number", "boolean", "null", "array"]}
SAID: dict[str, dict[str, dict[str, Any]]] = {
    "rules": {"on": ONE_OR_MORE_KINDS},
    "mapping": {
        "when": {"type": "object"}, "columns": {"type": "object"},
        "repeated": {"anyOf": [{"enum": ["rows"]}, {"type": "array", "items": SCALAR}]},
    },
    "policy": {"parameters": {"type": "object", "additionalProperties": _CELL}},
    "tests": {
        "event": _EVENT, "before": {"type": "array", "items": _EARLIER}, "set": {"type": "object"},
        "columns": {"type": "array", "items": {"type": "string"}},
        "rows": {"type": "array", "items": {"type": "array", "items": _CELL, "minItems": 2}},
    },
}  # fmt: skip
"""Kind → key, wherever it stands → what no Reader is asked for."""
SAID["test_defaults"] = SAID["tests"]


@dataclass
class Shape:
    """What is asked of one place of a file, over all files of its kind."""

    keys: dict[str, Shape] = field(default_factory=dict)
    required: set[str] | None = None
    item: Shape | None = None
    values: Shape | None = None
    simple: dict[str, dict[str, Any]] = field(default_factory=dict)

    def schema(self, said: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """As JSON Schema."""
        forms = list(self.simple.values())
        if self.required is not None:
            keys = {key: said.get(key) or shape.schema(said) for key, shape in sorted(self.keys.items())}
            forms.append({"type": "object", "additionalProperties": False, "properties": keys})
            forms[-1] |= {"required": sorted(self.required)} if self.required else {}
        elif self.values is not None:
            forms.append({"type": "object", "additionalProperties": self.values.schema(said)})
        if self.item is not None:
            forms.append({"type": "array", "items": self.item.schema(said)})
        return forms[0] if len(forms) == 1 else {"anyOf": forms} if forms else {}


class Notes:
    """Shapes by the nodes and mappings that they are of."""

    def __init__(self) -> None:
        self.kinds: dict[str, Shape] = {}
        self._known: dict[int, tuple[Any, Shape]] = {}

    def put(self, thing: Any, shape: Shape) -> None:
        """Remember a thing's shape; the thing is kept, so that its identity stays its own."""
        self._known[id(thing)] = thing, shape

    def of(self, thing: Any) -> Shape:
        """The shape of a thing; the first time of a file's root it is that of its kind."""
        if id(thing) not in self._known:
            source = getattr(thing, "source", None)
            name = source.file if source else ""
            kind = next((kind for start, kind in FILES.items() if name.startswith(start)), "")
            self.put(thing, self.kinds.setdefault(kind, Shape()) if kind and thing.start <= _first(thing) else Shape())
        return self._known[id(thing)][1]


def _first(node: Any) -> int:
    """Where the root of the node's file begins, after remarks."""
    lines, at = node.source.text.splitlines(keepends=True), 0
    while lines and lines[0].lstrip()[:1] in ("", "#"):
        at += len(lines.pop(0))
    return at


def noted(notes: Notes) -> Iterator[Any]:  # noqa: PLR0915  one wrapper for each way of asking
    """The patches that note what Reader and Fields are asked for."""

    def on_reader(name: str) -> Callable[..., Any]:
        plain = getattr(Reader, name)

        def asked(reader: Reader, node: Any, *rest: Any) -> Any:
            if node is not None and name in ("choice", *SIMPLE):
                simple(notes.of(node), name, rest[0] if name == "choice" else None)
            return plain(reader, node, *rest)

        return asked

    def fields(reader: Reader, node: Any, required: Any = (), optional: Any = ()) -> Fields:
        found = plain_fields(reader, node, required, optional)
        shape = notes.of(node) if node is not None else Shape()
        shape.required = set(required) if shape.required is None else shape.required & set(required)
        for key in (*required, *optional):
            shape.keys.setdefault(key, Shape())
        for key, value in found.values.items():
            if not isinstance(value, Scalar) or key in shape.keys:
                notes.put(value, shape.keys[key])
        notes.put(found, shape)
        return found

    def items(reader: Reader, node: Any) -> Any:
        if node is not None:
            shape = notes.of(node)
            shape.item = shape.item or Shape()
            for item in node.items if isinstance(node, Listing) else ():
                notes.put(item, shape.item)
        return plain_items(reader, node)

    def entries(reader: Reader, node: Any) -> Any:
        if node is not None:
            shape = notes.of(node)
            shape.values = shape.values or Shape()
            for _, value in node.entries if isinstance(node, Table) else ():
                notes.put(value, shape.values)
        return plain_entries(reader, node)

    def on_fields(name: str) -> Callable[..., Any]:
        plain = getattr(Fields, name)

        def asked(self: Fields, key: str, *rest: Any, **named: Any) -> Any:
            shape = notes.of(self).keys.get(key, Shape())
            if name in ("choices", "texts", "items", "fields_list"):
                shape.item = shape.item or Shape()
            if name in ("choice", "choices"):
                simple(shape.item if name == "choices" and shape.item else shape, "choice", rest[0])
            elif name in SIMPLE:
                bounds = dict(zip(("default", "minimum", "maximum"), rest, strict=False)) | named
                simple(shape, name, None, bounds.get("minimum"), bounds.get("maximum"))
            elif name == "texts":
                simple(shape.item or Shape(), "text")
            elif name in ("fields", "fields_list"):
                inner = shape if name == "fields" else shape.item or Shape()
                asks = dict(zip(("required", "optional"), rest, strict=False)) | named
                required, optional = asks.get("required", ()), asks.get("optional", ())
                inner.required = set(required) if inner.required is None else inner.required & set(required)
                for word in (*required, *optional):
                    inner.keys.setdefault(word, Shape())
            found = plain(self, key, *rest, **named)
            if name == "fields":
                notes.put(found, shape)
            return found

        return asked

    plain_fields, plain_items, plain_entries = Reader.fields, Reader.items, Reader.entries
    yield patch.object(Reader, "fields", fields)
    yield patch.object(Reader, "items", items)
    yield patch.object(Reader, "entries", entries)
    for name in (*SIMPLE, "choice"):
        yield patch.object(Reader, name, on_reader(name))
    for name in (*(set(SIMPLE) & set(vars(Fields))), "choice", "choices", "texts", "fields", "fields_list", "items"):
        yield patch.object(Fields, name, on_fields(name))


def simple(shape: Shape, name: str, words: Any = None, low: Any = None, high: Any = None) -> None:
    """Note that a single value is read in some way."""
    if words is not None:
        before = shape.simple.get("choice", {"enum": []})["enum"]
        shape.simple["choice"] = {"enum": [*before, *(word for word in words if word not in before)]}
        return
    if name in ("scalar", "text") and shape.simple:
        return
    shape.simple.pop("scalar", None)
    bounds = {"minimum": low} if low is not None else {}
    shape.simple[name] = SIMPLE[name] | bounds | ({"maximum": high} if high is not None else {})


@contextmanager
def noting() -> Iterator[Notes]:
    """Note what loaders ask for."""
    notes = Notes()
    patches = list(noted(notes))
    for one in patches:
        one.start()
    try:
        yield notes
    finally:
        for one in patches:
            one.stop()


def schemas() -> dict[str, dict[str, Any]]:
    """Kind → its schema."""
    with noting() as notes, chdir(ROOT):
        for folder in (ROOT / "rules", ROOT / "tests" / "policy"):
            program = load_program(folder, ROOT / "models", Identity(bytes(32)), lambda: 0, with_models=False)
            types = rule_schema(program.feature_set, program.policy.plan.signals, program.policy.lists).names
            list(read_cases(folder / "tests", types, [rule.id for rule in program.policy.rules], Diagnostics()))
        for path in sorted((ROOT / "mappings").glob("*.yaml")):
            load_mapping(path.relative_to(ROOT))
    found = {kind: shape.schema(SAID.get(kind, {})) for kind, shape in notes.kinds.items()}
    found["settings"] = Settings.model_json_schema()
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {kind: head | {"title": f"Arbiter: {kind.replace('_', ' ')}"} | schema for kind, schema in found.items()}


def text_of(schema: dict[str, Any]) -> str:
    """The content of a schema's file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for kind, schema in schemas().items():
        (HERE / f"{kind}.json").write_text(text_of(schema))
