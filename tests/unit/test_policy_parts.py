"""What rules are made of beside conditions: parameters, lists, reasons, tables, scorecards."""

import shutil
from pathlib import Path

import pytest

from engine.errors import PolicyError
from engine.loader import load_program
from engine.policy.evaluate import Policy
from engine.profiles.identity import Identity
from engine.values import Result, Row
from tests.conftest import NOW_US, POLICY


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A copy of the small policy, to change."""
    return Path(shutil.copytree(POLICY, tmp_path / "policy"))


def loaded(folder: Path) -> Policy:
    """The policy of a folder."""
    return load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False).policy


def refused(folder: Path) -> str:
    """What is said of a folder that can't be used."""
    with pytest.raises(PolicyError) as problem:
        loaded(folder)
    return str(problem.value)


def change(file: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def hits(policy: Policy, row: Row, kind: str = "payment") -> set[str]:
    """Rules that hit a row."""
    found, _ = policy.by_kind[kind].evaluate(dict(row), NOW_US)
    return {hit.rule for hit in found if hit.result is Result.HIT}


# --- parameters


@pytest.mark.parametrize(("large", "amount", "wanted"), [("500", 501.0, True), ("600", 501.0, False)])
def test_a_parameter_stands_for_its_value(folder, large, amount, wanted):
    """A rule follows the parameter; a whole number beside a double takes its type, as one written there would."""
    change(folder / "policy.yaml", "large: 500", f"large: {large}")
    assert ("big" in hits(loaded(folder), {"txn.amount_base": amount})) is wanted


@pytest.mark.parametrize(
    ("when", "row", "wanted"),
    [
        ("event.market in param.home", {"event.market": "AT"}, True),
        ("event.market in param.home", {"event.market": "FR"}, False),
        ("has(param.large) && event.market == param.home[0]", {"event.market": "DE"}, True),
        ("size([1].filter(param, param == 1)) == 1", {}, True),
    ],
)
def test_parameters_are_values_of_the_language(folder, when, row, wanted):
    """Lists, has() and macro variables of the same name mean what they always do."""
    change(folder / "risk" / "payments.yaml", "txn.amount_base > param.large", when)
    assert ("big" in hits(loaded(folder), row)) is wanted


def test_a_parameter_costs_nothing_when_rules_run(folder):
    """No rule reads it at run time: its value is in the compiled condition, and the check knows who used it."""
    rules = loaded(folder).by_kind["payment"]
    assert not any(name.startswith("param") for name in rules.program.names)
    assert {name for condition in rules.conditions for name in condition.constants} == {"param.large"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("large: 500", "larger: 500", "error[E301]: unknown name `param.large`"),
        ("large: 500", "larger: 500", "did you mean `param.larger`?"),
        ("large: 500", 'large: "500"', "error[E305]"),
        ("[DE, AT]", "[DE, 7]", "error[E509]: the values of a list must be of one type"),
    ],
)
def test_a_wrong_parameter_is_shown(folder, old, new, said):
    """An unknown name has a suggestion, and a type that doesn't fit is shown where it is used."""
    change(folder / "policy.yaml", old, new)
    assert said in refused(folder)
