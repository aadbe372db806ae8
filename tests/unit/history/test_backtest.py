"""Backtests: zero for what was live, the truth for a draft in open and closed loop, and clear words for bad input."""

import asyncio
import json
import shutil
import sqlite3
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from engine.bootstrap import looking_back, open_engine
from engine.cli.app import app
from engine.history.compare import Assumptions, Payments, Side, curve, examples, overlaps, rule_lines, worth
from engine.history.labels import DAY_US, Label, Labels
from engine.intake import read_event
from engine.settings import read_settings
from engine.values import Action
from tests.conftest import POLICY, ROOT, payment
from tests.unit.history.conftest import CHANGED_ON_DAY, FAR_US, START, _edit

AFTER = (START + timedelta(days=CHANGED_ON_DAY + 1), START + timedelta(days=CHANGED_ON_DAY + 15))
ALL = (START + timedelta(days=7), START + timedelta(days=35))


def called(settings, *words, code=0, folder=None):
    """What the command prints."""
    line = ["backtest", "--folder", str(folder or settings.folder), *map(str, words)]
    done = CliRunner().invoke(app, line, prog_name="arbiter")
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code != 2 else done.output


def backtest(settings, *words, span=ALL, code=0):
    """The document of a backtest of a journal."""
    times = ["--from", span[0].isoformat(), "--to", span[1].isoformat(), "--json"]
    return json.loads(called(settings, *words, *times, code=code))


def draft_of(settings, folder, *edits):
    """A copy of the policy with changes: (file, old text, new text)."""
    shutil.copytree(settings.rules, folder)
    for name, old, new in edits:
        _edit(folder / name, old, new)
    return folder


def test_the_live_policy_over_past_weeks_differs_by_nothing(shop, tmp_path):
    """Recomputed from the events, in open and closed loop: with the features in the records destroyed, so that none
    can be read, every tier, action, score to the bit and rule is what live gave."""
    folder = tmp_path / "shop"
    shutil.copytree(shop.folder, folder)
    with sqlite3.connect(folder / "state" / "journal.sqlite") as db:
        for seq, public in db.execute("SELECT seq, public FROM record WHERE kind = 'decision'").fetchall():
            body = json.loads(public) | {"features": {"card.payments_1h": "not to be read"}}
            db.execute(
                "UPDATE record SET public = ? WHERE seq = ?", (json.dumps(body, separators=(",", ":")).encode(), seq)
            )
    found = backtest(shop.model_copy(update={"folder": folder}), "--policy", "live", "--expect-same", span=AFTER)
    assert found["differences"] == {"tier or action": 0, "score": 0, "rules": 0}
    assert [side["changed"] for side in found["sides"]] == [0, 0]
    assert found["payments"] > 60
    assert sum(sum(line[1:]) for line in found["actions"]) > 5  # not everything was allowed
    assert all(line["payments"] == line["live_hits"] for line in found["rules"])
    assert found["sides"][0]["fraud_stopped_micro"] == [0, 0, 0]


def test_a_draft_is_told_in_money(shop, tmp_path):
    """Enforcing an observed rule: what it hits is what it was seen to hit; sums of steps are all payments."""
    draft = draft_of(shop, tmp_path / "draft", ("risk/watched.yaml", "status: observe", "status: enforce"))
    with (draft / "lists" / "blocked_cards.csv").open("a") as entries:
        entries.write("tok_nobody,seen,analyst,2026-12-01,\n")
    page = tmp_path / "draft.html"
    found = backtest(shop, "--policy", draft, "--html", page)
    rules = {line["rule"]: line for line in found["rules"]}
    seen = {line["rule"]: line for line in found["side_by_side"]}
    assert not rules["large"]["observed"]
    assert seen["large"]["observed"]
    assert rules["large"]["payments"] == rules["large"]["live_hits"] == seen["large"]["payments"] > 20
    assert 0 < rules["large"]["only"]["payments"] <= seen["large"]["only"]["payments"]  # a band was lowered meanwhile
    side = found["sides"][0]
    assert side["changed"] == found["differences"]["tier or action"] >= rules["large"]["only"]["payments"]
    for one in (found["live"], side):
        assert sum(step["payments"] for step in one["steps"].values()) == found["payments"]
    stopped = side["stopped"]["fraud_micro"] - found["live"]["stopped"]["fraud_micro"]
    assert side["fraud_stopped_micro"][0] == stopped
    assert side["fraud_stopped_micro"][1] <= stopped <= side["fraud_stopped_micro"][2]
    assert {example["draft"] for example in found["examples"]} == {"CHALLENGE"}
    assert len(found["examples"]) == min(20, side["changed"])
    text = page.read_text()
    for words in ("In money", "Labels by week", "How fast frauds become known", "Overlap", "Payments to look at"):
        assert words in text
    assert not found["partial"]
    late = sum(line.count(",2026-11-") + line.count(",2026-12-01,") > 0 for line in _entries(draft))
    assert f"{late:,} entries of lists were added after 2026-05-11; they count from the beginning." in found["remarks"]


def _entries(rules):
    """All lines of all lists."""
    return [line for path in (rules / "lists").glob("*.csv") for line in path.read_text().splitlines()[1:]]


def test_a_challenger_stands_beside_the_model_that_decided(shop):
    """The same trees under another version: the same scores, so the same payments stopped."""
    (line,) = backtest(shop, "--open-loop")["challengers"]
    assert line["model"] == "payment/2"
    assert line["scored"] > 100
    assert line["live"] == line["challenger"]
    assert 0 < line["live"]["average_precision"] <= 1


def test_another_model_is_backtested(shop):
    """`--model` replaces the model alone; the copy changes nothing."""
    found = backtest(shop, "--model", "payment/2", "--open-loop", span=AFTER)
    assert found["differences"]["score"] == found["differences"]["tier or action"] == 0
    assert found["draft"] == "live with payment/2"


def test_labels_and_outcomes_are_those_known_then(shop):
    """As of the end of the period less fraud is known, and its weeks are greyed."""
    then = backtest(shop, "--open-loop", "--as-of", ALL[1].isoformat())
    later = backtest(shop, "--open-loop")
    assert then["live"]["stopped"]["fraud"] + then["live"]["steps"]["ALLOW"]["fraud"] < sum(
        step["fraud"] for step in later["live"]["steps"].values()
    )
    assert not any(week["mature"] for week in then["weeks"])
    assert later["live"]["steps"]["DECLINE"]["unseen"] > 0


SPREE = {"user__id": "u7", "device__id": "d7", "card__token": "tok_7"}


async def _lived(settings, numbered):
    """Decide and record as a shop would: results of what was declined never come."""
    engine = open_engine(settings)
    await engine.start(watch=False)
    engine._activations.begin()
    actions = {}
    for number, at_s in numbered:
        event = payment(number, at_s=at_s, txn__amount_minor=20_000 + 9_000 * (number % 5), **SPREE)
        actions[event.id] = (await engine.decide(event)).action
        await engine.pipeline.drain()
        if actions[event.id] is not Action.DECLINE:
            result = {
                "id": f"r{number}",
                "kind": "payment_result",
                "time_us": event.time_us + 1_000_000,
                "user.id": "u7",
                "card.token": "tok_7",
                "payment.id": f"p{number}",
                "result.status": "approved",
            }
            await engine.record(read_event(result, now_us=FAR_US))
    await engine.close()
    return actions


def test_the_closed_loop_is_what_the_draft_would_have_done(settings_of, tmp_path):
    """A draft that declines on what was spent in a day: once it declines, less is spent, so it lets more through again.

    Open loop can't know that. Closed loop gives, payment by payment, what a live run of the draft gives.
    """
    draft = tmp_path / "draft"
    shutil.copytree(POLICY, draft)
    (draft / "risk" / "spend.yaml").write_text(
        "ruleset: spend\non: payment\nrules:\n  - {id: spent, when: user.spend_24h > 700, final: true, then: {tier: "
        "HIGH, action: DECLINE}, reason: {code: S9, analyst: much spent, customer: Please wait.}}\n"
    )
    numbered = [(number, number * 5_400) for number in range(30)]
    live, other = settings_of(), settings_of(state=str(tmp_path / "other"), rules=str(draft))
    asyncio.run(_lived(live, numbered))
    truth = asyncio.run(_lived(other, numbered))
    start = "2026-11-24T09:00Z"
    words = ["--policy", str(draft), "--from", start, "--to", "2026-12-24", "--json", "--state", live.state]
    found = json.loads(called(live, *words, "--rules", POLICY))
    opened, closed = found["sides"]
    assert not found["partial"]
    assert closed["steps"]["DECLINE"]["payments"] == sum(action is Action.DECLINE for action in truth.values())
    assert 0 < closed["steps"]["DECLINE"]["payments"] < opened["steps"]["DECLINE"]["payments"]
    assert {a.name: closed["steps"][a.name]["payments"] for a in Action if a} == {
        a.name: sum(action is a for action in truth.values()) for a in Action if a
    }  # fmt: skip


def test_a_file_is_backtested_without_a_journal(tmp_path):
    """Transactions with labels: everything let through beside a policy, and two policies beside each other."""
    rows, random = 4_000, np.random.default_rng(4)
    day = np.sort(random.integers(0, 60 * 86_400, rows))
    fraud = random.random(rows) < 0.03
    amount = np.where(fraud, random.uniform(150, 400, rows), random.uniform(5, 220, rows)).round(2)
    table = pa.table({
        "TRANSACTION_ID": np.arange(rows), "TX_DATETIME": pa.array(1_522_540_800 + day, pa.timestamp("s")),
        "CUSTOMER_ID": random.integers(0, 300, rows), "TERMINAL_ID": random.integers(0, 50, rows),
        "TX_AMOUNT": amount, "TX_FRAUD": fraud.astype(int),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "tx.parquet")
    rules = tmp_path / "rules"
    shutil.copytree(ROOT / "examples" / "handbook" / "rules", rules)
    _edit(rules / "policy.yaml", "models: {payment: handbook/1}", "")
    (rules / "risk").mkdir(exist_ok=True)
    reason = "{code: A1, analyst: large, customer: Please confirm.}"
    (rules / "risk" / "a.yaml").write_text(
        f"ruleset: a\non: payment\nrules:\n  - {{id: large, when: txn.amount_base > 220, then: {{tier: HIGH, action: "
        f"DECLINE}}, reason: {reason}}}\n"
    )
    other = tmp_path / "other"
    shutil.copytree(rules, other)
    _edit(other / "risk" / "a.yaml", "> 220", "> 300")
    words = [tmp_path / "tx.parquet", "--mapping", ROOT / "mappings" / "handbook.yaml", "--policy", rules, "--json"]
    settings = read_settings(tmp_path, {}, {})
    found = json.loads(called(settings, *words))
    caught = fraud & (amount > 220)
    assert found["payments"] == rows
    assert found["sides"][0]["fraud_stopped"][0] == caught.sum()
    assert found["sides"][0]["fraud_stopped_micro"][0] == round(amount[caught].sum() * 1e6)
    assert found["sides"][0]["good_hurt"][0] == (~fraud & (amount > 220)).sum()
    (line,) = found["rules"]
    assert (line["payments"], line["precision"]) == ((amount > 220).sum(), pytest.approx(1.0))
    assert line["only"]["fraud"] == caught.sum()
    beside = json.loads(called(settings, *words, "--against", other))
    assert beside["sides"][0]["fraud_stopped"][0] == (fraud & (amount > 220) & (amount <= 300)).sum()
    assert beside["rules"][0]["live_hits"] == (amount > 300).sum()
    csv = tmp_path / "tx.csv"
    frame = table.to_pandas()
    frame.to_csv(csv, index=False)
    mapping = tmp_path / "csv.yaml"
    mapping.write_text((ROOT / "mappings" / "handbook.yaml").read_text().replace("format: parquet", "format: csv"))
    by_row = json.loads(called(settings, csv, "--mapping", mapping, *words[3:]))
    assert by_row["sides"] == found["sides"]


def small(actions, labels, scores=None, **hits):
    """Payments of 10, 20, 30 … with labels, and a side."""
    count = len(actions)
    amount = np.arange(1, count + 1) * 10_000_000
    known = Labels(np.array(labels, np.int8), np.zeros(count, np.int64), 100 * DAY_US, 90 * DAY_US)
    payments = Payments(
        [f"e{n}" for n in range(count)], np.zeros(count, np.int64), amount, amount, np.arange(count), known
    )
    score = np.array(scores or [np.nan] * count)
    side = Side("draft", np.ones(count, np.int8), np.array(actions, np.int8), score,
                {name: np.array(rows) for name, rows in hits.items()})  # fmt: skip
    return payments, side


F, G, X, U = Label.FRAUD, Label.GOOD, Label.OTHER, Label.UNSEEN


def test_unlabelled_payments_are_neither_caught_nor_hurt():
    """What nobody told of is counted by itself, also where the draft would let it through."""
    payments, draft = small([1, 1, 4, 2], [F, U, G, X])
    live = Side("live", draft.tier, np.array([4, 4, 1, 1], np.int8), draft.score, {})
    found = worth(payments, live, draft, Assumptions())
    assert found["fraud_stopped"].value == -1
    assert found["good_hurt_micro"].value == 30_000_000
    assert found["freed_unknown"]["payments"] == 1
    assert found["stopped"]["other"] == 1


def test_the_money_curve_proposes_where_declining_pays():
    """Of 10 % margin, declining from .8 on saves the frauds at the price of one good order."""
    payments, draft = small([1] * 5, [G, G, F, G, F], [0.1, 0.2, 0.8, 0.85, 0.9])
    found = curve(payments, draft, 0.10)
    best = max(found, key=lambda line: line["net_micro"])
    assert best["from_score"] == 0.8
    assert best["net_micro"] == 80_000_000 - 4_000_000
    assert found[-1]["net_micro"] == best["net_micro"] - 3_000_000
    assert curve(payments, Side("x", draft.tier, draft.action, np.full(5, np.nan), {}), 0.1) == []


def test_rules_are_told_with_their_overlap_and_examples_by_turns():
    """Share of one rule's hits that another hits; examples take each kind of change by turns, the largest first."""
    payments, draft = small([4, 4, 4, 1], [F, F, G, G], a=[0, 1], b=[1, 2])
    live = Side("live", draft.tier, np.array([1, 1, 1, 4], np.int8), draft.score, {"a": np.array([0])})
    assert overlaps(draft, ["a", "b"]) == [[1.0, 0.5], [0.5, 1.0]]
    lines = rule_lines(payments, draft, None, live)
    assert [(line["rule"], line["fraud"], line["good"], line["live_hits"]) for line in lines] == [
        ("a", 2, 0, 1), ("b", 1, 1, 0),
    ]  # fmt: skip
    assert [example["event_id"] for example in examples(payments, live, draft)] == ["e3", "e2", "e1", "e0"]


def test_definitions_that_changed_are_counted_anew_and_never_read_from_records(shop, tmp_path):
    """With --stored a feature that means something else now is refused by name; without it is counted from events."""
    old = (shop.rules / "features.yaml").read_text()
    start = old.index("  card.payments_1h:")
    part = old[start : old.index("\n  card.", start + 1)]
    assert "window: 1h" in part
    draft = draft_of(shop, tmp_path / "draft", ("features.yaml", part, part.replace("window: 1h", "window: 2h")))
    _edit(draft / "policy.yaml", "models: {payment: payment/1}", "")
    _edit(draft / "policy.yaml", "challengers: {payment: [payment/2]}", "")
    span = ["--from", AFTER[0].isoformat(), "--to", AFTER[1].isoformat()]
    done = CliRunner().invoke(
        app, ["backtest", "--folder", str(shop.folder), "--policy", str(draft), "--stored", *span]
    )
    assert done.exit_code == 3
    assert "card.payments_1h meant something else" in done.output
    assert backtest(shop, "--policy", draft, "--open-loop", span=AFTER)["payments"] > 0


def test_a_gap_in_the_journal_makes_the_report_partial(shop, tmp_path):
    """Days are named, the page says PARTIAL, the exit code is 1."""
    folder = tmp_path / "gap"
    shutil.copytree(shop.folder, folder)
    gone = [(ALL[0] + timedelta(days=n)).timestamp() * 1e6 for n in (3, 5)]
    with sqlite3.connect(folder / "state" / "journal.sqlite") as db:
        db.execute("DELETE FROM record WHERE kind IN ('decision', 'event') AND event_us BETWEEN ? AND ?", gone)
    page = tmp_path / "gap.html"
    found = backtest(shop.model_copy(update={"folder": folder}), "--open-loop", "--html", page, code=1)
    assert "holds no payment on 2 days of the period" in found["partial"][0]
    assert "PARTIAL: Backtest of live" in page.read_text()


def test_a_policy_of_then_that_is_lost_is_no_hindrance(shop):
    """A digest's beginning names a bundle; an unknown one is told as such."""
    with looking_back(shop) as past:
        first = past.journal.programs.activations(10)[-1].digest
    found = backtest(shop, "--policy", first[:10], "--open-loop", span=AFTER)
    assert found["differences"]["tier or action"] >= 0
    done = CliRunner().invoke(app, ["backtest", "--folder", str(shop.folder), "--policy", "ffffffff"])
    assert done.exit_code == 3
    assert "no bundle begins with 'ffffffff'" in done.output


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--from", "2026-07-01", "--to", "2026-06-01"], 2, "is not before --to 2026-06-01"),
        (["--from", "2020-01-01", "--to", "2020-02-01"], 2, "no payment was decided from 2020-01-01 00:00"),
        (["--mapping", "x.yaml"], 2, "x.yaml"),
        (["--against", "rules"], 2, "--against is for a FILE"),
        (["--model", "payment/9"], 3, "payment/9"),
    ],
)
def test_bad_input_is_told_in_words(shop, words, code, told):
    """Dates that go backwards or to where nothing is, options that don't fit, a model that isn't there."""
    done = CliRunner().invoke(app, ["backtest", "--folder", str(shop.folder), *words], prog_name="arbiter")
    assert done.exit_code == code, done.output
    assert told in done.output


def test_a_draft_with_mistakes_shows_them_at_their_place(shop, tmp_path):
    """As `arbiter rules check` would, before anything is read."""
    draft = draft_of(shop, tmp_path / "draft", ("risk/watched.yaml", "txn.amount_base", "txn.amuont_base"))
    done = CliRunner().invoke(
        app, ["backtest", "--folder", str(shop.folder), "--policy", str(draft)], prog_name="arbiter"
    )
    assert done.exit_code == 3
    assert "unknown name `txn.amuont_base`" in done.output
    assert "watched.yaml:6" in done.output
