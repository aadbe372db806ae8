"""A mapping bound to the columns of one file: functions over rows, made once and called for every row.

bound = bind(mapping, source.schema)          # MappingError when a column is missing or a zone is not declared
bound.columns                                 # what to ask the source for
bound.document(row)                           # an event document; ValueError, or Refused with every wrong field
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Mapping as Lookups
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from engine.batch import numbers
from engine.batch.declared import (
    EPOCHS,
    ROW,
    Amount,
    Column,
    Constant,
    Mapping,
    Moment,
    OutcomeRule,
    Spec,
    Template,
    Test,
    Value,
)
from engine.batch.lookup import look_up
from engine.codes import CURRENCIES
from engine.errors import InvalidInput, Violation
from engine.language.diagnostics import did_you_mean
from engine.schema import FIELDS

Row = tuple[Any, ...]
Read = Callable[[Row], Any]
_FIRST = 2
"""Where the first column stands in a row, after row and line number."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The functions of one mapping over the rows of one file."""

    columns: tuple[str, ...]
    document: Callable[[Row], dict[str, Any]]
    """One row's document without lists and amount; raises InvalidInput with every field that can't be read."""
    skipped: Callable[[Row], str] = lambda _: ""
    """The reason why a row is left out on purpose, or ""."""
    group: Callable[[Row], str] | None = None
    lists: tuple[str, ...] = ()
    """Fields that gather one entry from each row of a group."""
    line: Callable[[Row], tuple[Any, ...] | None] = lambda _: None
    """One row's entries for `lists`; None when it has none of them, ValueError when it has only some."""
    amount: Callable[[Row], Decimal | None] | None = None
    minor: Callable[[Decimal, str], int] = lambda amount, _: int(amount)
    """Exact amount (summed over a group) and currency → minor units."""
    outcomes: Callable[[Row, str, int], list[dict[str, Any]]] = lambda row, event_id, time_us: []
    """Row, event id, event time → outcome documents."""


def bind(mapping: Mapping, schema: Lookups[str, str] | None) -> Bound:
    """Check the mapping against a file's columns and make its functions."""
    return _Binder(mapping, schema).bound()


def bind_time(mapping: Mapping, schema: Lookups[str, str] | None) -> tuple[str, Callable[[Row], int]]:
    """The time column alone and its reader, for rows that hold nothing else."""
    name = mapping.time.name
    return name, _Binder(replace(mapping, uses={name: mapping.uses[name]}), schema).moment(mapping.time)


@dataclass(frozen=True, slots=True)
class Parts:
    """What `bind` is made of, for columns: each function reads rows that hold at least the columns beside it."""

    columns: tuple[str, ...]
    fields: tuple[tuple[str, Spec, Read], ...]
    """Name, as declared, and reader; id, kind and time among them."""
    whens: tuple[tuple[tuple[str, ...], Callable[[Row], bool]], ...]
    """The columns and the test of each outcome rule."""


def bind_parts(mapping: Mapping, schema: Lookups[str, str]) -> Parts:
    """The readers of single fields and the tests of outcomes."""
    binder = _Binder(mapping, schema)
    specs: dict[str, Spec] = {"id": mapping.id, "kind": mapping.kind, "time_us": mapping.time, **mapping.fields}
    if mapping.amount:
        specs[_currency_name(mapping)] = mapping.amount.currency
    whens = [(tuple(test.name for test in rule.when), binder._when(rule.when)) for rule in mapping.outcomes]
    return Parts(binder.columns, tuple((n, specs[n], read) for n, read in binder._readers()), tuple(whens))


def columns_of(spec: Spec) -> tuple[str, ...]:
    """The columns that a field is read from."""
    if isinstance(spec, Constant):
        return ()
    return tuple(name for _, name in spec.parts) if isinstance(spec, Template) else (spec.name,)


class _Binder:
    """Makes closures over row positions; holds nothing that outlives `bound()`."""

    def __init__(self, mapping: Mapping, schema: Lookups[str, str] | None) -> None:
        self.mapping, self.schema = mapping, schema
        self.columns = tuple(mapping.uses)
        self.places = {ROW: 0, **{name: place for place, name in enumerate(self.columns, _FIRST)}}
        for name, (position, length) in mapping.uses.items():
            if schema is None or schema.get(name, "") not in ("", "nested"):
                continue
            said = "holds lists or objects" if name in schema else "is not in the file"
            hint = did_you_mean(name, schema) or "it has: " + ", ".join(list(schema)[:20])
            raise mapping.problem("E301", f"column `{name}` {said}", position, length, hint)

    def bound(self) -> Bound:
        mapping = self.mapping
        by = mapping.group.by if mapping.group else ""
        lists = {name: spec for name, spec in mapping.fields.items() if _type(name).startswith("list")}
        bound = Bound(
            columns=self.columns, document=self._document(), skipped=self._skipped(),
            group=self._required(self._column_text(by)) if by else None,
            lists=tuple(lists), line=self._line(lists), outcomes=self._outcomes(),
        )  # fmt: skip
        if mapping.amount is None:
            return bound
        return replace(bound, amount=self._amount(mapping.amount), minor=_minor(mapping.amount))

    # --- single values -----------------------------------------------------------------------------------------------

    def _raw(self, name: str) -> Read:
        """The value as the file has it; None where it has none."""
        place, missing, declared = self.places[name], self.mapping.missing | {""}, bool(self.mapping.missing)

        def raw(row: Row) -> Any:
            value = row[place]
            if value is None:
                return None
            if type(value) is str:
                return None if value.strip() in missing else value
            return None if declared and numbers.text_of(value) in missing else value

        return raw

    def _column_text(self, name: str) -> Read:
        """The same as text; one function instead of two, since most fields of most rows come through here."""
        place, missing, text_of = self.places[name], self.mapping.missing | {""}, numbers.text_of

        def text(row: Row) -> str | None:
            value = row[place]
            if value is None:
                return None
            value = value.strip() if type(value) is str else text_of(value)
            return None if value in missing else value

        return text

    def _required(self, read: Read) -> Read:
        def required(row: Row) -> Any:
            value = read(row)
            if value is None:
                raise ValueError("is missing")
            return value

        return required

    def _value(self, spec: Value, kind: str = "string") -> Read:
        """A field's reader: None when the row has no value, else what the field's type wants."""
        if isinstance(spec, Constant):
            value = numbers.CONVERT[kind](spec.value)
            return lambda row: value
        if isinstance(spec, Column) and kind != "string" and not (spec.extract or spec.values or spec.patterns):
            return _then(self._raw(spec.name), numbers.CONVERT[kind], numbers.signed(spec.sign))
        text = self._template(spec) if isinstance(spec, Template) else self._mapped(spec)
        return text if kind == "string" else _then(text, numbers.CONVERT[kind])

    def _template(self, spec: Template) -> Read:
        pieces = [(before, self._column_text(name)) for before, name in spec.parts]
        tail = spec.tail
        if len(pieces) == 1:
            before, read = pieces[0]
            return _then(read, lambda value: f"{before}{value}{tail}")

        def several(row: Row) -> str | None:
            values = [read(row) for _, read in pieces]
            if None in values:
                return None
            return "".join(b + v for (b, _), v in zip(pieces, values, strict=True)) + tail

        return several

    def _mapped(self, spec: Column) -> Read:
        text = self._column_text(spec.name)
        return _then(text, look_up(spec)) if spec.extract or spec.values or spec.patterns else text

    def moment(self, spec: Moment, *, required: bool = True) -> Read:
        """A time's reader: µs since 1970 UTC."""
        raw = self._raw(spec.name)
        convert = self._conversion(spec)
        read = _then(raw, convert) if convert else raw
        return self._required(read) if required else read

    def _conversion(self, spec: Moment) -> Callable[[Any], int] | None:
        """How one value becomes µs; None when it is µs already."""
        kind, zone = self.schema.get(spec.name, "") if self.schema else "", spec.zone
        if spec.step_us:
            return lambda value: spec.start_us + spec.step_us * numbers.integer_of(value)
        if kind == "instant":
            return None
        if kind == "timestamp":
            if not zone:
                hint = "such as zone: UTC"
                raise self.mapping.problem("E112", f"column `{spec.name}` has no zone, say it", spec.place, 1, hint)
            return None if zone == "UTC" else lambda value: numbers.wall_us(value, zone)
        if spec.format in EPOCHS:
            unit_us = EPOCHS[spec.format]
            return lambda value: numbers.epoch_us(value, unit_us)
        if spec.format == "iso":
            return lambda value: numbers.iso_us(value, zone)
        return lambda value: numbers.strptime_us(value, spec.format, zone)

    # --- documents ---------------------------------------------------------------------------------------------------

    def _field(self, name: str, spec: Spec) -> Read:
        if isinstance(spec, Moment):
            moment = self.moment(spec, required=False)
            return moment if name != "known_at" else _then(moment, numbers.moment_of)
        return self._value(spec, _type(name).removeprefix("list(").rstrip(")"))

    def _line(self, lists: Lookups[str, Spec]) -> Callable[[Row], tuple[Any, ...] | None]:
        readers = [self._field(name, spec) for name, spec in lists.items()]

        def line(row: Row) -> tuple[Any, ...] | None:
            entries = tuple(read(row) for read in readers)
            if None not in entries:
                return entries
            if entries.count(None) < len(entries):
                raise ValueError("is missing in one row, so the lists would not stand line by line")
            return None

        return line

    def _readers(self) -> list[tuple[str, Read]]:
        mapping = self.mapping
        readers = [
            ("id", self._required(self._value(mapping.id))), ("kind", self._required(self._value(mapping.kind))),
            ("time_us", self.moment(mapping.time)),
            *((n, self._field(n, spec)) for n, spec in mapping.fields.items() if not _type(n).startswith("list")),
        ]  # fmt: skip
        if mapping.amount:
            readers.append((_currency_name(mapping), self._value(mapping.amount.currency)))
        if mapping.attributes:
            readers.append(("attributes", self._attributes()))
        return readers

    def _attributes(self) -> Read:
        readers = [(name, self._field("attributes", spec)) for name, spec in self.mapping.attributes.items()]
        return lambda row: {name: value for name, read in readers if (value := read(row)) is not None} or None

    def _document(self) -> Callable[[Row], dict[str, Any]]:
        readers = self._readers()

        def document(row: Row) -> dict[str, Any]:
            made = {}
            try:
                for name, read in readers:
                    value = read(row)
                    if value is not None:
                        made[name] = value
            except ValueError:
                raise _every_violation(readers, row) from None
            return made

        return document

    def _amount(self, spec: Amount) -> Callable[[Row], Decimal | None]:
        raw, times = self._raw(spec.name), self._raw(spec.times) if spec.times else None
        pattern, marks, decimal_of = spec.number, spec.marks, numbers.decimal_of

        def amount(row: Row) -> Decimal | None:
            value = raw(row)
            factor = times(row) if times else 1
            if value is None or factor is None:
                return None
            number = decimal_of(value.strip() if type(value) is str else value, pattern, marks)
            return number if times is None else numbers.product(number, decimal_of(factor))

        return amount

    # --- rows --------------------------------------------------------------------------------------------------------

    def _when(self, tests: tuple[Test, ...]) -> Callable[[Row], bool]:
        checks = [self._test(test) for test in tests]
        return checks[0] if len(checks) == 1 else lambda row: all(check(row) for check in checks)

    def _test(self, test: Test) -> Callable[[Row], bool]:
        text, operand = self._column_text(test.name), test.operand
        if isinstance(operand, re.Pattern):
            return lambda row: (value := text(row)) is not None and operand.fullmatch(value) is not None
        if isinstance(operand, bool):
            return lambda row: (text(row) is None) is operand
        if isinstance(operand, float):
            bound, below = numbers.decimal_of(operand), test.how == "below"

            def compared(row: Row) -> bool:
                value = text(row)
                if value is None:
                    return False
                try:
                    number = numbers.decimal_of(value)
                except ValueError:
                    return False
                return number < bound if below else number > bound

            return compared
        return lambda row: text(row) == operand

    def _skipped(self) -> Callable[[Row], str]:
        rules = [(self._when(skip.when), skip.reason) for skip in self.mapping.skips]

        def skipped(row: Row) -> str:
            for when, reason in rules:
                if when(row):
                    return reason
            return ""

        return skipped

    def _outcomes(self) -> Callable[[Row, str, int], list[dict[str, Any]]]:
        rules = [(self._when(rule.when), self._outcome(rule)) for rule in self.mapping.outcomes]

        def outcomes(row: Row, event_id: str, time_us: int) -> list[dict[str, Any]]:
            return [made for when, make in rules if when(row) and (made := make(row, event_id, time_us))]

        return outcomes

    def _outcome(self, rule: OutcomeRule) -> Callable[[Row, str, int], dict[str, Any]]:
        made_id = self._template(rule.id) if rule.id else None
        known = self.moment(rule.known) if rule.known else None
        code = self._value(rule.code) if rule.code else None

        def outcome(row: Row, event_id: str, time_us: int) -> dict[str, Any]:
            known_us = known(row) if known else time_us + rule.delay_us
            return {
                "id": made_id(row) if made_id else f"{event_id}:{rule.kind}", "kind": rule.kind, "event_id": event_id,
                "time_us": time_us, "known_at": numbers.moment_of(known_us), "code": code(row) if code else None,
            }  # fmt: skip

        return outcome


def _then(read: Read, convert: Callable[[Any], Any], after: Callable[[Any], Any] | None = None) -> Read:
    step = convert if after is None else lambda value: after(convert(value))
    return lambda row: None if (value := read(row)) is None else step(value)


def _minor(spec: Amount) -> Callable[[Decimal, str], int]:
    after = numbers.signed(spec.sign)

    def minor(amount: Decimal, currency: str) -> int:
        amount = after(amount) if after else amount
        if spec.unit == "minor":
            return numbers.whole_minor(amount)
        return numbers.to_minor(amount, CURRENCIES.get(currency, 2))

    return minor


def _every_violation(readers: list[tuple[str, Read]], row: Row) -> InvalidInput:
    wrong = []
    for name, read in readers:
        try:
            read(row)
        except ValueError as problem:
            wrong.append(Violation("time" if name == "time_us" else name, str(problem)))
    return InvalidInput(wrong)


def _type(name: str) -> str:
    """The type of a field; what an outcome has beside is text."""
    return FIELDS[name].type if name in FIELDS and name != "attributes" else "string"


def _currency_name(mapping: Mapping) -> str:
    return "currency" if mapping.produces == "outcomes" else "txn.currency"
