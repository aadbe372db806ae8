"""Reads the `clean` and `references` sections of a mapping: what happens to rows before they become events."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from engine.batch import numbers
from engine.batch.declared import CleanColumn, Cleaning, Reference
from engine.language.reader import Fields
from engine.language.source import Scalar, Table

_STEPS = ("tidy", "values", "scale", "zone", "missing", "outliers")
Use = Callable[[Scalar | None], str]
"""Registers a column of the file, and gives its name."""


def read_cleaning(top: Fields, use: Use, folder: Path) -> tuple[Cleaning, bytes]:
    """Both sections, and the bytes of the tables: other tables are another mapping."""
    spec = top.fields("clean", optional=("repeated", "columns"))
    columns = [
        _column(key, spec.reader.fields(node, (), _STEPS), use) for key, node in spec.entries("columns")
    ]  # fmt: skip
    references = [
        _reference(key, top.reader.fields(node, ("file", "key"), ("column", "match", "from", "until")), use, folder)
        for key, node in top.entries("references")
    ]
    tables = b"".join(each.path.read_bytes() for each in references if each.path.is_file())
    return Cleaning(_repeated(spec, use), tuple(columns), tuple(references)), tables


def _repeated(spec: Fields, use: Use) -> tuple[str, ...] | None:
    if "repeated" not in spec:
        return None
    if isinstance(spec.get("repeated"), Scalar):
        spec.choice("repeated", ("rows",))
        return ()
    return tuple(use(scalar) for scalar in spec.each("repeated", spec.reader.scalar))


def _column(key: Scalar, spec: Fields, use: Use) -> CleanColumn:
    scale_by, factors = _scale(spec, use)
    zone = spec.fields("zone", ("by",), ("values",))
    missing, default, median_by = _missing(spec, use)
    outliers, bounds, winsorise = _outliers(spec)
    text = spec.reader.text
    return CleanColumn(
        use(key), key.position(), spec.choice("tidy", ("true", "upper", "lower")),
        {name.value: text(value) or "" for name, value in spec.entries("values")}, scale_by, factors,
        use(zone.scalar("by")), {name.value: text(value) or "" for name, value in zone.entries("values")},
        missing, default, median_by, outliers, bounds, winsorise,
    )  # fmt: skip


def _scale(spec: Fields, use: Use) -> tuple[str, dict[str, Decimal]]:
    if not isinstance(spec.get("scale"), Table):
        return "", {"": Decimal(spec.text("scale"))} if "scale" in spec and spec.number("scale") else {}
    by = spec.fields("scale", ("by", "factors"))
    factors = {}
    for name, node in by.entries("factors"):
        number = spec.reader.number(node)
        factors[name.value] = numbers.decimal_of(number or 0.0)
    return use(by.scalar("by")), factors


def _missing(spec: Fields, use: Use) -> tuple[str, str, str]:
    if not isinstance(spec.get("missing"), Table):
        return spec.choice("missing", ("leave", "median")), "", ""
    said = spec.fields("missing", (), ("default", "median_by"))
    if len(said.values) != 1:
        said.mistake("E112", "say either `default` or `median_by`")
    if "default" in said:
        return "default", said.text("default"), ""
    return "median", "", use(said.scalar("median_by"))


def _outliers(spec: Fields) -> tuple[str, tuple[float, float], bool]:
    said = spec.fields("outliers", (), ("quantiles", "mad", "do"))
    winsorise = said.choice("do", ("winsorise", "flag"), "winsorise") == "winsorise"
    if "outliers" not in spec:
        return "", (0, 0), False
    if ("quantiles" in said) == ("mad" in said):
        said.mistake("E112", "say either `quantiles: [0.1%, 99.9%]` or `mad: 8`")
    if "mad" in said:
        many = said.number("mad", minimum=1)
        return "mad", (many, many), winsorise
    low, high, *more = *said.each("quantiles", spec.reader.share), 0.0, 0.0
    if "quantiles" in said and (len(more) != 2 or low >= high):
        said.mistake("E114", "two shares, the lower first", "quantiles", "such as [0.1%, 99.9%]")
    return "quantiles", (low, high), winsorise


def _reference(key: Scalar, spec: Fields, use: Use, folder: Path) -> Reference:
    path, name = folder / spec.text("file"), use(spec.scalar("key"))
    if "file" in spec and not path.is_file():
        spec.mistake("E114", f"there is no file {path}", "file", "it is looked for beside the mapping")
    if ("until" in spec) > ("from" in spec):
        spec.mistake("E112", "`until` needs `from`", "until")
    return Reference(
        key.value, path, name, spec.text("column", name), spec.choice("match", ("exact", "prefix", "network"), "exact"),
        spec.text("from"), spec.text("until"), key.position(),
    )  # fmt: skip
