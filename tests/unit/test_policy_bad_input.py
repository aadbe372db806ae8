"""Files that are broken, hostile or change while they are read: a clear message, soon, and the live policy stays."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.bootstrap import open_engine
from engine.errors import ArbiterError
from engine.language import Diagnostics, DiagnosticsError, parse_yaml
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.settings import read_settings
from tests.conftest import POLICY, payment

MOST_S = 10.0
"""Of processor time; far above what any of these takes, while a hang or a quadratic step takes minutes."""
MOST_BYTES = 300_000_000
RULE = "  - id: r{}\n    when: {}\n    then: {{tier: LOW}}\n    reason: {{code: X, analyst: x}}\n"
HEAD = "ruleset: more\non: payment\nrules:\n"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)


def rules(text: str | bytes) -> Callable[[Path], None]:
    """Write a rule file."""
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "risk" / "more.yaml").write_bytes(data) and None


def changed(file: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace a text in a file."""

    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


def instead_of(file: str) -> Callable[[Path], None]:
    """Put a folder where a file was."""

    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    return change


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "over 5 MB": (
        rules(HEAD + "".join(RULE.format(n, "txn.amount_base > 1") for n in range(60_000))),
        "risk/more.yaml:1:1: error[E102]: risk/more.yaml is larger than 5,000,000 bytes",
    ),
    "ten thousand mistakes": (
        rules(HEAD + "".join(RULE.format(n, "txn.amuont_base > 1") for n in range(10_000))),
        "risk/more.yaml:5:11: error[E301]: unknown name `txn.amuont_base`",
    ),
    "1,000 nested parentheses": (
        rules(HEAD + RULE.format(1, "(" * 1000 + "true" + ")" * 1000)),
        "risk/more.yaml:5:61: error[E207]: nested deeper than 50 levels",
    ),
    "1,000 signs": (rules(HEAD + RULE.format(1, "'" + "!" * 1001 + "5'")), "error[E304]: `!` takes bool, not int"),
    "1,000 nested brackets": (
        rules(HEAD + "  - " + "[" * 1000 + "\n"),
        "risk/more.yaml:4:1003: error[E110]: YAML: exceeded maximum nesting depth",
    ),
    "anchors that multiply": (rules(BOMB), "risk/more.yaml:1:4: error[E106]: anchor `&a`: anchors are not allowed"),
    "a key twice": (
        rules(HEAD + RULE.format(1, "txn.amount_base > 1") + "    when: txn.amount_base > 2\n"),
        "risk/more.yaml:8:5: error[E108]: key `when` is given twice",
    ),
    "tabs": (rules(HEAD + "\t- id: r\n"), "risk/more.yaml:4:1: error[E105]: a tab is used for indentation"),
    "a Cyrillic letter in a key": (
        rules(HEAD + RULE.format(1, "txn.amount_base > 1").replace("when", "whеn")),
        "error[E111]: unknown key `whеn`\n        whеn: txn.amount_base > 1\n        ^^^^\n"
        "  help: 'е' is CYRILLIC SMALL LETTER IE, which only looks like ASCII; did you mean `when`?",
    ),
    "a Cyrillic letter in a name": (
        rules(HEAD + RULE.format(1, "txn.аmount_base > 1")),
        "this is CYRILLIC SMALL LETTER A, which only looks like `a`",
    ),
    "a Greek letter in a list's name": (
        changed("risk/payments.yaml", 'in_list("cards"', 'in_list("cαrds"'),
        "error[E308]: unknown list `cαrds`",
    ),
    "a Cyrillic letter in an outcome": (
        changed("risk/payments.yaml", "tier: HIGH", "tier: HІGH"),
        "BYELORUSSIAN-UKRAINIAN I, which only looks like ASCII; did you mean `HIGH`?",
    ),
    "Latin-1": (
        rules(HEAD.encode() + b"  # caf\xe9\n"), "risk/more.yaml:4:8: error[E103]: byte 0xe9 is not valid UTF-8"
    ),
    "a zero byte": (rules(HEAD + "\x00"), "risk/more.yaml:4:1: error[E104]: YAML: control characters are not allowed"),
    "features in a circle": (
        changed("features.yaml", "features:\n", "features:\n  user.a: {derive: user.b + 1, unit: ratio, meaning: a}\n"
                "  user.b: {derive: user.a + 1, unit: ratio, meaning: b}\n"),
        "features.yaml:3:20: error[E405]: `user.a` is derived from `user.b`, which stands below it",
    ),
    "a feature of itself": (
        changed("features.yaml", "features:\n", "features:\n  user.a: {derive: user.a, unit: ratio, meaning: a}\n"),
        "error[E405]: `user.a` is derived from itself",
    ),
    "a table whose name is longer than names may be": (
        changed("risk/refunds.yaml", "file: refund.csv", "file: " + "x" * 5000 + ".csv"),
        "error[E517]: there is no table tables/xxx",
    ),
    "a table elsewhere": (
        changed("risk/refunds.yaml", "file: refund.csv", "file: ../lists/cards.csv"),
        "error[E517]: there is no table tables/../lists/cards.csv",
    ),
    "a binary file as a list": (
        lambda folder: (folder / "lists" / "cards.csv").write_bytes(bytes(range(256)) * 100) and None,
        "lists/cards.csv:2:1: error[E103]: byte 0x80 is not valid UTF-8",
    ),
    "a folder where a file should be": (
        instead_of("risk/payments.yaml"),
        "risk/payments.yaml:1:1: error[E101]: can't read risk/payments.yaml: Is a directory",
    ),
    "a file that is gone": (
        lambda folder: (folder / "labels.yaml").unlink(),
        "labels.yaml:1:1: error[E101]: can't read labels.yaml: No such file or directory",
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small policy."""
    return Path(shutil.copytree(POLICY, tmp_path / "rules"))


def load(folder: Path):
    """Load a policy folder without models."""
    return load_program(folder, folder, Identity(bytes(32)), lambda: 0, with_models=False)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_soon_and_clearly(name, folder):
    """The message names the very place; time is bounded."""
    breaks, message = BROKEN[name]
    breaks(folder)
    began = time.process_time()
    with pytest.raises(DiagnosticsError) as refused:
        load(folder)
    assert time.process_time() - began < MOST_S
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1_000_000


def test_a_list_with_old_line_ends(folder):
    """Lines that end with CR alone are lines, and a mistake among them has its place."""
    file = folder / "lists" / "cards.csv"
    text = "value,reason,author,added,until\r" + "tok_1,stolen,analyst,2026-11-01,\r" * 2
    file.write_bytes(text.encode())
    with pytest.raises(DiagnosticsError) as refused:
        load(folder)
    assert "lists/cards.csv:3:1: error[E514]: the value is in the list before, in line 2" in str(refused.value)


def test_half_a_character_is_no_text():
    """A text from memory may hold half of a pair of surrogates, which no file can; it is refused with its place."""
    diagnostics = Diagnostics()
    assert parse_yaml("a: \ud8e5", "f.yaml", diagnostics) is None
    assert "f.yaml:1:4: error[E103]" in diagnostics.render()


@pytest.mark.parametrize("name", ["over 5 MB", "1,000 nested brackets", "anchors that multiply"])
def test_a_broken_file_takes_bounded_memory(name, folder):
    """What a hostile file makes grow is far below its expansion."""
    BROKEN[name][0](folder)
    tracemalloc.start()
    with pytest.raises(DiagnosticsError):
        load(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MOST_BYTES


@pytest.mark.parametrize(
    "text",
    [
        ("\ufeff" + HEAD + RULE.format("bom", "txn.amount_base > 77")).encode(),
        (HEAD + RULE.format("crlf", "txn.amount_base > 77")).replace("\n", "\r\n").encode(),
        (HEAD + RULE.format("cr", "txn.amount_base > 77")).replace("\n", "\r").encode(),
    ],
    ids=["BOM", "CR LF", "CR"],
)
def test_what_other_editors_save_is_taken(text, folder):
    """A byte order mark and other line ends change nothing; a mistake in such a file has its right place."""
    rules(text)(folder)
    assert {rule.id for rule in load(folder).policy.rules} & {"rbom", "rcrlf", "rcr"}
    rules(text.replace(b"amount", b"amuont"))(folder)
    with pytest.raises(DiagnosticsError, match=r"risk/more.yaml:5:11: error\[E301\]"):
        load(folder)


@pytest.mark.parametrize("gone", ["risk/payments.yaml", "lists/cards.csv", "patterns/takeover.yaml"])
def test_a_file_deleted_while_loading(gone, folder, monkeypatch):
    """A file that goes away between the listing and the reading is a mistake like any other."""
    listed = Path.glob

    def deleting(self: Path, pattern: str):
        found = list(listed(self, pattern))
        if folder / gone in found:
            (folder / gone).unlink()
        return iter(found)

    monkeypatch.setattr(Path, "glob", deleting)
    with pytest.raises(ArbiterError) as refused:
        load(folder)
    assert Path(gone).name in str(refused.value)


@pytest.mark.parametrize("name", ["tabs", "1,000 nested parentheses", "anchors that multiply", "a file that is gone"])
async def test_the_live_policy_stays(name, folder, tmp_path):
    """A running engine goes on deciding with what it had."""
    engine = open_engine(read_settings(tmp_path, {"rules": str(folder), "clock": "event", "gather_ms": 0}, {}))
    await engine.start(watch=False)
    before = engine.program_digest
    BROKEN[name][0](folder)
    assert await engine.reload() is False
    assert engine.program_digest == before
    assert (await engine.decide(payment(1))).program == before
    await engine.close()
