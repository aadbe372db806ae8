"""The README's blocks run as they stand."""

import asyncio
import re
import shutil

import pytest

from engine.bootstrap import open_engine
from engine.loader import load_program
from engine.profiles.identity import Identity
from engine.service.metrics import Metrics
from engine.service.server import Server
from engine.settings import read_settings
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def block(language: str) -> str:
    """The one block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


async def test_the_python_call_decides(tmp_path, capsys):
    """The call from Python gets a decision from a server with the shipped policy."""
    settings = read_settings(tmp_path, {"port": 0, "rules": ROOT / "rules", "models": ROOT / "models"}, {})
    engine = open_engine(settings)
    await engine.start(watch=False)
    server = Server(engine, settings, Metrics(), None)
    await server.start()
    code = block("python").replace("127.0.0.1:50051", f"127.0.0.1:{server.port}")
    await asyncio.to_thread(exec, compile(code, "README", "exec"), {})
    await server.stop()
    await engine.close()
    wanted = re.compile(r"^(LOW|MEDIUM|HIGH) (ALLOW|CHALLENGE|REVIEW|DECLINE) \[.*\]$", re.MULTILINE)
    assert wanted.search(capsys.readouterr().out)


def test_the_rule_loads_in_the_shipped_policy(tmp_path):
    """The rule is right against the shipped fields and features."""
    folder = tmp_path / "rules"
    shutil.copytree(ROOT / "rules", folder)
    (folder / "risk" / "new_accounts.yaml").write_text(block("yaml"))
    program = load_program(folder, ROOT / "models", Identity(bytes(32)), lambda: 0, with_models=False)
    own = [rule.id for rule in program.policy.rules if rule.ruleset == "new-accounts"]
    assert own == ["new-account-big-basket"]


def test_the_make_commands_exist():
    """Every make target and file that the README names is there."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")),
    ],
)
def test_links_lead_somewhere(page):
    """Every relative link of every page names a file."""
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []
