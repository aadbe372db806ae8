"""`arbiter rules check` in each of its formats, with mistakes and without."""

from __future__ import annotations

import re

import orjson
import pytest

from tests.unit.cli.conftest import golden
from tests.unit.test_lints import policy

FORMATS = ("text", "json", "sarif", "github")
TWO_MISTAKES = (("txn.amount_base > 500", 'txn.amount_base > "500"'), ("ip.proxy", "ip.proxi"))


@pytest.fixture
def broken(folder):
    """The folder with two mistakes in one file."""
    file = folder / "rules" / "risk" / "near.yaml"
    text = file.read_text()
    for old, new in TWO_MISTAKES:
        text = text.replace(old, new)
    file.write_text(text)
    return folder


@pytest.mark.parametrize("form", FORMATS)
def test_mistakes(form, call, broken):
    """Each format shows both mistakes at their places, and the exit code is 1."""
    done = call("rules", "check", "--folder", broken, "--format", form)
    assert done.exit_code == 1
    golden(f"check_mistakes_{form}", done.output.replace(str(broken), "shop"))


@pytest.mark.parametrize("form", FORMATS)
def test_warnings(form, call, tmp_path):
    """Warnings are shown with their places and don't fail; with --strict they do."""
    folder = tmp_path / "shop"
    policy(tmp_path, 'when: score > 50 && in_list("ended", card.token) && txn.amount_base > param.large')
    folder.mkdir()
    (tmp_path / "policy").rename(folder / "rules")
    done = call("rules", "check", "--folder", folder, "--format", form)
    assert done.exit_code == 0
    golden(
        f"check_warnings_{form}",
        re.sub(r'(features"?:? ?)\d+|\d+ features', "N features", done.output.replace(str(folder), "shop")),
    )
    assert call("rules", "check", "--folder", folder, "--format", form, "--strict").exit_code == 1


def test_sarif_has_the_shape_that_scanners_ask_for(call, broken):
    """Version, tool, rules that results point to, and a place from line and column 1 on for each result."""
    (run,) = orjson.loads(call("rules", "check", "--folder", broken, "--format", "sarif").stdout)["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == 2
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        region = result["locations"][0]["physicalLocation"]["region"]
        assert 1 <= region["startColumn"] < region["endColumn"]
        assert result["level"] == "error"


@pytest.mark.parametrize("form", FORMATS)
def test_a_failure_without_a_place(form, call, folder):
    """What keeps a policy from being used without standing in one of its lines is told in every format."""
    (folder / "rules" / "tables" / "fx.csv").write_text("currency,valid_from,rate\nUSX,2026-01-01,1\n")
    done = call("rules", "check", "--folder", folder, "--format", form)
    assert done.exit_code == 1
    assert "fx.csv:2: 'USX' is not an ISO 4217" in done.output.replace("%25", "%").replace("\\'", "'")


def test_a_right_policy_gives_machines_no_error(call, folder):
    """Exit code 0, no mistake, and the digest in the JSON."""
    told = {form: call("rules", "check", "--folder", folder, "--format", form) for form in FORMATS}
    assert [done.exit_code for done in told.values()] == [0, 0, 0, 0]
    document = orjson.loads(told["json"].stdout)
    assert (document["ok"], document["features"] > 5, document["rules"] > 14) == (True, True, True)
    assert re.fullmatch("[0-9a-f]{32}", document["digest"])
    found = orjson.loads(told["sarif"].stdout)["runs"][0]["results"]
    assert [one["severity"] for one in document["findings"]] == [one["level"] for one in found]
    assert "error" not in {one["level"] for one in found}
    assert "::error" not in told["github"].stdout


def test_paths_are_those_of_the_working_folder(call, broken):
    """A code review finds the file: the path starts at the working folder, and is escaped in a workflow command."""
    done = call("rules", "check", "--folder", "shop", "--format", "github")
    assert done.stdout.startswith("::error file=shop/rules/risk/near.yaml,line=5,col=58,endColumn=63,title=E305::")
