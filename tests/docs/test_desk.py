"""docs/outcomes.md and docs/review.md: their files are written, their commands run, and print what the pages show.

With ARBITER_REWRITE_GOLDEN=1 the pages are rewritten with what the commands print.
"""

import asyncio
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import engine.bootstrap
from engine.cli.app import app
from engine.intake import read_event
from engine.settings import read_settings
from tests.conftest import NOW_US, ROOT

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MINUTE_US = 60_000_000
TIMED = re.compile(r"in [\d.,]+ s, [\d,]+ a second")
CUT = "…\n"


async def decide(documents):
    """What a checkout asks, at the time of each event."""
    running = engine.bootstrap.open_engine(read_settings(".", {"clock": "event"}, {}))
    await running.start(watch=False)
    for document in documents:
        await running.decide(read_event(document, now_us=2**62))
    await running.close()


def called(line, monkeypatch):
    """What a command prints, errors too."""
    words = shlex.split(line)
    if words[0] == "cd":
        monkeypatch.chdir(words[1])
        return ""
    if words[0] == "cat":
        return Path(words[1]).read_text()
    done = CliRunner().invoke(app, words[1:], prog_name="arbiter")
    assert isinstance(done.exception, SystemExit | None), done.exception
    return "" if words[1] == "init" else done.output


def shown(text, wanted):
    """What a page shows of it: all, or as far as the page goes."""
    text = "\n".join(line.rstrip() for line in TIMED.sub("in 0.1 s, 100 a second", text).splitlines()) + "\n"
    text = text.replace(f"{Path.cwd()}/", "")
    if not wanted.endswith(CUT):
        return text
    lines = max(len(wanted.splitlines()) - 1, 5)
    return "\n".join(text.splitlines()[:lines]) + "\n" + CUT


@pytest.mark.parametrize("name", ["outcomes", "review"])
def test_a_page_runs(name, tmp_path, monkeypatch):
    """Block by block, a minute after each other."""
    rewrite = os.environ.get("ARBITER_REWRITE_GOLDEN")
    for setting in ("ARBITER_REWRITE_GOLDEN", "ARBITER_LONG"):
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.chdir(tmp_path)
    now_us, printed, texts = NOW_US, "", 0
    monkeypatch.setattr(engine.bootstrap, "now_us", lambda: now_us)
    page = (ROOT / "docs" / f"{name}.md").read_text()
    rest = page
    for block in BLOCK.finditer(page):
        kind, (file, *how), text = block[1], block[2].split() or [""], block[3]
        if kind == "sh":
            printed = ""
            for line in text.splitlines():
                now_us += MINUTE_US
                printed += called(line, monkeypatch)
        elif kind == "text":
            found = shown(printed, text)
            if rewrite:
                rest = rest.replace(block[0], f"```text\n{found}```", 1)
            else:
                assert found == text
            texts += 1
        elif how == ["decided"]:
            asyncio.run(decide(map(json.loads, text.splitlines())))
        elif file:
            Path(file).write_text(text)
    if rewrite:
        (ROOT / "docs" / f"{name}.md").write_text(rest)
    assert texts >= 5
