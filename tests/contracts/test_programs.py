"""What every journal knows of programs: bundles that never change, one order of activations, workers that sign in."""

from dataclasses import replace

from engine.values import Activation, Bundle, Worker
from tests.contracts.conftest import JOURNALS

BUNDLE = Bundle(
    "d1" * 16,
    "f1" * 16,
    {"policy.yaml": b"name: a", "lists/a.csv": b"value"},
    {"payment": "payment/1 sha256"},
    "ann",
    "first",
    7,
    "3 passed",
)
ACTIVATION = Activation(BUNDLE.digest, "ann", "first", True, "f1" * 16)


async def test_a_bundle_stays_as_it_was_kept(journal):
    """It is read back as it was, and keeping another under its digest changes nothing."""
    programs = journal.programs
    assert programs.bundle(BUNDLE.digest) is None
    programs.keep(BUNDLE)
    programs.keep(replace(BUNDLE, files={}, author="eve"))
    assert programs.bundle(BUNDLE.digest) == BUNDLE
    other = replace(BUNDLE, digest="d2" * 16, created_us=8, files={**BUNDLE.files, "policy.yaml": b"name: b"})
    programs.keep(other)
    assert programs.bundle(other.digest) == other
    assert journal._read.execute("SELECT count(*) FROM content").fetchone() == (3,)  # the list is kept once
    assert programs.digests("d") == ["d2" * 16, "d1" * 16]
    assert programs.digests("d1") == ["d1" * 16]
    assert programs.digests("%") == []


async def test_the_newest_activation_counts_and_the_past_can_be_asked(journal):
    """Each gets a number and the time of the journal; at a time, the newest before it was live."""
    programs = journal.programs
    assert programs.newest() is None
    first = programs.activate(ACTIVATION)
    second = programs.activate(replace(ACTIVATION, digest="d2" * 16, origin=first.seq))
    assert programs.newest() == second
    assert programs.activations(5) == [second, first]
    assert programs.newest(first.since_us - 1) is None
    assert programs.newest(second.since_us) == second
    assert [s.record.kind for s in journal.read(0)] == ["activation", "activation"]


async def test_an_activation_after_one_that_is_not_the_newest_does_nothing(journal, tmp_path):
    """Of two workers that saw the same saved folder, one activates it and the other learns that it came second."""
    programs = journal.programs
    first = programs.activate(ACTIVATION, 0)
    other = JOURNALS["sqlite"](tmp_path)
    await other.start()
    assert other.programs.activate(replace(ACTIVATION, digest="d2" * 16), 0) is None
    second = other.programs.activate(replace(ACTIVATION, digest="d2" * 16), first.seq)
    await other.close()
    assert programs.newest() == second


async def test_workers_sign_in_and_leave(journal):
    """The newest word of each counts; one that was silent since a time is not among the living."""
    programs = journal.programs
    worker = Worker("host:1", "d1" * 16, 5, 10)
    programs.sign_in(worker)
    programs.sign_in(replace(worker, program="d2" * 16, seen_us=20, problem="no model"))
    programs.sign_in(replace(worker, id="host:2"))
    assert programs.workers(0) == [replace(worker, program="d2" * 16, seen_us=20, problem="no model"),
                                   replace(worker, id="host:2")]  # fmt: skip
    assert [w.id for w in programs.workers(15)] == ["host:1"]
    programs.sign_out("host:1")
    assert [w.id for w in programs.workers(0)] == ["host:2"]
