"""What people read when something is wrong: one golden file and one page for each code."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from engine.language import CODES, Diagnostics, load_yaml
from tests.unit.language.mistakes import FILES, report, rule

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "language"
PAGES = ROOT / "docs" / "errors"
OWN = {code: meaning for code, meaning in CODES.items() if code[:2] in ("E1", "E2", "E3")}
REWRITE = os.environ.get("ARBITER_REWRITE_GOLDEN") == "1"
"""Set it to write the golden files anew; look at the difference before you commit it."""


@pytest.mark.parametrize("code", sorted(FILES))
def test_golden_text(code: str) -> None:
    """The mistake of each code is shown with exactly this text."""
    text = report(FILES[code]).render() + "\n"
    file = GOLDEN / f"{code}.txt"
    if REWRITE:
        file.write_text(text)
    assert text == file.read_text()
    assert f"[{code}]" in text


def test_every_code_has_an_example_and_a_page() -> None:
    """Codes, golden files and pages are the same set; E101 needs a file that isn't there, E117 two files."""
    assert set(FILES) | {"E101", "E117"} == set(OWN)
    assert {page.stem for page in PAGES.glob("E[123]*.md")} == set(OWN)


@pytest.mark.parametrize("code", sorted(OWN))
def test_page_says_what_the_code_means(code: str) -> None:
    """A page begins with its code and meaning and shows the very text of the golden file."""
    file, golden = PAGES / f"{code}.md", GOLDEN / f"{code}.txt"
    if REWRITE and golden.exists():
        parts = re.split(r"(?s)(?<=```text\n).*?(?=```\n)", file.read_text(), maxsplit=1)
        file.write_text(golden.read_text().join(parts))
    assert file.read_text().startswith(f"# {code}: {OWN[code]}\n")
    assert code not in FILES or golden.read_text() in file.read_text()


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that can't be opened is a mistake like any other."""
    diagnostics = Diagnostics()
    assert load_yaml(tmp_path / "none.yaml", diagnostics, "rules/none.yaml") is None
    assert (
        diagnostics.render()
        == "rules/none.yaml:1:1: error[E101]: can't read rules/none.yaml: No such file or directory"
    )


def test_all_mistakes_come_at_once() -> None:
    """Three wrong rules and an unknown key give four mistakes, in the order of the file."""
    text = "rules:\n" + "".join(f'  - {{id: r{i}, when: "nme > {i}", colour: red}}\n' for i in range(2))
    assert [item.code for item in report(text).ordered()] == ["E301", "E111", "E301", "E111"]


def test_look_alike_letters_are_pointed_out() -> None:
    """A Cyrillic letter in a key, and one in a condition, are named as such."""
    shown = report("rules:\n  - id: sample\n    whеn: user.vip\n").render()
    assert "'е' is CYRILLIC SMALL LETTER IE, which only looks like ASCII; did you mean `when`?" in shown
    shown = report(rule("usеr.vip")).render()
    assert "rules.yaml:3:13: error[E201]" in shown
    assert "this is CYRILLIC SMALL LETTER IE, which only looks like `e`" in shown


def test_a_thoroughly_broken_file_ends_in_bounded_text() -> None:
    """Only the first thousand mistakes are kept, the others are counted; endless names are cut."""
    many = report("rules:\n" + "  - {idd: x, when: nme > 1}\n" * 5_000)
    assert (len(many.items), many.more) == (1000, 14_000)
    assert many.render().endswith("and 14000 more")
    assert len(report(f"rules: []\n{'x' * 1000}: 1\n").render()) < 700
