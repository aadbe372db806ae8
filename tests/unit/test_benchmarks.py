"""The benchmark of the whole decision runs, and measures what it says it measures."""

import json
import math
import os
import random
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import policy, rules
from benchmarks.decide_report import MARKS
from benchmarks.load_shop import KINDS, Shop
from engine.intake import read_event
from engine.language import Schema, check_text, compile_rows
from engine.language.columns import compile_columns
from engine.schema import ENTITIES
from engine.values import Result
from tests.conftest import shared_data

ROOT = Path(__file__).parents[2]
FIGURES = {
    "echo_per_s", "decide_per_s", "throughput_ratio", "cpu_ratio", "p99_ms_at_half", "rules_200_us", "score_us",
    "score_ratio", "profiles_us",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[dict[str, float]]:
    """Rows with all that the benchmark's rules read; half of them lack the sparse field."""
    rnd = np.random.default_rng(1)
    names = (*policy.MODEL_INPUTS, "score")
    rows = [dict(zip(names, rnd.lognormal(2, 1, len(names)).tolist(), strict=True)) for _ in range(800)]
    for row in rows[::2]:
        del row[policy.SPARSE]
    return rows


def test_the_quick_run_prints_every_figure_with_its_spread():
    """`--quick --json` ends with one object of positive, finite figures within their spreads."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.decide", "--quick", "--json"],
        cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads(run.stdout.splitlines()[-1])
    spreads = figures.pop("spread")
    assert figures.keys() == spreads.keys() == FIGURES
    assert MARKS.keys() <= FIGURES
    for name, value in figures.items():
        low, high = spreads[name]
        assert 0 < low <= value <= high < math.inf, name


def test_the_benchmark_of_features_measures_rows_time_and_memory():
    """`--quick --json` ends with figures of a run in columns."""
    shared_data()
    command = [sys.executable, "-m", "benchmarks.features", "--quick", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads(run.stdout.splitlines()[-1])
    assert (figures["rows"], figures["features"]) == (100_000, 14)
    assert figures["cpu_seconds"] > 0
    assert figures["seconds"] > 0
    assert 50 < figures["peak_mib"] < 1_000


def test_the_rules_have_the_shares_that_the_benchmark_promises(tmp_path, rows):
    """5 % of the results are hits and 10 % UNKNOWN, and the first two comparisons hold for 30 %."""
    conditions = list(policy._Conditions(rows).all())
    schema = Schema.of(dict.fromkeys((*policy.MODEL_INPUTS, "score"), "double"))
    program = compile_rows([check_text(condition, schema) for condition in conditions])
    firsts = compile_rows([check_text(" && ".join(c.split(" && ")[:2]), schema) for c in conditions])
    results = np.array([program.evaluate(row).results for row in rows])
    assert len(conditions) == policy.RULES
    assert all(condition.count("&&") == 2 for condition in conditions)
    assert (results == Result.HIT).mean() == pytest.approx(policy.HIT_SHARE, abs=0.005)
    assert (results == Result.UNKNOWN).mean() == pytest.approx(policy.UNKNOWN_SHARE, abs=0.005)
    reached = np.array([firsts.evaluate(row).results for row in rows]) == Result.HIT
    assert reached.mean() == pytest.approx(policy.THIRD_SHARE, abs=0.01)


def test_the_model_reads_forty_features_of_24_windows_and_more():
    """40 inputs, 24 of them windows, over the six entities of a payment."""
    windows = [line for line in policy.WINDOWS.split("\n") if line]
    assert (len(policy.MODEL_INPUTS), len(set(policy.MODEL_INPUTS)), len(windows)) == (40, 40, 24)
    assert len({line.partition(".")[0] for line in windows}) == KINDS


def test_payments_are_valid_distinct_and_the_same_each_time():
    """Every payment names six entities, has an id of its own, and comes again with the same seed."""
    shop, now_us = Shop(each=50), 1_800_000_000_000_000
    payments = list(shop.payments("r", 200, now_us))
    events = [read_event(payment, now_us=now_us) for payment in payments]
    assert len({event.id for event in events}) == 200
    assert payments == list(shop.payments("r", 200, now_us))
    assert all(ENTITIES[e] in event.fields for event in events for e in ("user", "device", "card", "ip", "email"))
    assert all("address.street" in event.fields for event in events)


def test_a_history_is_in_order_and_gives_every_user_as_many_payments():
    """Payments come in order of time, and none lies in the future."""
    shop, now_us = Shop(each=20), 1_800_000_000_000_000
    history = list(islice(shop.history(10, now_us), 200))
    users = [payment["user.id"] for payment in history]
    assert {users.count(user) for user in set(users)} == {10}
    turns = [[p["time_us"] for p in history[at : at + 20]] for at in range(0, 200, 20)]
    assert all(max(turn) <= min(later) for turn, later in pairwise(turns))
    assert max(turns[-1]) <= now_us


def test_the_benchmark_of_rules_compares_like_with_like():
    """Zen, the CEL library, rows and columns find the same hits on the benchmark's own rules and rows."""
    pytest.importorskip("zen")
    pytest.importorskip("cel")
    rnd = random.Random(1)
    parts = [rules.rule(rnd) for _ in range(60)]
    checked = [check_text(rules.written(one), rules.SCHEMA) for one in parts]
    ours, peers = compile_rows(checked), (rules.zen(parts), rules.cel(parts))
    given = rules.rows(rnd, 20)
    columns = {name: [row[name] for row in given] for name in rules.SCHEMA.names}
    codes = compile_columns(checked).evaluate(columns).codes
    for at, row in enumerate(given):
        wanted = ours.evaluate(row).notable
        assert [hits(rules.nested(row)) for hits in peers] == [wanted, wanted]
        assert np.flatnonzero(codes[:, at]).tolist() == wanted
    assert sum(len(ours.evaluate(row).notable) for row in given) > 20
