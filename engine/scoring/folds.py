"""Prequential validation: blocks of later rows, each with the earlier rows that could have been learnt from by then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.errors import ModelError
from engine.scoring import rows
from engine.scoring.codec import DAY_US, Span
from engine.scoring.config import TrainConfig
from engine.scoring.rows import Rows


@dataclass(frozen=True, slots=True)
class Fold:
    """Row numbers to learn from, and later ones to judge on."""

    learn: rows.Ints
    held: rows.Ints
    span: Span
    """Of the held rows."""


def blocks(data: Rows, config: TrainConfig) -> tuple[Fold, ...]:
    """The folds of a configuration, earliest first; none without `validate`. ModelError names a block that can't be."""
    if not config.validate.blocks:
        return ()
    if config.validate.split not in {"time", "random"}:
        raise ModelError(f"validate: split is {config.validate.split!r}; it is time, or random")
    found = tuple(_by_time(data, config) if config.validate.split == "time" else _by_chance(data, config))
    for fold in found:
        for what, part in (("before", fold.learn), ("in", fold.held)):
            frauds = int(data.fraud[part].sum())
            if not 0 < frauds < len(part):
                raise ModelError(
                    f"validate: {len(part):,} usable rows with {frauds} frauds {what} the block {fold.span}; both "
                    "classes are needed. Take fewer or longer blocks, or widen the window"
                )
    return found


def _by_time(data: Rows, config: TrainConfig) -> Iterator[Fold]:
    window, length_us = config.window, round(config.validate.days * DAY_US)
    for number in range(config.validate.blocks, 0, -1):
        start_us = window.end_us - number * length_us
        held = Span(start_us, start_us + length_us)
        known_us = start_us - round(config.delay_days * DAY_US)
        if known_us <= window.start_us:
            raise ModelError(
                f"validate: nothing of the window {window} lies {config.delay_days:g} days before the block {held}; "
                "take fewer or shorter blocks, or widen the window"
            )
        learn = rows.mature(data, Span(window.start_us, known_us), start_us)
        yield Fold(np.flatnonzero(learn), np.flatnonzero(judged(data, held, config, config.cut_off)), held)


def _by_chance(data: Rows, config: TrainConfig) -> Iterator[Fold]:
    """Rows of the window in random blocks, all others to learn from: what prequential blocks are better than."""
    usable = np.flatnonzero(rows.mature(data, config.window, config.cut_off))
    drawn = np.random.default_rng(config.seed).permutation(usable)
    for part in np.array_split(drawn, max(2, config.validate.blocks)):
        yield Fold(np.setdiff1d(usable, part), np.sort(part), config.window)


def judged(data: Rows, span: Span, config: TrainConfig, known_by_us: int) -> rows.Mask:
    """Labelled rows of a span to judge on, without the cards that were known as defrauded if so configured."""
    chosen = rows.within(data, span) & data.labelled & (data.known_us <= known_by_us)
    if config.leave_out_compromised:
        since_us = span.start_us - round(config.compromised_days * DAY_US)
        chosen &= ~rows.known_compromised(data, span, since_us if config.compromised_days else config.window.start_us)
    return chosen
