"""docs/first_rule.md: its files are written, its commands run in order, and what they print is what the page shows."""

import re
import shlex
import subprocess
from pathlib import Path

from click.testing import CliRunner

from engine.cli.app import app
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "first_rule.md").read_text()
BLOCK = re.compile(r"^```(yaml|sh|text) ?(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def called(line: str, monkeypatch) -> str:
    """What a command prints; it must end well unless the page shows an error."""
    words = shlex.split(line)
    if words[0] == "cd":
        monkeypatch.chdir(words[1])
        return ""
    if words[0] == "sed":
        subprocess.run(words, check=True)
        return ""
    done = CliRunner().invoke(app, words[1:], prog_name="arbiter")
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.output


def plain(text: str) -> str:
    """Without what differs between runs."""
    return re.sub(r"\b[0-9a-f]{32}\b", "DIGEST", text.replace(f"{Path.cwd()}/", ""))


def test_the_page_runs(tmp_path, monkeypatch):
    """From an empty folder to a rule that is live and taken back."""
    for name in ("ARBITER_REWRITE_GOLDEN", "ARBITER_LONG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    printed, shown = "", 0
    for kind, name, text in BLOCK.findall(PAGE):
        if kind == "yaml":
            Path(name).write_text(text)
        elif kind == "sh":
            for line in text.splitlines():
                printed = called(line, monkeypatch)
                assert line.startswith(("arbiter rules", "cd", "sed")) or "error:" not in printed, printed
        else:
            assert plain(printed) == text
            shown += 1
    assert shown == 4
    assert "rollout: 25%" in Path("rules/risk/gift_cards.yaml").read_text()
