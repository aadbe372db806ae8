"""docs/simulator.md says what is so."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from engine.simulator import ABUSE_SCHEMES, FRAUD_SCHEMES, HELD_OUT_SCHEME, SimulatorConfig

PAGE = (Path(__file__).parents[3] / "docs" / "simulator.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run(example):
    """Each Python example of the page runs, and its own assertions hold."""
    names: dict[str, object] = {}
    exec(compile(example, "docs/simulator.md", "exec"), names)
    assert "assert" in example


def test_page_names_every_setting_scheme_and_oddity(shop):
    """Settings, schemes and oddities on the page are those of the code, none missing."""
    named = set(re.findall(r"`(\w+)`", PAGE))
    oddities = {oddity for label in shop.truth.values() for oddity in label["oddities"]}
    wanted = {f.name for f in fields(SimulatorConfig)} | {*FRAUD_SCHEMES, *ABUSE_SCHEMES, HELD_OUT_SCHEME} | oddities
    assert wanted <= named
