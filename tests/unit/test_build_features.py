"""Features of a file into a file: by parts as in one piece, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.batch.frames import features_of
from engine.batch.mapping import load_mapping
from engine.features.frame import Frame
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.rescore import build, parts

ROOT = Path(__file__).parents[2]
MAPPING = ROOT / "mappings" / "handbook.yaml"
ROWS = 6_000
FIELDS = ("card.token", "txn.amount_base")


@pytest.fixture(scope="module")
def program():
    """The Handbook's features."""
    return load_program(
        ROOT / "examples/handbook/rules", ROOT / "models", Identity(bytes(32)), lambda: 0, with_models=False
    )


@pytest.fixture
def payments(tmp_path):
    """Six thousand transactions of a month, ties among them, a tenth fraud."""
    rnd = np.random.default_rng(7)
    seconds = np.sort(rnd.integers(0, 30 * 86_400, ROWS)) // 60 * 60 + 1_522_540_800
    table = pa.table({
        "TRANSACTION_ID": np.arange(ROWS), "TX_DATETIME": pa.array(seconds * 1_000_000, pa.timestamp("us")),
        "CUSTOMER_ID": rnd.integers(0, 150, ROWS).astype(str), "TERMINAL_ID": rnd.integers(0, 90, ROWS).astype(str),
        "TX_AMOUNT": rnd.integers(1, 90_000, ROWS) / 100, "TX_FRAUD": (rnd.random(ROWS) < 0.1).astype(np.int64),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "payments.parquet")
    return tmp_path / "payments.parquet"


def built(program, payments, out):
    """The table that a build writes."""
    given = {"quarantine": out.with_suffix(".bad"), "now_us": 2**60, "fields": FIELDS}
    found = build.build_features(program, payments, load_mapping(MAPPING), out, **given)
    table = pq.read_table(out)
    assert (found.rows, found.bad_rows) == (len(table), 0)
    return table


def test_parts_on_disk_give_what_one_piece_gives(program, payments, tmp_path, monkeypatch):
    """Shards, slices and parts in place of one table: every column is the same, in type, order and bits."""
    whole, _ = features_of(
        program, payments, load_mapping(MAPPING), workdir=tmp_path, quarantine=tmp_path / "bad", now_us=2**60,
        fields=FIELDS,
    )  # fmt: skip
    monkeypatch.setattr(build, "LARGE_ROWS", 1_000)
    monkeypatch.setattr(build, "SHARD_ROWS", 900)
    monkeypatch.setattr(build, "PART_ROWS", 2_000)
    monkeypatch.setattr(parts, "SLICE_ROWS", 2_500)
    monkeypatch.setattr(build, "features_of", None)
    seen = []
    init = Frame.__init__
    monkeypatch.setattr(Frame, "__init__", lambda self, *a, **k: (init(self, *a, **k), seen.append(len(self)))[0])
    table = built(program, payments, tmp_path / "out.parquet")
    assert max(seen) < ROWS  # no step held all rows
    assert table.schema.equals(whole.schema)
    assert table.equals(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"payments.parquet", "out.parquet"}


def test_a_build_that_fails_leaves_what_was_there(program, payments, tmp_path, monkeypatch):
    """A disk that fills up while the file is written: the one of before stays, and nothing beside it."""
    out = tmp_path / "out.parquet"
    out.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        built(program, payments, out)
    assert out.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"payments.parquet", "out.parquet"}
