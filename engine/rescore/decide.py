"""Decides seen events, table after table: in columns, and by `Program.conclude` where columns can't.

    decider = Decider(open_program(settings, clock=then), then=then)
    for decided in decider.decide_rows(tables): ...           # `engine.rescore.decided`

A table holds events in the order of admission, one column a field or feature under its dotted name, null = absent, and

    event_id, event.kind, event_time     text, text, timestamp of µs in UTC (or int64 µs)
    as_of_us, known_us                   int64, where they differ from event_time or are known
    signals, degraded                    lists of texts, where they are known: as live found them
    risk_before, measures_before         JSON, of a person who did not stand LOW without measures; see `standing`
    challenge_passed, control            bool

`standing="given"`: how a person stood comes from the table, as it was (stored features, open loop). `"chained"`: it
follows from the decisions on the rows before, as it does live; then tables must come in order, from the beginning.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from engine.policy.lists import NetworkList
from engine.program import Case, Program
from engine.rescore.decided import RULE, packed, schema_of, with_hits
from engine.rescore.judge import Codes, Ints, Judged, KindColumns, Mask, flat, numbers_of, present, texts_at, where
from engine.rescore.rows import LOW, People, as_row
from engine.rescore.scores import ColumnScores
from engine.rescore.signals import Signals
from engine.standing import unpack_risk
from engine.values import Event, Measure, Row

CHUNK_ROWS = 65_536
"""Rows that are decided together; a larger table is cut."""
OWN = frozenset(
    {
        "event_id",
        "event_time",
        "as_of_us",
        "known_us",
        "signals",
        "degraded",
        "risk_before",
        "measures_before",
        "challenge_passed",
        "control",
    }
)
"""Columns that are no fields or features."""


class Then(threading.local):
    """The clock by which lists are asked: the time of the row that this thread decides."""

    us = 0

    def __call__(self) -> int:
        """That time, µs."""
        return self.us


@dataclass
class Judgement:
    """A chunk in columns, before what depends on the rows before it."""

    base: pa.Table
    """Decided rows, rule columns apart."""
    codes: Codes
    names: tuple[str, ...]
    """Rule columns, in the order of `codes`."""
    decided: Mask
    """Rows of the chunk that have a decision; the others were only recorded."""
    doubtful: Mask
    raises: Mask


@dataclass
class Decider:
    """A program in columns. `counts` tells how many rows went by which road."""

    program: Program
    kinds: tuple[str, ...] = ("payment",)
    then: Then = field(default_factory=Then)
    standing: str = "chained"
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.schema = schema_of(self.program, self.kinds)
        self.names = tuple(name[len(RULE) :] for name in self.schema.names if name.startswith(RULE))
        self.people, self.signals = People(self.program), Signals(self.program)
        self._kinds: dict[str, KindColumns] = {}
        self._scores: dict[str, ColumnScores] = {}
        ends = {0}
        for one in self.program.policy.lists.values():
            held = [entries for *_, entries in one.prefixes] if isinstance(one, NetworkList) else [one.entries]
            ends.update(end for entries in held for end in entries.values())
        self._ends = np.array(sorted(ends))

    def decide_rows(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Decided rows, a table of at most `CHUNK_ROWS` for each chunk."""
        for seen in self.chunks(tables):
            yield self.finish(seen, self.judge(seen))

    @staticmethod
    def chunks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Tables of at most `CHUNK_ROWS`."""
        for table in tables:
            for start in range(0, len(table), CHUNK_ROWS):
                yield table.slice(start, CHUNK_ROWS).combine_chunks()

    def dump(self) -> bytes:
        """What the decisions so far leave for the next ones."""
        return orjson.dumps({"people": self.people.dump(), "facts": self.signals.facts, "count": self.signals.count})

    def load(self, data: bytes) -> None:
        """Take up what was dumped."""
        body = orjson.loads(data)
        self.people.load(body["people"])
        self.signals.facts, self.signals.count = body["facts"], body["count"]

    # --- in columns ---------------------------------------------------------------------------------------------------

    def judge(self, seen: pa.Table) -> Judgement:
        """What columns say, as though everybody stood LOW where the table doesn't tell; any chunk, in any order."""
        as_of = _as_of(seen)
        parts: list[tuple[Ints, Judged, pa.Table, tuple[str, ...]]] = []
        doubtful, raises = np.zeros(len(seen), np.bool_), np.zeros(len(seen), np.bool_)
        coded = flat(seen["event.kind"])
        coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
        kinds = coded.dictionary.to_pylist()
        era = np.searchsorted(self._ends, as_of, "right")
        groups = coded.indices.to_numpy().astype(np.int64) * (len(self._ends) + 1) + era
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            self.then.us = self.program.moment.now_us = int(as_of[rows[0]])
            mine = seen if len(rows) == len(seen) else seen.take(pa.array(rows))
            kind = kinds[group // (len(self._ends) + 1)]
            judged, table, names = self._judged(kind, mine, as_of[rows])
            doubtful[rows], raises[rows] = judged.doubtful, judged.raises
            if kind in self.kinds:
                parts.append((rows, judged, table, names))
        return self._together(seen, parts, doubtful, raises)

    def _judged(self, kind: str, seen: pa.Table, as_of: Ints) -> tuple[Judged, pa.Table, tuple[str, ...]]:
        """One kind of event, in one era of the lists."""
        if kind not in self._kinds:
            self._kinds[kind] = KindColumns.of(self.program, kind, decided=kind in self.kinds)
        judge, size = self._kinds[kind], len(seen)
        columns: dict[str, Any] = {name: seen[name] for name in seen.column_names if name not in OWN}
        self._add_standing(columns, seen)
        columns.setdefault("event.lists", _empty(size))
        score, degraded = np.full(size, np.nan), None
        if kind in self.kinds:
            degraded = self._degraded(columns, seen)
            score = self._score(kind, columns, degraded)
            columns["score"] = pa.array(score, mask=np.isnan(score))
            columns["degraded"] = degraded
            self._add_signals(columns, seen)
        judged = judge.judge(columns, score, as_of, degraded)
        self.counts["conditions left to the row function"] = sum(
            one.by_rows for made in self._kinds.values() for one in (made.rules, made.people) if one
        )
        return judged, self._base(columns, seen, judged, score, degraded), tuple(judge.columns)

    def _degraded(self, columns: Mapping[str, Any], seen: pa.Table) -> pa.Array:
        """What was missing: as the table tells, and the rate of an amount that is not known in base currency."""
        size = len(seen)
        lacks = present(columns, "txn.amount_minor") & ~present(columns, "txn.amount_base")
        told = seen["degraded"].to_pylist() if "degraded" in seen.column_names else [None] * size
        if not lacks.any() and not any(told):
            return _empty(size)
        rates = iter(texts_at(columns, "txn.currency", np.flatnonzero(lacks)))
        first = [[f"fx:{next(rates)}"] if lacking else [] for lacking in lacks]
        return pa.array(
            [
                mine + [name for name in known or () if name not in mine]
                for mine, known in zip(first, told, strict=True)
            ],
            pa.list_(pa.string()),
        )

    def _score(self, kind: str, columns: Mapping[str, Any], degraded: pa.Array) -> Any:
        """Calibrated scores; NaN without a model, or where it had failed."""
        size = len(degraded)
        if kind not in self.program.models:
            return np.full(size, np.nan)
        if kind not in self._scores:
            self._scores[kind] = ColumnScores(self.program.models[kind])
        score = self._scores[kind].of(columns, size)
        failed = np.zeros(size, np.bool_)
        if len(degraded.values):
            failed = np.array(["model" in names for names in degraded.to_pylist()], np.bool_)
        return np.where(failed, np.nan, score)

    def _add_standing(self, columns: dict[str, Any], seen: pa.Table) -> None:
        """`user.risk.tier` and `user.measures`, as the table tells; LOW and none where it does not."""
        if "user" not in self.program.layouts:
            return
        size, named = len(seen), present(columns, "user.id")
        risks, measures = (self._given(seen, name) for name in ("risk_before", "measures_before"))
        if not risks and not measures:
            columns["user.risk.tier"] = pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(size, np.int8), mask=~named), ["LOW"]
            )
            columns["user.measures"] = pa.ListArray.from_arrays(
                pa.array(np.zeros(size + 1, np.int32)), pa.array([], pa.string()), mask=pa.array(~named)
            )
            return
        tiers = {at: unpack_risk(value).tier.name for at, value in risks.items()}
        columns["user.risk.tier"] = pa.array(
            [tiers.get(at, "LOW") if there else None for at, there in enumerate(named.tolist())]
        )
        columns["user.measures"] = [
            [one["kind"] for one in measures.get(at, ())] if there else None for at, there in enumerate(named.tolist())
        ]

    def _given(self, seen: pa.Table, name: str) -> dict[int, Any]:
        """Row → value of a JSON column, where it has one."""
        if self.standing != "given" or name not in seen.column_names:
            return {}
        rows = np.flatnonzero(seen[name].is_valid().to_numpy())
        return {
            int(at): orjson.loads(text)
            for at, text in zip(rows, texts_at({name: seen[name].combine_chunks()}, name, rows), strict=True)
        }

    def _add_signals(self, columns: dict[str, Any], seen: pa.Table) -> None:
        size = len(seen)
        raised = {name: np.zeros(size, np.bool_) for name in self.program.policy.plan.signals}
        if "signals" in seen.column_names:
            for at, names in enumerate(seen["signals"].to_pylist()):
                for name in names or ():
                    if name in raised:
                        raised[name][at] = True
        columns |= {f"signal.{name}": pa.array(mask) for name, mask in raised.items()}

    def _base(
        self, columns: Mapping[str, Any], seen: pa.Table, judged: Judged, score: Any, degraded: pa.Array | None
    ) -> pa.Table:
        """The decided rows without their rule columns."""
        size = len(seen)
        if degraded is None:
            return self.schema.empty_table()
        empty = _empty(size)
        amount = numbers_of(columns, "txn.amount_base", np.nan)
        people = "user" in self.program.layouts
        user = judged.user_tier if people and self.program.policy.by_kind.get("user") else np.ones(size, np.int8)
        found = {
            "event_id": seen["event_id"],
            "kind": _plain(seen["event.kind"]),
            "time_us": _time_us(seen),
            "known_us": seen["known_us"] if "known_us" in seen.column_names else pa.nulls(size, pa.int64()),
            "user": _plain(columns.get("user.id"), size),
            "payment_id": _plain(columns.get("payment.id"), size),
            "amount_base_micro": pa.array(np.rint(np.nan_to_num(amount) * 1e6).astype(np.int64), mask=np.isnan(amount)),
            "score": pa.array(score, mask=np.isnan(score)),
            "tier": judged.tier,
            "action": judged.action,
            "user_tier": pa.array(user, mask=~(present(columns, "user.id") & people)),
            "reasons": judged.reasons,
            "sources": judged.sources,
            "measures": judged.measures,
            "lowered": empty,
            "propensity": judged.propensity,
            "degraded": degraded,
            "signals": pc.fill_null(seen["signals"], []) if "signals" in seen.column_names else empty,
            "by_row": np.zeros(size, np.bool_),
        }
        return pa.table(found)

    def _together(self, seen: pa.Table, parts: Sequence[Any], doubtful: Mask, raises: Mask) -> Judgement:
        """The groups of a chunk in the order of its rows."""
        decided = np.zeros(len(seen), np.bool_)
        for rows, *_ in parts:
            decided[rows] = True
        number, place = np.cumsum(decided) - 1, {name: at for at, name in enumerate(self.names)}
        codes = np.zeros((len(self.names), int(decided.sum())), np.int8)
        if len(parts) == 1 and parts[0][3] == self.names:
            codes = parts[0][1].codes
        else:
            for rows, judged, _, names in parts:
                codes[np.ix_([place[name] for name in names], number[rows])] = judged.codes
        tables = [table for _, _, table, _ in parts]
        base = pa.concat_tables(tables).combine_chunks() if tables else self.schema.empty_table()
        if len(parts) > 1:
            base = base.take(pa.array(np.argsort(np.concatenate([rows for rows, *_ in parts]))))
        return Judgement(base, codes, self.names, decided, doubtful, raises)

    # --- row by row ---------------------------------------------------------------------------------------------------

    def finish(self, seen: pa.Table, made: Judgement, *, pack: bool = False) -> pa.Table:
        """The decided rows of a chunk: what depends on the rows before it is decided by the row function.

        `pack`: with `hits` in place of the rule columns, as files have them.
        """
        number, base = np.cumsum(made.decided) - 1, made.base
        scores = base["score"].combine_chunks()
        propensity = base["propensity"].to_numpy(zero_copy_only=False).copy() if len(base) else np.zeros(0)
        as_of = _as_of(seen)
        given = [self._given(seen, name) for name in ("risk_before", "measures_before")]
        raised = {} if self.standing == "given" else self.signals.raised(seen, made.decided)
        todo = np.union1d(self._todo(seen, made, propensity, given), np.array([*raised], np.int64))
        rows = _rows_of(seen, todo)
        new: dict[int, dict[str, Any]] = {}
        for at, row in zip(todo.tolist(), rows, strict=True):
            case = self._case(row, int(as_of[at]), made.decided[at])
            if self.standing == "given":
                person = (
                    (unpack_risk(given[0][at]) if at in given[0] else LOW),
                    tuple(Measure(**m) for m in given[1].get(at, ())),
                )
            else:
                person = self.people.of(case)
            chance = propensity[number[at]] if made.decided[at] else 0.0
            case.control = row.pop("control", True)
            passed = row.pop("challenge_passed", None)
            case.challenge_passed = self.people.passed(case) if passed is None else passed
            case.flags = list(raised.get(at, case.flags))
            ordinary = person == (LOW, ()) and not case.challenge_passed and at not in raised
            if ordinary and not made.doubtful[at] and not made.raises[at]:
                if chance and (not case.control or self._overspent(case)):
                    propensity[number[at]] = 0.0
                continue
            self.then.us = case.as_of_us
            if made.decided[at] and (score := scores[number[at]].as_py()) is not None:
                row["score"] = case.score = score
            decision = self._decide(case, person, row)
            if decision is not None:
                new[int(number[at])] = decision
        return self._patched(made, new, propensity, pack)

    def _todo(self, seen: pa.Table, made: Judgement, propensity: Any, given: Sequence[Mapping[int, Any]]) -> Ints:
        todo = made.doubtful | made.raises
        todo[made.decided] |= propensity > 0
        fields = _fields(seen)
        if self.standing == "given":
            for rows in given:
                todo[list(rows)] = True
            if "challenge_passed" in seen.column_names:
                todo |= pc.fill_null(seen["challenge_passed"], False).to_numpy(zero_copy_only=False)
            return np.flatnonzero(todo)
        raising = {user for user in texts_at(fields, "user.id", np.flatnonzero(made.raises)) if user is not None}
        todo |= where(fields, "user.id", lambda user: user in raising or user in self.people.standing)
        todo |= where(fields, "event.kind", lambda kind: kind == "challenge_result")
        return np.flatnonzero(todo | where(fields, "event.stage", lambda stage: stage != "checkout"))

    def _case(self, row: Row, as_of_us: int, decided: bool) -> Case:
        """A row as the pipeline holds it after its features are known."""
        told = {name: row.pop(name, None) for name in ("event_id", "event_time", "as_of_us", "known_us", "signals")}
        degraded = list(row.pop("degraded", ()))
        event = Event(told["event_id"], row["event.kind"], told["event_time"], row, b"", b"")
        case = Case(self.program, event, row, (), as_of_us, False, degraded if decided else [], [])
        if decided and "txn.amount_minor" in row and "txn.amount_base" not in row:
            case.degraded[:0] = [f"fx:{row['txn.currency']}"] * (f"fx:{row['txn.currency']}" not in degraded)
        row.setdefault("event.lists", [])
        case.flags, case.opened_us = told["signals"] or [], told["known_us"] or 0
        return case

    def _decide(self, case: Case, person: tuple[Any, tuple[Measure, ...]], row: Row) -> dict[str, Any] | None:
        """The decided row, or None for an event that is only recorded; the person stands as it says from here on."""
        program, decided = self.program, case.event.kind in self.kinds
        signals, known_us = tuple(case.flags), case.opened_us or None
        case.flags = []
        for name in ("risk_before", "measures_before"):
            row.pop(name, None)
        if "user.id" in row and "user" in program.layouts:
            program.stand(case, *person)
        if not decided:
            _, sources = program.judge_user(case)
            self.people.learn(case, program.next_risk(case, sources), ())
            return None
        decision = program.conclude(case, signals, case.as_of_us, dry_run=True)
        if decision.propensity and self._overspent(case):
            case.control = False
            decision = program.conclude(case, signals, case.as_of_us, dry_run=True)
        self.people.learn(case, decision.user_risk, decision.measures)
        if any(lowered.kind == "control" for lowered in decision.lowered):
            self.people.spend(case)
        self.counts["rows decided by the row function"] += 1
        return as_row(decision, case, known_us)

    def _overspent(self, case: Case) -> bool:
        return self.standing == "chained" and self.people.spent(case, case.row["txn.amount_base"])

    def _patched(self, made: Judgement, new: Mapping[int, dict[str, Any]], propensity: Any, pack: bool) -> pa.Table:
        base, codes = made.base, made.codes
        self.counts["rows decided"] += len(base)
        if not len(base):
            return packed(self.schema.empty_table()) if pack else self.schema.empty_table()
        base = base.set_column(base.column_names.index("propensity"), "propensity", pa.array(propensity))
        if new:
            rows = np.array(sorted(new))
            codes[:, rows] = 0
            place = {RULE + name: at for at, name in enumerate(made.names)}
            for row in rows:
                for name in new[row].keys() & place.keys():
                    codes[place[name], row] = new[row][name]
            fresh = pa.Table.from_pylist([new[row] for row in rows], base.schema)
            order = np.arange(len(base))
            order[rows] = len(base) + np.arange(len(rows))
            base = pa.concat_tables([base, fresh]).combine_chunks().take(pa.array(order))
        if pack:
            return with_hits(base, made.names, codes)
        rules = {RULE + name: codes[at] for at, name in enumerate(made.names)}
        return pa.table({**{name: base[name] for name in base.column_names}, **rules}).cast(self.schema)


def _empty(size: int) -> pa.Array:
    """A list without anything for each row."""
    return pa.ListArray.from_arrays(pa.array(np.zeros(size + 1, np.int32)), pa.array([], pa.string()))


def _time_us(seen: pa.Table) -> pa.Array:
    return seen["event_time"].combine_chunks().cast(pa.int64())


def _as_of(seen: pa.Table) -> Ints:
    found: Ints = (seen["as_of_us"] if "as_of_us" in seen.column_names else _time_us(seen)).to_numpy()
    return found


def _fields(seen: pa.Table) -> dict[str, Any]:
    return {
        name: seen[name].combine_chunks()
        for name in ("user.id", "event.kind", "event.stage", "txn.amount_base", "event_id")
        if name in seen.column_names
    }


def _plain(column: Any, size: int = 0) -> Any:
    if column is None:
        return pa.nulls(size, pa.string())
    found = flat(column)
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found


def _rows_of(seen: pa.Table, at: Ints) -> list[Row]:
    """Some rows as the row function takes them."""
    if not len(at):
        return []
    taken = seen.take(pa.array(at))
    time = taken.column_names.index("event_time")
    taken = taken.set_column(time, "event_time", taken["event_time"].cast(pa.int64()))
    columns = {}
    for name in taken.column_names:
        values = taken[name].to_pylist()
        columns[name] = [dict(value) if value else None for value in values] if name == "attributes" else values
    return [
        {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        for values in zip(*columns.values(), strict=True)
    ]
