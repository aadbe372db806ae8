"""The guide's examples do what the guide says."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from engine.batch.bind import bind
from engine.batch.mapping import parse_mapping
from tests.unit.batch.conftest import ROOT, Importer, MemorySink

BLOCKS = re.findall(r"```(csv|yaml|json)\n(.*?)```", (ROOT / "docs/import.md").read_text(), re.DOTALL)


def blocks(kind: str) -> list[str]:
    """The guide's code blocks of one kind, in order."""
    return [text for found, text in BLOCKS if found == kind]


def test_example_gives_the_events_and_the_quarantine_that_are_shown(
    run: Importer, sink: MemorySink, tmp_path: Path
) -> None:
    """The example's file under the example's mapping gives two events, one skipped row and the shown entries."""
    summary = run(blocks("csv")[0], blocks("yaml")[0], "orders.csv")
    assert sink.order == ["shop-1001", "shop-1002"]
    assert [event.fields["txn.amount_minor"] for event in sink.events.values()] == [4990, 120000]
    assert "user.id" not in sink.events["shop-1002"].fields
    assert [outcome["event_id"] for outcome in sink.outcomes.values()] == ["shop-1002"]
    assert summary.skipped == {"test orders": 1}
    shown = [orjson.loads(line) for line in blocks("json")[0].splitlines()]
    found = [orjson.loads(line) for line in (tmp_path / "q.jsonl").read_bytes().splitlines()]
    assert [{**entry, "source": "orders.csv"} for entry in found] == shown


def test_outcome_feed_of_the_guide_is_valid() -> None:
    """The guide's outcome mapping loads and binds to the columns that it names."""
    mapping = parse_mapping(blocks("yaml")[-1].encode(), "guide.yaml")
    assert set(bind(mapping, None).columns) == {"case", "filed", "order", "reason", "received", "amount", "currency"}


def test_cleaning_of_the_guide_works(run: Importer, sink: MemorySink) -> None:
    """The guide's cleaning mapping does what its table of keys says."""
    data = (
        "order,line,item,customer,city,weight,unit,price,pieces,currency,placed,shop\n"
        "1,1,a,kim, muenchen,500,g,2.50,1,€,2026-01-01 10:00,B\n1,1,a,kim, muenchen,500,g,2.50,1,€,2026-01-01 10:00,B\n"
        "1,2,a,kim,Rome,NA,kg,-,2,$,2026-01-01 10:00,T\n"
    )
    summary = run(data, blocks("yaml")[1])
    assert [event.fields["attributes"] for event in sink.events.values()] == [
        {"city": "ROME", "weight": "0.5", "missing.weight": "true", "missing.price": "true"},
        {"city": "MÜNCHEN", "weight": "0.500"},
    ]
    assert [event.time_us // 3_600_000_000 % 24 for event in sink.events.values()] == [1, 9]
    assert [event.fields["txn.currency"] for event in sink.events.values()] == ["USD", "EUR"]
    assert summary.cleaned["repeated rows left out"] == 1


def test_references_and_sources_of_the_guide_are_valid(tmp_path: Path) -> None:
    """The other mappings of the guide load, beside the tables that they name."""
    for name in ("bins", "networks", "holidays"):
        (tmp_path / f"{name}.csv").write_text("")
    mapping = parse_mapping(blocks("yaml")[2].encode(), str(tmp_path / "guide.yaml"))
    assert set(mapping.added()) == {"bins.issuer_country", "days.name", "nets.owner"}
    assert parse_mapping(blocks("yaml")[3].encode(), "guide.yaml").clean
