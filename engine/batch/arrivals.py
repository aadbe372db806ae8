"""From rows to checked events with their outcomes; what can't be one goes to the quarantine, and nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from engine.batch import numbers
from engine.batch.bind import Bound, Row
from engine.batch.clean import Cleaner
from engine.batch.declared import Mapping as Declared
from engine.batch.documents import bound_to
from engine.batch.files import Chunk, Source, Told
from engine.batch.quarantine import Quarantine
from engine.batch.stage import ExternalSort
from engine.errors import InvalidInput, Violation
from engine.intake import read_event, read_outcome
from engine.values import Event

MAX_GROUP = 5_000
"""Most rows of one group; a longer one is refused as a whole, so that memory stays bounded."""

Outcome = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event of the file with its outcomes, or one outcome alone."""

    row: int
    line: int
    time_us: int
    event: Event | None
    outcomes: tuple[Outcome, ...]


class Arrivals:
    """Iterates over a source once; its counts are complete when the iteration is."""

    def __init__(
        self, source: Source, mapping: Declared, quarantine: Quarantine, now_us: int, workdir: Path, told: Told
    ) -> None:
        self.source, self.quarantine, self.now_us, self.workdir, self._told = source, quarantine, now_us, workdir, told
        self.cleaner = Cleaner(mapping, source, workdir)
        self.bound = bound_to(mapping, self.cleaner.schema)
        self._make = self._outcome if mapping.produces == "outcomes" else self._event
        self._scattered = mapping.group is not None and mapping.group.scattered
        self.rows = 0
        """Rows read, good or bad."""
        self.skipped: dict[str, int] = {}
        """Reason → rows left out on purpose."""
        self.unseen: set[str] = set(self.cleaner.columns) if source.schema is None else set()
        """Columns that no row has had so far, where a file can't say beforehand which it has."""

    def __iter__(self) -> Iterator[Arrival]:
        if self.cleaner.active:
            self.cleaner.prepare(self.bound.skipped, self._told)
        for rows, count in self._groups():
            arrival = self._make(rows, count)
            if arrival is not None:
                yield arrival
        self.quarantine.check(self.rows, final=True)

    # --- rows --------------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[Row]:
        skipped, cleaner = self.bound.skipped, self.cleaner
        for chunk in self.source.chunks(cleaner.columns):
            self._note(chunk)
            for row in cleaner.passing(chunk.rows, self._put_away) if cleaner.active else chunk.rows:
                reason = skipped(row)
                if reason:
                    self.skipped[reason] = self.skipped.get(reason, 0) + 1
                else:
                    yield cleaner.filled(row) if cleaner.active else row

    def _put_away(self, row: Row, why: str) -> None:
        self.quarantine.add(row[0], row[1], [Violation("clean", why)])

    def _note(self, chunk: Chunk) -> None:
        self.rows += len(chunk.rows) + len(chunk.unreadable)
        for bad in chunk.unreadable:
            self.quarantine.add(bad.row, bad.line, [Violation("row", bad.reason)])
        for name in tuple(self.unseen):
            place = self.cleaner.columns.index(name) + 2
            if any(row[place] is not None for row in chunk.rows):
                self.unseen.discard(name)
        self.quarantine.check(self.rows)
        self._told("reading", self.rows, chunk.bytes_done)

    # --- groups ------------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[tuple[list[Row], int]]:
        """Rows that make one event, and how many they are (beyond MAX_GROUP they are counted, not kept)."""
        if self.bound.group is None:
            for row in self._rows():
                yield [row], 1
        elif self._scattered:
            yield from _runs(self._gathered())
        else:
            yield from _runs(self._keyed())

    def _keyed(self) -> Iterator[tuple[str, Row]]:
        assert self.bound.group is not None
        for row in self._rows():
            try:
                yield self.bound.group(row), row
            except ValueError as problem:
                self.quarantine.add(row[0], row[1], [Violation("group", str(problem))])

    def _gathered(self) -> Iterator[tuple[str, Row]]:
        """All rows by group, then by row number."""
        with ExternalSort(self.workdir, prefix="group") as sort:
            for key, row in self._keyed():
                sort.add(key.encode() + b"\0" + row[0].to_bytes(8, "big"), orjson.dumps(row))
            with closing(sort.sorted()) as records:
                for key_bytes, payload in records:
                    yield key_bytes[:-9].decode(), tuple(orjson.loads(payload))

    # --- events ------------------------------------------------------------------------------------------------------

    def _event(self, rows: list[Row], count: int) -> Arrival | None:
        first = rows[0]
        try:
            event = read_event(self._document(rows, count, "txn.amount_minor", "txn.currency"), now_us=self.now_us)
            outcomes = self._outcomes(first, event)
        except InvalidInput as error:
            self.quarantine.add(first[0], first[1], error.violations, count)
            return None
        return Arrival(first[0], first[1], event.time_us, event, outcomes)

    def _outcomes(self, first: Row, event: Event) -> tuple[Outcome, ...]:
        try:
            found = self.bound.outcomes(first, event.id, event.time_us)
        except ValueError as problem:
            raise InvalidInput([Violation("outcome", str(problem))]) from None
        return tuple(read_outcome(outcome, now_us=self.now_us) for outcome in found)

    def _outcome(self, rows: list[Row], count: int) -> Arrival | None:
        first = rows[0]
        try:
            outcome = read_outcome(self._document(rows, count, "amount_minor", "currency"), now_us=self.now_us)
        except InvalidInput as error:
            self.quarantine.add(first[0], first[1], error.violations, count)
            return None
        return Arrival(first[0], first[1], outcome["time_us"], None, (outcome,))

    def _document(self, rows: list[Row], count: int, amount: str, currency: str) -> dict[str, Any]:
        """The first row's document, one list entry from each row, and the amounts added up."""
        bound, wrong = self.bound, list[Violation]()
        document: dict[str, Any] = {}
        if count > MAX_GROUP:
            raise InvalidInput([Violation("group", f"has more than {MAX_GROUP:,} rows")])
        try:
            document = bound.document(self.cleaner.merged(rows) if self.cleaner.active else rows[0])
        except InvalidInput as error:
            wrong += error.violations
        try:
            if bound.lists:
                lines = [line for row in rows if (line := bound.line(row)) is not None]
                document.update(zip(bound.lists, map(list, zip(*lines, strict=True)), strict=False))
        except ValueError as problem:
            wrong.append(Violation(bound.lists[0], str(problem)))
        try:
            if bound.amount is not None:
                _add_amount(bound, rows, document, amount, currency)
        except ValueError as problem:
            wrong.append(Violation(amount, str(problem)))
        if wrong:
            raise InvalidInput(wrong)
        return document


def _add_amount(bound: Bound, rows: list[Row], document: dict[str, Any], amount: str, currency: str) -> None:
    assert bound.amount is not None
    amounts = [bound.amount(row) for row in rows]
    if None not in amounts:
        total = amounts[0]
        assert total is not None
        for more in amounts[1:]:
            assert more is not None
            total = numbers.total(total, more)
        document[amount] = bound.minor(total, document.get(currency, ""))
    elif amounts.count(None) == len(amounts):
        document.pop(currency, None)
    else:
        raise ValueError("is missing in one row, so the sum would be wrong")


def _runs(keyed: Iterator[tuple[str, Row]]) -> Iterator[tuple[list[Row], int]]:
    """Consecutive rows with one key."""
    rows, count, current = list[Row](), 0, ""
    for key, row in keyed:
        if rows and key != current:
            yield rows, count
            rows, count = [], 0
        current, count = key, count + 1
        if count <= MAX_GROUP:
            rows.append(row)
    if rows:
        yield rows, count
