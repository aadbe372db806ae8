"""Parts of a decision by themselves, in this process: 200 rules, one score, the admission with its windows."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.decide_world import considered
from benchmarks.load_shop import Shop
from engine.bootstrap import open_program, open_stores
from engine.intake import read_event
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Admit
from engine.program import Case, Program
from engine.settings import Settings

ROWS, TURN = 240, 24
"""Payments, and how many are done in one go: turns are short, so that few are hit by what else the core does."""
GATHERED = 12
"""Admissions that share a transaction where several calls are under way."""
Spread = tuple[float, float, float]
"""Median, lowest, highest."""


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of the rounds."""
    return statistics.median(values), min(values), max(values)


def parts(settings: Settings, shop: Shop, rounds: int) -> dict[str, Spread]:
    """µs of each part, from `rounds` rounds of many short turns, in which the parts follow one another."""
    program, cases = open_program(settings), considered(settings, shop, ROWS)
    taken: dict[str, list[float]] = {}
    work = [_in_memory(settings, program, cases[at : at + TURN]) for at in range(0, ROWS, TURN)]
    for _ in range(rounds):
        for turn in work:
            for name, what in turn.items():
                taken.setdefault(name, []).append(_us(what))
    taken["score_ratio"] = [ours / bare for ours, bare in zip(taken["score_us"], taken["bare_us"], strict=True)]
    taken |= asyncio.run(_profiles(settings, program, shop, rounds))
    return {name: spread(values) for name, values in taken.items()}


def _in_memory(settings: Settings, program: Program, cases: Sequence[Case]) -> dict[str, Callable[[], Any]]:
    rules, model = program.policy.by_kind["payment"], program.models["payment"]
    rows = [(case.row, case.as_of_us) for case in cases]
    inputs = [[row.get(name) for name in model.features] for row, _ in rows]
    arrays = [np.array([[np.nan if v is None else v for v in values]], np.float32) for values in inputs]
    session = _session(next(settings.models.glob("*/*/model.onnx")))
    return {
        "rules_200_us": lambda: [rules.evaluate(row, at_us) for row, at_us in rows],
        "bare_us": lambda: [session.run(None, {"features": array}) for array in arrays],
        "score_us": lambda: [model.score(values) for values in inputs],
        "score_stage_us": lambda: [program.rate(case) for case in cases],
    }


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _us(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / TURN * 1e6


async def _profiles(settings: Settings, program: Program, shop: Shop, rounds: int) -> dict[str, list[float]]:
    """Admission, settlement of the one before, and all windows: one by one, and as many calls at once share it."""
    profiles, _ = open_stores(settings)
    await profiles.start(program.layouts)
    alone, gathered = [], []
    for number in range(rounds):
        cases = _cases(program, shop, f"parts-{number}")
        for at in range(0, ROWS, 2 * TURN):
            turn, next_turn = cases[at : at + TURN], cases[at + TURN : at + 2 * TURN]
            alone.append(await _taken_us(program, profiles, [[case] for case in turn]))
            halves = [next_turn[:GATHERED], next_turn[GATHERED:]]
            gathered.append(await _taken_us(program, profiles, halves))
        profiles.checkpoint(0)  # on the loop: settlements that wait use the same connection
    await profiles.close()
    return {"profiles_us": alone, "profiles_gathered_us": gathered}


def _cases(program: Program, shop: Shop, run: str) -> list[Case]:
    now_us = time.time_ns() // 1_000
    events = [read_event(document, now_us=now_us) for document in shop.payments(run, ROWS, now_us)]
    return [program.open(event, now_us) for event in events]


async def _taken_us(program: Program, profiles: SqliteProfiles, groups: Sequence[Sequence[Case]]) -> float:
    async def one(case: Case) -> None:
        event = case.event
        case.admission = await profiles.admit(Admit(event.id, event.digest, event.body, case.entries), None)
        program.see(case)
        profiles.settle_soon([event.id])

    began = time.perf_counter()
    for group in groups:
        if len(group) == 1:
            await one(group[0])
        else:
            await asyncio.gather(*map(one, group))
    return (time.perf_counter() - began) / sum(map(len, groups)) * 1e6
