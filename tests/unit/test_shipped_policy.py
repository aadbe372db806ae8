"""The policy that ships: it loads, every rule hits what it is for and misses an ordinary event, and nothing idles."""

import os
import re
import shutil
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import pytest

from engine.errors import ModelError
from engine.features.catalogue import catalogue
from engine.language import check_text
from engine.loader import load_program, rule_schema
from engine.policy.rules import MEASURES
from engine.profiles.identity import Identity
from engine.scoring.config import read_config
from engine.values import Result
from tests.conftest import NOW_US, ROOT

PROGRAM = load_program(ROOT / "rules", ROOT / "models", Identity(bytes(32)), lambda: NOW_US)
POLICY, FEATURES = PROGRAM.policy, PROGRAM.feature_set
RULES = {rule.id: rule for rule in POLICY.rules}

ORDINARY: dict[str, Any] = {
    "event.market": "DE", "event.local_hour": 19, "user.id": "u1", "user.risk.tier": "LOW", "device.id": "d1",
    "ip.address": "203.0.113.7", "ip.country": "DE", "ip.proxy": False, "email.address": "anna@example.org",
    "email.disposable": False, "txn.amount_base": 45.0, "card.token": "tok_1", "card.bin": "411111",
    "card.country": "DE", "address.key": "lindenweg5|06108|de", "address.country": "DE", "basket.items": ["i1", "i2"],
    "basket.quantity": 2, "refund.reason": "wrong_size", "user.account_age_days": 400.0, "user.payments_1h": 0,
    "user.payments_24h": 0, "user.payments_90d": 6, "user.amount_z": 0.2, "user.hour_share": 0.3,
    "user.address_seen_180d": 4, "user.is_new_device": False, "user.is_new_country": False, "user.is_guest": False,
    "user.travel_kmh": 3.0, "user.failed_logins_24h": 0, "user.same_basket_7d": 0, "user.refunds_90d": 1,
    "user.refunds_kept_90d": 0, "user.refund_share": 0.17, "user.coupons_30d": 1, "user.complaints_90d": 0,
    "user.reports_90d": 0, "user.frauds_180d": 0, "device.age_days": 200.0, "device.payments_1h": 0,
    "device.cards_24h": 0, "device.declines_24h": 0, "device.accounts_30d": 0, "card.age_days": 200.0,
    "card.payments_1h": 0, "card.spend_24h": 0.0, "card.declines_24h": 0, "card.emails_30d": 1,
    "card.merchants_24h": 0, "card.is_abroad": False, "ip.cards_24h": 1, "ip.failed_logins_1h": 0,
    "ip.fraud_rate_30d": 0.0, "email.age_days": 200.0, "email.payments_24h": 0, "email.cards_30d": 1,
    "address.age_days": 200.0, "address.emails_30d": 1, "address.coupons_30d": 0, "address.same_basket_7d": 0,
    "address.is_not_billing": False, "address.is_abroad": False, "signal.takeover": False,
    "signal.cards_then_large": False,
}  # fmt: skip
"""A customer of a year who does what they always do; nothing lately but that."""

HITS: dict[str, dict[str, Any]] = {
    "blocked-card": {"card.token": "tok_example_reported_stolen"},
    "blocked-device": {"device.id": "dev-example-testing-rig"},
    "blocked-email": {"email.address": "example.blocked@example.invalid"},
    "blocked-network": {"ip.address": "240.0.0.9"},
    "drop-address": {"address.key": "1examplestreet|00000|de"},
    "watched-bin": {"card.bin": "000000", "txn.amount_base": 60.0},
    "cards-tried-and-declined": {"device.cards_24h": 3, "device.declines_24h": 3},
    "many-cards-on-device": {"device.cards_24h": 3},
    "declines-on-device": {"device.declines_24h": 3},
    "declines-on-card": {"card.declines_24h": 3},
    "cards-on-one-mail": {"email.cards_30d": 4, "email.age_days": 0.5},
    "cards-then-large": {"signal.cards_then_large": True},
    "small-payments-of-a-hidden-guest":
        {"user.is_guest": True, "ip.proxy": True, "txn.amount_base": 4.0, "device.age_days": 0.0},
    "many-cards-on-address": {"ip.cards_24h": 6},
    "takeover-sequence":
        {"signal.takeover": True, "user.since_contact_change_s": 600.0, "user.address_seen_180d": 0},
    "takeover-suspected": {"signal.takeover": True, "user.address_seen_180d": 0, "txn.amount_base": 80.0},
    "contact-change-and-new-device": {"user.since_contact_change_s": 7200.0, "user.is_new_device": True},
    "guessed-password": {"user.failed_logins_24h": 3, "user.is_new_device": True},
    "guessed-password-and-new-address":
        {"user.failed_logins_24h": 2, "user.is_new_device": True, "user.address_seen_180d": 0},
    "new-password-new-address": {"user.since_password_change_s": 3600.0, "user.address_seen_180d": 0},
    "everything-new-on-an-old-account":
        {"user.is_new_device": True, "user.is_new_country": True, "user.address_seen_180d": 0},
    "new-device-new-address": {"user.is_new_device": True, "user.address_seen_180d": 0, "txn.amount_base": 80.0},
    "unusual-amount-on-a-new-device": {"user.amount_z": 6.0, "user.is_new_device": True, "txn.amount_base": 300.0},
    "unusual-hour":
        {"user.payments_90d": 9, "user.hour_share": 0.0, "event.local_hour": 3, "user.is_new_device": True},
    "new-account-big-basket": {"user.account_age_days": 2.0, "txn.amount_base": 700.0},
    "account-factory": {"user.account_age_days": 0.1, "device.accounts_30d": 3},
    "shared-card-on-a-new-account": {"user.account_age_days": 0.1, "card.emails_30d": 2},
    "throw-away-mail": {"email.disposable": True, "email.age_days": 0.0, "txn.amount_base": 120.0},
    "new-account-behind-proxy": {"user.account_age_days": 0.1, "ip.proxy": True, "txn.amount_base": 160.0},
    "new-and-all-apart":
        {"user.is_guest": True, "card.age_days": 0.0, "address.is_not_billing": True, "card.is_abroad": True,
         "txn.amount_base": 70.0},
    "card-at-many-sellers": {"card.merchants_24h": 3, "card.emails_30d": 2},
    "card-velocity": {"card.payments_1h": 3},
    "card-spend-of-a-day": {"card.spend_24h": 700.0, "card.age_days": 0.3},
    "sellers-of-a-new-card": {"card.merchants_24h": 2, "card.spend_24h": 200.0, "card.age_days": 0.3},
    "person-velocity": {"user.payments_1h": 4},
    "guest-velocity": {"user.is_guest": True, "email.payments_24h": 4},
    "device-velocity": {"device.payments_1h": 5},
    "three-countries":
        {"card.is_abroad": True, "address.is_abroad": True, "ip.country": "FR", "card.age_days": 0.0,
         "txn.amount_base": 70.0},
    "hidden-and-foreign":
        {"ip.proxy": True, "card.is_abroad": True, "card.age_days": 0.0, "txn.amount_base": 110.0},
    "hidden-and-shipped-elsewhere":
        {"ip.proxy": True, "address.is_not_billing": True, "address.age_days": 0.0, "txn.amount_base": 70.0},
    "bad-network-address": {"ip.fraud_rate_30d": 0.25, "device.age_days": 0.0},
    "impossible-travel": {"user.travel_kmh": 4_000.0},
    "guessed-at-the-door": {"user.failed_logins_24h": 3, "user.is_new_device": True},
    "password-guessing-network": {"ip.failed_logins_1h": 10},
    "money-back-goods-kept": {"user.refunds_kept_90d": 3},
    "serial-refunds": {"user.refunds_90d": 3, "user.refund_share": 0.6},
    "never-arrives": {"refund.reason": "not_arrived", "user.refunds_kept_90d": 2},
    "explain-returns": {"user.refunds_90d": 2, "user.refund_share": 0.4},
    "welcome-again-on-device": {"device.accounts_30d": 2, "user.account_age_days": 0.1},
    "coupons-at-one-address": {"address.coupons_30d": 3, "user.account_age_days": 0.1, "address.emails_30d": 2},
    "coupon-hunter": {"user.coupons_30d": 6},
    "same-goods-again-at-address": {"address.same_basket_7d": 2},
    "same-goods-again": {"user.same_basket_7d": 1, "basket.quantity": 6},
    "pallet-of-a-new-account":
        {"basket.quantity": 8, "basket.items": ["i1"], "user.account_age_days": 1.0, "txn.amount_base": 400.0},
    "frauds-received": {"user.frauds_180d": 2, "user.account_age_days": 30.0},
    "fraud-received": {"user.frauds_180d": 1},
    "keeps-goods-and-money": {"user.refunds_kept_90d": 3, "user.refund_share": 0.5},
    "reported-by-others": {"user.reports_90d": 2},
    "complains-and-sends-back": {"user.complaints_90d": 3, "user.refund_share": 0.6},
    "under-attack": {"user.failed_logins_24h": 5},
    "stranger@55":
        {"user.account_age_days": 0.1, "device.age_days": 0.0, "card.age_days": 0.0, "ip.proxy": True,
         "user.payments_90d": 0},
    "stranger@75":
        {"user.account_age_days": 0.1, "device.age_days": 0.0, "card.age_days": 0.0, "ip.proxy": True,
         "email.disposable": True, "user.payments_90d": 0},
    "person-at-risk#2": {"user.risk.tier": "HIGH"},
    "person-at-risk#3": {"user.risk.tier": "MEDIUM", "user.is_new_device": True},
    "person-at-risk#4": {"user.risk.tier": "MEDIUM", "txn.amount_base": 250.0},
}  # fmt: skip
"""Rule → what is different about an event that it is for."""
TELLING = re.compile(r"\d|fraud|device|network|prox|velocity|score|rule|list|risk|abroad|suspic|stolen|too (many|much)")
ENGINE_READS = {"user.spend_24h": "LIMIT_AMOUNT", "user.contact_changes_30d": "NOTIFY"}
"""Features that standing measures read."""


def hits(kind: str, row: dict[str, Any]) -> set[str]:
    """Rules that hit a row."""
    found, _ = POLICY.by_kind[kind].evaluate(dict(row), NOW_US)
    return {hit.rule for hit in found if hit.result is Result.HIT}


def readers() -> dict[str, list[str]]:
    """Feature → who reads it: reason codes of rules, patterns, models, other features."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for rule_set in POLICY.by_kind.values():
        for rule, condition in zip(rule_set.rules, rule_set.conditions, strict=True):
            for name in condition.names:
                found[name].add(rule.reason.code)
    schema = rule_schema(FEATURES, POLICY.plan.signals, POLICY.lists)
    for tests in POLICY.plan.tests.values():
        for test in tests:
            for name in check_text(test.filter.where, schema).names if test.filter.where else ():
                found[name].add("patterns")
    for kind, model in PROGRAM.models.items():
        for name in model.features:
            found[name].add(f"model of {kind}")
    for derived in FEATURES.derived:
        for name in derived.needs:
            found[name].add(f"`{derived.name}`")
    for name, measure in ENGINE_READS.items():
        found[name].add(measure)
    return {name: sorted(who) for name, who in found.items()}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_hits_what_it_is_for(rule):
    """Each rule has an example, and hits it on every kind of event that it runs on."""
    for kind in RULES[rule].on:
        assert rule in hits(kind, ORDINARY | HITS[rule])


def test_an_ordinary_event_hits_nothing():
    """A customer of a year who does what they always do is left alone, whatever the event."""
    assert {kind: hits(kind, ORDINARY) for kind in POLICY.by_kind if hits(kind, ORDINARY)} == {}


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
    assert sorted(set(FEATURES.names) - readers().keys()) == []


def test_the_catalogue_is_fresh():
    """docs/features.md holds the table of exactly these features."""
    page = ROOT / "docs" / "features.md"
    head, _, _ = page.read_text().partition("| feature |")
    wanted = head + catalogue(FEATURES, readers())
    if os.environ.get("ARBITER_REWRITE_GOLDEN") == "1":
        page.write_text(wanted)
    assert page.read_text() == wanted
