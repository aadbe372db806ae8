"""The page on data reports shows what the command prints."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.app import app
from engine.quality import findings as quality
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "data.md"
REWRITE = os.environ.get("ARBITER_REWRITE_GOLDEN") == "1"


def block(kind, number=0):
    """The text of a code block."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)[number]


def held(kind, text):
    """The page's block of this kind is the text."""
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if REWRITE:
        new = f"```{kind}\n{text}```"
        PAGE.write_text(re.sub(rf"```{kind}\n(.*?)```", lambda _: new, PAGE.read_text(), flags=re.DOTALL))
    assert block(kind) == text


def test_the_orders_example(tmp_path, monkeypatch):
    """The example's files give the shown report and exit code 1."""
    monkeypatch.chdir(tmp_path)
    Path("orders.csv").write_text(block("csv"))
    Path("customers.csv").write_text(block("csv", 1))
    Path("orders.expect.yaml").write_text(block("yaml"))
    done = CliRunner().invoke(app, ["data", "report", "orders.csv", "--expect", "orders.expect.yaml"])
    assert done.exit_code == 1
    held("text orders", done.stdout)


def test_online_retail_as_it_is_published(monkeypatch):
    """The real file gives the shown report."""
    folder = Path(os.environ.get("ARBITER_SHARED_DATA", ROOT.parent / "shared" / "data")) / "retail"
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder.parent}; set ARBITER_SHARED_DATA to its folder")
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["data", "report", "online_retail.parquet"])
    assert done.exit_code == 1
    held("text retail", done.stdout)


def test_the_table_of_checks():
    """The page shows the table that the code reads."""
    held("csv checks", (Path(quality.__file__).parent / "checks.csv").read_text())
