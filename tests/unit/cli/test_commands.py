"""The other commands, called as a person calls them."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from engine.cli import bench, init
from engine.cli.options import Share
from engine.settings import Settings
from tests.conftest import ROOT
from tests.unit.cli.conftest import golden, payment

ORDERS = ("--mapping", ROOT / "engine" / "cli" / "template" / "mappings" / "orders.yaml")
EXAMPLE = ROOT / "engine" / "cli" / "template" / "examples" / "orders.csv"


def summary(text: str) -> str:
    """An import's summary without paths and times."""
    return re.sub(r"in [\d.,]+ s, [\d,]+ a second", "in … s", text.replace(str(EXAMPLE), "orders.csv"))


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_writes_a_folder_that_works(call):
    """What init writes passes the check, decides its own example, and imports its own orders."""
    done = call("init", "shop")
    assert done.exit_code == 0
    golden("init", done.stdout)
    assert {path.name for path in Path("shop").iterdir()} >= {
        "rules",
        "mappings",
        "examples",
        "arbiter.yaml",
        "README.md",
    }
    assert call("rules", "check", "--folder", "shop").stdout.startswith("ok: ")
    imported = call(
        "import",
        "shop/examples/orders.csv",
        "--mapping",
        "shop/mappings/orders.yaml",
        "--folder",
        "shop",
        "--max-bad",
        "20%",
    )
    assert imported.exit_code == 0, imported.output
    decided = call("decide", "shop/examples/payment.json", "--folder", "shop", "--clock", "event", "--json")
    assert decided.exit_code == 0, decided.output
    assert orjson.loads(decided.stdout)["entities"]["user"]["events"] == 3


def test_init_stores_nothing_twice():
    """The policy and the models that init writes are the project's own folders."""
    for name in ("rules", "models"):
        assert (init.TEMPLATE / name).is_symlink()
        assert (init.TEMPLATE / name).readlink() == Path("../../..") / name


def test_every_file_of_the_template_is_packed():
    """What init writes from an installed package is what it writes from a checkout: every ending is package data."""
    patterns = (
        (ROOT / "pyproject.toml").read_text().partition("[tool.setuptools.package-data]")[2].partition("[tool")[0]
    )
    packed = set(re.findall(r"\*(\.\w+)", patterns))
    files = [path for name in os.walk(init.TEMPLATE, followlinks=True) for path in map(Path(name[0]).joinpath, name[2])]
    assert {path.suffix for path in files if not path.name.startswith(".")} - {".py"} <= packed


def test_init_spares_what_is_there(call):
    """A folder that is not empty is left alone, unless it is said twice; then other files stay."""
    Path("shop").mkdir()
    Path("shop/own.txt").write_text("mine")
    done = call("init", "shop")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert [path.name for path in Path("shop").iterdir()] == ["own.txt"]
    assert call("init", "shop", "--force").exit_code == 0
    assert Path("shop/own.txt").read_text() == "mine"


# --- import ----------------------------------------------------------------------------------------------------------


def test_an_import_tells_what_it_did(call, folder):
    """The summary counts rows, events, skipped and bad rows with their reasons; again it says that nothing is new."""
    first = call("import", EXAMPLE, *ORDERS, "--folder", folder, "--max-bad", "20%")
    again = call("import", EXAMPLE, *ORDERS, "--folder", folder, "--max-bad", "0.2")
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    golden("import", summary(first.stdout + "\n" + again.stdout))
    assert len(Path("orders.csv.quarantine.jsonl").read_bytes().splitlines()) == 1


def test_too_many_bad_rows_end_with_1(call, folder):
    """Over the limit the exit code is 1, and the quarantine file is where it was asked for."""
    done = call("import", EXAMPLE, *ORDERS, "--folder", folder, "--quarantine", "bad.jsonl")
    assert done.exit_code == 1
    assert "more than the allowed 5.0%" in done.stderr
    assert Path("bad.jsonl").exists()


def test_documents_need_no_mapping(call, folder):
    """Event documents in any order, gzipped or on standard input, are taken in; outcomes find their events."""
    documents = [payment(id=f"e{n}", payment__id=f"p{n}", time=f"2025-11-12T19:{n:02}:00Z") for n in (3, 1, 2)]
    Path("events.jsonl.gz").write_bytes(gzip.compress(b"\n".join(documents)))
    done = call("import", "events.jsonl.gz", "--folder", folder)
    assert done.exit_code == 0, done.output
    assert re.search(r"taken in +3", done.stdout)
    outcome = {"id": "o1", "kind": "chargeback", "event_id": "e1", "time": "2025-11-12T19:20:00Z"}
    outcome["known_at"] = outcome["time"]  # else it would be known from now on
    done = call("import", "-", "--kind", "outcomes", "--folder", folder, stdin=orjson.dumps(outcome))
    assert re.search(r"taken in +1", done.stdout), done.output
    shown = call(
        "decide", "-", "--folder", folder, "--clock", "event", "--json", stdin=payment(id="x", payment__id="px")
    )
    found = orjson.loads(shown.stdout)
    assert found["features"]["user.payments_1h"] == 3
    assert found["features"]["user.fraud_rate_90d"] == pytest.approx(1 / 3)


def test_bad_documents_are_quarantined(call, folder):
    """A line that is no event is noted with its line and reason."""
    Path("events.jsonl").write_bytes(b"\n".join([payment(id="a"), b"{", b"[1]", payment(id="b", txn__currency="XXY")]))
    done = call("import", "events.jsonl", "--folder", folder, "--max-bad", "80%")
    assert done.exit_code == 0, done.output
    noted = [orjson.loads(row) for row in Path("events.jsonl.quarantine.jsonl").read_bytes().splitlines()]
    assert [(row["line"], row["problems"][0]["field"]) for row in noted] == [
        (2, "row"),
        (3, "row"),
        (4, "txn.currency"),
    ]


def test_a_known_id_with_another_body_ends_with_1(call, folder):
    """The known event stays, the other is noted, and the exit code says so."""
    for name, minor in (("one", 100), ("two", 200)):
        Path(name).write_bytes(payment(txn__amount_minor=minor))
        done = call("import", name, "--folder", folder)
    assert done.exit_code == 1
    assert re.search(r"known with another body +1", done.stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.csv", *ORDERS], "can't read nowhere.csv"),
        (["-", "--mapping", "nowhere.yaml"], "can't read the mapping nowhere.yaml"),
        (["-", *ORDERS, "--kind", "outcomes"], "leave out --kind"),
        (["-", "--max-bad", "5"], "is not a share such as 5%"),
    ],
)
def test_import_used_wrongly(call, folder, words, told):
    """What can't be read as declared ends with 2, before anything is taken in."""
    done = call("import", *words, "--folder", folder, stdin=b"")
    assert done.exit_code == 2
    assert told in done.stderr


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.5", 0.5), (0.25, 0.25), ("100 %", 1.0)])
def test_shares(text, share):
    """A share is written with or without %."""
    assert Share().convert(text, None, None) == pytest.approx(share)


# --- serve -----------------------------------------------------------------------------------------------------------


def test_every_setting_is_a_flag(call):
    """`arbiter serve --help` lists them all."""
    text = call("serve", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_serve_refuses_what_is_no_setting(call, folder):
    """A wrong value is told with its place, before anything starts."""
    done = call("serve", "--folder", folder, "--workers", "many")
    assert done.exit_code == 3
    assert "workers on the command line is 'many'" in done.stderr
    (folder / "arbiter.yaml").write_text("prot: 50052\n")
    done = call("serve", "--folder", folder)
    assert "arbiter.yaml:1:1: prot is not a setting; did you mean port?" in done.stderr


def test_serve_answers_and_leaves(folder):
    """The command prints one line when it is ready, and ends with 0 after SIGTERM."""
    words = [sys.executable, "-c", "from engine.cli import main; main()", "serve", "--folder", folder, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert re.fullmatch(r"arbiter serving on 127\.0\.0\.1:\d+ \(1 worker, program [0-9a-f]{12}\)\n", line), log
    assert process.returncode == 0


# --- the rest --------------------------------------------------------------------------------------------------------


def test_rules_check_shows_every_mistake(call, folder):
    """Mistakes are shown at their places, and end with 1."""
    done = call("rules", "check", "--folder", folder)
    assert re.fullmatch(r"ok: 19 rules, 9 features, 0 models, digest [0-9a-f]{32}\n", done.stdout)
    file = folder / "rules" / "risk" / "near.yaml"
    file.write_text(file.read_text().replace("ip.proxy", "ip.proxi").replace("> 500", '> "500"'))
    done = call("rules", "check", "--folder", folder)
    assert done.exit_code == 1
    golden("rules_check", done.stderr.replace(str(folder), "shop"))


def test_simulate_writes_files(call):
    """The four files appear, the same for the same seed."""
    words = ["--days", 2, "--shoppers", 200, "--payments-per-day", 20, "--seed", 3, "--start", "2025-03-01"]
    done = call("simulate", "--out", "a", *words)
    assert done.exit_code == 0, done.output
    call("simulate", "--out", "b", *words)
    assert {path.name for path in Path("a").iterdir()} == {
        f"{n}.jsonl" for n in ("events", "outcomes", "truth", "items")
    }
    assert all(path.read_bytes() == (Path("b") / path.name).read_bytes() for path in Path("a").iterdir())
    assert b'"2025-03-01T' in Path("a/events.jsonl").read_bytes()


def test_simulate_names_what_is_impossible(call):
    """An impossible shop is wrong usage, with every reason."""
    done = call("simulate", "--out", "a", "--days", 0, "--fraud-share", "60%")
    assert done.exit_code == 2
    assert "days 0 is not in 1..3650; fraud_share 0.6 is not in 0..0.5" in done.stderr
    assert not Path("a").exists()


def test_rebuild_derives_profiles_anew(call, folder):
    """Profiles that were lost come back from the journal."""
    Path("events.jsonl").write_bytes(payment())
    call("import", "events.jsonl", "--folder", folder)
    (folder / "state" / "profiles.sqlite").unlink()
    done = call("rebuild", "--folder", folder)
    assert done.exit_code == 0, done.output
    assert "profiles rebuilt from 1 journal records" in done.stdout
    shown = call("decide", "-", "--folder", folder, "--json", stdin=payment(id="x"))
    assert orjson.loads(shown.stdout)["entities"]["user"]["events"] == 1


def test_bench_lists_and_runs(call, monkeypatch, tmp_path):
    """Benchmarks are listed with their purpose, run as modules, and their exit code is handed on."""
    known = call("bench").stdout
    assert re.search(r"^scoring +\S", known, re.MULTILINE)
    assert call("bench", "nosuch").exit_code == 2
    (tmp_path / "engine").mkdir()
    (tmp_path / "benchmarks").mkdir()
    text = '"""Ends with 7."""\nimport sys\nif __name__ == "__main__":\n    sys.exit(6 + ("--quick" in sys.argv))'
    (tmp_path / "benchmarks" / "seven.py").write_text(text)
    monkeypatch.setattr(bench.engine, "__file__", str(tmp_path / "engine" / "__init__.py"))
    assert call("bench").stdout == "seven        Ends with 7.\n"
    assert call("bench", "seven", "--quick").exit_code == 7
    monkeypatch.setattr(bench.engine, "__file__", str(tmp_path / "elsewhere" / "engine" / "__init__.py"))
    assert call("bench").exit_code == 3


# --- data ------------------------------------------------------------------------------------------------------------

DIRTY = "id,at,city\n1,2026-01-01,Rome\n2,2026-01-02,\n2,2026-01-02,\n3,once,rome \n"


def test_a_data_report_is_a_gate_in_text_json_and_html(call):
    """The same findings on the terminal and as JSON; the exit code follows --fail-on; the page is written."""
    Path("dirty.csv").write_text(DIRTY)
    done = call("data", "report", "dirty.csv", "--html", "dirty.html")
    assert done.exit_code == 1
    golden("data_report", done.stdout)
    assert Path("dirty.html").read_text().startswith("<!doctype html>")
    machine = call("data", "report", "dirty.csv", "--json")
    golden("data_report_json", machine.stdout)
    assert next(each["check"] for each in orjson.loads(machine.stdout)["findings"]) == "repeated_rows"
    Path("gaps.csv").write_text("id,city\n1,Rome\n2,\n")
    assert call("data", "report", "gaps.csv").exit_code == 0
    assert call("data", "report", "gaps.csv", "--fail-on", "warning").exit_code == 1


def test_a_data_report_of_what_cannot_be_read(call):
    """A file that isn't there, one of no known format, and a wrong expectation end with words and code 2."""
    assert call("data", "report", "none.csv").exit_code == 2
    Path("dirty.csv").write_text(DIRTY)
    Path("dirty.txt").write_text(DIRTY)
    assert "the ending tells no format" in call("data", "report", "dirty.txt").stderr
    Path("e.yaml").write_text("columns:\n  town: [{not_null: true}]\n")
    done = call("data", "report", "dirty.csv", "--expect", "e.yaml")
    assert done.exit_code == 2
    assert "e.yaml:2:3: error[E301]: column `town` is not in the file" in done.stderr


# --- several sources -------------------------------------------------------------------------------------------------

MET = """\
  user.speaks: {measure: told, of: user.language, unit: text, meaning: Language that any source told last.}
"""
BOUGHT = """\
mapping: bought
source: {format: csv}
id: "bought-{row}"
kind: contact_changed
time: {column: since, zone: UTC}
clean:
  columns:
    language: {tidy: lower, missing: leave}
fields:
  user.id: {column: person, extract: '(\\w+)(?:\\.0)?'}
  user.language: {column: language}
"""
OWN = """\
mapping: own
source: {format: csv}
id: "own-{order}"
kind: payment
time: {column: at, zone: UTC}
fields: {user.id: "{customer}", payment.id: "own-{order}"}
amount: {column: total, unit: major, currency: EUR}
"""
FLAGGED = """\
ruleset: flagged
on: payment
rules:
  - id: unpriced
    when: '"missing.total" in attributes'
    then: {action: REVIEW}
    reason: {code: N9, analyst: no price}
"""


@pytest.mark.parametrize("first", ["own.csv", "bought.csv"])
def test_two_sources_meet_in_one_profile_by_their_keys(call, folder, first):
    """Own orders and bought attributes of one person give one profile, whichever is imported first."""
    features = folder / "rules" / "features.yaml"
    features.write_text(features.read_text() + MET)
    (folder / "rules" / "risk" / "flagged.yaml").write_text(FLAGGED)
    Path("own.csv").write_text(
        "order,at,customer,total\n1,2025-11-01 10:00,u1,5\n2,2025-11-05 10:00,u1,7\n3,2025-11-05 10:00,u2,7\n"
    )
    Path("bought.csv").write_text("person,since,language\nu1.0,2025-11-03,PT \nu1,2025-10-01,fr\nu2,2025-10-02,\n")
    Path("own.yaml").write_text(OWN)
    Path("bought.yaml").write_text(BOUGHT)
    for name in sorted(["own.csv", "bought.csv"], key=lambda name: name != first):
        done = call("import", name, "--mapping", Path(name).with_suffix(".yaml"), "--folder", folder)
        assert done.exit_code == 0, done.output
        if name == "bought.csv":
            assert re.search(r"cleaned: language: missing, leave +1 *\n +cleaned: language: tidied +1 *\n", done.stdout)
    decided = call("decide", "-", "--folder", folder, "--clock", "event", "--json", stdin=payment())
    assert decided.exit_code == 0, decided.output
    found = orjson.loads(decided.stdout)
    assert found["entities"]["user"]["events"] == 4
    assert found["features"]["user.speaks"] == "pt"
