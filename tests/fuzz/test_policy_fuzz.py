"""Mutated conditions, files and policies: an answer or a mistake with a place, soon, and never another exception.

Seeds are the files that ship, and what is cut out of them; all randomness comes from one number, so a failure comes
again. `ARBITER_LONG=1` runs a million inputs, otherwise three thousand.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest

from engine.errors import PolicyError
from engine.language import Diagnostics, DiagnosticsError, Reader, Snippet, check, parse_yaml
from engine.loader import load_program, rule_schema
from engine.profiles.identity import Identity
from tests.conftest import POLICY, ROOT

COUNT = 1_000_000 if os.environ.get("ARBITER_LONG") else 3_000
SEED = 20_261_125
MOST_S = 5.0
"""No input may take longer; on an idle machine the slowest takes some tens of milliseconds."""
TOKENS = (
    "&& || ! ( ) [ ] { } : ? , . .. < <= == - + * / % 'x' \"x\" r'\\d' b'\\xff' 5u 1e308 9223372036854775808 null true "
    "in has( size( .all(x, in_list( coalesce( matches( timestamp( duration( txn.amount_base card.token \n \t \r "
    "\x00 \ufeff а é 😀 - id: when: then: rules: on: | > & * << !!str --- ... # \" ' %TAG @ ` param.large < 5 "
    "7..30 not DE,"
).split(" ")


def mutated(text: str, others: list[str], dice: random.Random) -> str:
    """The text with a few changes."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at, length = dice.randrange(len(text) + 1), dice.choice((1, 1, 2, 5, 20))
        how = dice.randrange(6)
        if how == 0:
            text = text[:at] + text[at + length :]
        elif how == 1:
            text = text[:at] + dice.choice(TOKENS) + text[at:]
        elif how == 2:
            text = text[:at] + text[at : at + length] * dice.choice((2, 3, 60)) + text[at + length :]
        elif how == 3:
            other = dice.choice(others)
            cut = dice.randrange(len(other) + 1)
            text = text[:at] + other[cut : cut + 40] + text[at + length :]
        elif how == 4:
            text = text[:at] + chr(dice.choice((dice.randrange(128), dice.randrange(0x110000)))) + text[at + 1 :]
        else:
            text = text[:at] + dice.choice("([{'\"!-") * dice.choice((1, 70, 2_000)) + text[at:]
    return text


class Inputs:
    """Everything that is fed in, by kind."""

    def __init__(self, folder: Path) -> None:
        program = load_program(ROOT / "rules", ROOT, Identity(bytes(32)), lambda: 0, with_models=False)
        policy = program.policy
        self.schema = rule_schema(program.feature_set, policy.plan.signals, policy.lists, policy.settings.parameters)
        self.conditions = [c.text for rules in policy.by_kind.values() for c in rules.conditions]
        self.files = [path.read_text() for path in sorted((ROOT / "rules").rglob("*.yaml"))]
        self.policy = Path(shutil.copytree(POLICY, folder))
        self.parts = {p: p.read_text() for p in sorted(self.policy.rglob("*")) if p.suffix in {".yaml", ".csv"}}

    def condition(self, dice: random.Random) -> None:
        """Parser and checker."""
        diagnostics = Diagnostics()
        text = mutated(dice.choice(self.conditions), self.conditions, dice)
        checked = check(Snippet(text), self.schema, diagnostics)
        assert (checked is None) == diagnostics.failed
        assert all(item.position.line >= 1 and item.position.column >= 1 for item in diagnostics.items)
        diagnostics.render()

    def file(self, dice: random.Random) -> None:
        """The YAML reader, and every place in what it gives."""
        diagnostics = Diagnostics()
        text = mutated(dice.choice(self.files), self.files, dice)
        data = text.encode("utf-8", "surrogatepass") if dice.random() < 0.5 else text
        node = parse_yaml(data, "f.yaml", diagnostics)
        assert (node is None) == diagnostics.failed
        top = Reader(diagnostics).fields(node, {"rules"}, {"on", "ruleset"})
        for item in top.fields_list("rules", {"id"}, {"when"}):
            when = item.scalar("when")
            if when is not None:
                when.position(len(when.value))
        diagnostics.render()

    def load(self, dice: random.Random) -> None:
        """The whole loader, with one file of the policy mutated."""
        path = dice.choice(list(self.parts))
        text = mutated(self.parts[path], list(self.parts.values()), dice)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            load_program(self.policy, self.policy, Identity(bytes(32)), lambda: 0, with_models=False)
        except DiagnosticsError:
            pass
        except PolicyError:
            if path.name != "fx.csv":  # the table of exchange rates names its line itself
                raise
        finally:
            path.write_text(self.parts[path])


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_no_input_breaks_the_parser_or_the_loader(tmp_path):
    """Nine tenths conditions, most of the rest files, one in a hundred whole policies."""
    inputs, slowest = Inputs(tmp_path / "policy"), (0.0, "")
    for number in range(COUNT):
        dice = random.Random(SEED + number)
        kind = dice.choices(("condition", "file", "load"), (90, 9, 1))[0]
        began = time.process_time()
        try:
            getattr(inputs, kind)(dice)
        except BaseException as problem:
            raise AssertionError(f"input {number}, a {kind}: {type(problem).__name__}: {problem}") from problem
        slowest = max(slowest, (time.process_time() - began, f"input {number}, a {kind}"))
    assert slowest[0] < MOST_S, slowest
