"""What changed between two policies is told in their own terms."""

import shutil

import pytest

from engine.loader import load_program
from engine.policy.diff import described, differences, said
from engine.profiles.identity import Identity
from tests.conftest import ROOT


def loaded(rules):
    """What a folder holds, as the difference sees it."""
    return described(load_program(rules, ROOT / "models", Identity(bytes(32)), lambda: 0, with_models=False).policy, {})


@pytest.fixture
def told(tmp_path):
    """Differences of the shipped policy and one with texts replaced in files."""

    def differ(*changes):
        shutil.copytree(ROOT / "rules", tmp_path / "rules", dirs_exist_ok=True)
        for name, old, new in changes:
            path = tmp_path / "rules" / name
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new, 1))
        return list(differences(loaded(ROOT / "rules"), loaded(tmp_path / "rules")))

    return differ


def test_a_moved_comment_says_nothing(told):
    """Remarks, blank lines and the order of keys are no difference."""
    assert told(("policy.yaml", "hold: 30d ", "\n# held\nhold:   30d ")) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("risk/strangers.yaml", "points: 20", "points: 25", "scorecard stranger: points of {}: 20 → 25"),
        ("policy.yaml", "from_score: 0.50", "from_score: 0.45", "band payment 3: from 0.5 → 0.45"),
        ("policy.yaml", "lateness: 30d", "lateness: 36h", "setting: lateness 30d → 36h"),
        ("policy.yaml", "new_account_days: 2", "new_account_days: 3", "parameter new_account_days: 2 → 3"),
        ("risk/velocity.yaml", "card.payments_1h >= 3", "card.payments_1h >= 4",
         "rule card-velocity: threshold of card.payments_1h 3 → 4"),
        ("reasons.yaml", "three earlier payments with the card", "3 earlier payments with the card",
         "reason V102: analyst three earlier payments with the card within the hour → "
         "3 earlier payments with the card within the hour"),
    ],
)  # fmt: skip
def test_one_change_is_one_line(told, name, old, new, line):
    """Each sort of thing by its name, with the value before and after."""
    (found,) = told((name, old, new))
    before, _, after = line.partition("{}")
    assert found.startswith(before)
    assert found.endswith(after)


def test_a_changed_condition_shows_both_and_the_part_that_changed(told):
    """Where more than numbers changed, the changed part stands first and both whole texts below it."""
    (found,) = told(("risk/velocity.yaml", "card.spend_24h > 600 && card.age_days < 2", "card.spend_24h > 600 || true"))
    assert found == (
        "rule card-spend-of-a-day: condition && card.age_days < 2 → || true\n"
        "    was card.spend_24h > 600 && card.age_days < 2\n    is  card.spend_24h > 600 || true"
    )


@pytest.mark.parametrize(
    ("value", "part", "words"),
    [
        (0.25, "rollout", "25 %"), (0, "from", "always"), (1_795_514_400_000_000, "until", "2026-11-24T10:00:00Z"),
        (90_000_000, "window", "90s"), ((), "on", "nothing"), (("a", "b"), "on", "a, b"), (True, "final", "true"),
    ],
)  # fmt: skip
def test_values_are_told_in_words(value, part, words):
    """Shares, moments, durations, lists and truth values read as they are written in a policy."""
    assert said(value, part) == words
