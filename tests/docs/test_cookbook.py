"""docs/cookbook.md: each scheme's rules load over the shipped features and lists, and its tests pass."""

import re
import shutil

import pytest

from engine.batch.facts import facts_of
from engine.batch.rule_tests import run_tests
from engine.cli.findings import report_as_text
from engine.language import Diagnostics
from engine.loader import load_program
from engine.policy.lint import lint
from engine.profiles.identity import Identity
from tests.conftest import NOW_US, ROOT

PAGE = (ROOT / "docs" / "cookbook.md").read_text()
SCHEMES = {part.partition("\n")[0]: part for part in re.split(r"^## (?=\d+\. )", PAGE, flags=re.MULTILINE)[1:]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The shipped policy without its rules and tests; no model, so that only the scheme's own rules speak."""
    folder = tmp_path_factory.mktemp("cookbook") / "rules"
    shutil.copytree(ROOT / "rules", folder)
    for part in ("risk", "tests"):
        for path in (folder / part).glob("*.yaml"):
            if path.name != "defaults.yaml":
                path.unlink()
    (folder / "snoozes.yaml").unlink(missing_ok=True)
    for path in (folder / "lists").glob("allowed_*.csv"):  # their entries name rule sets that aren't here
        path.write_text(path.read_text().partition("\n")[0] + "\n")
    settings = re.sub(r"^models: .*\n", "", (folder / "policy.yaml").read_text(), flags=re.MULTILINE)
    (folder / "policy.yaml").write_text(settings)
    return folder


def test_there_are_fifteen_schemes():
    """Each with a rule, a test and a trap."""
    assert len(SCHEMES) == 15
    for part in SCHEMES.values():
        assert [part.count(mark) for mark in ("```yaml rule", "```yaml test", "**The trap.**")] == [1, 1, 1]


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme(name, base):
    """Its rules load without a finding; its cases come out; each enforced rule has a hit and a miss."""
    blocks = dict(re.findall(r"^```yaml (rule|test)\n(.*?)^```", SCHEMES[name], re.MULTILINE | re.DOTALL))
    (base / "risk" / "scheme.yaml").write_text(blocks["rule"])
    (base / "tests" / "scheme.yaml").write_text(blocks["test"])
    found = Diagnostics()
    program = load_program(base, base, Identity(bytes(32)), with_models=False, diagnostics=found)
    lint(program.policy, base, found, NOW_US, facts_of(program))
    odd = [item.message for item in found.items if item.position.file.startswith("risk/")]
    assert odd == []
    report = run_tests(program, base)
    assert report_as_text(report, coverage=False).startswith("ok: ")
    assert report.uncovered == ()
