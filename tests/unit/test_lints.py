"""What the lints say, and that they say nothing they can't know. Each page in docs/errors shows the very text."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batch.facts import facts_of
from engine.language import CODES, Diagnostics, Schema, check_text, outcome
from engine.loader import load_program
from engine.policy.lint import Facts, lint
from engine.policy.ranges import atoms, demand_of, meet, within
from engine.profiles.identity import Identity
from engine.values import Result
from tests.conftest import NOW_US, POLICY, ROOT, payment

REWRITE = os.environ.get("ARBITER_REWRITE_GOLDEN") == "1"
"""Set it to write the findings into the pages anew; look at the difference before you commit it."""
OUTCOME = "then: {tier: MEDIUM, action: CHALLENGE}\n    reason: {code: N1, analyst: a reason}"
TWO = "basket.quantity > 9 && ip.proxy"
FOUND = {
    "L601": "when: user.payments_1h < 0",
    "L602": "when: user.payments_1h >= 0 && ip.proxy",
    "L603": "when: txn.amount_base > 500 && ip.proxy && txn.amount_base <= 100",
    "L604": "when: basket.quantity > 3 && basket.quantity > 9",
    "L605": f"when: {TWO}\n    {OUTCOME}\n  - id: again\n    when: ip.proxy && basket.quantity > 9",
    "L606": f"when: {TWO}\n    {OUTCOME}\n  - id: narrower\n    when: ip.proxy && basket.quantity in [12, 20]",
    "L607": "when: score > 50",
    "L608": 'when: in_list("ended", card.token)',
    "L609": 'when: txn.amount > 500 && event.market == "DE"',
    "L610": "when: ip.proxy && txn.amount_base > 5",
    "L611": "when: basket.quantity > 5",
    "L612": "until: 2026-01-01T00:00Z\n    when: basket.quantity > 5",
    "L613": "status: observe\n    from: 2026-01-01T00:00Z\n    when: basket.quantity > 5",
    "L614": "when: basket.quantity > 5",
    "L615": "when: basket.quantity > 5\n    OUTCOME\n  - id: again\n    when: basket.quantity > 6",
}
RULES = "ruleset: more\non: payment\nrules:\n  - id: one\n    RULE\n    " + OUTCOME + "\n"
SETTINGS = """\
name: small
base_currency: EUR
bands: {}
default_actions: {LOW: ALLOW, MEDIUM: CHALLENGE, HIGH: REVIEW}
parameters: {large: 500}
"""
ENTRIES = "value,reason,author,added,until\ntok_1,was watched,analyst,2025-01-01,2025-06-01\n"
CLEAN = [
    "!has(user.id) || user.account_age_days < 1",
    "user.payments_1h >= 3 || user.declined_24h >= 3",
    'txn.currency == "EUR" && txn.amount > 500',
    '(txn.currency == "EUR" && txn.amount > 500) || (txn.currency == "USD" && txn.amount > 600)',
    'txn.amount > 500 && txn.currency in ["EUR", "CHF"]',
    "txn.amount_minor % 10000 == 0",
    "user.spend_24h != 5.0 || user.spend_24h == 5.0",
    "ip.country != card.country && card.country != address.country",
    "basket.quantity > 3 && basket.quantity < 9",
    "score > 0.5 && score < 0.9",
    "user.fraud_rate_90d > 0.2 && user.fraud_rate_90d < 1",
    'event.channel in ["web", "app"] && event.channel != "app"',
    'basket.quantity > 5 && basket.items.exists(i, i == "a")',
    "coalesce(ip.proxy, false) && txn.amount_base > 77",
]


def policy(tmp_path: Path, rule: str, on: str = "payment") -> Path:
    """A policy of one rule set, a parameter and two lists, one of which has no entry in force any more."""
    folder = tmp_path / "policy"
    for part in ("risk", "lists"):
        (folder / part).mkdir(parents=True)
    for name in ("features.yaml", "labels.yaml"):
        shutil.copy(POLICY / name, folder / name)
    (folder / "policy.yaml").write_text(SETTINGS)
    (folder / "lists" / "lists.yaml").write_text("lists:\n  ended: {type: card, kind: watch}\n")
    (folder / "lists" / "ended.csv").write_text(ENTRIES)
    (folder / "risk" / "more.yaml").write_text(
        RULES.replace("RULE", rule).replace("OUTCOME", OUTCOME).replace("payment", on, 1)
    )
    return folder


def found(folder: Path, facts: Facts | None = None) -> Diagnostics:
    """What the lints find in a folder."""
    diagnostics = Diagnostics()
    program = load_program(
        folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False, diagnostics=diagnostics
    )
    lint(program.policy, folder, diagnostics, NOW_US, facts or facts_of(program))
    return diagnostics


def texts(diagnostics: Diagnostics, code: str) -> list[str]:
    """The findings of one code as text."""
    parts = re.split(r"\n(?=\S)", diagnostics.render())
    return [part for part in parts if f"[{code}]" in part]


@pytest.mark.parametrize("code", FOUND)
def test_a_finding_is_shown_at_its_place_as_its_page_says(code, tmp_path, monkeypatch):
    """Each lint finds its example, and its page shows exactly what it says."""
    if code == "L615":
        monkeypatch.setattr("engine.policy.lint.MOST_COMPARED", 0)
    folder = policy(tmp_path, FOUND[code], "user" if code == "L611" else "payment")
    facts = Facts(present={"payment": {"ip.proxy": 0.2}}) if code == "L610" else None
    (told, *_) = texts(found(folder, facts), code)
    page = ROOT / "docs" / "errors" / f"{code}.md"
    block = re.search(r"(?<=```text\n).*?(?=\n```)", page.read_text(), re.DOTALL)
    assert block is not None
    if REWRITE:
        page.write_text(told.join((page.read_text()[: block.start()], page.read_text()[block.end() :])))
        return
    assert block[0] == told
    assert page.read_text().startswith(f"# {code}: {CODES[code]}\n")


def test_every_lint_has_a_page_and_an_example():
    """Codes, examples and pages are the same set."""
    codes = {code for code in CODES if code.startswith("L")}
    assert set(FOUND) == codes == {page.stem for page in (ROOT / "docs" / "errors").glob("L*.md")}


@pytest.mark.parametrize("condition", CLEAN)
def test_what_cant_be_told_is_not_claimed(condition, tmp_path):
    """Conditions that look suspicious and are not."""
    folder = policy(tmp_path, f"when: >-\n      {condition}")
    items = found(folder, Facts(present={"payment": {"ip.proxy": 0.2}})).items
    assert [item.message for item in items if item.code != "L614"] == []


@pytest.mark.parametrize("rules", [ROOT / "rules", ROOT / "engine" / "cli" / "template" / "rules"])
def test_no_false_alarm_on_the_shipped_policy(rules):
    """The policy that ships, and the one that `arbiter init` writes, give no finding at all."""
    diagnostics = Diagnostics()
    program = load_program(rules, ROOT / "models", Identity(bytes(32)), lambda: NOW_US, diagnostics=diagnostics)
    lint(program.policy, rules, diagnostics, NOW_US, facts_of(program))
    assert diagnostics.render() == ""


def test_absence_is_measured_on_a_history(tmp_path):
    """The share of events that have an input is counted by kind; a feature is there if its entity is."""
    program = load_program(POLICY, POLICY, Identity(bytes(32)), lambda: NOW_US, with_models=False)
    events = [payment(n, ip__proxy=True if n == 0 else None, card__token="tok" if n < 2 else None) for n in range(4)]
    present = facts_of(program, events).present["payment"]
    names = ("ip.proxy", "card.payments_1h", "txn.amount_base", "result.status", "user.payments_1h")
    assert [present[name] for name in names] == [0.25, 0.5, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("", "status: observe\n    ", []),
        ("until: 2026-12-01T00:00Z\n    ", "", []),
        ("rollout: 20%\n    ", "", []),
        ("", "final: true\n    ", []),
        ("", "when_unknown: hit\n    ", []),
        ("", "", ["L606"]),
    ],
)
def test_a_rule_is_swallowed_only_by_one_that_always_acts(first, second, told, tmp_path):
    """Observed, scheduled, shared-out or final rules, and those that hit when unknown, have something of their own."""
    narrower = f"{second}when: ip.proxy && basket.quantity > 20"
    folder = policy(tmp_path, f"{first}when: {TWO}\n    {OUTCOME}\n  - id: narrower\n    {narrower}")
    assert [item.code for item in found(folder).items if item.code != "L614"] == told


def test_rows_and_bands_that_are_never_reached(tmp_path):
    """A row below one that always hits first, and bands without a model, can't give their outcome."""
    folder = policy(tmp_path, "when: basket.quantity > 5")
    (folder / "policy.yaml").write_text(
        SETTINGS.replace("bands: {}", "bands:\n  payment: [{from_score: 0.0, tier: LOW, action: ALLOW}]")
    )
    (folder / "risk" / "rows.yaml").write_text(
        "ruleset: rows\non: payment\ntables:\n  - id: rows\n    file: rows.csv\n    hit: first\n    gaps: allowed\n"
        "    columns: {pieces: basket.quantity, market: event.market}\n    then: {tier: MEDIUM}\n"
        "    reason: {code: N2, analyst: a row}\n"
    )
    (folder / "tables").mkdir()
    (folder / "tables" / "rows.csv").write_text("pieces,market\n> 3,\n> 5,DE\n> 1,DE\n")
    told = [(str(item.position), item.code) for item in found(folder).ordered() if item.code != "L614"]
    assert told == [("policy.yaml:4:3", "L611"), ("tables/rows.csv:3:1", "L611")]


def test_a_band_of_a_scorecard_is_shown_where_it_stands(tmp_path):
    """A rule that says what a band says already is shown, and the band at its own line."""
    folder = policy(tmp_path, "when: scorecard.odd >= 8")
    (folder / "risk" / "odd.yaml").write_text(
        "ruleset: odd\non: payment\nscorecards:\n  - id: odd\n    lines: [{when: ip.proxy, points: 9}]\n    bands:\n"
        "      - {from_points: 5, tier: HIGH, action: REVIEW, reason: {code: N2, analyst: odd}}\n"
    )
    (told,) = (item for item in found(folder).items if item.code == "L606")
    assert (str(told.position), str(told.related[0].position)) == ("risk/more.yaml:5:11", "risk/odd.yaml:7:1")


# --- the mechanism ---------------------------------------------------------------------------------------------------

SCHEMA = Schema.of({"i": "int", "d": "double", "s": "string", "p": "bool", "q": "bool"})
ATOMS = st.one_of(
    st.builds("i {} {}".format, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.integers(0, 3)),
    st.builds("d {} {}.5".format, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.integers(0, 2)),
    st.builds("i in {}".format, st.lists(st.integers(0, 3), max_size=3)),
    st.builds('s {} "{}"'.format, st.sampled_from(["==", "!=", "<"]), st.sampled_from("abc")),
    st.sampled_from(["p", "q", "p == q", "p == true", "2 > i", "1.5 <= d", 's in ["a", "c"]']),
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("!({})".format, inner),
        st.builds("({}) && ({})".format, inner, inner),
        st.builds("({}) || ({})".format, inner, inner),
    ),
    max_leaves=6,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-1, 4), "d": st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.5, 3.0, float("nan"), float("inf")]),
        "s": st.sampled_from("abcd"), "p": st.booleans(), "q": st.booleans(),
    },
)  # fmt: skip


def region_of(checked):
    """What a condition leaves of each expression."""
    region = {}
    for atom in atoms(checked.tree):
        region[atom.key] = meet(region.get(atom.key, atom.allowed), atom.allowed)
    return region


@settings(max_examples=1500, deadline=None)
@given(CONDITIONS, CONDITIONS, st.lists(ROWS, min_size=12, max_size=12))
def test_implication_holds_for_every_row(one, other, rows):
    """Where one condition is said to imply another, no row hits the one alone; an empty region never hits."""
    first, second = check_text(one, SCHEMA), check_text(other, SCHEMA)
    region = region_of(first)
    hits = [row for row in rows if outcome(first, row)[0] is Result.HIT]
    if demand_of(second.tree).met(region):
        assert all(outcome(second, row)[0] is Result.HIT for row in hits)
    if not all(region.values()):
        assert hits == []


@given(CONDITIONS)
def test_a_condition_implies_itself(one):
    """Whatever it is made of, unless nothing satisfies it."""
    checked = check_text(one, SCHEMA)
    assert demand_of(checked.tree).met(region_of(checked))


def test_spans_tell_ends_apart():
    """Open and closed ends, whole numbers, complements."""

    def span(text):
        (atom,) = atoms(check_text(text, SCHEMA).tree)
        return atom.allowed

    assert span("i > 2") == span("i >= 3") == span("!(i < 3)") == span("3 <= i")
    assert within(span("d > 2.5"), span("d >= 2.5"))
    assert not within(span("d >= 2.5"), span("d > 2.5"))
    assert meet(span("i < 3"), span("i > 2")) == ()
    assert span("i == 1 || i == 2") == span("i in [2, 1]") == meet(span("i > 0"), span("i < 3"))
    assert span('!(s in ["a"])') == span('s != "a"')
