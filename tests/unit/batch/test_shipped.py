"""The mappings that ship, on the first rows of the real data, against counts made another way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from engine.batch.load import Summary
from engine.intake import MAX_LINES
from tests.unit.batch.conftest import ROOT, Importer, MemorySink

ROWS = 20_000


def first_rows(shared: Path, name: str, folder: Path) -> Path:
    """A Parquet file of the first rows, with the types of the whole."""
    table = pq.read_table(shared / name)
    pq.write_table(table.slice(0, ROWS), folder / Path(name).name)
    return folder / Path(name).name


def shipped(run: Importer, path: Path, mapping: str) -> Summary:
    """Import a file under a mapping that ships."""
    return run(path, (ROOT / "mappings" / f"{mapping}.yaml").read_text())


def test_handbook(run: Importer, sink: MemorySink, shared: Path, tmp_path: Path) -> None:
    """Every transaction becomes a payment, every fraud an outcome known a week later, and no cent is lost."""
    path = first_rows(shared, "fraud/transactions.parquet", tmp_path)
    frame = pd.read_parquet(path)
    summary = shipped(run, path, "handbook")
    assert (summary.rows, summary.new, summary.bad_rows, summary.in_order) == (ROWS, ROWS, 0, True)
    assert summary.outcomes == frame.TX_FRAUD.sum() > 0
    cents = (frame.TX_AMOUNT * 100).round().astype(int).sum()
    assert sum(event.fields["txn.amount_minor"] for event in sink.events.values()) == cents
    last = frame.iloc[-1]
    event = sink.events[f"handbook-{last.TRANSACTION_ID}"]
    assert event.time_us == last.TX_DATETIME.value // 1000
    assert event.fields["card.token"] == f"card-{last.CUSTOMER_ID}"
    assert {o["known_us"] - o["time_us"] for o in sink.outcomes.values()} == {7 * 86_400_000_000}


def test_online_retail(run: Importer, sink: MemorySink, shared: Path, tmp_path: Path) -> None:
    """Invoices become payments, C… invoices returns; guests have no user; what is left out or tidied is counted."""
    path = first_rows(shared, "retail/online_retail.parquet", tmp_path)
    frame = pd.read_parquet(path)
    summary = shipped(run, path, "online_retail")
    assert summary.cleaned["repeated rows left out"] == frame.duplicated().sum() > 0
    assert (
        summary.cleaned["StockCode: tidied"]
        == (frame.StockCode.str.upper() != frame.StockCode)[~frame.duplicated()].sum()
    )
    frame = frame.drop_duplicates().assign(StockCode=frame.StockCode.str.upper())
    fees = frame.StockCode.str.fullmatch("POST|DOT|C2|BANK CHARGES|AMAZONFEE|CRUK|PADS|[DMSB]")
    cancelled = frame.InvoiceNo.str.startswith("C")
    goods = frame[~fees & ~(~cancelled & (frame.Quantity < 1)) & (frame.UnitPrice != 0)]
    assert summary.rows == ROWS
    assert sum(summary.skipped.values()) == len(frame) - len(goods)
    lines = goods.groupby("InvoiceNo").size()
    long = lines[lines > MAX_LINES]
    assert summary.bad_rows == long.sum()
    kept = goods[~goods.InvoiceNo.isin(long.index)]
    kinds = Counter(event.kind for event in sink.events.values())
    assert kinds["return"] == kept[kept.InvoiceNo.str.startswith("C")].InvoiceNo.nunique()
    assert kinds["payment"] + kinds["return"] == kept.InvoiceNo.nunique() == summary.new
    guests = kept.groupby("InvoiceNo").CustomerID.apply(lambda ids: ids.isna().all()).sum()
    assert sum("user.id" not in event.fields for event in sink.events.values()) == guests > 0
    money = (kept.Quantity * kept.UnitPrice).groupby(kept.InvoiceNo).sum().abs()
    assert sum(event.fields["txn.amount_minor"] for event in sink.events.values()) == round(money.sum() * 100)


def test_complete_journey(run: Importer, sink: MemorySink, shared: Path, tmp_path: Path) -> None:
    """The scattered lines of a basket become one payment with all its items."""
    path = first_rows(shared, "campaigns/transactions_sample.parquet", tmp_path)
    frame = pd.read_parquet(path)
    summary = shipped(run, path, "complete_journey")
    assert (summary.rows, summary.new, summary.bad_rows) == (ROWS, frame.basket_id.nunique(), 0)
    assert sum(len(event.fields["basket.items"]) for event in sink.events.values()) == ROWS
    cents = (frame.sales_value * 100).round().astype(int).sum()
    assert sum(event.fields["txn.amount_minor"] for event in sink.events.values()) == cents
    times = [sink.events[event_id].time_us for event_id in sink.order]
    assert times == sorted(times)


def test_beauty_sequences(run: Importer, sink: MemorySink, shared: Path, tmp_path: Path) -> None:
    """Each user's items arrive in the order of the line."""
    with (shared / "sequences/beauty.txt").open() as file:
        lines = [next(file) for _ in range(2_000)]
    path = tmp_path / "beauty.txt"
    path.write_text("".join(lines))
    summary = shipped(run, path, "beauty_sequences")
    assert summary.new == sum(len(line.split()) - 1 for line in lines)
    seventh = [e.fields["item.id"] for i in sink.order if (e := sink.events[i]).fields["user.id"] == "beauty-7"]
    assert seventh == [f"beauty-{item}" for item in lines[6].split()[1:]]
