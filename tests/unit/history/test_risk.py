"""The risk report: every number again from the journal's records, by other means; and what it says of bad input."""

import csv
import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from click.testing import CliRunner

from engine.cli.app import app
from tests.conftest import ROOT
from tests.unit.history.conftest import CHANGED_ON_DAY, START

FROM, TO = START + timedelta(days=7), START + timedelta(days=35)
FRAUD = {"chargeback", "fraud_warning", "confirmed_fraud"}
DAY_S = 86_400
DECLINE = 4


def report(settings, *more, code=0, start=FROM, end=TO):
    """The document that the command prints."""
    line = ["report", "risk", "--folder", str(settings.folder), "--from", start.isoformat(), "--to", end.isoformat()]
    done = CliRunner().invoke(app, [*line, "--json", *more], prog_name="arbiter")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def records(settings):
    """Plain rows of the journal's file: kind, id, event time, known time, number of the payment, public part."""
    with sqlite3.connect(settings.state / "journal.sqlite") as db:
        rows = db.execute("SELECT kind, id, event_us, known_us, payment, public, personal FROM record ORDER BY seq")
        return [(*row[:5], json.loads(row[5]), json.loads(row[6] or "{}")) for row in rows]


def cents_of(settings, minor, currency, at_us):
    """Micro-units in EUR at the newest rate before a time, half to even."""
    if currency == "EUR":
        return minor * 10_000
    with (settings.rules / "tables" / "fx.csv").open() as file:
        lines = [row for row in csv.DictReader(file) if row["currency"] == currency]
    day = datetime.fromtimestamp(at_us / 1e6, UTC).date().isoformat()
    return round(
        minor * 10_000 * Fraction(max((row["valid_from"], row["rate"]) for row in lines if row["valid_from"] <= day)[1])
    )


def recounted(settings, as_of_us):
    """Figures by week and all together, in plain Python: one dict for each attempt, then sums."""
    attempts, of_event = {}, {}
    for kind, event_id, at_us, _, payment, body, personal in records(settings):
        if kind == "decision" and body["kind"] == "payment":
            key = payment, personal.get("card.token")
            one = attempts.setdefault(key, {"status": "", "told": [], "actions": []})
            one["actions"].append(body["decision"]["action"])
            fields = body["fields"]
            one |= {"at_us": at_us, "action": body["decision"]["action"], "market": fields["event.market"]}
            one["micro"] = cents_of(settings, fields["txn.amount_minor"], fields["txn.currency"], at_us)
            of_event[event_id] = one
        elif kind == "event" and body["kind"] in {"payment_result", "challenge_result"}:
            for (paid, card), one in attempts.items():
                if paid == payment and personal.get("card.token") in {None, card}:
                    word = body["fields"].get("result.status") or body["fields"]["challenge.status"]
                    one["status"] = word
        elif kind == "review" and body.get("action") == DECLINE:
            of_event[event_id]["status"] = "declined"
        elif kind == "outcome" and body["outcome"]["event_id"] in of_event:
            known_us = body["outcome"].get("known_us", 0)
            of_event[body["outcome"]["event_id"]]["told"].append((body["outcome"]["kind"], known_us))
    sums = defaultdict(Counter)
    for one in attempts.values():
        at = datetime.fromtimestamp(one["at_us"] / 1e6, UTC)
        if not FROM <= at < TO:
            continue
        known = {kind for kind, known_us in one["told"] if known_us <= as_of_us}
        won = "dispute_won" in known
        bad, stopped = bool(known & FRAUD) and not won, one["action"] == DECLINE or one["status"] in {
            "declined", "failed", "abandoned",
        }  # fmt: skip
        week = (at - timedelta(days=at.weekday())).date().isoformat()
        for name in (week, "total", one["market"]):
            line = sums[name]
            line["payments"] += 1
            line["amount_micro"] += one["micro"]
            line["approved"] += not stopped
            line["approved_micro"] += one["micro"] * (not stopped)
            line["declined"] += one["action"] == DECLINE
            line["fraud"] += bad and not stopped
            line["loss_micro"] += one["micro"] * (bad and not stopped)
            line["caught"] += bad and stopped
            line["caught_micro"] += one["micro"] * (bad and stopped)
            line["challenged"] += 2 in one["actions"]
            line["reviewed"] += 3 in one["actions"]
    return sums


def test_every_sum_reconciles_to_the_journal_to_the_cent(shop):
    """Counts and money by week, by market and in all, recounted from the raw records in plain Python."""
    found = report(shop)
    expected = recounted(shop, found["as_of_us"])
    parts = {"total": found["total"], **found["by_week"], **found["by_market"]}
    assert expected.keys() == parts.keys()
    assert len(found["by_week"]) == 4
    for name, sums in expected.items():
        assert {key: parts[name][key] for key in sums} == dict(sums), name
    assert found["total"]["loss_micro"] > 0 < found["total"]["caught_micro"]
    for key in ("by_week", "by_market", "by_scheme"):
        total = Counter()
        for figures in found[key].values():
            total.update(figures)
        assert {name: total[name] for name in found["total"]} == found["total"]


def test_what_was_not_known_yet_is_not_told(shop):
    """As of the end of the period most weeks are immature, and less fraud is known than later."""
    later, then = report(shop), report(shop, "--as-of", TO.isoformat())
    assert then["total"]["fraud"] < later["total"]["fraud"]
    assert not any(week["mature"] for week in then["weeks"])
    assert then["weeks"][0]["arrived"] >= then["weeks"][-1]["arrived"]


def test_a_change_of_the_policy_is_seen_with_what_it_did(shop):
    """One change, on its day, by whom; two weeks on either side; more challenges, with an interval around it."""
    (effect,) = report(shop)["effects"]
    day = datetime.fromtimestamp(effect["since_us"] / 1e6, UTC) - START
    assert day.days == CHANGED_ON_DAY
    assert effect["who"] == "on_save: saved"
    assert effect["before_days"] == 14 > effect["after_days"] > 13
    value, low, high = effect["differences"]["challenged"]
    assert low < value < high


def test_limits_count_by_the_month_in_which_outcomes_came(shop, tmp_path):
    """With a limit that is low enough the month and the scheme are named, and the exit code is 1."""
    months = report(shop)["months"]
    told = Counter()
    for kind, *_, body, _ in records(shop):
        if kind == "outcome" and body["outcome"]["kind"] == "chargeback":
            told[datetime.fromtimestamp(body["outcome"]["known_us"] / 1e6, UTC).strftime("%Y-%m")] += 1
    counted = Counter()
    for month in months:
        counted[month["month"]] += month["counted"]
    assert 0 < told["2026-06"] <= counted["2026-06"]
    assert {month["over"] for month in months if month["scheme"] == "mastercard"} == {"month before"}
    file = tmp_path / "limits.yaml"
    file.write_text(
        "schemes: [{name: visa, bins: ['4'], counts: [chargeback], over: same month, limits: "
        "[{name: ours, rate: 0.001, at_least: 2}]}]"
    )
    found = report(shop, "--limits", str(file), code=1)
    assert any(month["exceeded"] == ["ours"] for month in found["months"])


def test_the_page_shows_the_same_numbers(shop, tmp_path):
    """Loss, rates, immature weeks and the meaning of words stand on a page that needs nothing from elsewhere."""
    page = tmp_path / "risk.html"
    found = report(shop, "--html", str(page), "--as-of", TO.isoformat())
    text = page.read_text()
    assert f"{found['total']['loss_micro'] / 1e6:,.2f}" in text
    for words in (
        "Still immature",
        "VAMP excessive merchant",
        "What each change of the policy did",
        "let through: neither",
    ):
        assert words in text
    assert "src=" not in text
    assert 'href="http' not in text
    assert not list(tmp_path.glob("*.partial"))


def test_measures_are_counted_from_what_changed(shop):
    """What began is what the records changed in the window; told once while it is in force."""
    found = report(shop)["measures"]
    began = Counter()
    for kind, _, _, known_us, _, body, _ in records(shop):
        at = datetime.fromtimestamp(known_us / 1e6, UTC)
        for change in body.get("changes", []) if kind in {"decision", "outcome"} and FROM <= at < TO else []:
            if change[2] == "attribute" and change[4].startswith("measure:") and change[5] is not None:
                began[change[4].split(":")[1]] += 1
    assert {kind: counts["begun"] for kind, counts in found.items() if counts["begun"]} == dict(began)
    assert all(counts["told"] <= counts["given"] for counts in found.values())


def test_a_gap_in_the_journal_is_named(shop, tmp_path):
    """Days without a payment are told, and make the exit code 1."""
    folder = tmp_path / "gap"
    shutil.copytree(shop.folder, folder)
    gone = [(FROM + timedelta(days=n)).timestamp() * 1e6 for n in (10, 13)]
    with sqlite3.connect(folder / "state" / "journal.sqlite") as db:
        db.execute("DELETE FROM record WHERE kind IN ('decision', 'event') AND event_us BETWEEN ? AND ?", gone)
    found = report(shop.model_copy(update={"folder": folder}), code=1)
    days = [(FROM + timedelta(days=n)).date().isoformat() for n in (10, 12)]
    assert f"the journal holds no payment on 3 days of the period ({days[0]} to {days[1]})" in found["partial"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (
            ["--from", "2026-07-01", "--to", "2026-06-01"],
            2,
            "--from 2026-07-01 00:00 is not before --to 2026-06-01 00:00",
        ),
        (["--from", "2020-01-01", "--to", "2020-02-01"], 2, "the journal holds no payment from 2020-01-01 00:00"),
        (["--from", "yesterday"], 2, "neither a day such as 2026-11-01"),
        (["--from", "2026-06-01", "--html", "/proc/risk.html"], 3, "can't be written"),
    ],
)
def test_bad_input_is_told_in_words(shop, words, code, told):
    """Dates that go backwards, a time that is none, a place where nothing can be written."""
    done = CliRunner().invoke(app, ["report", "risk", "--folder", str(shop.folder), *words], prog_name="arbiter")
    assert done.exit_code == code, done.output
    assert told in done.output


def test_a_full_disk_leaves_the_page_before_and_nothing_half_written(shop, tmp_path):
    """The page goes to a device that is always full: clear words, exit code 3, the old page as it was."""
    page = tmp_path / "risk.html"
    page.write_text("the page before")
    (tmp_path / "risk.html.partial").symlink_to("/dev/full")
    code = "from engine.cli.app import app; app(prog_name='arbiter')"
    line = ["report", "risk", "--folder", str(shop.folder), "--from", "2026-05-11", "--html", str(page)]
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 3, done.stderr
    assert f"{page} can't be written: No space left on device" in done.stderr
    assert page.read_text() == "the page before"
    assert not list(tmp_path.glob("*.partial"))
