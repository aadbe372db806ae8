"""Labels as known at a time, how fast they arrive, and what money they stand for."""

import numpy as np
import pytest

from engine.errors import ModelError
from engine.history.labels import DAY_US, Label, arrival, labels_of, monday_of, weeks
from engine.history.money import DRAWS, MANY, interval, loss_micro, ratio, resampled
from engine.history.schemes import DEFAULTS, Limit, Scheme, exceeded, read_schemes

FRAUD = frozenset({"chargeback", "fraud_warning", "confirmed_fraud"})
DAY = DAY_US


def labelled(told, *, through=True, day=0, as_of=100, mature=90):
    """The label of one payment of a day, with what was told on which days."""
    outcomes = {0: [(kind, at * DAY) for kind, at in told]} if told else {}
    found = labels_of(np.array([day * DAY]), np.array([through]), outcomes, as_of * DAY, FRAUD, mature * DAY)
    return Label(found.codes[0]), int(found.known_us[0]) // DAY


@pytest.mark.parametrize(
    ("told", "through", "as_of", "label", "known"),
    [
        ([], True, 100, Label.GOOD, 90),
        ([], True, 89, Label.IMMATURE, 0),
        ([], False, 100, Label.UNSEEN, 0),
        ([("chargeback", 30)], True, 100, Label.FRAUD, 30),
        ([("chargeback", 30)], True, 29, Label.IMMATURE, 0),
        ([("chargeback", 30), ("dispute_won", 60)], True, 100, Label.GOOD, 60),
        ([("chargeback", 30), ("dispute_won", 60)], True, 59, Label.FRAUD, 30),
        ([("service_dispute", 20)], True, 100, Label.OTHER, 20),
        ([("confirmed_good", 2)], True, 10, Label.GOOD, 2),
        ([("confirmed_fraud", 2)], False, 10, Label.FRAUD, 2),
        ([("confirmed_good", 2)], False, 10, Label.GOOD, 2),
        ([("service_dispute", 2)], False, 100, Label.UNSEEN, 0),
        ([("confirmed_fraud", 20)], False, 10, Label.UNSEEN, 0),
    ],
)
def test_a_label_is_what_was_known_then(told, through, as_of, label, known):
    """Let through: fraud, good, other or too young; stopped: only what somebody told, never good by age."""
    assert labelled(told, through=through, as_of=as_of) == (label, known)


def test_the_arrival_curve_corrects_for_young_payments():
    """Half of the frauds tell after 5 days, half after 40; young payments show only the fast half."""
    random, as_of = np.random.default_rng(3), 120
    days = random.integers(0, 120, 20_000)
    delay = np.where(random.random(20_000) < 0.5, 5, 40)
    outcomes = {row: [("chargeback", int(d + w) * DAY)] for row, (d, w) in enumerate(zip(days, delay, strict=True))}
    labels = labels_of(days * DAY, np.ones(20_000, bool), outcomes, as_of * DAY, FRAUD, 90 * DAY)
    curve = arrival(days * DAY, labels)
    seen = (labels.codes == Label.FRAUD) & (labels.known_us - days * DAY == 5 * DAY)
    naive = seen.sum() / (labels.codes == Label.FRAUD).sum()
    assert curve.share[4] == 0
    assert curve.share[5] == pytest.approx(0.5, abs=0.01)
    assert naive > 0.55
    assert curve.share[39] == curve.share[5]
    assert curve.share[40] == 1
    found = weeks(days * DAY, labels, curve)
    assert [week["mature"] for week in found] == sorted((week["mature"] for week in found), reverse=True)
    assert found[-1]["arrived"] < 0.6 < found[0]["arrived"] == 1
    assert sum(week["payments"] for week in found) == 20_000


def test_weeks_begin_on_mondays():
    """1970-01-01 was a Thursday; 2026-11-23 is a Monday."""
    assert monday_of(np.array([0, 4 * DAY, 20_780 * DAY])).tolist() == [-3, 4, 20_780]


@pytest.mark.parametrize(
    ("amount", "claims", "loss"),
    [
        (100, {}, 100),
        (100, {"chargeback": [30, 20]}, 50),
        (100, {"fraud_warning": [100], "chargeback": [40]}, 100),
        (100, {"fraud_warning": [None]}, 100),
        (100, {"chargeback": [90, 90]}, 100),
        (0, {"chargeback": [70]}, 70),
    ],
)
def test_a_warning_and_its_chargeback_are_one_loss_and_parts_add_up(amount, claims, loss):
    """Never above the payment, where its amount is known."""
    assert loss_micro(amount, claims) == loss


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Sums over cards with several payments each: 95 of 100 intervals, give or take, hold the true mean."""
    random, held = np.random.default_rng(5), 0
    for _ in range(100):
        group = np.repeat(np.arange(150), 3)
        value = np.repeat(random.exponential(10.0, 150), 3)
        found = interval(group, [value])
        held += found.low <= 150 * 3 * 10.0 <= found.high
    assert 88 <= held <= 100


def test_many_groups_are_drawn_from_the_normal_limit():
    """The same spread as drawing each group, and the same draws again."""
    random = np.random.default_rng(5)
    value = random.exponential(10.0, 2 * MANY)
    many = resampled(np.arange(2 * MANY), [value, np.ones(2 * MANY)])
    assert many.shape == (DRAWS, 2)
    assert np.array_equal(many, resampled(np.arange(2 * MANY), [value, np.ones(2 * MANY)]))
    assert many[:, 0].std() == pytest.approx(np.sqrt((value**2).sum()), rel=0.08)
    assert interval(np.arange(2 * MANY), [value, np.ones(2 * MANY)], ratio).value == pytest.approx(value.mean())


def test_nothing_has_no_spread():
    """An empty selection is zero, surely."""
    assert interval(np.zeros(0, int), [np.zeros(0, int)]) == (0.0, 0.0, 0.0)


def test_shipped_limits_are_read_and_both_rate_and_number_must_be_reached():
    """Visa by 1.5 % and 1,500; a mastercard by its longest first digits; cash by how it was paid."""
    schemes = read_schemes(DEFAULTS)
    paid = (("411111", "card"), ("222100", "card"), (None, "transfer"), (None, None))
    assert [schemes.of(*pair) for pair in paid] == ["visa", "mastercard", "transfer", "not told"]
    scheme = Scheme("x", (), (), "same month", (Limit("line", 0.01, 100),))
    assert [bool(exceeded(scheme, *pair)) for pair in ((99, 100), (100, 10_001), (100, 10_000), (100, 0))] == [
        False, False, True, False,
    ]  # fmt: skip


def test_limits_with_mistakes_are_told(tmp_path):
    """An unknown outcome, another denominator, a key that isn't one."""
    file = tmp_path / "limits.yaml"
    text = DEFAULTS.read_text()
    for old, new, words in (
        ("over: month before", "over: last year", "over is 'last year'"),
        ("counts: [chargeback, fraud_warning", "counts: [chargebak, fraud_warning", "chargebak"),
        ("at_least: 300", "at_most: 300", "at_most"),
    ):
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(ModelError, match=words):
            read_schemes(file)
