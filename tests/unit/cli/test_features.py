"""`arbiter features` as a person calls it."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from engine.bootstrap import open_engine
from engine.settings import read_settings
from tests.conftest import ROOT, payment
from tests.unit.cli.conftest import golden

OFF = """\
  - id: was-once
    when: card.payments_1h > 3 || device.cards_24h > 2
    then: {tier: MEDIUM}
    reason: {code: N9, analyst: many payments}
    status: "off"
"""
ORDERS = ROOT / "engine" / "cli" / "template"


@pytest.fixture
def shop(folder: Path) -> Path:
    """The small policy with a rule that is off, and an older model beside it that nobody names."""
    with (folder / "rules" / "risk" / "near.yaml").open("a") as file:
        file.write(OFF)
    (folder / "models" / "payment").mkdir(parents=True)
    shutil.copytree(ROOT / "models" / "payment" / "1", folder / "models" / "payment" / "1")
    return folder


def test_check_counts_what_is_right_and_shows_what_is_wrong(call, folder):
    """The mistakes of features.yaml with their places, and exit code 1."""
    done = call("features", "check", "--folder", folder)
    assert (done.exit_code, done.stdout.split(",")[0]) == (0, "ok: 9 of the history of card")
    file = folder / "rules" / "features.yaml"
    file.write_text(file.read_text().replace("window: 1h", "window: 60m").replace("unit: days", "unit: day"))
    done = call("features", "check", "--folder", folder)
    assert done.exit_code == 1
    golden("features_check", done.stderr.replace(str(folder), "shop"))


def test_list_names_readers_and_those_that_were(call, shop):
    """Each feature with window, unit and meaning; a rule that is off and a model that is not in use read no longer."""
    done = call("features", "list", "--folder", shop)
    assert done.exit_code == 0, done.stderr
    golden("features_list", done.stdout)
    unused = call("features", "list", "--unused", "--format", "json", "--folder", shop)
    assert all(not orjson.loads(line)["read_by"] for line in unused.stdout.splitlines())
    markdown = call("features", "list", "--format", "markdown", "--folder", shop)
    assert markdown.stdout.splitlines()[0] == "| feature | of | window | unit | meaning | read by |"


async def decided(folder: Path) -> None:
    """Four payments within a minute."""
    engine = open_engine(read_settings(folder, {"clock": "event"}, {}))
    await engine.start(watch=False)
    for number in range(4):
        await engine.decide(payment(number, at_s=number))
    await engine.close()


def test_show_gives_definition_place_and_values(call, shop):
    """Definition and place as written, and what the last decisions saw."""
    asyncio.run(decided(shop))
    done = call("features", "show", "user.payments_1h", "--folder", shop)
    assert done.exit_code == 0, done.stderr
    golden("features_show", done.stdout.replace(str(shop), "shop"))


def test_show_of_an_unknown_name(call, folder):
    """The nearest names, or that it is the event's own field."""
    done = call("features", "show", "user.paiments_1h", "--folder", folder)
    assert (done.exit_code, "did you mean `user.payments_1h`" in done.stderr) == (2, True)
    assert "it is a field of the event" in call("features", "show", "ip.address", "--folder", folder).stderr


def test_build_writes_a_table_and_names_bad_rows(call, folder):
    """The template's orders: one bad row, the others with their features."""
    done = call(
        "features", "build", ORDERS / "examples" / "orders.csv", "--mapping", ORDERS / "mappings" / "orders.yaml",
        "--out", "out.parquet", "--field", "txn.amount_base", "--max-bad", "30%", "--folder", folder,
    )  # fmt: skip
    assert done.exit_code == 1
    assert "1 bad rows left out; out.quarantine.jsonl says why" in done.stderr
    assert re.fullmatch(r"out\.parquet: 4 rows, \d+ features, in [\d.]+ s\n", done.stdout)
    table = pq.read_table("out.parquet")
    assert table.column("txn.amount_base").null_count == 0
    assert {0} <= set(table.column("user.payments_1h").to_pylist())
    assert orjson.loads(Path("out.quarantine.jsonl").read_text().splitlines()[0])["problems"]


def test_build_into_nowhere_leaves_nothing(call, folder):
    """A folder that is not there, and a disk that is full: words, and no half table."""
    words = ("features", "build", ORDERS / "examples" / "orders.csv", "--mapping",
             ORDERS / "mappings" / "orders.yaml", "--folder", folder, "--max-bad", "30%")  # fmt: skip
    assert "is no folder" in call(*words, "--out", "nowhere/out.parquet").stderr
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        done = call(*words, "--out", "out.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (done.exit_code, "can't be written" in done.stderr) == (3, True)
    assert [path.name for path in Path().iterdir() if "out" in path.name] == ["out.quarantine.jsonl"]
