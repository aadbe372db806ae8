"""A hot entity, exact against tiled: `python -m benchmarks.hot [--json]`.

12,000 payments of one network within a day, admitted into the embedded store as the service does, with three features
over 24 h and 1 h: bytes of the profile, and median µs of the last thousand admissions and of their windows. Both
sides see the whole day, so the exact one keeps 20,000 rows and the tiled one a hundred.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from engine.intake import read_event
from engine.profiles.sqlite import SqliteProfiles
from engine.profiles.store import Admit
from tests.conftest import NOW_US
from tests.memory import program_of

EVENTS, STEP_US, MEASURED = 12_000, 5_000_000, 1_000
FEATURES = """
keep: {{ip: {keep}}}
features:
  ip.payments_24h: {{measure: count, window: 24h, precision: {precision}, unit: events, meaning: x}}
  ip.spend_24h: {{measure: sum, of: txn.amount_base, window: 24h, precision: {precision}, unit: money, meaning: x}}
  ip.payments_1h: {{measure: count, window: 1h, precision: {precision}, unit: events, meaning: x}}
"""


async def measured(precision: str, keep: int) -> dict[str, Any]:
    """Figures of one precision."""
    with tempfile.TemporaryDirectory(prefix="arbiter-hot-") as folder:
        program = program_of(Path(folder) / "rules", FEATURES.format(keep=keep, precision=precision))
        store = SqliteProfiles(Path(folder) / "profiles.sqlite")
        await store.start(program.layouts)
        admissions, windows, row = [], [], dict[str, Any]()
        for number in range(EVENTS):
            at_us = NOW_US + number * STEP_US
            document = {"id": f"e{number}", "kind": "payment", "time_us": at_us, "ip.address": "203.0.113.7",
                        "txn.amount_minor": 100 + number % 977, "txn.currency": "EUR"}  # fmt: skip
            case = program.open(read_event(document, now_us=at_us), at_us)
            began_s = time.perf_counter()
            admission = await store.admit(Admit(case.event.id, b"d", b"", case.entries), None)
            admitted_s = time.perf_counter()
            row = {}
            program.features.compute(row, case.entries, admission.states, at_us)
            windows.append(time.perf_counter() - admitted_s)
            admissions.append(admitted_s - began_s)
            store.settle_soon([case.event.id])
            if number % 100 == 99:  # what the keeper does
                store.mark_reconciled(number, store.unsettled_from())
                store.checkpoint(2**24)
        await store.close()
        size = sum(p.stat().st_size for p in Path(folder).glob("profiles.sqlite"))
    return {
        "keep": keep, "file_bytes": size, "admit_us": statistics.median(admissions[-MEASURED:]) * 1e6,
        "windows_us": statistics.median(windows[-MEASURED:]) * 1e6, "payments_24h": row["ip.payments_24h"],
    }  # fmt: skip


def main() -> None:
    """Print a line for each, or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    as_json = parser.parse_args().json
    found = {name: asyncio.run(measured(name, keep)) for name, keep in (("exact", 20_000), ("tiled", 100))}
    if as_json:
        print(json.dumps(found))
        return
    for name, one in found.items():
        print(
            f"{name}: {one['file_bytes'] / 1024:,.0f} KiB, an admission {one['admit_us']:,.0f} µs, its windows "
            f"{one['windows_us']:,.0f} µs, {one['payments_24h']:,} payments counted"
        )


if __name__ == "__main__":
    main()
