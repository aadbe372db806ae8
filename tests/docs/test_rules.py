"""The policy that docs/rules.md writes, part by part, loads and does what the page says."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from engine.loader import load_program
from engine.policy.evaluate import Policy
from engine.profiles.identity import Identity
from engine.values import Result
from tests.conftest import NOW_US, POLICY, ROOT

BLOCK = re.compile(r"^```(?:yaml|csv) (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", name="policy")
def _policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """The page's files over the small policy and the shipped features; its policy.yaml is added to the other."""
    folder = Path(shutil.copytree(POLICY, tmp_path_factory.mktemp("docs") / "rules"))
    for part in ("risk", "lists", "patterns"):
        shutil.rmtree(folder / part)
        (folder / part).mkdir()
    shutil.copy(ROOT / "rules" / "features.yaml", folder)
    settings = yaml.safe_load((folder / "policy.yaml").read_text()) | {"required": [], "fallbacks": []}
    for name, text in BLOCK.findall((ROOT / "docs" / "rules.md").read_text()):
        if name == "policy.yaml":
            settings |= yaml.safe_load(text)
        else:
            (folder / name).write_text(text)
    settings["control_group"]["until"] = "2027-03-31T00:00Z"  # another reader of YAML made a date of it
    (folder / "policy.yaml").write_text(yaml.safe_dump(settings))
    return load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False).policy


def test_every_part_is_there(policy):
    """A rule, five rows, two bands and a rule that reads the sum; two lists, and three things that lower."""
    assert [rule.id for rule in policy.rules] == [
        "young-and-large", *(f"first-order#{line}" for line in range(2, 7)), "stranger-far-away", "stranger@30",
        "stranger@50",
    ]  # fmt: skip
    assert set(policy.lists) == {"bad_networks", "regulars"}
    assert policy.lowering is not None
    assert policy.lowering.control is not None
    assert (len(policy.lowering.allow), len(policy.lowering.snoozes)) == (1, 1)


def test_rows_and_points_are_as_the_page_says(policy):
    """A new account with 300 from abroad is reviewed, and a proxy makes a stranger of it."""
    row = {
        "event.kind": "payment", "user.account_age_days": 0.5, "txn.amount_base": 300.0, "card.country": "FR",
        "ip.proxy": True, "address.country": "DE",
    }  # fmt: skip
    found, _ = policy.by_kind["payment"].evaluate(row, NOW_US)
    hit = [one.rule for one in found if one.result is Result.HIT]
    assert hit == ["stranger#1+15", "stranger#2+20", "stranger#3+15", "first-order#4", "stranger@50"]
