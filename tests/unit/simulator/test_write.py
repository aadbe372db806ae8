"""Files of a simulation: complete or absent, repeatable, and with the truth in a file of its own."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest

from engine.errors import SettingsError
from engine.simulator import Simulation, SimulatorConfig, write

CONFIG = SimulatorConfig(days=3, shoppers=400, payments_per_day=50, fraud_share=0.1, tail_days=40)
NAMES = ["events.jsonl", "items.jsonl", "outcomes.jsonl", "truth.jsonl"]


def read(path: Path) -> list[dict]:
    """The documents of a file, compressed or not."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [orjson.loads(line) for line in data.splitlines()]


def test_four_files_hold_the_whole_run(tmp_path):
    """Events, outcomes, truth and items are written as the stream gave them, and counted."""
    seen: list[tuple[float, int]] = []
    written = write(Simulation(CONFIG, 9), tmp_path / "new", progress=lambda share, count: seen.append((share, count)))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == NAMES
    events, outcomes = read(written.folder / "events.jsonl"), read(written.folder / "outcomes.jsonl")
    merged = list(Simulation(CONFIG, 9).events())
    assert events == [d for d in merged if "known_at" not in d]
    assert outcomes == [d for d in merged if "known_at" in d]
    truth = read(written.folder / "truth.jsonl")
    assert (written.events, written.outcomes, written.payments) == (len(events), len(outcomes), len(truth))
    assert written.frauds == sum(t["is_fraud"] for t in truth) > 0
    assert [t["event_id"] for t in truth] == [e["id"] for e in events if e["kind"] == "payment"]
    assert len(read(written.folder / "items.jsonl")) == CONFIG.items
    assert [s for s, _ in seen] == sorted(s for s, _ in seen)
    assert seen[-1] == (1.0, len(merged))


def test_same_seed_same_files_also_compressed(tmp_path):
    """Two runs give the same bytes, gzip's header included; compressed and plain hold the same lines."""
    for name in ("a", "b"):
        write(Simulation(CONFIG, 9), tmp_path / name, format="jsonl.gz")
    write(Simulation(CONFIG, 9), tmp_path / "plain")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert gzip.decompress(path.read_bytes()) == (tmp_path / "plain" / path.stem).read_bytes()


def test_shards_follow_time(tmp_path):
    """Shards are consecutive stretches of time: one after the other they are the unsharded file."""
    write(Simulation(CONFIG, 9), tmp_path / "one")
    write(Simulation(CONFIG, 9), tmp_path / "four", shards=4)
    shards = sorted((tmp_path / "four").glob("events-*.jsonl"))
    assert len(shards) == 4
    assert b"".join(p.read_bytes() for p in shards) == (tmp_path / "one" / "events.jsonl").read_bytes()


def test_a_failure_leaves_what_was_there(tmp_path):
    """When writing stops half way, the files of before are untouched and nothing half-written stays."""
    write(Simulation(CONFIG, 9), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def stop(share: float, count: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(Simulation(CONFIG, 10), tmp_path, progress=stop)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("options", "words"), [({"format": "csv"}, "csv"), ({"shards": 0}, "shards 0")])
def test_unknown_options_are_refused(tmp_path, options, words):
    """A format or number of shards that can't be is refused before anything is written."""
    with pytest.raises(SettingsError, match=words):
        write(Simulation(CONFIG, 9), tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
