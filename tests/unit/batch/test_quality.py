"""The data report finds what is wrong in a file that nobody has described."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pandas as pd
import pytest

from engine.batch.declared import FileFormat
from engine.batch.mapping import parse_mapping
from engine.batch.numbers import masked
from engine.batch.read import open_source
from engine.batch.tally import Ranks, Repeats, Tally
from engine.errors import MappingError
from engine.quality.findings import Finding
from engine.quality.report import Report, as_json, as_page, examine
from tests.unit.batch.conftest import NOW_US, SHOP, shop_rows

ROWS = 6_000
CARD = "4111111111111111"


def look(path: Path, mapping: str = "", expect: str = "") -> Report:
    """The report of a file."""
    declared = parse_mapping(mapping.encode(), "m.yaml") if mapping else None
    expectations = path.with_suffix(".yaml") if expect else None
    if expectations:
        expectations.write_text(expect)
    with open_source(path, declared.format if declared else FileFormat(), path.parent) as source:
        return examine(source, declared, expectations, path.parent, NOW_US, lambda *_: None)


def found(report: Report) -> dict[tuple[str, str], Finding]:
    """(check, column) → its finding."""
    return {(each.check, each.column): each for each in report.findings}


def orders(seed: int = 11) -> pd.DataFrame:
    """A clean table of orders over 120 days."""
    rng = np.random.default_rng(seed)
    at = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 120 * 86_400, ROWS)), "s")
    return pd.DataFrame(
        {
            "order_id": [f"o-{n:06d}" for n in range(ROWS)],
            "at": at,
            "customer": [f"c{n}" for n in rng.integers(0, 900, ROWS)],
            "sku": [f"{n:05d}" for n in rng.integers(100, 700, ROWS)],
            "city": rng.choice(["Berlin", "Paris", "Rome", "Oslo"], ROWS),
            "pieces": rng.integers(1, 40, ROWS),
            "price": np.round(np.exp(rng.normal(2.5, 0.7, ROWS)), 2) + 0.5,
        }
    )


Corruption = Callable[[pd.DataFrame, np.ndarray], pd.DataFrame]


def put(column: str, value: object) -> Corruption:
    """Some rows get a value, or what a function makes of theirs."""

    def corrupted(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
        held = frame[column].astype(object) if isinstance(value, str) or value is None else frame[column].copy()
        held.iloc[rows] = value(held.iloc[rows]) if callable(value) else value
        return frame.assign(**{column: held})

    return corrupted


def repeat_rows(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Some rows stand twice."""
    return pd.concat([frame, frame.iloc[rows]], ignore_index=True)


def undo(frame: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Two huge orders, each taken back ten minutes later."""
    huge = frame.iloc[rows[:2]].assign(pieces=[71_000, 83_000], order_id=["x-1", "x-2"])
    back = huge.assign(pieces=-huge.pieces, at=huge["at"] + pd.Timedelta("10min"), order_id=["x-3", "x-4"])
    return pd.concat([frame, huge, back], ignore_index=True)


CORRUPTIONS: dict[tuple[str, str], tuple[Corruption, int | None]] = {
    ("repeated_rows", ""): (repeat_rows, 20),
    ("repeated_keys", "order_id"): (put("order_id", "o-000001"), None),
    ("missing", "customer"): (put("customer", None), 20),
    ("words_for_missing", "city"): (put("city", "n/a"), 20),
    ("negative", "pieces"): (put("pieces", lambda held: -held), 20),
    ("zero", "price"): (put("price", 0.0), 20),
    ("far", "price"): (put("price", lambda held: held * 10_000), 20),
    ("odd_codes", "sku"): (put("sku", "POST"), 20),
    ("spellings", "city"): (put("city", lambda held: held.str.upper()), 20),
    ("stray_spaces", "city"): (put("city", lambda held: held + " "), 20),
    ("future", "at"): (put("at", pd.Timestamp("2099-01-01")), 20),
    ("too_old", "at"): (put("at", pd.Timestamp("1970-01-01")), 20),
    ("broken_text", "city"): (put("city", "ZÃ¼rich"), 20),
    ("card_numbers", "customer"): (put("customer", CARD), 20),
    ("addresses", "customer"): (put("customer", "kim@example.org"), 20),
    ("unlike_the_rest", "price"): (put("price", "twelve"), 20),
    ("undone_at_once", "pieces"): (undo, 4),
    ("gaps", "at"): (lambda frame, _: frame[~frame["at"].between("2026-02-01", "2026-02-15")], 14),
}


def written(frame: pd.DataFrame, path: Path) -> Path:
    """The table as a file of the format that its name tells."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif ".jsonl" in path.suffixes:
        frame.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.parquet"])
def test_a_clean_table_has_nothing_wrong(tmp_path: Path, name: str) -> None:
    """Whatever the format, there is nothing to say about a clean table."""
    report = look(written(orders(), tmp_path / name))
    assert report.findings == ()
    assert {column.name: column.kind for column in report.profile.columns} == {
        "order_id": "text", "at": "time", "customer": "text", "sku": "text", "city": "text", "pieces": "number",
        "price": "number",
    }  # fmt: skip


@pytest.mark.parametrize(("check", "column"), CORRUPTIONS)
def test_a_corruption_is_named_with_its_count(tmp_path: Path, check: str, column: str) -> None:
    """Each way to spoil twenty rows of the clean table is found under its name, and the rows are counted."""
    corrupt, count = CORRUPTIONS[check, column]
    rows = np.sort(np.random.default_rng(5).choice(ROWS, 20, replace=False))
    report = look(written(corrupt(orders(), rows), tmp_path / "t.csv"))
    finding = found(report)[check, column]
    expected = 19 + (1 not in rows) if count is None else count
    assert finding.count == expected
    if (
        finding.examples
        and finding.examples[0][0]
        and check not in ("repeated_rows", "undone_at_once", "repeated_keys")
    ):
        assert finding.examples[0][0] - 1 in rows
    assert CARD not in as_page(report) + orjson.dumps(as_json(report)).decode()
    assert "kim@" not in as_page(report) + orjson.dumps(as_json(report)).decode()


def test_all_corruptions_at_once_are_still_named(tmp_path: Path) -> None:
    """The table with every corruption, each in rows of its own, has a finding for each."""
    frame, deck = orders(), np.random.default_rng(6).permutation(ROWS)
    for number, (corrupt, _) in enumerate(CORRUPTIONS.values()):
        rows = deck[number * 20 : number * 20 + 20]
        frame = corrupt(frame, rows[rows < len(frame)])
    assert CORRUPTIONS.keys() <= found(look(written(frame, tmp_path / "t.csv"))).keys()


# --- real data --------------------------------------------------------------------------------------------------------


def test_online_retail(shared: Path) -> None:
    """Without a word about the file, all that is known to be dirty in it is found, with pandas' own counts."""
    path = shared / "retail/online_retail.parquet"
    frame, report = pd.read_parquet(path), look(path)
    checks = found(report)
    assert checks["repeated_rows", ""].count == frame.duplicated().sum()
    assert checks["negative", "Quantity"].count == (frame.Quantity < 0).sum()
    assert checks["zero", "UnitPrice"].count == (frame.UnitPrice == 0).sum()
    assert checks["missing", "CustomerID"].count == frame.CustomerID.isna().sum()
    assert checks["missing", "Description"].count == frame.Description.isna().sum()
    odd = checks["odd_codes", "StockCode"]
    assert odd.count == (~frame.StockCode.str.fullmatch(r"\d+[A-Za-z]*")).sum()
    assert {shown.split(" × ")[0] for _, shown in odd.examples} == {"POST", "DOT", "M", "C2", "D"}
    undone = [row for row, _ in checks["undone_at_once", "Quantity"].examples]
    assert {frame.Quantity[row - 1] for row in undone} >= {74_215, 80_995}
    assert not [
        shown for each in report.findings if each.column == "CustomerID" for _, shown in each.examples if len(shown) > 8
    ]


@pytest.mark.parametrize("name", ["transactions_sample", "products", "demographics", "campaigns", "coupon_redemptions"])
def test_clean_public_tables_have_no_errors(shared: Path, name: str) -> None:
    """Tables that are in use as they are have no finding that fails a gate."""
    assert look(shared / f"campaigns/{name}.parquet").at_least("error") == []


def test_seeded_corruption_of_a_public_table(shared: Path, tmp_path: Path) -> None:
    """Ten ways of spoiling The Complete Journey's lines are each found."""
    frame = pd.read_parquet(shared / "campaigns/transactions_sample.parquet").iloc[:20_000]
    frame = frame.assign(shop=frame.store_id.map(lambda n: f"S{n:05d}"), line_id=np.arange(len(frame)))
    deck = iter(np.random.default_rng(9).permutation(len(frame)).reshape(-1, 40))
    for corrupt in (
        put("quantity", lambda held: -held - 1), put("sales_value", lambda held: held + 50_000), put("shop", "FEE"),
        put("household_id", None), put("shop", "unknown"), put("transaction_timestamp", "2098-01-01 00:00:00"),
        put("transaction_timestamp", "once"), put("line_id", 7), put("shop", CARD), repeat_rows,
    ):  # fmt: skip
        frame = corrupt(frame, next(deck))
    assert found(look(written(frame, tmp_path / "t.csv"))).keys() >= {
        ("negative", "quantity"), ("far", "sales_value"), ("odd_codes", "shop"), ("missing", "household_id"),
        ("words_for_missing", "shop"), ("future", "transaction_timestamp"),
        ("unlike_the_rest", "transaction_timestamp"), ("repeated_keys", "line_id"), ("card_numbers", "shop"),
        ("repeated_rows", ""),
    }  # fmt: skip


# --- expectations -----------------------------------------------------------------------------------------------------

EXPECT = """
columns:
  order_id:
    - {unique: true}
    - {regex: 'o-[0-9]{6}'}
    - {unique: {with: [sku]}, severity: info}
  city:
    - {in_set: [Berlin, Paris, Rome]}
    - {not_null: true}
  pieces:
    - {range: {from: 2, to: 30}, severity: warning}
    - {range: {from: 1}}
  price:
    - {range: {to: 1}, allow: 100%}
  at:
    - {monotone: true}
    - {fresh: 1d}
  customer:
    - {refers_to: {file: customers.csv, column: id}, allow: 1%}
"""


def test_expectations_count_what_disappoints(tmp_path: Path) -> None:
    """Each declared check counts the rows that fail it, at its severity, unless no more than allowed do."""
    frame = orders()
    (tmp_path / "customers.csv").write_text("id\n" + "\n".join(f"c{n}" for n in range(450)) + "\n")
    checks = found(look(written(frame, tmp_path / "t.csv"), expect=EXPECT))
    counts = {key: each.count for key, each in checks.items()}
    assert counts == {
        ("expected_in_set", "city"): (frame.city == "Oslo").sum(),
        ("expected_range", "pieces"): ((frame.pieces < 2) | (frame.pieces > 30)).sum(),
        ("expected_fresh", "at"): 1,
        ("expected_refers_to", "customer"): (frame.customer.str[1:].astype(int) >= 450).sum(),
    }
    assert checks["expected_range", "pieces"].severity == "warning"


def test_expectations_of_order_and_uniqueness(tmp_path: Path) -> None:
    """What goes back in time and what comes twice is found with its rows, a missing value only by not_null."""
    (tmp_path / "t.csv").write_text("a,b,at\n1,x,2026-01-01\n1,y,2026-01-03\n2,,2026-01-02\n1,x,2026-01-02\n")
    expect = "columns:\n  a: [{unique: true}, {unique: {with: [b]}}, {fresh: 1d}]\n"
    expect += "  b: [{not_null: true}, {in_set: [x, y]}]\n"
    report = look(tmp_path / "t.csv", expect=expect + "  at: [{monotone: true}]\n")
    expected = [(f.check, f.count, f.examples) for f in report.findings if f.check.startswith("expected")]
    assert sorted(expected) == [
        ("expected_fresh", 1, ((0, "no time"),)),
        ("expected_monotone", 1, ((3, "2026-01-02 00:00"),)), ("expected_not_null", 1, ((3, "no value"),)),
        ("expected_unique", 1, ((4, "as row 1"),)), ("expected_unique", 2, ((2, "as row 1"), (4, "as row 1"))),
    ]  # fmt: skip


def test_mistakes_in_expectations_are_all_shown_at_their_place(tmp_path: Path) -> None:
    """An unknown column, key, word and file, and a bad expression, each with file, line and column."""
    (tmp_path / "t.csv").write_text("city,price\nRome,1\n")
    wrong = (
        "columns:\n  citi: [{not_null: true}]\n  city:\n    - {regex: '('}\n    - {in_list: [a]}\n"
        "    - {not_null: false}\n"
        "    - {refers_to: {file: none.csv, column: id}}\n  price: [{range: {}, severity: bad}]\n"
    )
    with pytest.raises(MappingError) as caught:
        look(tmp_path / "t.csv", expect=wrong)
    for place in (":2:3:", ":4:15:", ":5:8:", ":6:18:", ":7:26:", ":8:19:", ":8:33:"):
        assert f"t.yaml{place} error" in str(caught.value)
    assert "did you mean `city`?" in str(caught.value)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_mapping_adds_what_an_import_would_refuse(tmp_path: Path) -> None:
    """The reasons of the quarantine, counted, and no value of a row."""
    (tmp_path / "shop.csv").write_text(shop_rows(range(9)) + "o77,yesterday,u1,5\no78,2026-01-02,u1,x\n")
    refused = [f for f in look(tmp_path / "shop.csv", SHOP).findings if f.check == "refused"]
    assert sorted((f.count, f.message.partition(": ")[2].partition(":")[0], f.examples) for f in refused) == [
        (1, "time", ((10, "line 11"),)), (1, "txn.amount_minor", ((11, "line 12"),)),
    ]  # fmt: skip


def test_unreadable_rows_are_counted(tmp_path: Path) -> None:
    """Rows that have too few columns are an error with their reason."""
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4,5\n")
    assert found(look(tmp_path / "t.csv"))["unreadable_rows", ""].examples == (
        (2, "has 1 columns where the header has 2"),
    )


@pytest.mark.parametrize(("name", "text"), [("t.csv", "a,b\n"), ("t.jsonl", "")])
def test_a_file_without_rows_fails_the_gate(tmp_path: Path, name: str, text: str) -> None:
    """Nothing is not clean: a header alone, or no line at all, is an error."""
    (tmp_path / name).write_text(text)
    report = look(tmp_path / name)
    assert [each.check for each in report.at_least("error")] == ["no_rows"]
    assert "the file holds no rows" in as_page(report)


def test_json_lines_are_looked_into(tmp_path: Path) -> None:
    """Values inside objects have dotted names; lists are left alone."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(gzip.compress(b'{"a":{"b":1,"c":null},"d":[1]}\n{"a":{"b":2}}\n'))
    report = look(path)
    assert [(c.name, c.rows, c.missing) for c in report.profile.columns] == [("a.b", 2, 0), ("a.c", 2, 2)]


def test_examples_are_masked() -> None:
    """No card number, address or long number is shown, and of people only a beginning."""
    assert masked(f"paid with {CARD}") == masked(int(CARD)) == "[card number]"
    assert masked("kim@example.org") == "[address]"
    assert masked("Kim Lee", True) == "Ki…"
    assert masked("+49 30 123456") == "+4…"
    assert masked(-74215.0) == "-74215"


def test_a_tally_thins_out_in_any_order_to_the_same() -> None:
    """Beyond its room a tally keeps a share of the values, the same in each order, and their counts stay exact."""
    values = [f"v{n}" for n in range(20_000)] * 2
    one, other = Tally(1_000), Tally(1_000)
    for tally, order in ((one, values), (other, values[::-1])):
        for at in range(0, len(order), 777):
            tally.add(order[at : at + 777], range(at, at + len(order[at : at + 777])))
    assert one.counts.keys() == other.counts.keys()
    assert {count for count, _ in one.counts.values()} == {2}
    assert 0.8 < len(one.counts) * one.scale / 20_000 < 1.2


def test_repeats_and_ranks_on_disk_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any memory, repetitions and ranks are those that sorting in memory finds."""
    monkeypatch.setattr("engine.batch.tally._RUN_BYTES", 2_000)
    rng = np.random.default_rng(3)
    values, groups = rng.integers(-400, 400, 3_000).tolist(), rng.choice(["a", "b", ""], 3_000).tolist()
    repeats, ranks = Repeats(tmp_path, "r"), Ranks(tmp_path, "k")
    for at in range(0, 3_000, 100):
        repeats.add(range(at, at + 100), [(value,) for value in values[at : at + 100]])
    for group, value in zip(groups, values, strict=True):
        ranks.add(group, value / 8)
    assert sorted(repeats) == [(at, values.index(v)) for at, v in enumerate(values) if values.index(v) != at]
    frame = pd.DataFrame({"group": groups, "value": np.array(values) / 8})
    for group, held in frame.groupby("group"):
        expected = held.value.quantile([0, 0.25, 0.5, 1], interpolation="lower")
        assert ranks.at(0, 0.5, 1)[group][0] == expected[0]
        assert ranks.at(0.5)[group][0] == np.quantile(held.value, 0.5, method="inverted_cdf")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    """Nothing is loaded from elsewhere, what comes from the file is escaped, and each column has a picture."""
    frame = orders().assign(city="<script>alert(1)</script>")
    page = as_page(look(written(frame, tmp_path / "t.csv")))
    assert "<script" not in page
    assert "http" not in page
    assert page.count('aria-label="share of rows with a value"') == 7
