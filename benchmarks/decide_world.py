"""The benchmark's Arbiter folder: profiles loaded in bulk, and a model and rules fitted to what those profiles give."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load_shop, policy
from benchmarks.load_shop import Shop
from engine.bootstrap import open_engine, open_program, open_stores
from engine.bulk import Spill
from engine.intake import read_event
from engine.program import Case
from engine.settings import Settings, read_settings
from engine.sink import ImportSink

BATCH = 1_000
MAX_AGE_S = 1_800
"""A kept world older than this is made anew: its payments of the last hour would be gone."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How large the world is."""

    each: int
    """Profiles of each of the six kinds."""
    rows: int
    """Events in each log."""
    journaled: int
    """So many of the newest events are imported with their journal records; older ones go to profiles alone."""
    samples: int
    """Payments that thresholds and model are fitted to."""


FULL = Size(each=16_667, rows=100, journaled=100_000, samples=6_000)
QUICK = Size(each=300, rows=15, journaled=500, samples=400)


def prepare(folder: Path, size: Size, tell: Tell) -> tuple[Settings, Shop]:
    """The world in `folder`, made unless it is there already and fresh."""
    shop, settings = Shop(size.each), read_settings(folder, {}, {})
    stamp = folder / "world.json"
    wanted = {"size": repr(size), "code": _code()}
    made = json.loads(stamp.read_text()) if stamp.exists() else {"made_s": 0}
    if made == wanted | {"made_s": made["made_s"]} and time.time() - made["made_s"] < MAX_AGE_S:
        tell(f"world in {folder} is {time.time() - made['made_s']:.0f} s old and used again")
        return settings, shop
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} holds something else, or a world older than {MAX_AGE_S // 60} min; empty it first")
    policy.write_features(settings.rules)
    preload(settings, shop, size, tell)
    cases = considered(settings, shop, size.samples)
    tell(f"train {policy.TREES} trees of depth {policy.DEPTH} on {len(cases):,} rows, and write {policy.RULES} rules")
    model = policy.write_model_of([case.row for case in cases], settings.models)
    policy.write_scored(settings.rules, model)
    cases = considered(settings, shop, size.samples)
    policy.write_rules(settings.rules, [case.row for case in cases], model)
    stamp.write_text(json.dumps(wanted | {"made_s": time.time()}))
    return settings, shop


def preload(settings: Settings, shop: Shop, size: Size, tell: Tell) -> None:
    """Profiles by spill and merge, as an import makes them; the newest events by the import itself, journal and all."""
    settings.state.mkdir(parents=True)
    program = open_program(settings, with_models=False)
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    now_us, began, total = time.time_ns() // 1_000, time.monotonic(), size.each * size.rows
    first = profiles.reserve(total)
    spill, sink = Spill(program, settings.state), ImportSink(program, profiles, journal, settings.state)
    sink.position(b"benchmark")
    batch = []
    for number, document in enumerate(shop.history(size.rows, now_us)):
        event = read_event(document, now_us=now_us)
        if number < total - size.journaled:
            spill.add(program.open(event, event.time_us).entries, (), first + number)
        else:
            batch.append((event, ()))
        if len(batch) == BATCH:
            sink.write(batch, number)
            batch = []
        if number % (total // 8) == 0:
            tell(f"load {shop.profiles:,} profiles: {number:,} of {total:,} events, {time.monotonic() - began:.0f} s")
    if batch:
        sink.write(batch, total)
    tell("merge into profiles")
    spill.merge_into(profiles)
    sink.finish()
    asyncio.run(_close(profiles, journal))


async def _close(profiles: object, journal: object) -> None:
    for store in (profiles, journal):
        store.checkpoint(0)  # type: ignore[attr-defined]
        await store.close()  # type: ignore[attr-defined]


def considered(settings: Settings, shop: Shop, count: int) -> Sequence[Case]:
    """Payments decided without a trace, with everything that led to the decision."""

    async def consider() -> list[Case]:
        engine = open_engine(settings)
        await engine.start(watch=False)
        now_us = time.time_ns() // 1_000
        documents = shop.payments("sample", count, now_us)
        cases = [(await engine.consider(read_event(document, now_us=now_us)))[1] for document in documents]
        await engine.close()
        return cases

    return asyncio.run(consider())


def _code() -> str:
    """What the world was made by."""
    text = inspect.getsource(policy) + inspect.getsource(load_shop) + inspect.getsource(inspect.getmodule(_code))  # type: ignore[arg-type]
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
