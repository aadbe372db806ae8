"""The rules of one kind of event on whole tables, and what they give together: `policy/combine.py` in columns.

Every source of a decision (rule, band, missing field, fallback) is one row of a matrix, which says on which events it
speaks. Their order by severity never changes, so reasons come out in the order of `combine` by looking along it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.language.columns import ColumnProgram, compile_columns
from engine.policy.combine import Source, action_of
from engine.policy.evaluate import SHARE_BY, RuleSet
from engine.policy.lists import form_of
from engine.policy.lowering import AllowList, Lowering, Snooze, drawn_by
from engine.program import Program
from engine.rescore.decided import OBSERVED
from engine.standing import lasting
from engine.values import Action, Measure, Result, Tier

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Columns = Mapping[str, Any]
"""Dotted name → Arrow array, NumPy array or list, one value an event; null is absent."""


def flat(column: Any) -> pa.Array:
    """A column as one Arrow array."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array(column)


def texts_at(columns: Columns, name: str, rows: Any) -> list[Any]:
    """Values of a column at some rows; None where it is absent."""
    column = columns.get(name)
    return [None] * len(rows) if column is None else flat(column).take(pa.array(rows)).to_pylist()


def numbers_of(columns: Columns, name: str, absent: float) -> npt.NDArray[np.float64]:
    """A column of numbers, with a number where it is absent."""
    size = len(next(iter(columns.values())))
    if columns.get(name) is None:
        return np.full(size, absent)
    found: npt.NDArray[np.float64] = pc.fill_null(flat(columns[name]).cast(pa.float64()), absent).to_numpy(
        zero_copy_only=False
    )
    return found


def present(columns: Columns, name: str) -> Mask:
    """Where a column has a value."""
    if columns.get(name) is None:
        return np.zeros(len(next(iter(columns.values()))), np.bool_)
    found: Mask = flat(columns[name]).is_valid().to_numpy(zero_copy_only=False)
    return found


def where(columns: Columns, name: str, wanted: Callable[[Any], bool]) -> Mask:
    """Where the value of a text column is wanted; each distinct one is asked once."""
    if columns.get(name) is None:
        return np.zeros(len(next(iter(columns.values()))), np.bool_)
    coded = flat(columns[name])
    coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
    asked = np.array([*(value is not None and wanted(value) for value in coded.dictionary.to_pylist()), False])
    found: Mask = asked[coded.indices.fill_null(len(coded.dictionary)).to_numpy(zero_copy_only=False)]
    return found


def lists_of(size: int, rows: Any, values: pa.Array) -> pa.Array:
    """A list for each of `size` rows from pairs of ascending row and value."""
    offsets = np.zeros(size + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=size), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


class RuleColumns:
    """One rule set with its scorecards."""

    def __init__(self, rules: RuleSet, lists: Mapping[str, Any]) -> None:
        self.rules, self.by_rows = rules, 0
        self.program: ColumnProgram = compile_columns(rules.conditions, lists)
        self.cards = [compile_columns(card.program.conditions, lists) for card in rules.adders]
        self.unknown_hits = [at for at, rule in enumerate(rules.rules) if rule.unknown_hits]
        self._shares: dict[tuple[str, str, str], float] = {}

    def results(self, columns: dict[str, Any], as_of_us: Ints) -> tuple[Codes, list[Codes]]:
        """Rule × event: result, + OBSERVED; and the same for the lines of each scorecard, whose sums join `columns`."""
        lines = []
        for card, program in zip(self.rules.adders, self.cards, strict=True):
            found = program.evaluate(columns).codes
            points = np.zeros(len(as_of_us), np.int64)
            for line, codes in enumerate(found):
                for result in (Result.HIT, Result.UNKNOWN, Result.ERROR):
                    hit, worth = card.hits[line, result.value]
                    points += worth * (codes == result.value)
                    codes[codes == result.value] |= 0 if hit.enforced else OBSERVED
            columns[card.name] = points
            lines.append(found)
        whole = self.program.evaluate(columns)
        self.by_rows += sum(whole.by_rows)
        codes = whole.codes
        for at in range(len(codes)):
            if self.rules.always[at] is not True:
                self._observe(at, codes[at], columns, as_of_us)
        self._first_only(codes)
        return codes, lines

    def _observe(self, at: int, codes: Codes, columns: Columns, as_of_us: Ints) -> None:
        """Mark what is not enforced, and silence what is outside its schedule."""
        rule = self.rules.rules[at]
        live = (
            as_of_us >= rule.from_us if not rule.until_us else (as_of_us >= rule.from_us) & (as_of_us < rule.until_us)
        )
        codes[~live] = 0
        rows = np.flatnonzero(codes)
        if rule.status != "enforce":
            codes[rows] |= OBSERVED
        elif rule.rollout < 1.0 and rows.size:
            told = {name: texts_at(columns, name, rows) for name in SHARE_BY}
            people = [
                {n: v for n, v in zip(told, row, strict=True) if v is not None}
                for row in zip(*told.values(), strict=True)
            ]
            out = [self.rules.share(rule, person) >= rule.rollout for person in people]
            codes[rows[np.array(out, np.bool_)]] |= OBSERVED

    def _first_only(self, codes: Codes) -> None:
        """Of rows of a table that hit in turn only the first stays."""
        reached: dict[str, Mask] = {}
        for at, rule in enumerate(self.rules.rules):
            if rule.first:
                hit = (codes[at] & 3) == Result.HIT if not rule.unknown_hits else (codes[at] & 3) > 0
                before = reached.setdefault(rule.first, np.zeros(codes.shape[1], np.bool_))
                codes[at][hit & before] = 0
                before |= hit

    def says(self, codes: Codes) -> Mask:
        """Rule × event: whether it is a source."""
        spoken: Mask = codes == Result.HIT
        for at in self.unknown_hits:
            spoken[at] = (codes[at] > 0) & (codes[at] < OBSERVED)
        return spoken


@dataclass
class Judged:
    """What columns say of some events of one kind."""

    codes: Codes
    """Rows in the order of `KindColumns.columns`."""
    tier: Codes
    action: Codes
    user_tier: Codes
    """Highest tier that rules on the user state; LOW without any."""
    reasons: pa.Array
    sources: pa.Array
    measures: pa.Array
    propensity: npt.NDArray[np.float64]
    raises: Mask
    """Something that outlives the decision: a tier of the person, a measure with a life."""
    doubtful: Mask
    """An allow entry, a snooze or the control group may lower it: the row function says."""


@dataclass
class KindColumns:
    """All that speaks to events of one kind."""

    program: Program
    kind: str
    rules: RuleColumns | None
    people: RuleColumns | None
    sources: list[Source] = field(default_factory=list)

    @classmethod
    def of(cls, program: Program, kind: str, *, decided: bool) -> KindColumns:
        """`decided` False: an event that is only recorded, of which rules on the user alone hear."""
        lists, sets = program.policy.lists, program.policy.by_kind
        rules, people = (RuleColumns(sets[name], lists) if name in sets else None for name in (kind, "user"))
        made = cls(program, kind, rules, people)
        made.rules = made.rules if decided else None
        made.sources = (
            [s for s, _ in made._spoken(None, {}, np.zeros(0), np.zeros((0, 0), np.bool_))] if decided else []
        )
        return made

    @property
    def columns(self) -> Iterator[str]:
        """Rule columns in the order of `Judged.codes`."""
        for one in filter(None, (self.rules, self.people)):
            yield from (rule.id for rule in one.rules.rules)
        for one in filter(None, (self.rules, self.people)):
            for card, program in zip(one.rules.adders, one.cards, strict=True):
                yield from (f"{card.name.partition('.')[2]}#{n + 1}" for n in range(len(program.conditions)))

    def judge(self, columns: dict[str, Any], score: Any, as_of_us: Ints, degraded: pa.Array | None) -> Judged:
        """Rules, then everything that speaks combined."""
        size, codes, lines = len(as_of_us), list[Codes](), list[Codes]()
        spoken = np.zeros((0, size), np.bool_)
        for one in filter(None, (self.rules, self.people)):
            found, points = one.results(columns, as_of_us)
            codes.append(found)
            lines += points
            if one is self.rules:
                spoken = one.says(found)
        tier = np.ones(size, np.int8)
        if self.people is not None:
            for rule, says in zip(self.people.rules.rules, self.people.says(codes[-1]), strict=True):
                np.maximum(tier, says * np.int8(rule.outcome.tier or 0), out=tier)
        parts = [*codes, *lines] or [np.zeros((0, size), np.int8)]
        every = np.vstack(parts) if len(parts) > 1 else parts[0]
        made = self._combined(columns, score, as_of_us, degraded, spoken)
        return replace(made, codes=every, user_tier=tier, raises=made.raises | (tier > Tier.LOW))

    def _combined(
        self, columns: Columns, score: Any, as_of_us: Ints, degraded: pa.Array | None, spoken: Mask
    ) -> Judged:
        size, defaults = len(as_of_us), self.program.policy.settings.default_actions
        masks = [mask for _, mask in self._spoken(degraded, columns, score, spoken)] if self.sources else []
        tier, action = np.ones(size, np.int8), np.ones(size, np.int8)
        stated = [action_of(source.outcome, defaults) for source in self.sources]
        challenged = np.zeros(size, np.bool_)
        for source, said, mask in zip(self.sources, stated, masks, strict=True):
            if mask.any():
                np.maximum(tier, mask * np.int8(source.outcome.tier or 0), out=tier)
                np.maximum(action, mask * np.int8(said or 0), out=action)
                if said is Action.CHALLENGE:
                    challenged |= mask
        order = sorted(
            range(len(stated)),
            key=lambda at: (-(stated[at] or 0), -(self.sources[at].outcome.tier or 0), self.sources[at].reason.source),
        )
        reasons, sources = self._reasons([at for at in order if self.sources[at].reason.code], masks, size)
        step_up = challenged & (action == Action.REVIEW)
        measures, raises = self._measures(order, masks, step_up)
        doubtful, propensity = self._lowered(masks, (tier > Tier.LOW) | (action > Action.ALLOW), columns, as_of_us)
        none = np.zeros(0, np.int8)
        return Judged(none, tier, action, none, reasons, sources, measures, propensity, raises, doubtful)

    def _reasons(self, order: list[int], masks: Sequence[Mask], size: int) -> tuple[pa.Array, pa.Array]:
        """Codes and sources of the reasons of each row, the most severe first."""
        rows = [np.flatnonzero(masks[at]) for at in order]
        row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        what = np.repeat(np.arange(len(order)), [len(part) for part in rows]) if rows else row
        by_row = np.argsort(row, kind="stable")
        row, what = row[by_row], pa.array(what[by_row])
        said = [self.sources[at].reason for at in order]
        names = ([one.code for one in said], [one.source for one in said])
        codes, sources = (lists_of(size, row, pa.array(told, pa.string()).take(what)) for told in names)
        return codes, sources

    def _measures(self, order: list[int], masks: Sequence[Mask], step_up: Mask) -> tuple[pa.Array, Mask]:
        """`KIND@SOURCE` of each row's measures, and where one outlives the decision."""
        giving = [at for at in reversed(order) if self.sources[at].outcome.measures]
        speaks = np.vstack([*(masks[at] for at in giving), step_up])
        rows = np.flatnonzero(speaks.any(axis=0))
        told: dict[bytes, tuple[list[str], bool]] = {}
        values: list[str] = []
        of, raises = np.zeros(len(step_up), np.int64), np.zeros(len(step_up), np.bool_)
        for row, key in zip(rows.tolist(), np.packbits(speaks[:, rows], axis=0).T, strict=True):
            if (text := key.tobytes()) not in told:
                told[text] = self._given(
                    [at for at, there in zip(giving, speaks[:, row], strict=False) if there], bool(step_up[row])
                )
            names, raises[row] = told[text]
            of[row] = len(names)
            values += names
        offsets = np.concatenate(([0], np.cumsum(of))).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.string())), raises

    def _given(self, giving: Sequence[int], step_up: bool) -> tuple[list[str], bool]:
        found: dict[tuple[str, str], str] = {}
        lasts = False
        for at in giving:
            source = self.sources[at]
            for spec in source.outcome.measures:
                found[spec.kind, repr(spec.parameters)] = f"{spec.kind}@{source.reason.source}"
                lasts |= lasting(Measure(spec.kind, spec.parameters, 0, spec.life_us, ""))
        if step_up:
            found.setdefault(("STEP_UP", "{}"), "STEP_UP@combine:challenge")
        return [found[key] for key in sorted(found)], lasts

    def _spoken(
        self, degraded: pa.Array | None, columns: Columns, score: Any, spoken: Mask
    ) -> Iterator[tuple[Source, Mask]]:
        """Every source in the order of `Program.judge`, and on which rows it speaks."""
        settings, size = self.program.policy.settings, len(score)
        nobody = np.zeros(size, np.bool_)
        for at, rule in enumerate(self.rules.rules.rules if self.rules else ()):
            yield Source(rule.outcome, rule.reason), spoken[at] if len(spoken) else nobody
        bands = settings.bands.get(self.kind, ())
        band = np.searchsorted([one.from_score for one in bands], score, "right") - 1
        band[np.isnan(score)] = -1
        for at, one in enumerate(bands):
            yield Source(one.outcome, one.reason), band == at
        amount = numbers_of(columns, "txn.amount_base", np.inf) if columns else np.zeros(size)
        for needed in settings.required:
            left = amount > needed.above_base
            for name in needed.fields if needed.on == self.kind else ():
                lacking = left & ~present(columns, name) if columns else nobody
                yield Source(needed.outcome, replace(needed.reason, source=f"required:{name}")), lacking
                left = left & ~lacking
        for fallback in settings.fallbacks:
            failed = nobody
            if degraded is not None:
                text = pc.binary_join(degraded, "\n")
                failed = where({"d": text}, "d", lambda told, name=fallback.source: name in told.split("\n"))  # type: ignore[misc]
            yield Source(fallback.outcome, fallback.reason), failed & (amount > fallback.above_base)

    def _lowered(
        self, masks: Sequence[Mask], severe: Mask, columns: Columns, as_of_us: Ints
    ) -> tuple[Mask, npt.NDArray[np.float64]]:
        """Rows that something may lower, and the chance of the control group where it does not."""
        lowering, doubtful, chance = (
            self.program.policy.lowering,
            np.zeros(len(severe), np.bool_),
            np.zeros(len(severe)),
        )
        if lowering is None or not severe.any():
            return doubtful, chance
        for allow in lowering.allow:
            doubtful |= severe & where(columns, allow.field, partial(_is_allowed, allow))
        for source, mask in zip(self.sources, masks, strict=True):
            for snooze in lowering.snoozes.get(source.reason.source, ()):
                held = (as_of_us >= snooze.from_us) & (as_of_us < snooze.until_us) & mask
                if held.any():
                    doubtful |= held & where(columns, snooze.field, partial(_is_snoozed, snooze))
        may = severe & self._may_be_control(lowering, masks, columns, as_of_us)
        group, rows = lowering.control, np.flatnonzero(may)
        told = {name: texts_at(columns, name, rows) for name in ("device.id", "card.token")}
        for row, *values in zip(rows.tolist(), *told.values(), strict=True):
            person = {name: value for name, value in zip(told, values, strict=True) if value is not None}
            if group is not None and drawn_by(person):
                chance[row] = group.share
                doubtful[row] |= lowering.draw(person, int(as_of_us[row])) < group.share
        return doubtful, chance

    def _may_be_control(self, lowering: Lowering, masks: Sequence[Mask], columns: Columns, as_of_us: Ints) -> Mask:
        group, may = lowering.control, np.zeros(len(as_of_us), np.bool_)
        if group is None or self.kind != "payment":
            return may
        for source, mask in zip(self.sources, masks, strict=True):
            heavy = (source.outcome.tier or 0) > Tier.LOW or (source.outcome.action or 0) > Action.ALLOW
            if heavy and lowering.ordinary(None, source):
                may |= mask
        for source, mask in zip(self.sources, masks, strict=True):
            rule = lowering.rules.get(source.reason.source)
            if rule is not None and rule.final:
                may &= ~mask
        return may & (as_of_us < group.until_us) & (numbers_of(columns, "txn.amount_base", np.inf) <= group.max_base)


def _is_allowed(allow: AllowList, value: Any) -> bool:
    return allow.list.form(value) in allow.list.allowances


def _is_snoozed(snooze: Snooze, value: Any) -> bool:
    return form_of(snooze.normalise, value) == snooze.value
