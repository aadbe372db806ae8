"""Histories: files and journal give the same items, and what a line can't be is said with its place."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from random import Random

import orjson
import pytest

from engine.batch.history import History, Seen, from_files, from_journal
from engine.bootstrap import open_program, open_stores
from engine.errors import MappingError
from engine.features.offline import build
from engine.records import event_record
from engine.sink import ImportSink
from engine.values import Action, Record
from tests.conftest import NOW_US, payment

TIME = "2026-03-01T10:{:02}:00Z"


def line(number: int, kind: str = "payment", **fields) -> dict:
    """An event document at minute `number`."""
    document = {
        "id": f"e{number}", "kind": kind, "time": TIME.format(number), "user.id": "u1", "card.token": "tok_1",
        "device.id": f"d{number % 2}", "payment.id": f"p{number}",
    }  # fmt: skip
    if kind == "payment":
        document |= {"txn.amount_minor": 1000 * number, "txn.currency": "EUR"}
    return document | {name.replace("__", "."): value for name, value in fields.items()}


EVENTS = [
    *(line(n) for n in range(1, 6)),
    line(6, "payment_result", payment__id="p5", result__status="declined"),
    line(7, "payment_result", payment__id="p4", result__status="approved"),
    *(line(n) for n in range(8, 12)),
]
OUTCOMES = [
    {"id": "o1", "kind": "chargeback", "event_id": "e2", "time": TIME.format(3), "known_at": TIME.format(9)},
    {"id": "o2", "kind": "confirmed_good", "event_id": "e3", "time": TIME.format(4), "known_at": TIME.format(5)},
]


def written(folder: Path, events=EVENTS, outcomes=OUTCOMES) -> Path:
    """A folder like a simulated one, its outcomes compressed."""
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_bytes(b"\n".join(map(orjson.dumps, events)))
    (folder / "outcomes.jsonl.gz").write_bytes(gzip.compress(b"\n".join(map(orjson.dumps, outcomes))))
    return folder


def silent(*_):
    """No progress."""


def test_files_and_journal_agree(tmp_path, settings_of):
    """The table of an imported history, and what labels are made of, equal those of its files."""
    settings = settings_of()
    program = open_program(settings)
    read = History(program, from_files(written(tmp_path / "history"), silent))
    table = build(program.feature_set, program.features, read.items())
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    sink = ImportSink(program, profiles, journal, settings.state)
    seen = list(from_files(tmp_path / "history", silent))
    sink.write([(step.event, ()) for step in seen if isinstance(step, Seen)], 0)
    sink.write([(None, (step,)) for step in seen if not isinstance(step, Seen)], 0)
    sink.close()
    kept = History(program, from_journal(journal, silent))
    assert build(program.feature_set, program.features, kept.items()).equals(table)
    assert kept.outcomes == read.outcomes
    assert read.outcomes.keys() == {"e2", "e3"}
    assert kept.refused == read.refused == {"e5"}
    assert (kept.start_us, kept.horizon_us) == (read.start_us, read.horizon_us)


def test_an_outcome_counts_from_when_it_was_known(tmp_path, settings_of):
    """A rate sees a fraud from its known_at on, not from its place in a file."""
    program = open_program(settings_of())
    history = History(program, from_files(written(tmp_path / "history"), silent))
    table = build(program.feature_set, program.features, history.items())
    rates = dict(zip(table["event_id"].to_pylist(), table["user.fraud_rate_90d"].to_pylist(), strict=True))
    assert rates["e8"] == 0.0
    assert rates["e9"] == pytest.approx(1 / 6)


def test_our_own_declines_and_late_admissions(settings_of):
    """Records stand by their admission, not by their commit; a decision of ours to decline is no label of good."""
    program = open_program(settings_of())
    _, journal = open_stores(settings_of())
    journal.open()
    first, second, third = (payment(n, at_s=n) for n in (1, 2, 3))
    decided = {"decision": {"action": 4, "decided_us": NOW_US}}
    late = {"decision": {"action": 1, "decided_us": NOW_US}}
    journal.load([
        event_record("decision", second, 7, decided), event_record("decision", third, 0, late),
        event_record("event", first, 6, {}),
    ])  # fmt: skip
    journal.load([Record("admitted", third.id, b"", 0, "", b"{}", b"", 5)])
    steps = list(from_journal(journal, silent))
    assert [step.event.id for step in steps] == ["e3", "e1", "e2"]
    assert [step.declined for step in steps] == [False, False, True]
    history = History(program, iter(steps))
    list(history.items())
    assert history.refused == {"e2"}


@pytest.mark.parametrize(
    ("events", "outcomes", "told"),
    [
        ([line(2), line(1)], [], r"events.jsonl:2: goes back in time; `arbiter import"),
        ([line(1), [1]], [], r"events.jsonl:2: is not a JSON object"),
        ([line(1, txn__currency="XXY")], [], r"events.jsonl:1: txn.currency: is not an ISO 4217"),
        ([line(1)], [{**OUTCOMES[0], "kind": "chargebak"}], r"outcomes.jsonl.gz:1: 'chargebak' is no kind of outcome"),
        ([line(1)], [{**OUTCOMES[0], "time": "noon"}], r"outcomes.jsonl.gz:1: time: is not an RFC 3339"),
    ],
)
def test_bad_lines(tmp_path, events, outcomes, told):
    """The first bad line stops the reading, with file and line."""
    with pytest.raises(MappingError, match=told):
        list(from_files(written(tmp_path / "history", events, outcomes), silent))


def test_one_file_may_hold_both(tmp_path, settings_of):
    """Events and outcomes may stand in one file; a folder without events is none of ours."""
    file = tmp_path / "all.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, [*OUTCOMES, *EVENTS])))
    history = History(open_program(settings_of()), from_files(file, silent))
    assert len(list(history.items())) == len(EVENTS) + len(OUTCOMES) + 2
    with pytest.raises(MappingError, match=r"holds no events.jsonl"):
        list(from_files(tmp_path, silent))


async def test_the_table_is_what_decisions_saw(engine):
    """From the journal of a live engine each row equals, bit for bit, the features that its decision was made from."""
    random = Random(7)
    for number in range(120):
        fields = {
            "user__id": f"u{random.randrange(4)}", "device__id": f"d{random.randrange(3)}",
            "card__token": f"tok_{random.randrange(3)}", "txn__amount_minor": random.choice([900, 60_000, 900_000]),
        }  # fmt: skip
        await engine.decide(payment(number, at_s=600 * number, **fields))
        await engine.pipeline.drain()
        if random.random() < 0.4:
            status = random.choice(["approved", "declined"])
            result = payment(
                1000 + number, at_s=600 * number + 60, kind="payment_result", payment__id=f"p{number}",
                result__status=status, **fields,
            )  # fmt: skip
            await engine.record(result)
        if random.random() < 0.1:
            at_us = NOW_US + (600 * number + 120) * 1_000_000
            kind = random.choice(["chargeback", "confirmed_fraud"])
            await engine.record_outcome({"id": f"o{number}", "kind": kind, "event_id": f"e{number}", "time_us": at_us})
        await engine.pipeline.drain()
    program = engine.pipeline.live.program
    history = History(program, from_journal(engine.journal, silent))
    table = build(program.feature_set, program.features, history.items())
    saw = {stored.record.id: orjson.loads(stored.record.public) for stored in engine.journal.read(0, ("decision",))}
    rows = table.to_pylist()
    assert len(rows) == len(saw) == 120
    for row in rows:
        known = {name: row[name] for name in program.feature_set.names if row[name] is not None}
        assert known == saw[row["event_id"]]["features"]
    assert any(saw[name]["decision"]["action"] == Action.DECLINE for name in history.refused)


async def test_a_decline_is_known_when_profiles_learned_it(engine):
    """Of payments in one moment some see an earlier one as pending that was declined; the table says so too."""
    for at in range(0, 60, 12):
        events = [
            payment(number, at_s=number, txn__amount_minor=900_000 if number % 3 == 0 else 900)
            for number in range(at, at + 12)
        ]
        await asyncio.gather(*map(engine.decide, events))
    await engine.pipeline.drain()
    program = engine.pipeline.live.program
    rows = build(program.feature_set, program.features, History(program, from_journal(engine.journal, silent)).items())
    saw = {stored.record.id: orjson.loads(stored.record.public) for stored in engine.journal.read(0, ("decision",))}
    for row in rows.to_pylist():
        known = {name: row[name] for name in program.feature_set.names if row[name] is not None}
        assert known == saw[row["event_id"]]["features"]
    spent = [saw[f"e{number}"]["features"]["user.spend_24h"] for number in range(12)]
    assert max(spent) > 9_000, "nobody saw a declined payment as pending"
