"""What rules are made of beside conditions: parameters, lists, reasons, tables, scorecards."""

import shutil
from pathlib import Path
from time import process_time

import pytest

from engine.errors import PolicyError
from engine.loader import load_program
from engine.policy.evaluate import Policy
from engine.policy.lists import AnyList
from engine.policy.reasons import said_in
from engine.profiles.identity import Identity
from engine.values import Reason, Result, Row, RuleHit
from tests.conftest import NOW_US, POLICY


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A copy of the small policy, to change."""
    return Path(shutil.copytree(POLICY, tmp_path / "policy"))


def loaded(folder: Path) -> Policy:
    """The policy of a folder."""
    return load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False).policy


def refused(folder: Path) -> str:
    """What is said of a folder that can't be used."""
    with pytest.raises(PolicyError) as problem:
        loaded(folder)
    return str(problem.value)


def change(file: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def hits(policy: Policy, row: Row, kind: str = "payment") -> set[str]:
    """Rules that hit a row."""
    found, _ = policy.by_kind[kind].evaluate(dict(row), NOW_US)
    return {hit.rule for hit in found if hit.result is Result.HIT}


# --- parameters


@pytest.mark.parametrize(("large", "amount", "wanted"), [("500", 501.0, True), ("600", 501.0, False)])
def test_a_parameter_stands_for_its_value(folder, large, amount, wanted):
    """A rule follows the parameter; a whole number beside a double takes its type, as one written there would."""
    change(folder / "policy.yaml", "large: 500", f"large: {large}")
    assert ("big" in hits(loaded(folder), {"txn.amount_base": amount})) is wanted


@pytest.mark.parametrize(
    ("when", "row", "wanted"),
    [
        ("event.market in param.home", {"event.market": "AT"}, True),
        ("event.market in param.home", {"event.market": "FR"}, False),
        ("has(param.large) && event.market == param.home[0]", {"event.market": "DE"}, True),
        ("size([1].filter(param, param == 1)) == 1", {}, True),
    ],
)
def test_parameters_are_values_of_the_language(folder, when, row, wanted):
    """Lists, has() and macro variables of the same name mean what they always do."""
    change(folder / "risk" / "payments.yaml", "txn.amount_base > param.large", when)
    assert ("big" in hits(loaded(folder), row)) is wanted


def test_a_parameter_costs_nothing_when_rules_run(folder):
    """No rule reads it at run time: its value is in the compiled condition, and the check knows who used it."""
    rules = loaded(folder).by_kind["payment"]
    assert not any(name.startswith("param") for name in rules.program.names)
    assert {name for condition in rules.conditions for name in condition.constants} == {"param.large"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("large: 500", "larger: 500", "error[E301]: unknown name `param.large`"),
        ("large: 500", "larger: 500", "did you mean `param.larger`?"),
        ("large: 500", 'large: "500"', "error[E305]"),
        ("[DE, AT]", "[DE, 7]", "error[E509]: the values of a list must be of one type"),
    ],
)
def test_a_wrong_parameter_is_shown(folder, old, new, said):
    """An unknown name has a suggestion, and a type that doesn't fit is shown where it is used."""
    change(folder / "policy.yaml", old, new)
    assert said in refused(folder)


# --- lists

TYPED = {
    "card": ("tok_1", "tok_1", "tok_2", "4111111111111111"),
    "bin": ("411111", "411111", "41111111", "41111"),
    "email": ("Anna.B+shop@GMail.com", "annab@gmail.com", "anna@example.org", "anna"),
    "domain": ("@Example.ORG", "example.org", "org", "localhost"),
    "ip": ("2001:db8::/32", "2001:db8:7::1", "2001:db9::1", "192.0.2.1/24"),
    "device": ("d-1", "d-1", "d-2", "d 1"),
    "user": ("u-1", "u-1", "U-1", "u" * 129),
    "address": ("Lindenweg 5|06108|DE", "lindenweg5|06108|de", "lindenweg5|06108|at", "Lindenweg 5, 06108"),
}
"""Type → an entry, what is in the list then, what isn't, and what is no value of the type."""


def listed(folder: Path, of: str, rows: str, kind: str = "watch") -> AnyList:
    """The list `some` with such rows."""
    (folder / "lists" / "lists.yaml").write_text(
        (POLICY / "lists" / "lists.yaml").read_text() + f"  some: {{type: {of}, kind: {kind}}}\n"
    )
    (folder / "lists" / "some.csv").write_text("value,reason,author,added,until\n" + rows)
    return loaded(folder).lists["some"]


@pytest.mark.parametrize("of", TYPED)
def test_values_are_compared_in_one_form(folder, of):
    """However a value is written, it is found in the form that events have, and nothing else is."""
    entry, inside, outside, _ = TYPED[of]
    found = listed(folder, of, f'"{entry}",why,who,2026-11-01,\n')
    assert inside in found
    assert outside not in found
    assert 7 not in found


@pytest.mark.parametrize("of", TYPED)
def test_a_value_of_another_form_is_refused_and_not_shown(folder, of):
    """The place is told and not the value, which may be somebody's card or mail."""
    wrong = TYPED[of][3]
    with pytest.raises(PolicyError) as problem:
        listed(folder, of, f'ok,why,who,2026-11-01,\n"{wrong}",why,who,2026-11-01,\n')
    assert "lists/some.csv:3:2: error[E512]" in str(problem.value)
    assert wrong not in str(problem.value)


def test_an_entry_ends(folder):
    """Up to its end it is in the list, from then on it isn't; a date is its first moment in UTC."""
    now, later = "2026-11-24T10:00:00Z", "2026-11-24T11:00:01+01:00"
    assert "u1" not in listed(folder, "user", f"u1,why,who,2026-11-01,{now}\n")
    assert "u1" in listed(folder, "user", f"u1,why,who,2026-11-01,{later}\n")
    assert "u1" not in listed(folder, "user", "u1,why,who,2026-11-01,2026-11-24\n")
    assert "u1" in listed(folder, "user", "u1,why,who,2026-11-01,2026-11-25\n")


def test_an_address_is_in_any_network_around_it(folder):
    """The narrowest network may have ended while a wider one holds; a network is in one that covers it whole."""
    rows = "192.0.2.0/25,why,who,2020-01-01,2020-02-01\n192.0.2.0/24,why,who,2026-11-01,\n"
    found = listed(folder, "ip", rows + "198.51.100.7,why,who,2026-11-01,\n")
    assert all(text in found for text in ("192.0.2.1", "192.0.2.200", "192.0.2.0/26", "198.51.100.7"))
    assert not any(text in found for text in ("192.0.3.1", "192.0.0.0/16", "198.51.100.8", "::c000:201", "x"))


def test_membership_takes_one_look_up_for_each_length_of_prefix(folder):
    """A hundred thousand networks of two lengths are two tables."""
    rows = "".join(f"10.{i >> 8}.{i & 255}.0/24,w,w,2026-11-01,\n" for i in range(50_000))
    found = listed(folder, "ip", rows + "172.16.0.0/12,w,w,2026-11-01,\n")
    assert [(bits, length, len(networks)) for bits, length, networks in found.prefixes] == [
        (32, 12, 1),
        (32, 24, 50_000),
    ]


def test_a_spreadsheet_with_semicolons_and_quotes_is_read(folder):
    """Byte order mark, CR LF, `;`, doubled quotes, line breaks in cells and empty rows are what spreadsheets write."""
    (folder / "lists" / "cards.csv").write_bytes(
        '\ufeffvalue;reason;author;added;until\r\ntok_1;"said ""stolen""\r\ntwice; at once";me;2026-11-01;\r\n'
        "tok_1;why;me;2026-11-01;\r\n;;;;\r\n".encode()
    )
    assert refused(folder) == "lists/cards.csv:4:1: error[E514]: the value is in the list before, in line 2"


def test_a_million_entries_load_in_time(folder):
    """A million may take five seconds; here a tenth of it, and of the time, beside half a second for all the rest."""
    rows = "".join(f"tok_{i:07},stolen,fraud desk,2026-11-01,{'2027-01-01' if i % 2 else ''}\n" for i in range(100_000))
    began = process_time()
    found = listed(folder, "card", rows)
    assert process_time() - began < 0.5 + 0.5
    assert "tok_0099999" in found


# --- reasons


def test_a_reason_is_one_thing_wherever_it_is_named(folder):
    """A rule names a code, and has its texts, its category and its own place as source."""
    rule = next(rule for rule in loaded(folder).rules if rule.id == "velocity")
    assert rule.reason == Reason("R1", "velocity", "Please confirm.", "rule:velocity", "small")


def test_a_reason_may_be_written_out_where_it_is_used(folder):
    """One used in a single place needs no entry in the list; named elsewhere, it means the same."""
    change(folder / "risk" / "payments.yaml", "reason: R3", "reason: {code: Z1, analyst: odd, customer: Please wait.}")
    reasons = {rule.id: rule.reason for rule in loaded(folder).rules}
    assert reasons["huge"] == Reason("Z1", "odd", "Please wait.", "rule:huge")


@pytest.mark.parametrize(
    ("language", "said"), [("de", "Bitte bestätigen."), ("DE-at", "Bitte bestätigen."), ("fr", "Please confirm.")]
)
def test_customers_read_their_language(folder, language, said):
    """The event's language chooses the text; one that the policy lacks gets the default, as does no language."""
    policy = loaded(folder)
    reasons = (Reason("R1", "velocity", "Please confirm.", "rule:velocity", "small"),)
    assert [reason.customer for reason in said_in(language, reasons, policy.translations)] == [said]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("risk/payments.yaml", "reason: R10", "reason: R11", "did you mean"),
        ("reasons.yaml", "customer: confirm", "customer: confirms", "reasons.yaml:5:54: error[E515]: unknown text"),
        ("reasons.yaml", "de: Bitte bestätigen.", "de: Betrag 9 bestätigen.", "must not name the number 9"),
        ("reasons.yaml", "de: Bitte bestätigen.", "de: Ihre card.bin ist falsch.", "must not name the field card.bin"),
        ("reasons.yaml", ", de: Bitte bestätigen.", "", "error[E112]: missing `de`"),
        ("reasons.yaml", "  R2:", "  R1:", "error[E108]: key `R1` is given twice"),
        ("risk/payments.yaml", "reason: R3", "reason: {code: Z, analyst: a, customer: At 5.}", "the number 5"),
    ],
)
def test_a_wrong_reason_is_shown(folder, file, old, new, said):
    """Unknown, doubled, telling or untranslated: each at its place."""
    change(folder / file, old, new)
    assert said in refused(folder)


# --- scorecards

CARD = """\
ruleset: cards
on: login
scorecards:
  - id: habit
    lines:
      - {when: basket.quantity > 2, points: 20}
      - {when: ip.proxy, points: 15, unknown: 5}
      - {when: 10 / basket.quantity > 4, points: 7, unknown: 3}
      - {when: event.market == "DE", points: -4}
    bands:
      - {from_points: 10, tier: LOW, action: ALLOW, reason: R4}
      - {from_points: 30, tier: MEDIUM, action: REVIEW, reason: R4}
rules:
  - {id: reads-the-sum, when: scorecard.habit == 31, then: {tier: HIGH}, reason: R4}
"""


def scored(folder: Path, row: Row) -> tuple[int, list[RuleHit], list[str]]:
    """The sum, what is seen of it, and the sources that speak."""
    (folder / "risk" / "cards.yaml").write_text(CARD)
    row = dict(row)
    found, sources = loaded(folder).by_kind["login"].evaluate(row, NOW_US)
    return row["scorecard.habit"], found, [source.reason.source for source in sources]


@pytest.mark.parametrize(
    ("row", "total", "seen"),
    [
        ({"basket.quantity": 3, "ip.proxy": True, "event.market": "DE"}, 31, ["#1+20", "#2+15", "#4-4", "@30"]),
        ({"basket.quantity": 3, "ip.proxy": False, "event.market": "FR"}, 20, ["#1+20", "@10"]),
        ({"basket.quantity": 2, "ip.proxy": False, "event.market": "FR"}, 7, ["#3+7"]),
        ({"basket.quantity": 0, "ip.proxy": False, "event.market": "FR"}, 3, ["#3+3"]),
        ({}, 8, ["#1+0", "#2+5", "#3+3", "#4+0"]),
    ],
)
def test_points_are_added_and_seen(folder, row, total, seen):
    """Each line that holds adds its points, one that can't be known or computed its `unknown`; all of it is seen."""
    found_total, found, _ = scored(folder, row)
    assert found_total == total
    assert [hit.rule.removeprefix("habit") for hit in found if hit.rule.startswith("habit")] == seen


def test_the_sum_lies_in_one_band_and_rules_read_it(folder):
    """The highest band that is reached speaks, and rules compare the sum like any number."""
    _, _, says = scored(folder, {"basket.quantity": 3, "ip.proxy": True, "event.market": "DE"})
    assert sorted(says) == ["rule:habit@30", "rule:reads-the-sum"]
    _, found, says = scored(folder, {"ip.proxy": True})
    assert (says, [hit.result for hit in found if "#1" in hit.rule]) == (["rule:habit@10"], [Result.UNKNOWN])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id: habit", "id: my-habit", "risk/cards.yaml:4:9: error[E523]: `my-habit` can't be read by rules"),
        ("when: ip.proxy,", "when: ip.proxi,", "risk/cards.yaml:7:16: error[E301]: unknown name `ip.proxi`"),
        ("when: ip.proxy,", "when: scorecard.habit > 1,", "error[E301]: unknown name `scorecard.habit`"),
        ("points: -4", "points: 1.5", "error[E114]"),
        ("scorecard.habit == 31", "scorecard.habits == 31", "did you mean `scorecard.habit`"),
        ("reason: R4}\n      - {from", "reason: R44}\n      - {from", "error[E515]: unknown reason `R44`"),
    ],
)
def test_a_wrong_scorecard_is_shown(folder, old, new, said):
    """Names, conditions, points and reasons are checked where they stand."""
    assert old in CARD
    (folder / "risk" / "cards.yaml").write_text(CARD.replace(old, new, 1))
    assert said in refused(folder)


# --- values that are none of a list's type


def test_asking_for_what_is_no_value_of_the_type_is_a_miss(folder):
    """A mail list asked for a text that is no mail address, however that came about, just does not hold it."""
    found = listed(folder, "email", "anna@example.org,why,who,2026-11-01,\n")
    assert "anna" not in found
    assert None not in found


def test_a_shipping_address_without_country_can_be_listed(folder):
    """Events may name none; their key then ends with nothing."""
    assert "lindenweg5|06108|" in listed(folder, "address", "Lindenweg 5|06108|,why,who,2026-11-01,\n")
