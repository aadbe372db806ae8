"""docs/first_model.md: its file is written, its commands run in order, and end well."""

import re
from pathlib import Path

from engine.scoring.manifest import read_manifest
from tests.conftest import ROOT
from tests.docs.test_first_rule import BLOCK, called

PAGE = (ROOT / "docs" / "first_model.md").read_text()


def test_the_page_runs(tmp_path, monkeypatch):
    """From an empty folder to a model that decides, with a feature that it brought along."""
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    for kind, name, text in BLOCK.findall(PAGE):
        if kind == "yaml":
            Path(name).write_text(text)
            continue
        for line in text.splitlines():
            printed.append(called(line, monkeypatch))
            assert not re.search(r"error[:\[]", printed[-1]), printed[-1]
    (first, second) = (
        read_manifest(Path(f"models/first/{version}/manifest.yaml").read_bytes(), "manifest.yaml") for version in "12"
    )
    assert [one.name for one in first.training.validated] == ["xgboost", "logistic", "tree", "ensemble"]
    assert first.training.tuned is not None
    assert "user.spend_7d" in second.features
    assert "models: {payment: first/2}" in Path("rules/policy.yaml").read_text()
    assert any("candidates on the validation blocks" in text for text in printed)
