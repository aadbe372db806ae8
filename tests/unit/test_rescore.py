"""`arbiter rescore` as a job: however it is cut, stopped or spread over processes, the same rows come out, once."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from engine.batch.frames import features_of
from engine.batch.mapping import load_mapping
from engine.bootstrap import open_program
from engine.rescore import parts
from engine.rescore.decide import Decider, Then
from engine.rescore.decided import packed
from engine.settings import read_settings
from tests.rescore_world import transactions, write_folder

LATER_US = 2**61
ARBITER = str(Path(sys.executable).with_name("arbiter"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a policy and some thousand transactions; nothing is changed in it."""
    folder = tmp_path_factory.mktemp("job")
    table = transactions(4_000)
    pq.write_table(table, folder / "payments.parquet")
    return write_folder(folder, table)


def begun(folder, out, *more, source="payments.parquet", mapping=True):
    """A process of the command."""
    told = ("--mapping", str(folder / "mapping.yaml")) if mapping else ()
    words = (ARBITER, "rescore", str(folder / source), *told, "--folder", str(folder))
    everything = [*words, "--out", str(out), "--workers", "2", *more]
    return subprocess.Popen(everything, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rescored(folder, out, *more, code=0, **how):
    """What the command says when it has ended."""
    process = begun(folder, out, *more, **how)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == code, said
    return said


def digest_in(said):
    """The digest that it prints."""
    return re.search(r"digest ([0-9a-f]{32})", said).group(1)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """One process, never stopped, shards of 1,000 rows: what it said, and the file."""
    out = tmp_path_factory.mktemp("whole") / "decided.parquet"
    return rescored(folder, out, "--shard-rows", "1000"), out


def seen_of(folder, fields=()):
    """The file's features with the fields that rules read."""
    then = Then()
    program = open_program(read_settings(folder, {}, {}), clock=then)
    read = ("user.id", "card.token", "merchant.id", "payment.id", "event.stage", "event.market", "txn.amount_base",
            "txn.amount_minor", "txn.currency")  # fmt: skip
    table, _ = features_of(
        program, folder / "payments.parquet", load_mapping(folder / "mapping.yaml"), workdir=folder,
        quarantine=folder / "bad.jsonl", now_us=LATER_US, fields=read,
    )  # fmt: skip
    return program, then, table.append_column("event.kind", pa.array(["payment"] * len(table)))


def test_parts_and_shards_give_the_rows_of_one_table(folder, whole):
    """Features computed by parts of entities and joined, decided shard by shard, are those of the whole table."""
    program, then, seen = seen_of(folder)
    decided = pa.concat_tables(map(packed, Decider(program, then=then).decide_rows([seen])))
    found = pq.read_table(whole[1])
    assert found.column_names == decided.column_names
    for name in found.column_names:
        assert found[name].to_pylist() == decided[name].to_pylist(), name
    assert len(found) > 3_000
    assert not whole[1].with_name("decided.parquet.work").exists()


def test_a_killed_job_goes_on_and_leaves_the_same_file(folder, whole, tmp_path):
    """SIGKILL after the first decided shards: the same command ends with the same bytes, no row twice or missing."""
    out, work = tmp_path / "decided.parquet", tmp_path / "decided.parquet.work"
    process = begun(folder, out, "--shard-rows", "1000")
    wait_for(work / "decided" / "1.arrow", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    assert work.exists()
    said = rescored(folder, out, "--shard-rows", "1000")
    assert "shards decided before" in said
    assert digest_in(said) == digest_in(whole[0])
    assert out.read_bytes() == whole[1].read_bytes()
    ids = pq.read_table(out, columns=["event_id"])["event_id"]
    assert len(ids.unique()) == len(ids)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a file is there while the process runs."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)


def test_two_workers_one_killed(folder, whole, tmp_path):
    """On a Dask cluster of two processes, one of which is killed mid-way: the same digest as one process."""
    pytest.importorskip("distributed")
    out, work = tmp_path / "decided.parquet", tmp_path / "decided.parquet.work"
    process = begun(folder, out, "--shard-rows", "1000", "--cluster", "local")
    wait_for(work / "split" / "user.0.arrow", process)
    workers = [pid for pid in children_of(process.pid) if "spawn_main" in command_of(pid)]
    os.kill(max(workers), signal.SIGKILL)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert len(workers) == 2
    assert digest_in(said) == digest_in(whole[0])


def children_of(pid):
    """Processes that a process started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def command_of(pid):
    """How a process was started."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_stored_features_and_csv(folder, tmp_path):
    """A file of features is decided without its history, as open loop; lists in CSV are words with spaces between."""
    program, then, seen = seen_of(folder)
    pq.write_table(seen, tmp_path / "features.parquet", row_group_size=1_500)
    out = tmp_path / "decided.csv"
    said = rescored(folder, out, "--stored", source=tmp_path / "features.parquet", mapping=False)
    decided = pa.concat_tables(map(packed, Decider(program, then=then, standing="given").decide_rows([seen])))
    found = pyarrow.csv.read_csv(out)
    for name in ("event_id", "tier", "action", "score"):
        assert found[name].to_pylist() == decided[name].to_pylist(), name
    assert found["hits"].to_pylist() == [" ".join(hits) for hits in decided["hits"].to_pylist()]
    assert f"{len(found):,}" in said


def test_features_that_are_no_longer_kept_are_named(folder, tmp_path):
    """A file without what the model reads is refused by the names of what it lacks, and nothing is written."""
    _, _, seen = seen_of(folder)
    pq.write_table(seen.drop(["merchant.fraud_rate_7d"]), tmp_path / "features.parquet")
    out = tmp_path / "decided.parquet"
    said = rescored(folder, out, "--stored", source=tmp_path / "features.parquet", mapping=False, code=2)
    assert "lacks merchant.fraud_rate_7d" in said
    assert "leave out --stored" in " ".join(said.split())
    assert not out.exists()


def test_bad_rows_go_to_the_quarantine(folder, tmp_path):
    """A row that is no event is noted and left out; the others are what they were."""
    table = pq.read_table(folder / "payments.parquet")
    amounts = table["TX_AMOUNT"].to_pylist()
    amounts[-1] = -4.0
    pq.write_table(
        table.set_column(table.column_names.index("TX_AMOUNT"), "TX_AMOUNT", pa.array(amounts)),
        tmp_path / "bad.parquet",
    )
    out = tmp_path / "decided.parquet"
    said = rescored(folder, out, source=tmp_path / "bad.parquet", code=1)
    assert "1 bad rows left out" in said
    assert len(pq.read_table(out)) == len(table) - 1
    assert (tmp_path / "decided.quarantine.jsonl").read_text().count("\n") == 1


def test_a_full_disk_leaves_only_what_is_marked_partial(folder, whole, tmp_path):
    """When a file can't grow, the words say where and how to go on; the same command then ends with the same bytes."""
    out = tmp_path / "decided.parquet"
    told = (
        "rescore",
        str(folder / "payments.parquet"),
        "--mapping",
        str(folder / "mapping.yaml"),
        "--folder",
        str(folder),
        "--out",
        str(out),
        "--shard-rows",
        "1000",
        "--workers",
        "2",
    )
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, -1)); "
        f"sys.argv = ['arbiter', *{told!r}]; from engine.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "is not complete" in done.stderr
    assert not out.exists()
    assert digest_in(rescored(folder, out, "--shard-rows", "1000")) == digest_in(whole[0])


def test_another_job_in_the_work_folder_is_not_mixed_in(folder, tmp_path):
    """A folder of work belongs to one source, policy and way of cutting."""
    out, work = tmp_path / "decided.parquet", tmp_path / "decided.parquet.work"
    process = begun(folder, out, "--shard-rows", "1000")
    wait_for(work / "plan.json", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    said = rescored(folder, out, "--shard-rows", "2000", code=2)
    assert "holds an unfinished job with another source" in " ".join(said.split())


def test_users_are_renewed_once(folder, tmp_path):
    """`--users` judges every person of the journal by the rules on the user and keeps what changed; none is counted."""
    shutil.copytree(folder / "rules", tmp_path / "rules")
    shutil.copytree(folder / "models", tmp_path / "models")
    rule = "{id: many, when: user.payments_7d >= 0, then: {tier: MEDIUM}, reason: U1}"
    (tmp_path / "rules" / "risk" / "people.yaml").write_text(f"ruleset: people\non: user\nrules:\n  - {rule}\n")
    pq.write_table(pq.read_table(folder / "payments.parquet").slice(0, 200), tmp_path / "some.parquet")
    told = ("--mapping", str(folder / "mapping.yaml"), "--folder", str(tmp_path))
    subprocess.run([ARBITER, "import", str(tmp_path / "some.parquet"), *told], check=True, capture_output=True)
    words = [ARBITER, "rescore", "--users", "--folder", str(tmp_path)]
    for _ in range(2):
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        people = int(re.match(r"(\d+) persons: \1 MEDIUM", said).group(1))
    with sqlite3.connect(tmp_path / "state" / "journal.sqlite") as journal:
        kinds = dict(journal.execute("SELECT kind, count(*) FROM record GROUP BY kind").fetchall())
    assert kinds["risk"] == people > 3
    assert "decision" not in kinds


def test_a_large_file_is_read_slice_by_slice(folder, whole, tmp_path, monkeypatch):
    """Slices give the shards of the whole file; where an id comes again in another slice, all of it goes row by row."""
    settings = read_settings(folder, {}, {})
    program, mapping = open_program(settings), load_mapping(folder / "mapping.yaml")
    monkeypatch.setattr(parts, "SLICE_ROWS", 1_500)
    (tmp_path / "work").mkdir()
    told = (tmp_path / "work", 1_000, LATER_US, tmp_path / "bad.jsonl", 1.0, lambda *_: None)
    shards, rows, columnar, bad = parts.read_shards(program, folder / "payments.parquet", mapping, *told)
    events = pa.concat_tables([parts.read_table(tmp_path / "work" / "events" / f"{n}.arrow") for n in range(shards)])
    assert (rows, columnar, bad) == (len(pq.read_table(whole[1])), True, 0)
    assert events["event_id"].to_pylist() == pq.read_table(whole[1])["event_id"].to_pylist()
    table = pq.read_table(folder / "payments.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(len(table) - 1)]), tmp_path / "twice.parquet")
    _, again, columnar, _ = parts.read_shards(program, tmp_path / "twice.parquet", mapping, *told)
    assert (again, columnar) == (rows, False)
