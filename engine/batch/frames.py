"""Features of a file: in columns where all of it is clean and plain, else row by row, with the same numbers.

table, summary = features_of(program, path, load_mapping(…), kind="payment", …)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.batch.bind import Parts, bind, bind_parts, columns_of
from engine.batch.declared import ROW, Template
from engine.batch.declared import Mapping as Declared
from engine.batch.history import History, Seen, Step
from engine.batch.load import BatchResult, Item, Progress, Summary, load
from engine.batch.parquet import Parquet, values_of
from engine.batch.read import open_source
from engine.bulk import scratch_in
from engine.errors import InvalidInput
from engine.features.columnar import KIND, build_frame
from engine.features.frame import Column, Frame, Texts, apply
from engine.features.offline import Builder
from engine.features.windows import Ints
from engine.intake import EARLIEST_US, FUTURE_LIMIT_US, read_event
from engine.program import Program

_HARMLESS = re.compile(r"[!-/:-~]{0,80}")
"""What may stand around a number in an identifier, so that it is one and no card number."""
_TWELVE_DIGITS = 10**12
_SETTLES = frozenset({"result.status", "challenge.status"})
"""Fields that say what became of an earlier payment: those go row by row."""


class NotPlainError(ValueError):
    """A file that has to go row by row."""


def features_of(
    program: Program, path: Path, mapping: Declared, *, workdir: Path, quarantine: Path, now_us: int,
    kind: str = "payment", fields: Sequence[str] = (), max_bad: float = 0.05,
    progress: Callable[[Progress], None] | None = None, history: History | None = None,
) -> tuple[pa.Table, Summary | None]:  # fmt: skip
    """A row for each event of `kind` in a file, as `engine.features.offline.build` has it, in (event time, row) order.

    The summary tells of skipped and bad rows; None when every row is an event. Raises MappingError like an import.
    A `history` that is given learns the outcomes that the file tells.
    """
    features, online = program.feature_set, program.features
    history = history or History(program, iter(()))
    frame = read_frame(program, path, mapping, workdir, now_us)
    if frame is not None:
        for told, (rows, known_us) in frame.outcomes.items():
            for event_id, at_us in zip(frame.ids.take(pa.array(rows)).to_pylist(), known_us.tolist(), strict=True):
                history.outcomes.setdefault(event_id, []).append((told, at_us))
        return build_frame(features, online, frame, program.identity.key, kind=kind, fields=fields), None
    fed = _Fed(history, Builder(features, online, kind, fields))
    summary = load(
        path, mapping, fed, workdir=workdir, quarantine=quarantine, now_us=now_us, max_bad=max_bad, progress=progress
    )  # fmt: skip
    return fed.builder.table(), summary


class _Fed:
    """An `EventSink` that hands everything to a builder."""

    def __init__(self, history: History, builder: Builder) -> None:
        self._history, self.builder = history, builder

    def position(self, source_digest: bytes) -> int:
        """Always from the beginning."""
        return 0

    def write(self, batch: Sequence[Item], position: int) -> BatchResult:
        """Each event with its outcomes."""
        for event, outcomes in batch:
            own: list[Step] = [] if event is None else [Seen(event, event.time_us, False)]
            for step in own + list(outcomes):
                for item in self._history.take(step):
                    self.builder.add(item)
        return BatchResult(len(batch), 0)

    def finish(self) -> None:
        """Nothing is open."""


def read_frame(program: Program, path: Path, mapping: Declared, workdir: Path, now_us: int) -> Frame | None:
    """The events of a Parquet file as columns; None when anything in it needs a look at single rows."""
    lists = [name for name in mapping.fields if name.startswith("basket.") and name != "basket.quantity"]
    cleaned = getattr(mapping, "clean", None)  # cleaning looks at rows beside each other
    unusual = (
        mapping.group or mapping.attributes or mapping.skips or cleaned or lists or _SETTLES & mapping.fields.keys()
    )
    if unusual or mapping.produces != "events" or any(r.known or r.code or r.id for r in mapping.outcomes):
        return None
    with scratch_in(workdir) as scratch, open_source(path, mapping.format, Path(scratch)) as source:
        if not isinstance(source, Parquet):
            return None
        try:
            return _Reader(program, mapping, source, now_us).frame()
        except (ValueError, InvalidInput):  # a bad row among them: the other way says which and why
            return None


class _Reader:
    """Turns the columns of one file into those of events."""

    def __init__(self, program: Program, mapping: Declared, source: Parquet, now_us: int) -> None:
        self._program, self._mapping, self._source, self._now_us = program, mapping, source, now_us
        assert source.schema is not None
        self._schema = source.schema
        self._parts: Parts = bind_parts(mapping, source.schema)
        self._rows = source.rows_total or 0
        self._raw: dict[str, Column] = {}

    def frame(self) -> Frame:
        """All events; NotPlainError or another ValueError when one can't be read."""
        fields = {name: self._field(name, spec, read) for name, spec, read in self._parts.fields if name not in _OWN}
        specs = {name: (spec, read) for name, spec, read in self._parts.fields}
        times, ids = self._times(*specs["time_us"]), self._ids(*specs["id"])
        fields[KIND] = self._field("kind", *specs["kind"])
        self._add_stage(fields)
        if self._mapping.amount:
            self._add_amount(fields)
        outcomes = self._outcomes(times)
        if len(times) and (np.diff(times) < 0).any():
            order = np.argsort(times, kind="stable")
            back = np.argsort(order)
            times, ids = times[order], ids.take(pa.array(order))
            fields = {name: column.take(order) for name, column in fields.items()}
            outcomes = {kind: (back[rows], known_us) for kind, (rows, known_us) in outcomes.items()}
        markets = self._program.policy.settings.markets
        return Frame(ids, times, fields, outcomes, self._program.rates, lambda market: markets.get(market, ""))

    def _column(self, name: str) -> Column:
        """A column of the file."""
        if name not in self._raw:
            if name == ROW:
                self._raw[name] = Column.of(np.arange(1, self._rows + 1))
            else:
                found = self._source.column(name).dictionary_encode()
                self._raw[name] = Column(
                    found.indices.fill_null(-1).to_numpy(zero_copy_only=False), values_of(found.dictionary)
                )
        return self._raw[name]

    def _read(self, names: Sequence[str], function: Callable[[tuple[Any, ...]], Any]) -> Column:
        """A function over rows, called for each distinct combination of some columns."""
        columns, every = {name: self._column(name) for name in dict.fromkeys(names)}, self._parts.columns
        return apply(
            lambda row: function((row.get(ROW, 0), 0, *[row.get(name) for name in every])), columns, self._rows
        )  # fmt: skip

    def _field(self, name: str, spec: Any, read: Callable[[Any], Any]) -> Column:
        """A field, each distinct value of which is checked like a live event's."""
        if name != "kind" and isinstance(spec, Template):
            texts = self._texts(spec)
            if texts is not None and name in _IDS:
                return Column(self._column(spec.parts[0][1]).codes, Texts(texts))

        def checked(row: tuple[Any, ...]) -> Any:
            value = read(row)
            if value is None or name == "txn.currency":
                return value
            sample = {"id": "x", "kind": "login", "time_us": EARLIEST_US, name: value}
            event = read_event(sample, now_us=EARLIEST_US)
            return {"id": event.id, "kind": event.kind, **event.fields}[name]

        return self._read(columns_of(spec), checked)

    def _texts(self, spec: Template) -> pa.Array | None:
        """A template over one column of whole numbers, for each distinct one; None for any other."""
        names = columns_of(spec)
        if len(names) != 1 or self._schema.get(names[0]) != "int" or self._mapping.missing:
            return None
        numbers = pa.array(self._column(names[0]).values, pa.int64())
        around = spec.parts[0][0] + spec.tail
        least, most = pc.min_max(numbers).as_py().values() if len(numbers) else (0, 0)
        if not _HARMLESS.fullmatch(around) or least <= -_TWELVE_DIGITS or most >= _TWELVE_DIGITS:
            return None
        return pc.binary_join_element_wise(spec.parts[0][0], numbers.cast(pa.string()), spec.tail, "")

    def _ids(self, spec: Any, read: Callable[[Any], Any]) -> pa.Array:
        texts = self._texts(spec) if isinstance(spec, Template) else None
        if texts is None:
            column = self._field("id", spec, read)
            texts = pa.array([column.values[code] for code in column.codes.tolist() if code >= 0], pa.string())
            distinct = len(texts.unique())
        else:
            distinct = len(texts)
        if distinct < self._rows:
            raise NotPlainError("an id is missing, or comes again")
        return texts

    def _times(self, spec: Any, read: Callable[[Any], Any]) -> Ints:
        kind = self._schema.get(spec.name)
        as_it_is = kind == "instant" or (kind == "timestamp" and spec.zone == "UTC")
        if as_it_is and not spec.step_us and not self._mapping.missing:
            times: Ints = self._source.column(spec.name).fill_null(0).to_numpy(zero_copy_only=False)
        else:
            times = self._read([spec.name], read).numbers()
        if ((times < EARLIEST_US) | (times > self._now_us + FUTURE_LIMIT_US)).any():
            raise NotPlainError("a time is missing, or can't be")
        return times

    def _add_stage(self, fields: dict[str, Column]) -> None:
        """A payment without a stage is at the checkout."""
        told = {name: fields[name] for name in (KIND, "event.stage") if name in fields}
        fields["event.stage"] = apply(
            lambda row: row.get("event.stage") or ("checkout" if row[KIND] == "payment" else None), told, self._rows
        )  # fmt: skip

    def _add_amount(self, fields: dict[str, Column]) -> None:
        amount = self._mapping.amount
        bound = bind(self._mapping, self._schema)
        assert amount is not None
        assert bound.amount is not None
        read_amount, minor = bound.amount, bound.minor
        currency = next(read for name, _, read in self._parts.fields if name == "txn.currency")
        names = [name for name in (amount.name, amount.times, *columns_of(amount.currency)) if name]

        def money(row: tuple[Any, ...]) -> tuple[int, str] | None:
            value, code = read_amount(row), currency(row)
            if value is None:
                return None
            sample = {"id": "x", "kind": "login", "time_us": EARLIEST_US, "txn.currency": code,
                      "txn.amount_minor": minor(value, code or "")}  # fmt: skip
            checked = read_event(sample, now_us=EARLIEST_US).fields
            return checked["txn.amount_minor"], checked["txn.currency"]

        both = self._read(names, money)
        for place, name in enumerate(("txn.amount_minor", "txn.currency")):
            fields[name] = Column(both.codes, [pair[place] for pair in both.values])

    def _outcomes(self, times_us: Ints) -> Mapping[str, tuple[Ints, Ints]]:
        found: dict[str, tuple[Ints, Ints]] = {}
        for rule, (names, when) in zip(self._mapping.outcomes, self._parts.whens, strict=True):
            rows = np.flatnonzero(self._read(names, lambda row, when=when: when(row) or None).codes >= 0)  # type: ignore[misc]
            told, known_us = found.get(rule.kind, (np.zeros(0, np.int64), np.zeros(0, np.int64)))
            rows = rows[~np.isin(rows, told)]  # of two outcomes of one kind the first stands
            found[rule.kind] = np.append(told, rows), np.append(known_us, times_us[rows] + rule.delay_us)
        return found


_OWN = frozenset({"id", "kind", "time_us"})
_IDS = frozenset({"user.id", "device.id", "card.token", "merchant.id", "item.id", "payment.id"})
"""Fields whose only check is that of an identifier."""
