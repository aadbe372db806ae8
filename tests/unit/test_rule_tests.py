"""Tests beside the rules: what they can say, how a difference is shown, and that they decide as the live code does."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from engine.batch.rule_tests import TestReport, run_tests
from engine.cli.app import app
from engine.cli.findings import report_as_text
from engine.language import CODES, DiagnosticsError
from engine.loader import load_program
from engine.profiles.identity import Identity
from tests.conftest import POLICY, ROOT

REWRITE = os.environ.get("ARBITER_REWRITE_GOLDEN") == "1"
GOLDEN = ROOT / "tests" / "golden" / "rule_tests.txt"
DEFAULTS = """\
at: 2026-11-24T10:00Z
event: {user.id: anna, device.id: phone, card.token: tok_1, txn.amount_minor: 4990, txn.currency: EUR, ip.country: DE}
"""


def report(folder: Path, models: Path | None = None) -> TestReport:
    """What the tests of a folder give."""
    program = load_program(folder, models or folder, Identity(bytes(32)), with_models=models is not None)
    return run_tests(program, folder)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """The small policy with defaults for its tests."""
    folder = tmp_path / "rules"
    shutil.copytree(POLICY, folder)
    (folder / "tests").mkdir()
    (folder / "tests" / "defaults.yaml").write_text(DEFAULTS)
    return folder


def run(folder: Path, text: str) -> TestReport:
    """What one file of tests gives."""
    (folder / "tests" / "more.yaml").write_text(text)
    return report(folder)


def test_the_shipped_policy_passes_its_own_tests():
    """All cases come out, each enforced rule has a hit and a miss, in less than ten seconds of the processor."""
    began_s = time.process_time()
    found = report(ROOT / "rules", ROOT / "models")
    took_s = time.process_time() - began_s
    assert report_as_text(found, coverage=False).startswith("ok: ")
    assert found.cases > 250
    assert found.uncovered == ()
    assert took_s < 10


def test_earlier_events_are_counted_and_cases_see_only_their_own(policy):
    """Three payments on a card in the hour hit; the same card in the next case has no history."""
    found = run(policy, """\
cases:
  - name: the fourth within an hour
    before: [{ago: 50m}, {ago: 40m, result: declined}, {ago: 5m, user.id: null}]
    event: {}
    expect: {hits: [velocity, watched, half], tier: MEDIUM, action: CHALLENGE, reasons: [R1, R8], measures: []}
  - name: one was longer ago
    before: [{ago: 61m}, {ago: 40m}, {ago: 5m}]
    event: {}
    expect: {misses: [velocity]}
  - name: nothing before
    event: {}
    expect: {misses: [velocity], unknown: [only-tier]}
  - name: nothing before, and no card
    event: {card.token: null}
    expect: {unknown: [velocity, blocked-card]}
""")  # fmt: skip
    assert report_as_text(found, coverage=False).replace("R8", "") == report_as_text(found, coverage=False)
    assert found.coverage["velocity"].hit == 1
    assert (found.coverage["velocity"].miss, found.coverage["velocity"].unknown) == (2, 1)
    assert found.coverage["only-tier"].unknown == 4


def test_set_replaces_what_was_computed(policy):
    """Windows before what is derived from them, signals, standing and the score; null takes a value away."""
    (policy / "features.yaml").write_text(
        (policy / "features.yaml").read_text()
        + '  user.much: {derive: "user.spend_24h * 2.0", unit: money, meaning: twice}\n'
    )
    (policy / "risk" / "more.yaml").write_text(
        "ruleset: more\non: payment\nrules:\n  - id: much\n    when: user.much > 100 && score > 0.5 && "
        'user.risk.tier == "HIGH" && "model" in degraded\n    then: {tier: HIGH}\n'
        "    reason: {code: M1, analyst: much}\n"
    )
    found = run(policy, """\
tables:
  - rule: much
    set: {degraded: [model]}
    columns: [user.spend_24h, score, user.risk.tier]
    rows:
      - [51, 0.6, HIGH, hit]
      - [50, 0.6, HIGH, miss]
      - [51, 0.5, HIGH, miss]
      - [51, 0.6, LOW, miss]
      - [null, 0.6, HIGH, unknown]
      - [51, null, HIGH, unknown]
  - rule: takeover
    columns: [signal.takeover]
    rows: [[true, hit], [false, miss]]
""")  # fmt: skip
    assert found.failed == ()
    assert found.cases == 8


def test_as_if_it_were_another_day(policy):
    """A rule that starts in 2099 runs then; an entry of a list counts until its end."""
    found = run(policy, """\
cases:
  - name: in 2099
    at: 2099-01-02T10:00Z
    event: {}
    expect: {hits: [watched, later, half], action: DECLINE}
  - name: before the entry ended
    at: 2019-06-01T10:00Z
    event: {card.token: tok_expired}
    expect: {action: DECLINE}
  - name: after it
    event: {card.token: tok_expired}
    expect: {misses: [blocked-card]}
""")  # fmt: skip
    assert [failed.case.name for failed in found.failed] == []


def test_a_pattern_is_told_by_earlier_events(policy):
    """The signal comes from the matcher, as it would live."""
    steps = (policy / "patterns" / "takeover.yaml").read_text()
    assert "password_change" in steps
    found = run(policy, """\
cases:
  - name: in order
    before: [{kind: password_change, ago: 20m}, {kind: login, ago: 10m, device.id: laptop}]
    event: {}
    expect: {hits: [takeover, watched, half]}
  - name: nothing before
    event: {}
    expect: {misses: [takeover]}
""")  # fmt: skip
    assert report_as_text(found, coverage=False).startswith("ok: 2 cases")


def test_a_difference_is_shown_as_a_person_reads_it(policy):
    """Place, name, what was expected and what came, with the condition that failed and what it saw."""
    found = run(policy, """\
cases:
  - name: two payments are no velocity
    before: [{ago: 5m}]
    event: {}
    expect: {hits: [velocity, huge], tier: HIGH, action: REVIEW, measures: [MONITOR], reasons: [R1]}
tables:
  - rule: big
    columns: [txn.amount_base]
    rows:
      - [501, miss]
      - [500, hit]
      - [null, hit]
""")  # fmt: skip
    assert re.search(r"^big +1 +2 +1$", report_as_text(found, coverage=True), re.MULTILINE)
    text = report_as_text(found, coverage=False).rpartition("\n")[0] + "\n"
    if REWRITE:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    assert not found.passed


MISTAKES = {
    "E701": "tables:\n  - rule: velocitee\n    columns: [card.payments_1h]\n    rows: [[3, hit]]\n",
    "E702": "cases:\n  - name: a payment\n    event: {txn.currency: EURO}\n    expect: {action: ALLOW}\n",
    "E703": "cases:\n  - name: a payment\n    event: {card.payments_1h: 3}\n    expect: {hits: [velocity]}\n",
    "E704": "tables:\n  - rule: velocity\n    columns: [card.payments_1h]\n    rows: [[3]]\n",
}


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_in_a_test_is_shown_at_its_place(code, policy):
    """Each code has an example, whose text is on its page."""
    with pytest.raises(DiagnosticsError) as refused:
        run(policy, MISTAKES[code])
    page = ROOT / "docs" / "errors" / f"{code}.md"
    block = re.search(r"(?<=```text\n).*?(?=\n```)", page.read_text(), re.DOTALL)
    assert block is not None
    assert f"[{code}]" in str(refused.value)
    if REWRITE:
        page.write_text(str(refused.value).join((page.read_text()[: block.start()], page.read_text()[block.end() :])))
        return
    assert block[0] == str(refused.value)
    assert page.read_text().startswith(f"# {code}: {CODES[code]}\n")


def test_codes_and_pages_are_the_same_set():
    """No page without a code."""
    codes = {code for code in CODES if code.startswith("E7")}
    assert set(MISTAKES) == codes == {page.stem for page in (ROOT / "docs" / "errors").glob("E7*.md")}


def test_the_command(policy, monkeypatch):
    """Exit code 0 when all come out, 1 when not, JSON for programs, coverage as a gate of its own."""
    monkeypatch.chdir(policy.parent)
    (policy / "tests" / "more.yaml").write_text(
        "tables:\n  - rule: velocity\n    columns: [card.payments_1h]\n    rows: [[3, hit], [2, miss]]\n"
    )

    def call(*arguments):
        return CliRunner().invoke(app, ["rules", "test", *arguments], prog_name="arbiter")

    assert call().exit_code == 0, call().output
    assert call().stdout.startswith("ok: 2 cases, ")
    assert call("--coverage").exit_code == 1
    document = orjson.loads(call("--json").stdout)
    assert (document["passed"], document["cases"]) == (True, 2)
    assert document["coverage"]["velocity"] == {"hit": 1, "miss": 1, "unknown": 0}
    assert "velocity" not in document["uncovered"]
    assert "takeover" in document["uncovered"]
    (policy / "tests" / "more.yaml").write_text(
        "tables:\n  - rule: velocity\n    columns: [card.payments_1h]\n    rows: [[2, hit]]\n"
    )
    assert call("rules/tests/more.yaml").exit_code == 1
    assert "rules/tests" not in call("rules/tests/more.yaml").stdout
