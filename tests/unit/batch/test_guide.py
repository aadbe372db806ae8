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
    mapping = parse_mapping(blocks("yaml")[1].encode(), "guide.yaml")
    assert set(bind(mapping, None).columns) == {"case", "filed", "order", "reason", "received", "amount", "currency"}
