"""Reads `features.yaml`: every definition checked, every mistake with its place.

user.spend_24h: {measure: sum, of: txn.amount_base, on: payment, window: 24h, unit: money, meaning: …}
user.amount_to_mean: {derive: "txn.amount_base / user.amount_mean_90d", unit: ratio, meaning: …}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from engine.eventlog import Filter
from engine.features.spec import MEASURES, TILED, UNITS, Aggregate, Derived, FeatureSet, tile_of
from engine.language import (
    Diagnostics,
    Fields,
    Reader,
    Scalar,
    Schema,
    check,
    compile_value,
    load_yaml,
    parse_duration_us,
)
from engine.schema import DISPOSITIONS, ENTITIES, FIELDS, KINDS, OUTCOMES

_NEEDS_NUMBER = {"sum", "mean", "min", "max", "stddev", "median", "ratio", "first", "last"}
_NEEDS_FIELD = {*_NEEDS_NUMBER, "distinct", "repeats", "told"}
_MAY_HAVE_FIELD = {*_NEEDS_FIELD, "age"}
_WINDOWED = frozenset({"window", "offset", "on", "where"})
_FOLDED = _WINDOWED | {"disposition", "include_current"}
_TAKES: Mapping[str, frozenset[str]] = dict.fromkeys(MEASURES, _FOLDED) | {
    "repeats": _WINDOWED | {"disposition"}, "ratio": _WINDOWED | {"disposition"},
    "since_last": _WINDOWED | {"disposition"}, "rate": _WINDOWED | {"outcome", "default"},
    "count_received": frozenset({"window", "offset", "outcome"}), "age": frozenset(),
    "told": frozenset({"include_current"}),
}  # fmt: skip
"""Measure → the keys that it heeds beside `of`; any other would be without effect."""
_UNCLEAR = re.compile(r"\d(m(?![is])|M|y|$)")
_MINUTES = re.compile(r"(?<=\d)min(?![a-z])")
_OPTIONAL = {
    "measure", "of", "on", "where", "window", "offset", "include_current", "disposition", "outcome", "default",
    "derive", "entity", "precision",
}  # fmt: skip
_ARE_TOLD = frozenset({"string", "int", "double", "bool"})
MAX_KEEP = 100_000


def event_types() -> dict[str, str]:
    """What a condition over the event alone may read: name → CEL type."""
    return {field.name: field.type for field in FIELDS.values()} | {"event.kind": "string"}


def load_features(path: Path, name: str, fraud: Sequence[str], diagnostics: Diagnostics) -> FeatureSet:
    """The feature set of a policy; `fraud` is what `rate: fraud` counts. Mistakes go to `diagnostics`."""
    top = Reader(diagnostics).fields(load_yaml(path, diagnostics, name), {"features"}, {"keep", "note"})
    loader = _Loader(Reader(diagnostics), {**{kind: (kind,) for kind in OUTCOMES}, "fraud": tuple(fraud)})
    defined = [(key, loader.fields(key, node)) for key, node in top.entries("features")]
    aggregates = tuple(loader.aggregate(key, item) for key, item in defined if "derive" not in item)
    types = event_types() | {a.name: a.type for a in aggregates}
    loader.derivations = {key.value for key, item in defined if "derive" in item}
    derived = tuple(loader.derived(key, item, types) for key, item in defined if "derive" in item)
    keep = top.fields("keep", (), ENTITIES)
    kept = {entity: keep.integer(entity, 1000, 1, MAX_KEEP) for entity in keep.values}
    text = path.read_bytes() if path.exists() else b""
    return FeatureSet(aggregates, derived, kept, hashlib.blake2b(text, digest_size=8).hexdigest())


class _Loader:
    def __init__(self, reader: Reader, outcomes: Mapping[str, tuple[str, ...]]) -> None:
        self._reader, self._outcomes = reader, outcomes
        self._where = Schema.of(event_types())
        self.derivations: set[str] = set()
        """Names of all derived features."""

    def fields(self, key: Scalar, node: object) -> Fields:
        if key.value in FIELDS:
            self._error("E403", f"`{key.value}` is an event field; give the feature another name", key)
        return self._reader.fields(node, {"unit", "meaning"}, _OPTIONAL)  # type: ignore[arg-type]

    def aggregate(self, key: Scalar, item: Fields) -> Aggregate:
        entity = item.choice("entity", ENTITIES, key.value.partition(".")[0])
        if entity not in ENTITIES:
            self._error("E401", f"`{entity}` is not an entity; known: {', '.join(ENTITIES)}", key)
        measure = item.choice("measure", MEASURES)
        of = item.choice("of", FIELDS, "")
        if ("of" not in item and measure in _NEEDS_FIELD) or (of and measure not in _MAY_HAVE_FIELD):
            item.mistake("E402", f"{measure} {'takes no' if of else 'needs'} `of`", "measure")
        if measure in _NEEDS_NUMBER and of and FIELDS[of].type not in {"int", "double"}:
            item.mistake("E402", f"{measure} needs a number; {of} is {FIELDS[of].type}", "of")
        outcomes = self._outcomes.get(item.choice("outcome", self._outcomes, ""), ())
        if (measure in {"rate", "count_received"}) != bool(outcomes):
            item.mistake("E402", f"{measure} {'needs' if not outcomes else 'takes no'} `outcome`", "measure")
        if measure == "rate" and "offset" not in item:
            message = "a rate without `offset` counts outcomes that are still to come as none, so it is too low"
            hint = "give it an offset as long as they take to arrive, or write `offset: 0s` where that is meant"
            self._reader.diagnostics.warn("E406", message, item.position("measure"), len(measure), hint=hint)
        takes = _TAKES.get(measure, _FOLDED)
        for idle in sorted((_FOLDED | {"default"}) & item.values.keys() - takes):
            item.mistake("E402", f"{measure} takes no `{idle}`", idle)
        if "window" in takes and "window" not in item:
            item.mistake("E402", f"{measure} needs a window, such as 24h")
        if measure == "told" and of and (FIELDS[of].personal or FIELDS[of].type not in _ARE_TOLD):
            item.mistake("E402", f"told keeps a single value that is not personal; {of} is none", "of")
        tiled = item.choice("precision", ("exact", "tiled"), "exact") == "tiled"
        for key_of in ("measure", "offset", "disposition") if tiled else ():
            if key_of in item and (key_of != "measure" or measure not in TILED):
                what = measure if key_of == "measure" else f"`{key_of}`"
                hint = f"only {', '.join(sorted(TILED))} can be, without offset or disposition"
                item.mistake("E402", f"{what} can't be tiled", key_of, hint)
        window_us = _length_us(item, "window")
        return Aggregate(
            name=key.value, entity=entity, measure=measure, filter=self._filter(item, of), of=of,
            window_us=window_us, offset_us=_length_us(item, "offset"),
            include_current=item.boolean("include_current", False),
            dispositions=tuple(DISPOSITIONS.index(d) for d in _several(item, "disposition", DISPOSITIONS)),
            outcomes=outcomes, default=item.number("default") if "default" in item else None,
            tile_us=tile_of(window_us) if tiled else 0,
            type=_type_of(measure, of), unit=item.choice("unit", UNITS), meaning=item.text("meaning"),
        )  # fmt: skip

    def derived(self, key: Scalar, item: Fields, types: dict[str, str]) -> Derived:
        """A derived feature; it may read the aggregates, and the derived ones that stand above it."""
        expression = item.scalar("derive")
        if expression is not None and self._reads_ahead(key, expression, self.derivations - types.keys()):
            expression = None
        checked = check(expression, Schema.of(types), self._reader.diagnostics, None) if expression else None
        kind = str(checked.type) if checked else "dyn"
        types[key.value] = kind
        return Derived(
            key.value, expression.value if expression else "", compile_value(checked) if checked else lambda _: None,
            checked.names if checked else frozenset(), kind, item.choice("unit", UNITS), item.text("meaning"),
        )  # fmt: skip

    def _reads_ahead(self, key: Scalar, expression: Scalar, later: Collection[str]) -> bool:
        """Whether a feature is derived from itself or from one below it: in a circle, none could be computed."""
        for found in re.finditer(r"[\w.]+", expression.value):
            if found.group() in later:
                where = "itself" if found.group() == key.value else f"`{found.group()}`, which stands below it"
                message, hint = f"`{key.value}` is derived from {where}", "a derived feature reads only those above it"
                place, length = expression.position(found.start()), len(found.group())
                self._reader.diagnostics.error("E405", message, place, length, hint=hint)
                return True
        return False

    def _filter(self, item: Fields, of: str) -> Filter:
        where = item.scalar("where")
        checked = check(where, self._where, self._reader.diagnostics) if where else None
        on = _several(item, "on", KINDS)
        if where is None or checked is None:
            return Filter(on, "", of)
        return Filter(on, where.value, of, compile_value(checked), checked.names)

    def _error(self, code: str, message: str, key: Scalar) -> None:
        self._reader.diagnostics.error(code, message, key.position(), key.length)


def _length_us(item: Fields, key: str) -> int:
    """A length of time in µs; what could be read in two ways is a mistake."""
    node = item.get(key)
    if not isinstance(node, Scalar):
        return item.duration_us(key, 0)
    if _UNCLEAR.search(node.value):
        hint = "write 30s, 30min, 12h, 30d or 4w; months and years have no fixed length"
        item.mistake("E404", f"`{node.value}` may mean several lengths of time", key, hint)
        return 0
    length_us = parse_duration_us(_MINUTES.sub("m", node.value))
    if length_us == 0 and key == "window":
        item.mistake("E402", "a window of no length holds nothing", key)
    return item.duration_us(key, 0) if length_us is None else length_us


def _several(item: Fields, key: str, values: Sequence[str]) -> tuple[str, ...]:
    """One word or a list of words."""
    if isinstance(item.get(key), Scalar):
        word = item.choice(key, values, "")
        return (word,) if word else ()
    return item.choices(key, values)


def _type_of(measure: str, of: str) -> str:
    if measure in {"count", "distinct", "repeats", "count_received"}:
        return "int"
    if measure in {"sum", "min", "max", "first", "last", "told"} or not measure:
        return FIELDS[of].type if of else "dyn"  # after a mistake: what reads it is not judged by a guess
    return "double"
