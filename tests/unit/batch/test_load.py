"""A whole import: order, quarantine, interruption, repetition and memory."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.batch import quarantine, read, stage
from engine.batch.load import Progress
from engine.errors import MappingError
from tests.unit.batch.conftest import HEADER, SHOP, Importer, MemorySink, Stopped, shop_rows

GROUPED = SHOP.replace('"{user}"', '"{user}"\n  basket.items: "{item}"\n  basket.quantities: {column: n}').replace(
    "amount: {column: amount,", "group: {by: order, rows: ROWS}\namount: {column: amount, times: n,"
)
LINES = (
    "order,at,user,item,n,amount\n"
    "a,2026-01-01 10:00:00,u1,x,2,1.005\n"
    "a,2026-01-01 10:00:09,u1,y,1,0.005\n"
    "b,2026-01-01 09:00:00,,z,3,2\n"
)


def as_mapped(event: Any) -> dict[str, Any]:
    """The fields that the mapping set; the stage is the intake's own default."""
    return {name: value for name, value in event.fields.items() if name != "event.stage"}


def quarantined(folder: Path) -> list[dict[str, Any]]:
    """The entries of the quarantine file."""
    path = folder / "q.jsonl"
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def as_records(csv_text: str) -> list[dict[str, str]]:
    """The rows of a CSV text as dictionaries."""
    header, *lines = csv_text.splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def in_format(name: str, csv_text: str) -> bytes:
    """The same rows in another format, told by the name's endings."""
    if name.endswith(".gz"):
        return gzip.compress(in_format(name.removesuffix(".gz"), csv_text))
    if name.endswith(".jsonl"):
        return b"\n".join(orjson.dumps(record) for record in as_records(csv_text))
    if name.endswith(".parquet"):
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(as_records(csv_text)), out)
        return out.getvalue()
    return csv_text.encode()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz", "a.parquet.gz"])
def test_every_format_gives_the_same_events(run: Importer, sink: MemorySink, name: str) -> None:
    """The same rows in any format, compressed or not, are the same events to the byte."""
    csv_text = shop_rows(range(50))
    other = MemorySink()
    run(csv_text, name="plain.csv", sink=other)
    mapping = SHOP.replace("source: {format: csv}\n", "")
    summary = run(in_format(name, csv_text), mapping, name)
    assert summary.new == 50
    assert {i: e.digest for i, e in sink.events.items()} == {i: e.digest for i, e in other.events.items()}


def test_standard_input_is_imported(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """Standard input gives the events of the file, and leaves no temporary file."""
    summary = run("", stdin=io.BytesIO(shop_rows([3, 1, 2]).encode()))
    assert (summary.source, summary.new, sink.order) == ("standard input", 3, ["o1", "o2", "o3"])
    assert [path.name for path in tmp_path.iterdir()] == ["shop.csv"]


def test_event_carries_what_the_row_says(run: Importer, sink: MemorySink) -> None:
    """A row's columns arrive as typed fields: money in minor units, time in µs."""
    run(shop_rows([3661]))
    event = sink.events["o3661"]
    assert (event.kind, event.time_us) == ("payment", 1_767_229_261_000_000)
    assert as_mapped(event) == {"user.id": "u0", "txn.amount_minor": 366125, "txn.currency": "EUR"}


def test_unsorted_file_arrives_in_order(run: Importer, sink: MemorySink, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unordered file is sorted on disk by time, then row."""
    monkeypatch.setattr(stage.ExternalSort.__init__, "__defaults__", (4_000, "run"))
    numbers = list(range(400))
    random.Random(5).shuffle(numbers)
    text = shop_rows(numbers) + "twin,2026-01-01 00:00:05,u,1\n"
    summary = run(text)
    assert sink.order == [*[f"o{n}" for n in range(6)], "twin", *[f"o{n}" for n in range(6, 400)]]
    assert not summary.in_order
    assert summary.runs > 10


def test_file_in_order_is_not_sorted(run: Importer, sink: MemorySink) -> None:
    """A file whose times never go back is written as it is read."""
    summary = run(shop_rows(range(100)))
    assert (summary.in_order, summary.runs, sink.order) == (True, 0, [f"o{n}" for n in range(100)])


# --- bad rows -------------------------------------------------------------------------------------------------------


def test_bad_rows_are_put_away_with_line_field_and_reason(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """Each bad row names its line, every wrong field and why; the rest is imported; reasons are counted."""
    text = shop_rows([0]) + 'o 1,yesterday,u,x\no2,2026-01-01 10:00:00,u,"1,50"\no3\no4,2026-01-01 11:00:00,,2\n'
    summary = run(text)
    assert quarantined(tmp_path) == [
        {"source": str(tmp_path / "shop.csv"), "line": 5, "row": 4,
         "problems": [{"field": "row", "reason": "has 1 columns where the header has 4"}]},
        {"source": str(tmp_path / "shop.csv"), "line": 3, "row": 2,
         "problems": [{"field": "time", "reason": "is not an ISO 8601 time such as 2026-11-24 10:00:00"},
                      {"field": "txn.amount_minor", "reason": "is not a number"}]},
        {"source": str(tmp_path / "shop.csv"), "line": 4, "row": 3,
         "problems": [{"field": "txn.amount_minor", "reason": "is not a number"}]},
    ]  # fmt: skip
    assert (summary.rows, summary.new, summary.bad_rows) == (5, 2, 3)
    assert summary.reasons["txn.amount_minor: is not a number"] == 2
    assert "user.id" not in sink.events["o4"].fields


def test_card_number_is_refused_and_written_nowhere(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """A row with a card number reaches neither the sink nor, with its value, the quarantine."""
    run(shop_rows([0]) + "o1,2026-01-01 10:00:00,4111111111111111,1\n")
    assert list(sink.events) == ["o0"]
    assert "card number" in quarantined(tmp_path)[0]["problems"][0]["reason"]
    assert b"4111" not in (tmp_path / "q.jsonl").read_bytes()


def test_value_without_entry_is_named_unless_it_may_be_personal(run: Importer, tmp_path: Path) -> None:
    """A short harmless value that the mapping lacks is shown, so that it can be added; digits and addresses are not."""
    mapping = SHOP.replace('"{user}"', "{column: user, values: {u0: zero}}")
    users = ["Moon", "a@b.de", "4111-1111-1111-1111"]
    rows = "".join(f"o{n},2026-01-01 10:00:00,{user},1\n" for n, user in enumerate(users))
    run(shop_rows([]) + rows, mapping)
    reasons = [entry["problems"][0]["reason"] for entry in quarantined(tmp_path)]
    said = "column `user` has no entry in the mapping"
    assert reasons == [f"{said} (`Moon`)", said, said]


def test_too_many_bad_rows_stop_before_anything_is_written(run: Importer, sink: MemorySink) -> None:
    """Above the allowed share the import ends with the commonest reasons, and a small file leaves nothing behind."""
    text = shop_rows([0, 1, 2]) + "o3,never,u,1\n"
    with pytest.raises(MappingError, match=r"1 of 4 rows are bad \(25\.0%\), more than the allowed 20\.0%: 1 × time"):
        run(text, max_bad=0.2)
    assert sink.events == {}
    assert sink.finished == 0
    assert run(text, max_bad=0.25).new == 3


def test_stop_in_the_middle_says_that_part_is_in(
    run: Importer, sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large ordered file is written as it is read; when it turns bad, the error says how much came before."""
    monkeypatch.setattr(read, "CHUNK_ROWS", 50)
    monkeypatch.setattr(quarantine, "MIN_ROWS", 50)
    text = shop_rows(range(100)) + "bad,never,u,1\n" * 50
    with pytest.raises(MappingError, match=r"50 of 150 rows are bad(.|\n)*partly imported: 90 new"):
        run(text, max_bad=0.1, batch_events=30)
    assert len(sink.events) == 90


def test_good_import_removes_an_old_quarantine_file(run: Importer, tmp_path: Path) -> None:
    """When all rows are good, no file of an earlier attempt stays to mislead."""
    run(shop_rows([0]) + "o1,never,u,1\n")
    assert run(shop_rows([0])).quarantine is None
    assert quarantined(tmp_path) == []


def test_skipped_rows_are_counted_under_their_reason(run: Importer, sink: MemorySink) -> None:
    """A declared filter leaves rows out and says how many; all its tests must hold."""
    mapping = SHOP + "skip:\n  - {when: {user: {matches: 'u[01]'}, amount: {above: 5}}, reason: staff orders}\n"
    summary = run(shop_rows(range(14)), mapping)
    assert summary.skipped == {"staff orders": 2}
    assert sorted(int(i[1:]) for i in sink.events) == [n for n in range(14) if n not in (7, 8)]


def test_column_that_no_json_row_has_is_named(run: Importer) -> None:
    """JSON lines can't say beforehand which columns they have; a name that never comes is told in the end."""
    mapping = SHOP.replace("csv", "jsonl").replace("{user}", "{usr}")
    assert run(in_format("a.jsonl", shop_rows([0, 1])), mapping).unseen == ("usr",)


# --- interruption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("batches", range(6))
def test_import_goes_on_after_any_batch(run: Importer, ordered: bool, batches: int) -> None:
    """Stopped after any batch and started again, an import writes every event once, in order, and each bad row once."""
    numbers = list(range(50))
    if not ordered:
        random.Random(1).shuffle(numbers)
    text = shop_rows(numbers) + "bad,2026-01-02,u,x\n"
    sink = MemorySink()
    sink.fail_after = batches
    with pytest.raises(Stopped):
        run(text, sink=sink, batch_events=10) if batches < 5 else _stop_at_the_end(run, text, sink)
    sink.fail_after = -1
    summary = run(text, sink=sink, batch_events=10)
    assert sink.order == [f"o{n}" for n in range(50)]
    assert (summary.resumed_at, summary.new, summary.repeated) == (min(batches, 5) * 10, 50 - min(batches, 5) * 10, 0)
    assert (summary.events, summary.bad_rows) == (50, 1)


def _stop_at_the_end(run: Importer, text: str, sink: MemorySink) -> None:
    """The power goes out after the last batch, before the import could say that it is done."""
    run(text, sink=sink, batch_events=10)
    raise Stopped


def test_lost_position_repeats_and_counts_nothing_twice(run: Importer, sink: MemorySink) -> None:
    """When the position is lost, ids make the second run harmless: all is repeated, nothing new."""
    run(shop_rows(range(30)))
    sink.positions.clear()
    summary = run(shop_rows(range(30)))
    assert (summary.new, summary.repeated, len(sink.order)) == (0, 30, 30)


def test_same_file_again_writes_nothing(run: Importer, sink: MemorySink) -> None:
    """The same file with the same mapping is known as done."""
    run(shop_rows(range(30)))
    summary = run(shop_rows(range(30)))
    assert (summary.resumed_at, summary.new, summary.repeated, sink.batches) == (30, 0, 0, 1)


def test_changed_mapping_starts_from_the_beginning(run: Importer, sink: MemorySink) -> None:
    """Positions belong to file and mapping together: another mapping may give other events."""
    run(shop_rows(range(5)))
    summary = run(shop_rows(range(5)), SHOP + "attributes: {source: legacy}\n")
    assert (summary.resumed_at, summary.conflicts) == (0, 5)


def test_conflicts_go_to_the_quarantine_and_stay(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """An id with another body is named with its row, and a resumed run keeps what it won't meet again."""
    later = shop_rows(range(40_000, 40_020)).removeprefix(HEADER)
    text = shop_rows([0, 1]) + "o1,2026-01-01 10:00:00,u,9\n" + later
    sink.fail_after = 1
    with pytest.raises(Stopped):
        run(text, batch_events=5)
    sink.fail_after = -1
    assert run(text, batch_events=5).resumed_at == 5
    assert [(entry["row"], entry["problems"][0]["field"]) for entry in quarantined(tmp_path)] == [(3, "id")]


def test_temporary_files_of_a_killed_import_are_removed(run: Importer, tmp_path: Path) -> None:
    """A folder left by a process that no longer lives goes with the next import."""
    left = tmp_path / ".import-999999999-x"
    left.mkdir()
    (left / "run-1").write_bytes(b"x")
    run(shop_rows([0]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.csv"]


# --- groups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["together", "scattered"])
def test_lines_of_one_order_become_one_event(run: Importer, sink: MemorySink, rows: str) -> None:
    """Lists gather a line each, the exact amounts add up before one rounding, all else is the first line's."""
    summary = run(LINES, GROUPED.replace("ROWS", rows))
    assert (summary.rows, summary.events, sink.order) == (3, 2, ["b", "a"])
    assert as_mapped(sink.events["a"]) == {
        "user.id": "u1", "basket.items": ["x", "y"], "basket.quantities": [2, 1],
        "txn.amount_minor": 202, "txn.currency": "EUR",
    }  # fmt: skip
    assert sink.events["a"].time_us == 1_767_261_600_000_000


def test_scattered_lines_are_brought_together(run: Importer, sink: MemorySink) -> None:
    """Lines of one order that stand apart still make one event, and `together` reports them as a conflict."""
    apart = LINES.splitlines(keepends=True)
    text = "".join([apart[0], apart[1], apart[3], apart[2]])
    assert run(text, GROUPED.replace("ROWS", "scattered"), sink=MemorySink()).events == 2
    assert run(text, GROUPED.replace("ROWS", "together")).conflicts == 1


def test_bad_line_puts_its_whole_order_away(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """An order with an unreadable or missing line amount is not imported with a wrong sum."""
    for bad in ("1.0o5", ""):
        run(LINES.replace("0.005", bad), GROUPED.replace("ROWS", "together"))
        (entry,) = quarantined(tmp_path)
        assert (entry["rows"], entry["problems"][0]["field"]) == (2, "txn.amount_minor")
    assert list(sink.events) == ["b"]


# --- outcomes -------------------------------------------------------------------------------------------------------


def test_row_tells_its_outcome_with_a_delay(run: Importer, sink: MemorySink) -> None:
    """A row that passes the test brings an outcome of its event, known only after the declared delay."""
    mapping = SHOP + "outcomes:\n  - {when: {user: u1}, kind: confirmed_fraud, delay: 7d}\n"
    assert run(shop_rows(range(7)), mapping).outcomes == 1
    (outcome,) = sink.outcomes.values()
    assert (outcome["id"], outcome["event_id"], outcome["kind"]) == ("o1:confirmed_fraud", "o1", "confirmed_fraud")
    assert outcome["known_us"] - outcome["time_us"] == 7 * 86_400_000_000


def test_outcome_with_another_body_is_a_conflict_of_its_row(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """An outcome's id that is known with another body is put away with the row that tells it."""
    mapping = SHOP + "outcomes:\n  - {when: {user: u1}, kind: confirmed_fraud, delay: 7d}\n"
    run(shop_rows(range(3)), mapping)
    assert run(shop_rows(range(3)), mapping.replace("7d", "8d")).conflicts == 1
    assert [entry["row"] for entry in quarantined(tmp_path)] == [2]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_declared_texts_stand_for_no_value(run: Importer, sink: MemorySink, name: str) -> None:
    """What `missing` lists is no value, as a text or as a number."""
    mapping = SHOP.replace("source: {format: csv}", "missing: ['-1', n/a]")
    users = enumerate(["-1", "n/a", "u"])
    records = [{"order": f"o{n}", "at": "2026-01-01", "user": user, "amount": 1} for n, user in users]
    csv_text = HEADER + "".join(",".join(str(v) for v in record.values()) + "\n" for record in records)
    run(csv_text if name == "a.csv" else b"\n".join(orjson.dumps({**r, "amount": -1}) for r in records), mapping, name)
    assert ["user.id" in event.fields for event in sink.events.values()] == [False, False, True]
    assert ("txn.amount_minor" in sink.events["o0"].fields) == (name == "a.csv")


def test_outcome_feed_brings_outcomes_alone(run: Importer, sink: MemorySink) -> None:
    """A mapping that produces outcomes gives one a row: code, amount, and when it was known."""
    mapping = """
mapping: chargebacks
produces: outcomes
source: {format: csv}
id: "{case}"
kind: {column: reason, patterns: {'10\\..*': chargeback, '13\\..*': service_dispute}}
time: {column: day, format: "%d.%m.%Y", zone: Europe/Berlin}
fields:
  event_id: "{order}"
  code: "{reason}"
  known_at: {column: seen}
amount: {column: sum, unit: major, currency: EUR, decimal: ",", thousands: "."}
"""
    text = "case,order,reason,day,seen,sum\n"
    text += 'c1,o1,10.4,02.03.2026,2026-03-05T10:00:00Z,"1.234,50"\nc2,o2,99,02.03.2026,,"1"\n'
    summary = run(text, mapping)
    assert (summary.new, summary.outcomes, summary.bad_rows) == (1, 1, 1)
    assert list(sink.outcomes.values()) == [{
        "id": "c1", "event_id": "o1", "kind": "chargeback", "time_us": 1_772_406_000_000_000,
        "known_us": 1_772_704_800_000_000, "code": "10.4", "amount_minor": 123450, "currency": "EUR",
    }]  # fmt: skip


# --- bounds ---------------------------------------------------------------------------------------------------------


class _Forgetful(MemorySink):
    """Keeps no event, so that only the import's own memory is measured."""

    def write(self, batch: Any, position: int) -> Any:
        """Forget the batch."""
        result = super().write(batch, position)
        self.events.clear()
        self.order.clear()
        return result


@pytest.mark.parametrize("mapping", [SHOP, SHOP + "group: {by: order, rows: scattered}\n"], ids=["rows", "groups"])
def test_memory_does_not_grow_with_the_file(run: Importer, monkeypatch: pytest.MonkeyPatch, mapping: str) -> None:
    """Four times as many unordered rows need less than 1.5 times the memory, and stay under 2 MB here."""
    monkeypatch.setattr(read, "CHUNK_ROWS", 500)
    monkeypatch.setattr(stage.ExternalSort.__init__, "__defaults__", (200_000, "run"))
    peaks = []
    for rows in (2_500, 10_000):
        numbers = list(range(rows))
        random.Random(2).shuffle(numbers)
        text = shop_rows(numbers)
        tracemalloc.start()
        assert run(text, mapping, sink=_Forgetful(), batch_events=200).new == rows
        peaks.append(tracemalloc.get_traced_memory()[1] - len(text))
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 2_000_000


def test_progress_is_told(run: Importer) -> None:
    """Each stage tells rows and bytes, never going back, and ends at the whole file."""
    told: list[Progress] = []
    run(shop_rows([2, 1, 0]), progress=told.append, batch_events=1)
    assert [step.stage for step in told] == ["reading", "writing", "writing", "writing"]
    assert (told[-1].rows, told[-1].rows_total, told[-1].bytes_done) == (3, 3, told[-1].bytes_total)
