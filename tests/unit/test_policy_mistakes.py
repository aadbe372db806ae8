"""Every mistake that the policy's own files can hold: its code, its place, and the page that explains it.

Each page in docs/errors begins with the very text that the mistake below gives.
"""

import re
import shutil
from pathlib import Path

import pytest

from engine.language import DiagnosticsError, parse_duration_us
from engine.loader import load_program
from engine.profiles.identity import Identity
from tests.conftest import POLICY, ROOT

MISTAKES = {
    "E117": ("features.yaml", "keep: {user: 1000}", "keep: {user: 1000"),
    "E401": ("features.yaml", "  user.payments_1h: {", "  person.payments_1h: {"),
    "E402": ("features.yaml", "measure: distinct, of: card.token,", "measure: distinct,"),
    "E403": ("features.yaml", "  card.payments_1h: {", "  card.bin: {"),
    "E404": ("features.yaml", "window: 1h,", "window: 60m,"),
    "E405": (
        "features.yaml",
        "features:\n",
        "features:\n"
        "  user.pace: {derive: user.rate * 24, unit: ratio, meaning: a day's pace}\n"
        "  user.rate: {derive: user.pace / 24, unit: ratio, meaning: an hour's pace}\n",
    ),
    "E406": (
        "features.yaml",
        "features:\n",
        "features:\n"
        "  user.frauds: {measure: rate, outcome: fraud, window: 30d, unit: share, meaning: share of fraud, said: 1}\n",
    ),
    "E501": ("policy.yaml", "DE: Europe/Berlin", "DE: Europe/Berlim"),
    "E502": ("policy.yaml", "from_score: 0.0", "from_score: 0.1"),
    "E503": ("risk/payments.yaml", "  - id: huge", "  - id: big"),
    "E504": ("risk/payments.yaml", "reason: R3", "reason: {code: R2, analyst: very large amount}"),
    "E505": ("risk/payments.yaml", "then: {tier: LOW}", "then: {}"),
    "E506": ("risk/payments.yaml", "{kind: NOTIFY, whom: user,", "{kind: NOTIFY, max: 5,"),
    "E507": ("risk/payments.yaml", "on: payment", "on: paiment"),
    "E510": ("lists/cards.csv", "value,reason,author,added,until", "value,reason,author,added,untill"),
    "E511": ("lists/lists.yaml", "  cards:", "  card:"),
    "E512": ("lists/cards.csv", "tok_blocked", "4111 1111 1111 1111"),
    "E513": ("lists/cards.csv", "tok_blocked,stolen,", "tok_blocked,,"),
    "E514": ("lists/cards.csv", "tok_expired", "tok_blocked"),
    "E515": ("risk/payments.yaml", "reason: R10", "reason: R100"),
    "E516": ("reasons.yaml", "en: Please confirm.", "en: Please confirm payments above 500."),
    "E517": ("risk/refunds.yaml", "file: refund.csv", "file: refunds.csv"),
    "E518": ("tables/refund.csv", "< 3", "< three"),
    "E519": ("tables/refund.csv", ">= 3", ">= 2"),
    "E520": ("tables/refund.csv", ">= 3", "> 3"),
    "E521": ("lists/trusted.csv", "payments", "payment"),
    "E522": ("snoozes.yaml", "until: 2026-12-01", "until: 2026-12-21"),
    "E530": ("reasons.yaml", "features: [user.payments_1h]", "features: [user.payment_1h]"),
    "E524": ("risk/payments.yaml", 'in_list("cards", card.token)', 'in_list("cards", device.id)'),
    "E523": ("risk/refunds.yaml", "from_points: 30", "from_points: 10"),
    "E531": ("policy.yaml", "hold: 30d", "challengers: {payment: [small/2]}\nhold: 30d"),
    "E509": ("policy.yaml", "{large: 500,", "{Large: 500,"),
    "E508": ("patterns/takeover.yaml", "within: 1h", "within: 4000d"),
}
HEADER = "value,reason,author,added,until\n"


def load(folder: Path):
    """Load a policy folder without models."""
    return load_program(folder, folder, Identity(bytes(32)), lambda: 0, with_models=False)


def broken(tmp_path: Path, file: str, old: str, new: str) -> str:
    """What a copy of the small policy says with one text replaced."""
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    path = folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DiagnosticsError) as refused:
        load(folder)
    return str(refused.value)


def test_the_small_policy_is_right():
    """The policy that the mistakes are made in has none itself."""
    assert len(load(POLICY).policy.rules) == 16


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_is_shown_at_its_place_as_its_page_says(code, tmp_path):
    """The page's first block is what the loader prints."""
    said = broken(tmp_path, *MISTAKES[code])
    page = (ROOT / "docs" / "errors" / f"{code}.md").read_text()
    block = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert block is not None
    assert f"[{code}]" in block[1]
    assert block[1].strip("\n") in said


def test_all_mistakes_of_all_files_come_at_once(tmp_path):
    """One load names the mistakes of features, rules and settings together."""
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    for code in ("E402", "E501", "E505"):
        file, old, new = MISTAKES[code]
        (folder / file).write_text((folder / file).read_text().replace(old, new, 1))
    with pytest.raises(DiagnosticsError) as refused:
        load(folder)
    assert {"E402", "E501", "E505"} <= set(re.findall(r"\[(E\d+)\]", str(refused.value)))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("lists/cards.csv", "value,reason\na,b\n", "cards.csv:1:1: error[E510]: the columns lack `author`"),
        ("lists/cards.csv", HEADER + "a,b,,d,\n", "cards.csv:2:5: error[E513]: an entry needs an author"),
        ("lists/cards.csv", HEADER + "a,b,c,2020-01-01,20\n", "cards.csv:2:18: error[E513]: until is not a time"),
        ("lists/cards.csv", HEADER + "a,b,c,2020-01-02,2020-01-01\n", "cards.csv:2:18: error[E513]: the entry ends"),
        ("lists/cards.csv", HEADER + '"a",b,c\n', "cards.csv:2:2: error[E510]: the row has 3 cells, the header 5"),
        ("lists/cards.csv", HEADER + 'a,"b"c,c,d,\n', "cards.csv:2:1: error[E510]: the quoting is broken"),
        ("tables/fx.csv", "currency,valid_from,rate\nUSX,2026-01-01,1\n", "fx.csv:2: 'USX' is not an ISO 4217"),
        ("tables/fx.csv", "currency,valid_from,rate\nUSD,2026-01-01,-1\n", "fx.csv:2: a rate must be positive"),
    ],
)
def test_a_mistake_in_a_table_names_its_line(file, text, message, tmp_path):
    """CSV files are refused with file, line and reason."""
    from engine.errors import PolicyError

    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    (folder / file).write_text(text)
    with pytest.raises(PolicyError, match=re.escape(message)):
        load(folder)


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("window: 1h,", "window: 90,", "E404", "`90` may mean"),
        ("window: 1h,", "window: 1M,", "E404", "`1M` may mean"),
        ("window: 1h,", "window: 2 hours,", "E114", "`2 hours` is not a duration"),
        ("window: 1h,", "window: 0s,", "E402", "holds nothing"),
        ("window: 1h, unit: events", "window: 1h", "E112", "missing `unit`"),
        ("unit: events", "unit: evnets", "E116", "did you mean `events`?"),
        ("window: 1h,", "window: 1h, default: 0,", "E402", "count takes no `default`"),
        ("measure: count, on: payment, window: 1h", "measure: told, of: email.address", "E402", "not personal"),
        ("measure: count, on: payment, window: 1h", "measure: sum, of: txn.amuont, window: 1h", "E116", "did you mean"),
        ("measure: count, on: payment, window: 1h", "derive: txn.amuont > 5.0", "E301", "did you mean"),
    ],
)
def test_a_feature_that_is_not_clear_is_refused_at_its_place(old, new, code, said, tmp_path):
    """Unknown units and fields, unclear windows, keys without effect: each with code, place and a way out."""
    text = broken(tmp_path, "features.yaml", old, new)
    found = re.search(rf"features\.yaml:\d+:\d+: error\[{code}\]", text)
    assert found is not None, text
    assert said in text


@pytest.mark.parametrize("length", ["30min", "1h30min", "90s", "500ms", "4w"])
def test_clear_lengths_of_time_are_taken(length, tmp_path):
    """Minutes are written `min`."""
    folder = tmp_path / "policy"
    shutil.copytree(POLICY, folder)
    path = folder / "features.yaml"
    path.write_text(path.read_text().replace("window: 1h,", f"window: {length},", 1))
    first = next(a for a in load(folder).feature_set.aggregates if a.name == "user.payments_1h")
    assert first.window_us == parse_duration_us(length.replace("min", "m"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("same: [user]", "same: [device.id, user]", "3:11: error[E508]: `same` begins with whose events are looked at"),
        ("same: [user]", "same: [usr]", "3:12: error[E116]: `usr` is not one of user, device"),
        ("same: [user]", "same: [user, device, device.id]", "3:11: error[E508]: `same` names one thing twice"),
        ("    same: [user]\n", "", "2:5: error[E112]: missing `same`"),
        ("{name: password, on:", "{on:", "8:9: error[E112]: missing `name`"),
        ("{name: password, on:", "{nam: password, on:", "8:10: error[E111]: unknown key `nam`"),
        (", on: password_change}", "}", "8:9: error[E508]: a step without `on` and `when` would be every event"),
        ("- {name: password, on: password_change}", "- not: {name: p, on: login}", "8:7: error[E508]: `not` stands"),
        (
            "      - {name: payment, on: payment}",
            "      - {name: payment, on: payment}\n      - not: {name: p, on: login}",
            "8:7: error[E508]: `not` stands first or last",
        ),
        (
            "- {name: new device,",
            "- {not: {name: p, on: login}, name: new device,",
            "9:15: error[E508]: what is not to happen stands wholly below `not`",
        ),
        ("patterns:\n", "patterns:\n  - {id: takeover, same: [user], within: 1d, signal: a, meaning: a, steps: "
         "[{name: a, on: login}, {name: b, on: payment}]}\n",
         "3:9: error[E508]: the id `takeover` is used twice"),
    ],
)  # fmt: skip
def test_a_pattern_that_can_not_be_is_refused_at_its_place(old, new, said, tmp_path):
    """Each with what is wrong and what is wanted."""
    assert f"patterns/takeover.yaml:{said}" in broken(tmp_path, "patterns/takeover.yaml", old, new)


@pytest.mark.parametrize(
    ("file", "old", "new", "codes"),
    [
        ("features.yaml", "keep: {user: 1000}", "keep: {user: 1000", {"E104", "E117"}),
        ("features.yaml", "features:", "feature:", {"E111", "E112", "E117"}),
        (
            "features.yaml",
            "measure: count, on: payment, window: 1h",
            "measure: cuont, on: payment, window: 1h",
            {"E116"},
        ),
        ("features.yaml", "measure: sum, of: txn.amount_base", "measure: sum, of: txn.amuont_base", {"E116"}),
        ("policy.yaml", "name: small", "name: [small", {"E104", "E117"}),
        ("patterns/takeover.yaml", "within: 1h", "within: 1 h", {"E114"}),
        ("risk/refunds.yaml", "why: refund.reason", "why: refund.reasn", {"E301"}),
        ("reasons.yaml", "reasons:", "reason:", {"E111", "E112", "E117"}),
        ("labels.yaml", "fraud:", "fruad:", {"E111", "E112", "E117"}),
        ("lists/lists.yaml", "lists:", "lists: {}", {"E104", "E117"}),
        ("patterns/takeover.yaml", "within: 1h", "within: 4000d", {"E508"}),
        ("patterns/takeover.yaml", "patterns:", "pattern:", {"E111", "E112", "E117"}),
        ("risk/payments.yaml", "when: txn.amount_base > param.large", "when: txn.amuont_base > 5", {"E301"}),
        ("risk/payments.yaml", "ruleset: payments", "ruleset: [payments", {"E104", "E117"}),
    ],
)
def test_only_the_root_of_a_mistake_is_told(file, old, new, codes, tmp_path):
    """What only follows from a file that can't be read, or from a part that is wrong, is counted and not told."""
    said = broken(tmp_path, file, old, new)
    assert set(re.findall(r"(?:error|warning)\[(\w+)\]", said)) == codes, said
    assert set(re.findall(r"^(\S+?):\d+:\d+: ", said, re.MULTILINE)) == {file}
