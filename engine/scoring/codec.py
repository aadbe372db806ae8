"""Frozen dataclasses to YAML and back: deterministic bytes out, every mistake at once in.

A field's type says how it is read: str, int, float, bool, `Span`, a dataclass, `T | None`, `tuple[T, ...]` or
`dict[str, T]`. A field with a default may be left out; an unknown key never passes.
"""

from __future__ import annotations

import json
import re
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Any, TypeVar, cast

from engine.errors import ModelError
from engine.language.diagnostics import Diagnostics, DiagnosticsError
from engine.language.reader import Reader, parse_timestamp_us
from engine.language.source import Node, parse_yaml

T = TypeVar("T")
DAY_US = 86_400_000_000
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w.@-]*")
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")  # YAML folds or refuses these where JSON leaves them as they are


@dataclass(frozen=True, slots=True)
class Span:
    """Event times from `start_us` on and before `end_us`; written as an ISO 8601 interval `start/end` in UTC."""

    start_us: int
    end_us: int

    @classmethod
    def of(cls, text: str) -> Span:
        """Read `2018-07-25T00:00:00Z/2018-08-01T00:00:00Z`; ValueError if it isn't an interval that goes forward."""
        start_us, end_us = (
            parse_timestamp_us(part) for part in (text.split("/") if text.count("/") == 1 else ("", ""))
        )
        if start_us is None or end_us is None or start_us >= end_us:
            raise ValueError(f"{text!r} is not an interval such as 2018-07-25T00:00Z/2018-08-01T00:00Z")
        return cls(start_us, end_us)

    def __str__(self) -> str:
        return f"{time_text(self.start_us)}/{time_text(self.end_us)}"


def time_text(time_us: int) -> str:
    """ISO 8601 in UTC, to the second where nothing finer is there."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).replace(microsecond=time_us % 1_000_000).isoformat(
        timespec="microseconds" if time_us % 1_000_000 else "seconds"
    ).replace("+00:00", "Z")  # fmt: skip


def encode(value: Any) -> bytes:
    """The YAML of a dataclass; equal values give equal bytes. Empty values are left out."""
    return ("\n".join(_block(value, "")) + "\n").encode()


def decode(kind: type[T], data: bytes, file: str) -> T:
    """Read `kind` from YAML; ModelError shows every mistake with its place in `file`."""
    diagnostics = Diagnostics()
    node = parse_yaml(data, file, diagnostics)
    value = _read(kind, node, Reader(diagnostics)) if node is not None else None
    try:
        diagnostics.raise_if_failed()
    except DiagnosticsError as error:
        raise ModelError(str(error)) from error
    return cast(T, value)


def _items(value: Any) -> list[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, dict) else ((f.name, getattr(value, f.name)) for f in fields(value))
    return [(key, item) for key, item in pairs if item is not None and item not in ("", (), {})]


def _block(value: Any, indent: str) -> list[str]:
    lines = []
    for key, item in _items(value):
        head = f"{indent}{_key(key)}:"
        if isinstance(item, tuple):
            lines += [head, *(f"{indent}  - {_flow(part)}" for part in item)]
        elif isinstance(item, dict) or (is_dataclass(item) and not isinstance(item, Span)):
            lines += [head, *_block(item, indent + "  ")]
        else:
            lines.append(f"{head} {_flow(item)}")
    return lines


def _flow(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, Span):
        return str(value)
    if isinstance(value, dict) or is_dataclass(value):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in _items(value)) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _json(value)


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else _json(key)


def _json(value: Any) -> str:
    """A scalar as JSON, which is YAML too; NaN and infinities have no JSON and are refused."""
    return _BREAKS.sub(lambda m: f"\\u{ord(m.group()):04x}", json.dumps(value, ensure_ascii=False, allow_nan=False))


def _read(kind: Any, node: Node, reader: Reader) -> Any:
    """The value of a node; None after a mistake, which is then in the reader's diagnostics."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (UnionType, typing.Union):
        return _read(next(part for part in inner if part is not NoneType), node, reader)
    if origin is tuple:
        return tuple(_read(inner[0], item, reader) for item in reader.items(node))
    if origin is dict:
        return {key.value: _read(inner[1], item, reader) for key, item in reader.entries(node)}
    if kind is Span:
        return _span(node, reader)
    if is_dataclass(kind):
        return _record(kind, node, reader)
    how = {str: reader.text, int: reader.integer, float: reader.number, bool: reader.boolean}[kind]
    return how(node)


def _span(node: Node, reader: Reader) -> Span | None:
    text = reader.text(node)
    try:
        return Span.of(text) if text is not None else None
    except ValueError as error:
        reader.wrong(node, str(error))
        return None


def _record(kind: Any, node: Node, reader: Reader) -> Any:
    optional = {f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING}
    given = reader.fields(node, required=[f.name for f in fields(kind) if f.name not in optional], optional=optional)
    types = typing.get_type_hints(kind)
    values = {name: _read(types[name], item, reader) for name, item in given.values.items()}
    return None if reader.diagnostics.failed else kind(**values)
