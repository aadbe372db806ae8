"""What every journal does: durable appends, one claim an id, order, chains, an outbox."""

import asyncio

import pytest

from engine.errors import BodyConflict, JournalUnavailable
from engine.journal.chain import GENESIS, personal_digest, record_hash
from engine.values import Record
from tests.contracts.conftest import JOURNALS


def record(number: int, *, digest: bytes = b"d", kind: str = "decision", **more: object) -> Record:
    """A small record."""
    return Record(kind, f"e{number}", digest, number, "p1", b"{}", b'{"user.id":"u1"}', number, **more)


async def test_a_record_is_found_by_its_id(journal):
    """What was appended is read back as it was."""
    stored = await journal.append(record(1))
    found = await journal.find("e1")
    assert found == stored
    assert found.record.personal == b'{"user.id":"u1"}'
    assert await journal.find("e2") is None


async def test_the_same_body_answers_with_the_first_record(journal):
    """Of many at once with one id and body, one wins and all get it."""
    answers = await asyncio.gather(*[journal.append(record(1)) for _ in range(20)])
    assert {a.seq for a in answers} == {answers[0].seq}
    assert len(list(journal.read(0))) == 1


async def test_another_body_is_refused_and_the_attempt_is_journaled(journal):
    """A claimed id with another digest raises, and leaves a `refused` record without its content."""
    await journal.append(record(1))
    with pytest.raises(BodyConflict, match="64"):
        await journal.append(record(1, digest=b"e"))
    assert [s.record.kind for s in journal.read(0)] == ["decision", "refused"]


async def test_an_undecided_attempt_gives_way_to_its_decision(journal):
    """A retry of an attempt that was given up is decided, and from then on the id answers with the decision."""
    await journal.append(record(1, kind="undecided"))
    stored = await journal.append(record(1))
    assert stored.record.kind == "decision"
    assert (await journal.find("e1")).record.kind == "decision"


async def test_records_of_a_payment_come_in_order(journal):
    """The life of a payment can be read."""
    for number in (3, 1, 2):
        await journal.append(record(number))
    assert [s.record.id for s in await journal.of_payment("p1")] == ["e3", "e1", "e2"]
    assert await journal.of_payment("") == []


async def test_reading_goes_on_after_a_number_and_by_kind(journal):
    """Readers can resume, and choose."""
    for number in range(1, 6):
        await journal.append(record(number, kind="event" if number % 2 else "decision"))
    assert [s.record.id for s in journal.read(2)] == ["e3", "e4", "e5"]
    assert [s.record.id for s in journal.read(0, ("decision",))] == ["e2", "e4"]


async def test_a_notice_is_due_until_it_is_delivered(journal):
    """Notices commit with their record; a repeated record brings none; a failed one comes back later."""
    await journal.append(record(1, notices=({"id": "n1"},)))
    await journal.append(record(1, notices=({"id": "n1"},)))
    (notice,) = journal.due(2**62)
    assert notice.body == {"id": "n1"}
    journal.postpone(notice.id, 2**61)
    assert journal.due(2**60) == []
    assert journal.due(2**62)[0].attempts == 1
    journal.delivered(notice.id)
    assert journal.due(2**62) == []


async def test_each_record_holds_the_hash_of_the_one_before(journal):
    """The chain of a writer can be recomputed; the personal part enters by a salted digest."""
    for number in range(1, 5):
        await journal.append(record(number))
    rows = journal._read.execute("SELECT writer, position, salt, personal_digest, previous, hash, known_us FROM record")
    previous = GENESIS
    for stored, (writer, position, salt, apart, before, hashed, known_us) in zip(journal.read(0), rows, strict=True):
        assert before == previous
        assert apart == personal_digest(salt, stored.record.personal)
        assert hashed == record_hash(before, stored.record, known_us, writer, position, apart)
        previous = hashed


async def test_the_position_of_a_source_commits_with_its_records(journal):
    """A bulk and how far it came are durable together."""
    journal.load([record(1), record(2)], "file", 2)
    assert journal.position("file") == 2
    assert journal.position("other") == 0


async def test_a_failed_commit_shows_and_heals(journal, monkeypatch):
    """After a failure nothing is acknowledged, the journal says it can't be written, and a probe heals it."""
    real = journal._insert

    def full(records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "_insert", full)
    with pytest.raises(JournalUnavailable, match="No space"):
        await journal.append(record(1))
    assert not journal.writable()
    monkeypatch.setattr(journal, "_insert", real)
    assert journal.probe()
    assert journal.writable()
    assert (await journal.append(record(1))).seq == 1


async def test_two_writers_share_one_journal(journal, tmp_path):
    """Concurrent writers of one file claim ids once and keep chains of their own."""
    other = JOURNALS["sqlite"](tmp_path)
    await other.start()
    appends = [(journal, other)[n % 2].append(record(n // 2)) for n in range(200)]
    answers = await asyncio.gather(*appends, journal.append(record(1000)), other.append(record(1001)))
    await other.close()
    assert len({a.seq for a in answers}) == 102
    assert len({s.writer for s in journal.read(0)}) == 2


async def test_an_unexpected_failure_reaches_its_caller_and_no_other(journal, monkeypatch):
    """A defect in one commit is raised where the record came from; the next commit and its chain are whole."""
    real = journal._insert

    def broken(records):
        real(records)
        raise KeyError("a defect")

    monkeypatch.setattr(journal, "_insert", broken)
    with pytest.raises(KeyError):
        await journal.append(record(1))
    monkeypatch.setattr(journal, "_insert", real)
    stored = await journal.append(record(1))
    assert (stored.seq, [s.record.id for s in journal.read(0)]) == (1, ["e1"])
    (row,) = journal._read.execute("SELECT position, previous FROM record").fetchall()
    assert row == (1, GENESIS)


async def test_what_was_not_admitted_is_found_without_reading_everything(journal):
    """Records with number 0 are listed until a late admission of theirs is journaled; an index finds them."""
    for number in (0, 1, 2):
        await journal.append(record(number))
    journal.load([Record("decision", "without", b"d", 1, "", b"{}", b"", 0)])
    assert [s.record.id for s in journal.unadmitted(2**62)] == ["e0", "without"]
    assert journal.unadmitted(0) == []
    journal.load([Record("admitted", "without", b"", 1, "", b"{}", b"", 9)])
    assert [s.record.id for s in journal.unadmitted(2**62)] == ["e0"]
    query = "SELECT seq FROM record WHERE number = 0 AND kind IN ('decision', 'event')"
    (plan,) = journal._read.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    assert "record_unadmitted" in plan[3]
