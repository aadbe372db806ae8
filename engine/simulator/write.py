"""A simulation as files: all of them complete, or none."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast

import orjson

from engine.errors import SettingsError
from engine.schema import OUTCOMES
from engine.simulator.simulation import Simulation

Progress = Callable[[float, int], None]
"""Called with the share of the period done, 0..1, and the documents written."""
_EVERY = 20_000
_BLOCK = 1 << 20
_OTHERS = ("outcomes", "truth", "items")


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, and how many lines of each."""

    folder: Path
    files: tuple[Path, ...]
    events: int
    outcomes: int
    payments: int
    frauds: int
    """Payments that are fraud, abuse not counted."""


class _Lines:
    """One file of JSON lines."""

    def __init__(self, path: Path, compress: bool) -> None:
        self.path, self.count = path, 0
        self._raw = path.open("wb", _BLOCK)
        # no name and no time in the header: the same lines give the same bytes
        self._out = cast(BinaryIO, gzip.GzipFile("", "wb", 4, self._raw, mtime=0)) if compress else self._raw

    def add(self, document: dict[str, Any]) -> None:
        self._out.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
        self.count += 1

    def close(self) -> None:
        if self._out is not self._raw:
            self._out.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()


def write(
    simulation: Simulation, folder: Path, *, format: str = "jsonl", shards: int = 1, progress: Progress | None = None
) -> Written:
    """Run a simulation into `events`, `outcomes`, `truth` and `items` files in `folder`.

    `format` is jsonl or jsonl.gz. With `shards` above 1 the events are cut by time into `events-00`, `events-01` …
    All files appear at the end, or none when it fails. Raises SettingsError for another format or shards not in
    1..1000, OSError where the folder can't be written.
    """
    if format not in ("jsonl", "jsonl.gz"):
        raise SettingsError(f"simulator: format {format!r} is unknown: jsonl or jsonl.gz")
    if not 1 <= shards <= 1000:
        raise SettingsError(f"simulator: shards {shards} is not in 1..1000")
    folder.mkdir(parents=True, exist_ok=True)
    names = ["events"] if shards == 1 else [f"events-{n:03d}" for n in range(shards)]
    frauds = 0

    def hear(label: dict[str, Any]) -> None:
        nonlocal frauds
        frauds += label["is_fraud"]
        truth.add(label)

    heard = Simulation(simulation.config, simulation.seed, hear)
    with TemporaryDirectory(prefix=".partial-", dir=folder) as made:
        files = [_Lines(Path(made) / f"{name}.{format}", format.endswith(".gz")) for name in [*names, *_OTHERS]]
        with ExitStack() as stack:
            for file in files:
                stack.callback(file.close)
            *events, outcomes, truth, items = files
            for item in heard.items():
                items.add(item)
            for number, document in enumerate(heard.events()):
                if document["kind"] in OUTCOMES:
                    outcomes.add(document)
                else:
                    events[min(shards - 1, int(heard.progress * shards)) if shards > 1 else 0].add(document)
                if progress and number % _EVERY == 0:
                    progress(heard.progress, number)
        paths = tuple(file.path.replace(folder / file.path.name) for file in files)
    counts = sum(file.count for file in events), outcomes.count, truth.count, frauds
    if progress:
        progress(1.0, counts[0] + counts[1])
    return Written(folder, paths, *counts)
