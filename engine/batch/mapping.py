"""Reads a mapping file: which columns of a foreign file become which fields of an event document.

    mapping = load_mapping(Path("mappings/handbook.yaml"))       # MappingError shows every mistake at file:line:col

A mapping only declares; nothing here touches a row. `docs/import.md` explains each key to its writer.
"""

from __future__ import annotations

import hashlib
import re
import zoneinfo
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from engine.batch import numbers
from engine.batch.cleaning import read_cleaning
from engine.batch.declared import (
    EPOCHS,
    FORMATS,
    ROW,
    Amount,
    Column,
    Constant,
    FileFormat,
    Group,
    Mapping,
    Moment,
    OutcomeRule,
    Skip,
    Spec,
    Template,
    Test,
    Value,
)  # fmt: skip
from engine.codes import CURRENCIES
from engine.errors import InvalidInput, MappingError
from engine.intake import read_event
from engine.language.diagnostics import Diagnostics, Position, did_you_mean
from engine.language.reader import Fields, Reader
from engine.language.source import Node, Scalar, Table, parse_yaml
from engine.schema import DERIVED, FIELDS, KINDS, OUTCOMES

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SAMPLE_US = 1_600_000_000_000_000
_AMOUNT_FIELDS = frozenset({"txn.amount_minor", "txn.currency"})
_KEYS = ("mapping", "id", "kind", "time")
_MORE = ("produces", "source", "missing", "fields", "attributes", "amount", "skip", "outcomes", "group", "clean",
         "references")  # fmt: skip
_COLUMN_KEYS = ("extract", "values", "patterns", "unmapped", "sign")
_TESTS = ("equals", "matches", "missing", "below", "above")
_SIGNS = ("keep", "drop", "flip")


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file; MappingError with every mistake at its place."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MappingError(f"can't read the mapping {path}: {error.strerror or error}") from None
    return parse_mapping(data, str(path))


def parse_mapping(data: bytes, file: str) -> Mapping:
    """Read a mapping from memory; `file` names it in messages."""
    diagnostics = Diagnostics()
    node = parse_yaml(data, file, diagnostics)
    mapping = _Parser(diagnostics).mapping(node, file, data) if node is not None else None
    if diagnostics.failed or mapping is None:
        raise MappingError(diagnostics.render())
    return mapping


class _Parser:
    """Reads the nodes of one mapping file; mistakes gather in its diagnostics."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self.reader = Reader(diagnostics)
        self.diagnostics = diagnostics
        self.uses: dict[str, tuple[Position, int]] = {}

    def mapping(self, node: Node, file: str, data: bytes) -> Mapping:
        top = self.reader.fields(node, _KEYS, _MORE)
        produces = top.choice("produces", ("events", "outcomes"), "events")
        kinds = OUTCOMES if produces == "outcomes" else KINDS
        if produces == "outcomes":
            for key in ("outcomes", "group", "attributes", "clean"):
                if key in top:
                    top.mistake("E111", f"`{key}` has no place in a mapping that produces outcomes", key)
        clean, tables = read_cleaning(top, self.column, Path(file).parent)
        attributes = {key.value: self._value(value) for key, value in top.entries("attributes")}
        self.uses |= dict.fromkeys(clean.flags, (top.position("clean"), 1))
        mapping = Mapping(
            name=top.text("mapping"), file=file, digest=hashlib.blake2b(data + tables, digest_size=16).digest(),
            produces=produces, format=self._format(top), id=self._id(top),
            kind=self._kind(top, kinds), time=self._moment(top.get("time")),
            fields=self._outcome_fields(top) if produces == "outcomes" else self._fields(top),
            attributes=attributes | {flag: Column(flag) for flag in clean.flags},
            amount=self._amount(top) if "amount" in top else None,
            skips=tuple(
                Skip(self._when(each), each.text("reason")) for each in top.fields_list("skip", ("when", "reason"))),
            outcomes=self._outcomes(top), group=self._group(top),
            missing=frozenset(top.texts("missing")), uses=self.uses, text=self.diagnostics.sources.get(file, ""),
            clean=clean,
        )  # fmt: skip
        added = mapping.added()
        uses = {name: place for name, place in self.uses.items() if name not in added}
        return replace(mapping, uses=uses | {name: self.uses[name] for name in added})

    # --- the file ----------------------------------------------------------------------------------------------------

    def _format(self, top: Fields) -> FileFormat:
        source = top.fields("source", optional=("format", "delimiter", "quote", "encoding", "header"))
        encoding = source.text("encoding", "utf-8")
        try:
            "".encode(encoding)
        except LookupError:
            source.mistake("E114", f"`{encoding}` is not a text encoding", "encoding", "such as utf-8 or latin-1")
        form, header = source.choice("format", FORMATS, ""), source.texts("header")
        delimiter, quote = self._mark(source, "delimiter", ","), self._mark(source, "quote", '"')
        return FileFormat(form, delimiter, quote, encoding, header)

    def _mark(self, fields: Fields, key: str, default: str) -> str:
        """One character, where `\\t` may be written for the tab."""
        node = fields.get(key)
        if not isinstance(node, Scalar):
            return default
        mark = {"\\t": "\t", "tab": "\t"}.get(node.value, node.value)
        if len(mark) != 1:
            fields.mistake("E114", f"`{key}` must be one character", key)
        return mark

    # --- values ------------------------------------------------------------------------------------------------------

    def column(self, scalar: Scalar | None, offset: int = -1) -> str:
        """The name of a column, remembering where it was first named."""
        if scalar is None:
            return ""
        return self._use(scalar.value, scalar.position(offset), scalar.length)

    def _use(self, name: str, place: Position, length: int) -> str:
        if name != ROW:
            self.uses.setdefault(name, (place, length))
        return name

    def _value(self, node: Node | None) -> Value:
        """A constant, a template, or a column with what is to be done to it."""
        if isinstance(node, Table):
            return self._column(self.reader.fields(node, ("column",), _COLUMN_KEYS))
        scalar = self.reader.scalar(node) if node is not None else None
        return Constant("") if scalar is None else self._template(scalar)

    def _id(self, top: Fields) -> Value:
        made = self._value(top.get("id"))
        if isinstance(made, Constant) and made.value:
            hint = 'build it from columns that together are unique, such as "shop-{ORDER}" or "shop-{ORDER}-{row}"'
            top.mistake("E114", "every row would get the same id", "id", hint)
        return made

    def _template(self, scalar: Scalar) -> Constant | Template:
        parts: list[tuple[str, str]] = []
        before, at = "", 0
        for match in _PLACEHOLDER.finditer(scalar.value):
            before, at = before + scalar.value[at : match.start()], match.end()
            if match.group() in ("{{", "}}"):
                before += match.group()[0]
            elif match.group(1):
                self._use(match.group(1), scalar.position(match.start(1)), len(match.group(1)))
                parts.append((before, match.group(1)))
                before = ""
            else:
                hint = "name a column as {COLUMN}, and write {{ or }} for the character itself"
                self.diagnostics.error("E114", "not a placeholder", scalar.position(match.start()), 1, hint=hint)
        tail = before + scalar.value[at:]
        return Template(tuple(parts), tail) if parts else Constant(tail)

    def _column(self, spec: Fields) -> Column:
        patterns = [(self._pattern(key), self.reader.text(value) or "") for key, value in spec.entries("patterns")]
        extract = spec.scalar("extract")
        return Column(
            self.column(spec.scalar("column")), self._pattern(extract, 1) if extract else None,
            {key.value: self.reader.text(value) or "" for key, value in spec.entries("values")}, tuple(patterns),
            spec.choice("unmapped", ("refuse", "drop", "keep"), "refuse"),
            spec.choice("sign", _SIGNS, "keep"),
        )  # fmt: skip

    def _pattern(self, scalar: Scalar, groups: int = 0) -> re.Pattern[str]:
        """A regular expression that must match a whole value; `groups` is how many groups it must have."""
        try:
            pattern = re.compile(scalar.value)
        except re.error as error:
            place = scalar.position(error.pos or 0)
            self.diagnostics.error("E114", f"not a regular expression: {error.msg}", place)
            return re.compile("")
        if groups and pattern.groups != groups:
            self.reader.wrong(scalar, "put the part to be taken in one pair of brackets, and others in (?:…)")
        return pattern

    def _kind(self, top: Fields, kinds: tuple[str, ...]) -> Value:
        kind = self._value(top.get("kind"))
        given = [kind.value] if isinstance(kind, Constant) else []
        if isinstance(kind, Column):
            given = [*kind.values.values(), *(value for _, value in kind.patterns)]
        for value in given:
            if value and value not in kinds:
                hint = did_you_mean(value, kinds) or "known: " + ", ".join(kinds)
                top.mistake("E116", f"`{value}` is not a kind", "kind", hint)
        return kind

    def _moment(self, node: Node | None) -> Moment:
        keys = ("format", "zone", "start", "step")
        spec = self.reader.fields(node, ("column",), keys)
        zone, form = spec.text("zone", ""), spec.text("format", "iso")
        if zone and zone not in zoneinfo.available_timezones():
            hint = did_you_mean(zone, zoneinfo.available_timezones()) or "such as UTC or Europe/Berlin"
            spec.mistake("E116", f"`{zone}` is not an IANA time zone", "zone", hint)
        if form not in ("iso", *EPOCHS):
            self._strptime(spec, form, zone)
        if ("start" in spec) != ("step" in spec):
            spec.mistake("E112", "`start` and `step` belong together")
        return Moment(
            self.column(spec.scalar("column")), form, zone, spec.timestamp_us("start", -1),
            spec.duration_us("step", 0), spec.position(),
        )  # fmt: skip

    def _strptime(self, spec: Fields, form: str, zone: str) -> None:
        try:
            good = "%" in form and datetime.strptime(datetime(2020, 2, 3, tzinfo=UTC).strftime(form), form) is not None
        except ValueError:
            good = False
        if not good:
            hint = f"{', '.join(['iso', *EPOCHS])}, or one such as %d.%m.%Y %H:%M"
            spec.mistake("E114", f"`{form}` is not a time format", "format", hint)
        elif "%z" not in form and not zone:
            spec.mistake("E112", "the format has no zone, so `zone` must say it", "format", "such as zone: UTC")

    # --- fields ------------------------------------------------------------------------------------------------------

    def _fields(self, top: Fields) -> dict[str, Spec]:
        fields: dict[str, Spec] = {}
        for key, node in top.entries("fields"):
            known = FIELDS.keys() - DERIVED - {"attributes"}
            if key.value in _AMOUNT_FIELDS:
                hint = "declare `amount:` beside `fields:`; it writes the amount and its currency"
                self.diagnostics.error("E111", f"`{key.value}` is not set here", key.position(), key.length, hint=hint)
            elif key.value not in known:
                hint = did_you_mean(key.value, known) or "what has no field goes under `attributes:`"
                said = "is computed by Arbiter" if key.value in DERIVED else "is not a field of an event"
                self.diagnostics.error("E301", f"`{key.value}` {said}", key.position(), key.length, hint=hint)
            elif FIELDS[key.value].type == "timestamp":
                fields[key.value] = self._moment(node)
            else:
                fields[key.value] = self._value(node)
                self._check_constant(key.value, fields[key.value], node)
        return fields

    def _check_constant(self, name: str, spec: Spec, node: Node) -> None:
        """A constant goes through the same door as any event's field, once and here."""
        if not isinstance(spec, Constant) or not spec.value:
            return
        kind = FIELDS[name].type
        try:
            value = numbers.CONVERT[kind.removeprefix("list(").rstrip(")")](spec.value)
            given = {name: [value] if kind.startswith("list(") else value}
            read_event({"id": "x", "kind": "login", "time_us": _SAMPLE_US, **given}, now_us=_SAMPLE_US)
        except InvalidInput as error:
            self.reader.wrong(node, "; ".join(f"`{v.field}` {v.reason}" for v in error.violations))
        except ValueError as error:
            self.reader.wrong(node, f"`{name}` {error}")

    def _outcome_fields(self, top: Fields) -> dict[str, Spec]:
        spec = top.fields("fields", ("event_id",), ("code", "known_at"))
        fields: dict[str, Spec] = {k: self._value(spec.get(k)) for k in ("event_id", "code") if k in spec}
        if "known_at" in spec:
            fields["known_at"] = self._moment(spec.get("known_at"))
        return fields

    def _amount(self, top: Fields) -> Amount:
        keys = ("times", "sign", "decimal", "thousands")
        spec = top.fields("amount", ("column", "unit", "currency"), keys)
        currency = self._value(spec.get("currency"))
        if isinstance(currency, Constant) and currency.value and currency.value not in CURRENCIES:
            hint = did_you_mean(currency.value, CURRENCIES)
            spec.mistake("E116", f"`{currency.value}` is not an ISO 4217 currency", "currency", hint)
        decimal, thousands = self._mark(spec, "decimal", "."), self._mark(spec, "thousands", "")
        if decimal == thousands:
            spec.mistake("E114", "the decimal and the thousands mark are the same", "thousands")
        times = self.column(spec.scalar("times")) if "times" in spec else ""
        return Amount(
            self.column(spec.scalar("column")), times, spec.choice("unit", ("major", "minor")),
            spec.choice("sign", _SIGNS, "keep"), currency,
            _number_pattern(decimal, thousands), (decimal, thousands),
        )  # fmt: skip

    # --- rows --------------------------------------------------------------------------------------------------------

    def _outcomes(self, top: Fields) -> tuple[OutcomeRule, ...]:
        rules = []
        for each in top.fields_list("outcomes", ("kind",), ("when", "delay", "known_at", "id", "code")):
            if ("delay" in each) == ("known_at" in each):
                hint = "a label is not known at the moment of its event; a wrong delay lets training peek"
                each.mistake("E112", "say when it was known: either `delay` or `known_at`", hint=hint)
            made = self._value(each.get("id")) if "id" in each else None
            rules.append(OutcomeRule(
                self._when(each) if "when" in each else (), each.choice("kind", OUTCOMES), each.duration_us("delay", 0),
                made if isinstance(made, Template) else None,
                self._moment(each.get("known_at")) if "known_at" in each else None,
                self._value(each.get("code")) if "code" in each else None,
            ))  # fmt: skip
        return tuple(rules)

    def _when(self, fields: Fields) -> tuple[Test, ...]:
        tests: list[Test] = []
        for key, node in fields.entries("when"):
            name = self.column(key)
            if isinstance(node, Table):
                tests += self._tests(name, self.reader.fields(node, (), _TESTS))
            else:
                tests.append(Test(name, "equals", self.reader.text(node) or ""))
        if "when" in fields and not tests:
            fields.mistake("E112", "`when` tests nothing", "when")
        return tuple(tests)

    def _tests(self, name: str, spec: Fields) -> list[Test]:
        tests: list[Test] = [Test(name, how, spec.number(how)) for how in ("below", "above") if how in spec]
        if "equals" in spec:
            tests.append(Test(name, "equals", spec.text("equals")))
        matches = spec.scalar("matches")
        if matches is not None:
            tests.append(Test(name, "matches", self._pattern(matches)))
        if "missing" in spec:
            tests.append(Test(name, "missing", spec.boolean("missing")))
        return tests

    def _group(self, top: Fields) -> Group | None:
        if "group" not in top:
            return None
        spec = top.fields("group", ("by",), ("rows",))
        rows = spec.choice("rows", ("together", "scattered"), "together")
        return Group(self.column(spec.scalar("by")), rows == "scattered")


def _number_pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    whole = rf"[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}})+|[0-9]+" if thousands else "[0-9]+"
    return re.compile(rf"[+-]?(?:{whole})?(?:{re.escape(decimal)}[0-9]+)?(?:[eE][+-]?[0-9]{{1,2}})?")
