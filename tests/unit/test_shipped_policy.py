"""The policy that ships: it is broad, teaches nothing, and nothing idles. Its rules have tests beside them."""

import os
import re
import shutil
from contextlib import nullcontext

import pytest

from engine.cli.features import readers
from engine.errors import ModelError
from engine.features.catalogue import catalogue
from engine.loader import load_program
from engine.policy.rules import MEASURES
from engine.profiles.identity import Identity
from engine.scoring.config import read_config
from tests.conftest import NOW_US, ROOT

PROGRAM = load_program(ROOT / "rules", ROOT / "models", Identity(bytes(32)), lambda: NOW_US)
POLICY, FEATURES = PROGRAM.policy, PROGRAM.feature_set
RULES = {rule.id: rule for rule in POLICY.rules}

TELLING = re.compile(r"\d|fraud|device|network|prox|velocity|score|rule|list|risk|abroad|suspic|stolen|too (many|much)")
READERS, _ = readers(PROGRAM, ROOT / "rules", ROOT / "models")


def test_breadth():
    """Six entities, 24 windows, 25 rules, two patterns, all six measures, an observed rule, a rollout, final rules."""
    assert {a.entity for a in FEATURES.aggregates} == {"user", "device", "card", "ip", "email", "address"}
    assert len(FEATURES.aggregates) >= 24
    assert len(RULES) >= 25
    assert len(POLICY.plan.patterns.patterns) == 2
    assert {m.kind for rule in POLICY.rules for m in rule.outcome.measures} == set(MEASURES)
    assert {"observe", "enforce"} == {rule.status for rule in POLICY.rules}
    assert any(rule.rollout < 1 for rule in POLICY.rules)
    assert all(rule.final for rule in POLICY.rules if rule.id.startswith("blocked-"))
    measured = {a.measure for a in FEATURES.aggregates}
    assert {"rate", "count_received", "stddev", "distinct", "repeats", "since_last", "last", "age"} <= measured


def test_customer_texts_teach_nothing():
    """A customer text names neither what was looked at nor how it was judged."""
    texts = {rule.id: rule.reason.customer for rule in POLICY.rules if rule.on != ("user",)}
    texts |= {band.reason.code: band.reason.customer for bands in POLICY.settings.bands.values() for band in bands}
    assert {name: text for name, text in texts.items() if TELLING.search(text.lower())} == {}
    assert [rule.id for rule in POLICY.rules if rule.on != ("user",) and not rule.reason.customer] == []


def test_limits_can_end():
    """Every measure that lasts has an end of its own."""
    endless = [
        (rule.id, m.kind) for rule in POLICY.rules for m in rule.outcome.measures
        if m.kind in {"LIMIT_ACCOUNT", "LIMIT_AMOUNT", "NOTIFY", "EDUCATE"} and not m.life_us
    ]  # fmt: skip
    assert endless == []


def test_the_model_is_the_declared_one():
    """The shipped model has the features, the kind and the definitions that models/payment.yaml and rules/ declare."""
    model = PROGRAM.models["payment"]
    config = read_config((ROOT / "models" / "payment.yaml").read_bytes(), "payment.yaml")
    assert (model.features, model.event_kind) == (config.features, config.event_kind)
    assert model.manifest.definitions_digest == FEATURES.digest_of(config.features)
    assert (ROOT / "models" / "payment" / "1" / "model.onnx").stat().st_size < 400_000


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        ("# How old, and how often.", "# Another remark.", False),
        ("Payments tried in the last hour.", "Other words.", False),
        ("window: 180d, offset: 24h", "window: 170d, offset: 24h", True),
        ("(user.amount_stddev_90d + 5.0)", "(user.amount_stddev_90d + 6.0)", True),
        ("of: txn.amount_base, on: payment, disposition: [pending, approved], window: 90d",
         "of: txn.amount_base, on: payment, window: 90d", True),
    ],
)  # fmt: skip
def test_a_model_for_other_meanings_is_refused(tmp_path, old, new, refused):
    """The model loads with its features as they meant when it was trained, whatever is remarked about them."""
    rules = tmp_path / "rules"
    shutil.copytree(ROOT / "rules", rules)
    text = (rules / "features.yaml").read_text()
    assert old in text
    (rules / "features.yaml").write_text(text.replace(old, new))
    with pytest.raises(ModelError, match="meant something else") if refused else nullcontext():
        load_program(rules, ROOT / "models", Identity(bytes(32)), lambda: NOW_US)


def test_every_feature_is_read():
    """No feature is kept for nobody: a rule, a pattern, a model, a measure or another feature reads it."""
    assert sorted(set(FEATURES.names) - READERS.keys()) == []


def test_the_catalogue_is_fresh():
    """docs/features.md holds the table of exactly these features."""
    page = ROOT / "docs" / "features.md"
    head, _, _ = page.read_text().partition("| feature |")
    wanted = head + catalogue(FEATURES, READERS)
    if os.environ.get("ARBITER_REWRITE_GOLDEN") == "1":
        page.write_text(wanted)
    assert page.read_text() == wanted
