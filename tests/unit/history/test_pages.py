"""docs/backtest.md and docs/risk_report.md: their commands run over the simulated shop and print what they show."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.app import app
from tests.conftest import ROOT

BLOCK = re.compile(r"^```(yaml|sh|text) ?(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def called(line: str) -> str:
    """What a command prints, without progress."""
    words = shlex.split(line)
    if words[0] != "arbiter":
        subprocess.run(words, check=True)
        return ""
    done = CliRunner().invoke(app, words[1:], prog_name="arbiter")
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done.stdout


@pytest.mark.parametrize(("name", "shown"), [("backtest.md", 3), ("risk_report.md", 2)])
def test_the_page_runs(shop, tmp_path, monkeypatch, name, shown):
    """Files are written, commands run, and each text is what the last command printed."""
    shutil.copytree(shop.folder, tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    printed, seen = "", 0
    for kind, file, text in BLOCK.findall((ROOT / "docs" / name).read_text()):
        if kind == "yaml":
            Path(file).write_text(text)
        elif kind == "sh":
            for line in text.splitlines():
                printed = called(line)
        else:
            assert printed == text
            seen += 1
    assert seen == shown
