"""A file read in columns has the features that it has row by row, and what columns can't do is left to rows."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.batch import frames
from engine.batch.frames import features_of, read_frame
from engine.batch.mapping import load_mapping
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.program import Program
from tests.conftest import NOW_US
from tests.memory import program_of

LATER_US = 2**62
MAPPING = """
mapping: shop
id: "{ORDER}"
kind: {column: WHAT, values: {pay: payment, open: account_created, in: login}}
time: {column: AT, zone: Europe/Berlin}
fields:
  user.id: "{WHO}"
  email.address: {column: MAIL}
  card.token: "card-{CARD}"
  ip.address: {column: IP}
  payment.id: "{NUMBER}"
  event.market: {column: WHERE, values: {D: DE, F: FR}, unmapped: drop}
  user.language: en
amount: {column: SUM, unit: major, currency: {column: CURRENCY}}
outcomes:
  - {when: {BAD: 1}, kind: confirmed_fraud, delay: 2h}
"""
FEATURES = """
keep: {user: 20, email: 5}
features:
  user.count: {measure: count, on: payment, window: 30d, unit: events, meaning: x}
  user.large:
    {measure: count, on: payment, where: txn.amount_base > 20.0 && event.local_hour > 11, window: 9d,
     unit: events, meaning: x}
  user.mean:
    {measure: mean, of: txn.amount_base, on: payment, window: 30d, include_current: true, unit: money, meaning: x}
  user.cards: {measure: distinct, of: card.token, window: 30d, unit: events, meaning: x}
  user.networks: {measure: repeats, of: ip.network, window: 30d, unit: events, meaning: x}
  user.fraud: {measure: rate, outcome: fraud, window: 30d, unit: share, meaning: x}
  user.age: {measure: age, of: user.account_created, unit: days, meaning: x}
  user.said: {measure: told, of: event.market, unit: text, meaning: x}
  email.count: {measure: count, window: 30d, unit: events, meaning: x}
  email.rhythm: {measure: gap_stddev, window: 30d, unit: seconds, meaning: x}
  user.dear: {derive: "txn.amount_base / (user.mean + 1.0)", unit: ratio, meaning: x}
  user.is_login: {derive: event.kind == "login", unit: yes-no, meaning: x}
  user.late: {derive: event.local_hour > 21 || event.weekday > 4, unit: yes-no, meaning: x}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Windows over people and mail addresses, money in two currencies, hours in two zones."""
    rules = tmp_path_factory.mktemp("policy") / "rules"
    program_of(rules, FEATURES)
    (rules / "tables" / "fx.csv").write_text(
        "currency,valid_from,rate\nUSD,2026-11-02T07:30:00Z,0.9\nUSD,2026-11-04,0.91\n"
    )
    return load_program(rules, rules, Identity(bytes(32)), lambda: NOW_US, with_models=False)


def columns(rows: int, seed: int) -> dict[str, list[Any]]:
    """Rows in no order, many values missing."""
    draw = random.Random(seed)
    start = 1_793_577_600
    return {
        "ORDER": [f"o{number}" for number in range(rows)],
        "WHAT": [draw.choice(["pay", "pay", "pay", "open", "in"]) for _ in range(rows)],
        "AT": [(start + draw.randrange(600) * 600) * 1_000_000 for _ in range(rows)],
        "WHO": [draw.choice([1, 2, 3, 10**13, None]) for _ in range(rows)],
        "MAIL": [draw.choice(["a@example.org", "A+x@example.org", " b@example.org", "", None]) for _ in range(rows)],
        "CARD": [draw.choice([1.0, 2.0, 2.5, None]) for _ in range(rows)],
        "IP": [draw.choice(["203.0.113.7", "203.0.113.9", "2001:DB8::1", None]) for _ in range(rows)],
        "NUMBER": [draw.randrange(rows // 2) for _ in range(rows)],
        "WHERE": [draw.choice(["D", "F", "X", None]) for _ in range(rows)],
        "SUM": [draw.choice([9.99, 20.0, 20.01, 278.15000000000003, None]) for _ in range(rows)],
        "CURRENCY": [draw.choice(["EUR", "EUR", "USD"]) for _ in range(rows)],
        "BAD": [draw.choice([0, 0, 1, None]) for _ in range(rows)],
    }


def written(folder: Path, found: dict[str, list[Any]]) -> tuple[Path, Any]:
    """The file and its mapping."""
    (folder / "shop.yaml").write_text(MAPPING)
    table = pa.table(found).set_column(2, "AT", pa.array(found["AT"], pa.timestamp("us")))
    pq.write_table(table, folder / "shop.parquet")
    return folder / "shop.parquet", load_mapping(folder / "shop.yaml")


def built(program: Program, path: Path, mapping: Any, folder: Path) -> tuple[pa.Table, Any]:
    """The features of a file."""
    return features_of(
        program, path, mapping, workdir=folder, quarantine=folder / "bad.jsonl", now_us=LATER_US,
        fields=("txn.amount_base", "event.stage", "email.domain"), max_bad=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_columns_give_what_rows_give(seed, program, tmp_path, monkeypatch):
    """Templates, tables of values, zones, rates by date, missing values, rows in no order: the same table."""
    path, mapping = written(tmp_path, columns(1_500, seed))
    fast, summary = built(program, path, mapping, tmp_path)
    assert summary is None
    monkeypatch.setattr(frames, "read_frame", lambda *_: None)
    slow, summary = built(program, path, mapping, tmp_path)
    assert (summary.rows, summary.bad_rows) == (1_500, 0)
    assert fast.schema == slow.schema
    for name in fast.column_names:
        assert fast.column(name).to_pylist() == slow.column(name).to_pylist(), name
        assert fast.column(name).null_count < len(fast), name


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("CURRENCY", "EUX", "txn.currency"), ("MAIL", "nobody", "email.address"), ("ORDER", "o1", "id"),
        ("WHAT", "dance", "kind"), ("SUM", -1.0, "txn.amount_minor"), ("ORDER", "4111111111111111", "id"),
        ("AT", 1, "time"), ("WHO", 4111111111111111, "user.id"),
    ],
)  # fmt: skip
def test_a_bad_row_is_found_as_an_import_finds_it(column, value, said, program, tmp_path):
    """One row that is no event: it is named and left out, the others have their features."""
    found = columns(200, 1)
    found[column][7] = value
    path, mapping = written(tmp_path, found)
    assert read_frame(program, path, mapping, tmp_path, LATER_US) is None
    table, summary = built(program, path, mapping, tmp_path)
    repeated = (column, value) == ("ORDER", "o1")  # an id that comes again is no bad row: it counts once
    assert summary.bad_rows == (0 if repeated else 1)
    assert repeated or any(reason.startswith(said) for reason in summary.reasons)
    assert len(table) == sum(kind == "pay" for kind in found["WHAT"]) - (found["WHAT"][7] == "pay")
