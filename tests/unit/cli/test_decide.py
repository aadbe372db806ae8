"""`arbiter decide`: what a person reads, what a program reads, and that nothing stays behind."""

from __future__ import annotations

import orjson
import pytest

from engine.explanation import inputs_of
from engine.language import Schema, check_text
from engine.values import Result
from tests.unit.cli.conftest import golden, payment


@pytest.mark.usefixtures("still")
def test_a_person_reads_why(call, folder):
    """A decision with hits, near misses, unknown and failed rules is shown with exactly this text."""
    event = payment(basket__quantities=[0], basket__items=["i1"], txn__amount_minor=50_001)
    done = call("decide", "-", "--folder", folder, "--clock", "event", stdin=event)
    assert done.exit_code == 0, done.output
    golden("decide", done.stdout)


@pytest.mark.usefixtures("still")
def test_missed_by_one_condition(call, folder):
    """Of the rules that missed, those with one condition of several false are told apart from the others."""
    event = payment(ip__proxy=False, card__token=None)
    done = call("decide", "-", "--folder", folder, "--clock", "event", "--misses", stdin=event)
    assert done.exit_code == 0
    golden("decide_misses", done.stdout)


@pytest.mark.usefixtures("still")
def test_nothing_speaks_against_it(call, folder):
    """A guest's small payment with next to no fields is decided too."""
    event = payment(user__id=None, card__token=None, txn__amount_minor=50, user__account_created=None)
    done = call("decide", "-", "--folder", folder, "--clock", "event", stdin=event)
    assert done.exit_code == 0
    golden("decide_guest", done.stdout)


def test_a_program_reads_json(call, folder):
    """The keys of --json are these, and each rule carries its conditions with what they saw."""
    done = call(
        "decide", "-", "--folder", folder, "--clock", "event", "--json", stdin=payment(txn__amount_minor=49_990)
    )
    found = orjson.loads(done.stdout)
    assert list(found) == [
        "id", "kind", "time", "tier", "action", "score", "reasons", "score_reasons", "measures", "user_risk", "signals",
        "degraded", "flags", "rules", "features", "truncated", "entities", "flips", "lowered", "stages_us", "program",
        "decided_at", "dry_run",
    ]  # fmt: skip
    near = next(rule for rule in found["rules"] if rule["id"] == "young-and-large")
    assert near["missed_by_one"]
    assert near["result"] == "MISS"
    assert near["conditions"][1] == {
        "text": "txn.amount_base > 500", "result": "false", "inputs": {"txn.amount_base": 499.9}, "note": "",
    }  # fmt: skip
    assert found["features"]["user.payments_1h"] == 0
    assert found["dry_run"] is True


def test_every_rule_agrees_with_the_decision(call, folder):
    """What the explanation says of a rule is what the decision itself said."""
    done = call("decide", "-", "--folder", folder, "--json", stdin=payment(txn__amount_minor=60_000))
    found = orjson.loads(done.stdout)
    hit = {rule["reason"] for rule in found["rules"] if rule["result"] == Result.HIT.name and rule["enforced"]}
    assert {reason["code"] for reason in found["reasons"]} == hit


def test_a_row_below_the_one_that_hit_is_not_enforced(call, folder):
    """Of a table whose first row wins, the others that fit are shown as they are: true, and without a say."""
    (folder / "rules" / "risk" / "first.yaml").write_text(
        "ruleset: first\non: payment\ntables:\n  - id: t\n    file: t.csv\n    hit: first\n    reason: R4\n"
        "    columns: {amount: txn.amount_base}\n"
    )
    (folder / "rules" / "tables" / "t.csv").write_text("amount,tier\n< 1,LOW\n>= 1,MEDIUM\n,HIGH\n")
    found = orjson.loads(call("decide", "-", "--folder", folder, "--json", stdin=payment()).stdout)
    rows = {rule["id"]: (rule["result"], rule["enforced"]) for rule in found["rules"] if rule["ruleset"] == "first"}
    assert rows == {"t#2": ("MISS", True), "t#3": ("HIT", True), "t#4": ("HIT", False)}
    assert found["tier"] == "MEDIUM"


def test_no_trace(call, folder):
    """A folder without state has none afterwards, and one with state holds not one record or profile more."""
    call("decide", "-", "--folder", folder, stdin=payment())
    assert not (folder / "state").exists()
    history = folder.parent / "history.jsonl"
    history.write_bytes(payment(id="h1") + b"\n")
    call("import", history, "--folder", folder)
    first = call("decide", "-", "--folder", folder, "--clock", "event", "--json", stdin=payment(payment__id="p2"))
    again = call("decide", "-", "--folder", folder, "--clock", "event", "--json", stdin=payment(payment__id="p2"))
    assert orjson.loads(first.stdout)["features"] == orjson.loads(again.stdout)["features"]
    assert orjson.loads(again.stdout)["entities"]["user"]["events"] == 1


def test_a_degraded_decision_ends_with_1(call, folder):
    """A missing exchange rate is named, and the exit code says that something was missing."""
    done = call("decide", "-", "--folder", folder, stdin=payment(txn__currency="JPY"))
    assert done.exit_code == 1
    assert "degraded: fx:JPY" in done.stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"{\n", ":1:2: is not JSON"),
        (b"[]", "event: must be one JSON object"),
        (payment(txn__currency="XXY", txn__amount_minor=-1, user__agee=3), "txn.currency: is not an ISO 4217"),
        (payment(card__token="4111111111111111"), "card.token: looks like a card number"),
    ],
)
def test_bad_events(call, folder, text, told):
    """What can't be read as an event is told field by field, and never as a value."""
    done = call("decide", "-", "--folder", folder, stdin=text)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "4111" not in done.output


def test_every_wrong_field_has_its_line(call, folder):
    """One line for each wrong field."""
    done = call("decide", "-", "--folder", folder, stdin=payment(txn__amount_minor=-1, user__agee="x", time="noon"))
    golden("decide_bad_event", done.stderr)


def test_inputs_of_an_expression():
    """The inputs are those that are declared: in calls, has(), lists and macros, but no macro's variable."""
    schema = Schema.of(
        {"a.b": "int", "a.c": "list(int)", "a.d": "string", "a.e": "double"}, {"cards": "string"}
    )  # fmt: skip
    text = '(has(a.b) ? a.b : 1) > 0 && a.c.exists(x, x > a.b) && in_list("cards", a.d) && coalesce(a.e, 0.0) > 1.0'
    checked = check_text(text, schema)
    assert [inputs_of(node) for node in checked.conjuncts] == [["a.b"], ["a.c", "a.b"], ["a.d"], ["a.e"]]
