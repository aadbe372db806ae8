"""What the tests of imports share: a sink in memory, and one call that imports a small file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.batch.load import BatchResult, Item, Summary, load
from engine.batch.mapping import parse_mapping

NOW_US = 1_790_000_000_000_000
ROOT = Path(__file__).parents[3]


class Stopped(Exception):
    """The power went out."""


class MemorySink:
    """Keeps what it is given; can lose its power before or after any batch."""

    def __init__(self) -> None:
        self.events: dict[str, Any] = {}
        self.order: list[str] = []
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.positions: dict[bytes, int] = {}
        self.batches = 0
        self.finished = 0
        self.fail_after = -1
        """Batches that are still written before the power goes out."""
        self._digest = b""

    def position(self, source_digest: bytes) -> int:
        """Where this source stands."""
        self._digest = source_digest
        return self.positions.get(source_digest, 0)

    def write(self, batch: Sequence[Item], position: int) -> BatchResult:
        """All of the batch and its position, or nothing."""
        if self.fail_after == self.batches:
            raise Stopped
        self.batches += 1
        new, repeated, conflicts = 0, 0, []
        for event, outcomes in batch:
            conflicts += [o["id"] for o in outcomes if self.outcomes.setdefault(o["id"], dict(o)) != dict(o)]
            if event is None:
                new += 1
            elif event.id not in self.events:
                self.events[event.id] = event
                self.order.append(event.id)
                new += 1
            elif self.events[event.id].digest == event.digest:
                repeated += 1
            else:
                conflicts.append(event.id)
        self.positions[self._digest] = position
        return BatchResult(new, repeated, conflicts)

    def finish(self) -> None:
        """Counts the calls."""
        self.finished += 1


@pytest.fixture
def sink() -> MemorySink:
    """An empty sink."""
    return MemorySink()


SHOP = """
mapping: shop
source: {format: csv}
id: "{order}"
kind: payment
time: {column: at, zone: UTC}
fields:
  user.id: "{user}"
amount: {column: amount, unit: major, currency: EUR}
"""
HEADER = "order,at,user,amount\n"


def shop_rows(numbers: Iterable[int]) -> str:
    """CSV lines whose order number is also their place in time."""
    return HEADER + "".join(f"o{n},2026-01-01 {timedelta(seconds=n)!s:0>8},u{n % 7},{n}.25\n" for n in numbers)


Importer = Callable[..., Summary]


@pytest.fixture
def run(tmp_path: Path, sink: MemorySink) -> Importer:
    """Import `data` (or `stdin`) under a mapping text; the quarantine file is `tmp_path / "q.jsonl"`."""

    def importer(data: str | bytes | Path, mapping: str = SHOP, name: str = "shop.csv", **more: Any) -> Summary:
        path = data if isinstance(data, Path) else tmp_path / name
        if not isinstance(data, Path):
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        more.setdefault("max_bad", 1.0)
        return load(
            None if "stdin" in more else path, parse_mapping(mapping.encode(), "shop.yaml"), more.pop("sink", sink),
            workdir=tmp_path, quarantine=tmp_path / "q.jsonl", now_us=NOW_US, **more,
        )  # fmt: skip

    return importer


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data's folder; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ARBITER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}; set ARBITER_SHARED_DATA to its folder")
    return folder
