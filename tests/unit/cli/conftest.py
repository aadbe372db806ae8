"""What tests of the command line share: a folder with a small policy, a way to call, golden texts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from engine.cli.app import app
from engine.cli.decide import Stopwatch
from tests.conftest import POLICY, ROOT

GOLDEN = ROOT / "tests" / "golden" / "cli"
REWRITE = os.environ.get("ARBITER_REWRITE_GOLDEN") == "1"
"""Set it to write the golden files anew; look at the difference before you commit it."""
Call = Callable[..., Result]

RULES = """\
ruleset: near
on: payment
rules:
  - id: young-and-large
    when: user.account_age_days < 7 && txn.amount_base > 500
    then: {tier: HIGH, action: REVIEW, measures: [MONITOR]}
    reason: {code: N1, analyst: young account and large amount, customer: We need to check this order.}
  - id: far-away
    when: txn.amount_base > 10 && ip.proxy
    then: {tier: MEDIUM}
    reason: {code: N2, analyst: behind a proxy}
  - id: per-piece
    when: txn.amount_minor / basket.quantity > 100000 && txn.currency == "EUR"
    then: {action: REVIEW}
    reason: {code: N3, analyst: expensive pieces}
"""


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no taste of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("ARBITER_") or name in {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"}:
            monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the small policy and three rules more."""
    made = tmp_path / "shop"
    shutil.copytree(POLICY, made / "rules")
    (made / "rules" / "risk" / "near.yaml").write_text(RULES)
    return made


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call `arbiter` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def called(*arguments: Any, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="arbiter")

    return called


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage takes 20 µs."""
    monkeypatch.setattr(Stopwatch, "observe", lambda self, stage, _: self.stages_s.update({stage: 2e-5}))


def payment(**fields: Any) -> bytes:
    """A payment as JSON; `fields` replace or, as None, remove dotted fields (written with __ for the dot)."""
    document = {
        "id": "e1", "kind": "payment", "time": "2025-11-12T19:30:00Z", "user.id": "u1", "device.id": "d1",
        "card.token": "tok_1", "ip.address": "203.0.113.7", "ip.country": "DE", "event.market": "DE",
        "txn.amount_minor": 49_990, "txn.currency": "EUR", "payment.id": "p1",
        "user.account_created": "2025-11-10T09:00:00Z",
    }  # fmt: skip
    document |= {name.replace("__", "."): value for name, value in fields.items()}
    return orjson.dumps({name: value for name, value in document.items() if value is not None})


def golden(name: str, text: str) -> None:
    """The text is what the golden file holds; digests and trailing blanks are left out."""
    text = re.sub(r"\b[0-9a-f]{32}\b", "DIGEST", text)
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    file = GOLDEN / f"{name}.txt"
    if REWRITE:
        file.write_text(text)
    assert text == file.read_text()
