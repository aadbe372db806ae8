"""`arbiter policy`, `explain` and `replay`: a policy's life from the command line, without a server."""

from __future__ import annotations

import asyncio
import re

import orjson
import pytest

from engine.bootstrap import open_engine
from engine.intake import read_event
from engine.settings import read_settings
from tests.unit.cli.conftest import golden, payment


def change(folder, old, new, name="policy.yaml"):
    """Save a policy file with one text replaced."""
    path = folder / "rules" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def digests(call, folder):
    """What was live, the newest first, as `policy list` shows it."""
    shown = call("policy", "list", "--folder", folder).stdout
    return re.findall(r"Z  ([0-9a-f]{12})  ", shown)


@pytest.fixture
def shop(call, folder):
    """A folder with two activations, the second with a lower limit."""
    for reason, large in (("the first", 500), ("lower", 450)):
        change(folder, "large: 500", f"large: {large}")
        done = call("policy", "activate", "--folder", folder, "--reason", reason, "--author", "ann")
        assert done.exit_code == 0, done.output
    return folder


def test_what_was_live_is_listed_and_can_be_asked_for(call, shop):
    """Activations with author and reason, the newest first; what was live at a time; what is in a bundle."""
    first = digests(call, shop)[1]
    shown = call("policy", "list", "--folder", shop).stdout.splitlines()
    assert [line.partition("  ann: ")[2] for line in shown] == ["lower", "the first"]
    assert [line[0] for line in shown] == ["*", " "]
    since = shown[1].split()[0]
    assert first in call("policy", "at", since, "--folder", shop).stdout
    assert "nothing was live" in call("policy", "at", "2020-01-01T00:00Z", "--folder", shop).stdout
    assert call("policy", "at", "yesterday", "--folder", shop).exit_code == 2
    told = call("policy", "show", first[:6], "--folder", shop, "--into", shop / "then").stdout
    assert "by ann: the first" in told
    assert "risk/payments.yaml" in told
    assert "large: 500" in (shop / "then" / "policy.yaml").read_text()
    assert call("policy", "show", "zz", "--folder", shop).exit_code == 3


def test_a_rollback_goes_back_and_further_back(call, shop):
    """The first goes to the activation before, the second to the one before that, and then there is none."""
    change(shop, "large: 450", "large: 400")
    call("policy", "activate", "--folder", shop, "--reason", "lower still", "--author", "ann")
    third, second, first = digests(call, shop)
    for wanted in (second, first):
        assert call("policy", "rollback", "--folder", shop, "--reason", "too many").exit_code == 0
        assert digests(call, shop)[0] == wanted
    done = call("policy", "rollback", "--folder", shop)
    assert (done.exit_code, "nothing else was live before" in done.stderr) == (3, True)
    assert call("policy", "activate", third, "--folder", shop, "--reason", "again").exit_code == 0
    assert digests(call, shop)[0] == third


def test_a_policy_with_mistakes_is_not_activated(call, shop):
    """Every mistake is shown at its place, and what was live stays."""
    before = digests(call, shop)
    change(shop, "card.payments_1h >= 3", "card.paymnets_1h >= 3", "risk/payments.yaml")
    done = call("policy", "activate", "--folder", shop, "--reason", "worse")
    assert done.exit_code == 1
    assert "risk/payments.yaml:5:11: error[E301]" in done.stderr
    assert digests(call, shop) == before


def test_a_policy_whose_tests_fail_is_not_activated(call, shop):
    """The failing cases are named; without need for tests it is, and passing tests are told with the bundle."""
    (shop / "rules" / "tests").mkdir()
    event = "{user.id: u1, device.id: d1, txn.amount_minor: 50000, txn.currency: EUR}"
    case = f"cases:\n  - {{name: large, event: {event}, expect: {{action: REVIEW}}}}\n"
    (shop / "rules" / "tests" / "large.yaml").write_text(case)
    change(shop, "large: 450", "large: 600")
    done = call("policy", "activate", "--folder", shop, "--reason", "higher")
    assert (done.exit_code, "1 of 1 tests fail" in done.stderr and "large.yaml:2:12: large" in done.stderr) == (
        1,
        True,
    ), done.output
    change(shop, "large: 600", "large: 400")
    assert call("policy", "activate", "--folder", shop, "--reason", "lower").exit_code == 0
    assert "tests   1 passed" in call("policy", "show", "--folder", shop).stdout
    (shop / "arbiter.yaml").write_text("activation_needs: coverage\n")
    done = call("policy", "activate", "--folder", shop, "--reason", "lower")
    assert (done.exit_code, "no test hits and misses" in done.stderr) == (1, True), done.output
    (shop / "arbiter.yaml").write_text("activation_needs: nothing\n")
    change(shop, "large: 400", "large: 600")
    assert call("policy", "activate", "--folder", shop, "--reason", "higher").exit_code == 0


def test_the_difference_is_told_in_the_policys_own_terms(call, shop):
    """Thresholds, statuses, shares, schedules, entries, bands, parameters, texts, features and new rules."""
    change(shop, "large: 450", "large: 300")
    change(shop, "card.payments_1h >= 3", "card.payments_1h >= 4", "risk/payments.yaml")
    change(shop, "basket.quantity > 50", "basket.quantity > 50 && ip.proxy", "risk/payments.yaml")
    change(shop, "rollout: 50%", "rollout: 75%", "risk/payments.yaml")
    change(shop, "status: observe", "status: enforce", "risk/payments.yaml")
    change(
        shop, "action: ALLOW}\n", "action: ALLOW}\n    - {from_score: 0.5, tier: HIGH, action: REVIEW, reason: R1}\n"
    )
    change(shop, "tok_blocked,", "tok_other,", "lists/cards.csv")
    change(shop, "hold: 30d", "hold: 20d\nactivation: explicit")
    change(shop, "window: 1h", "window: 2h", "features.yaml")
    (shop / "rules" / "risk" / "near.yaml").unlink()
    (shop / "rules" / "risk" / "new.yaml").write_text(
        "ruleset: new\non: payment\nrules:\n  - id: fresh\n    when: txn.amount_base > 1 # one\n"
        "    then: {tier: HIGH}\n    reason: {code: N9, analyst: fresh, customer: We look at it.}\n"
    )
    done = call("policy", "diff", "--folder", shop)
    assert done.exit_code == 0, done.output
    golden("policy_diff", done.stdout)
    assert call("policy", "diff", "live", "live", "--folder", shop).stdout == "no difference\n"


def test_a_stored_decision_is_explained_and_made_again(call, shop, tmp_path):
    """What `decide` shows of an event `explain` shows of its record; a replay says same, a draft what would be."""
    event = orjson.loads(payment(txn__amount_minor=46_000))
    decide_and_store(shop, event)
    told = orjson.loads(call("explain", "e1", "--folder", shop, "--json").stdout)
    assert (told["action"], told["dry_run"]) == ("REVIEW", False)
    assert {"action": "ALLOW", "tier": "LOW", "if": "txn.amount_base <= 450", "is": 460.0} in told["flips"]
    assert "ALLOW if txn.amount_base <= 450" in call("explain", "e1", "--folder", shop).stdout
    done = call("replay", "e1", "--folder", shop)
    assert (done.exit_code, done.stdout) == (0, "e1 same\n")
    done = call("replay", "--since", "2020-01-01T00:00Z", "--recount", "--folder", shop)
    assert done.stdout.startswith("1 decisions: 1 same, 0 differ")
    change(shop, "large: 450", "large: 800")
    what = call("replay", "--since", "2020-01-01T00:00Z", "--policy", shop / "rules", "--folder", shop)
    assert "action REVIEW → ALLOW  1" in what.stdout
    assert "rule big hits  1 → 0" in what.stdout
    assert call("explain", "e2", "--folder", shop).exit_code == 3
    assert call("replay", "--folder", shop).exit_code == 2


def decide_and_store(folder, document):
    """Decide about one event as a server would."""

    async def decide():
        engine = open_engine(read_settings(folder, {"clock": "event"}, {}))
        await engine.start()
        await engine.decide(read_event(document, now_us=2**60))
        await engine.close()

    asyncio.run(decide())
