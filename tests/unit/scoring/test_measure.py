"""What a model is worth."""

import numpy as np
import pandas as pd
import pytest

from engine.errors import ModelError
from engine.scoring.codec import DAY_US
from engine.scoring.measure import at_threshold, calibration_verdict, card_precision, evaluate, propose, reliability


def test_card_precision_by_hand():
    """Two days, two checks a day: cards count once, by their best score, and a card found leaves the next day."""
    day = np.array([0, 0, 0, 0, 1, 1, 1]) * DAY_US
    card = np.array([1, 1, 2, 3, 1, 2, 3])
    score = np.array([0.9, 0.1, 0.8, 0.7, 0.99, 0.5, 0.6])
    fraud = np.array([0, 1, 0, 1, 1, 1, 0], np.bool_)
    # day 0 checks cards 1 (fraud in its other payment) and 2 (none); day 1 has no card 1, checks 3 (none) and 2 (fraud)
    assert card_precision(score, fraud, day, card, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def _by_pandas(score, fraud, time_us, card, k):
    """The same definition, written as a walk over data frames."""
    frame = pd.DataFrame({"card": card, "score": score, "fraud": fraud, "day": time_us // DAY_US})
    found, shares = set(), []
    for _, today in frame.groupby("day"):
        cards = today[~today["card"].isin(found)].groupby("card")[["score", "fraud"]].max()
        checked = cards.sort_values("score", ascending=False, kind="stable").head(k)
        hits = list(checked.index[checked["fraud"]])
        found |= set(hits)
        shares.append(len(hits) / k)
    return np.mean(shares)


@pytest.mark.parametrize("seed", range(5))
def test_card_precision_equals_a_plain_walk(seed):
    """On random payments with many ties both ways of computing it agree exactly."""
    random = np.random.default_rng(seed)
    score, fraud = random.random(3_000).round(2), random.random(3_000) < 0.05
    time_us, card = random.integers(0, 7 * DAY_US, 3_000), random.integers(0, 300, 3_000)
    assert card_precision(score, fraud, time_us, card, 20) == _by_pandas(score, fraud, time_us, card, 20)


def test_precision_and_recall_at_a_threshold():
    """The threshold itself is called fraud; when nothing is called, precision is 0."""
    scores, fraud = np.array([0.1, 0.5, 0.5, 0.9]), np.array([True, True, False, True])
    assert at_threshold(scores, fraud, 0.5) == (2 / 3, 2 / 3)
    assert at_threshold(scores, fraud, 0.95) == (0.0, 0.0)


def test_a_proposed_threshold_reaches_its_precision_and_is_the_lowest_that_does():
    """Lowering a proposal to the next score would miss the target; equal scores stay together."""
    random = np.random.default_rng(2)
    scores = random.random(2_000).round(2)
    fraud = random.random(2_000) < scores**2
    (medium, high) = propose(scores, fraud, {"medium": 0.4, "high": 0.7, "never": 1.1})
    for threshold, target in ((medium, 0.4), (high, 0.7)):
        assert (threshold.precision, threshold.recall) == at_threshold(scores, fraud, threshold.from_score)
        lower = np.unique(scores)[np.unique(scores) < threshold.from_score]
        assert all(at_threshold(scores, fraud, s)[0] < target <= threshold.precision for s in lower)


def test_scores_that_are_probabilities_fit_their_groups():
    """Drawn from its own scores, fraud lies in the interval of nearly every group; doubled, it does not."""
    random = np.random.default_rng(4)
    scores = random.beta(1, 30, 50_000)
    fits = [group.fits for group in reliability(scores, random.random(50_000) < scores)]
    assert len(fits) == 10
    assert sum(fits) >= 9
    assert sum(group.fits for group in reliability(scores / 2, random.random(50_000) < scores)) <= 2


def test_all_metrics_are_there():
    """A perfect ranking has AUC and average precision 1, and every number is finite."""
    scores, fraud = np.linspace(0.01, 0.99, 100), np.arange(100) >= 90
    metrics = evaluate(scores, fraud, np.arange(100) * DAY_US // 50, np.arange(100), 5)
    assert (metrics["auc"], metrics["average_precision"]) == pytest.approx((1.0, 1.0))
    assert metrics["card_precision_5"] == 0.5
    assert metrics["fraud"] == 10
    assert all(np.isfinite(list(metrics.values())))


def test_one_class_can_not_be_measured():
    """Without fraud there is no ranking to judge."""
    with pytest.raises(ModelError, match="10 rows with 0 frauds"):
        evaluate(np.zeros(10), np.zeros(10, np.bool_), np.zeros(10, np.int64), np.zeros(10, np.int64))


def _measured(scores: np.ndarray, shift: float = 1.0) -> dict[str, float]:
    random = np.random.default_rng(8)
    fraud = random.random(len(scores)) < np.clip(scores * shift, 0, 1)
    return evaluate(scores, fraud, np.zeros(len(scores), np.int64), np.arange(len(scores)))


def test_probabilities_pass_the_poisson_check_and_others_do_not():
    """The total and eight of ten groups must fit; scores that promise half or twice the fraud fail, and are told."""
    scores = np.random.default_rng(4).beta(1, 30, 50_000)
    holds, told = calibration_verdict(_measured(scores))
    assert holds
    assert told.startswith("calibration holds: ")
    for shift in (0.5, 2.0):
        holds, told = calibration_verdict(_measured(scores, shift))
        assert not holds
        assert "does not hold" in told
        assert "`calibrate:`" in told


def test_a_right_total_of_wrong_groups_fails():
    """One probability for everybody fits in the total and in no group that it mixes."""
    random = np.random.default_rng(5)
    truth = random.beta(1, 30, 50_000)
    scores = np.full(50_000, truth.mean()) + np.linspace(0, 1e-9, 50_000) * np.argsort(np.argsort(truth))
    metrics = evaluate(scores, random.random(50_000) < truth, np.zeros(50_000, np.int64), np.arange(50_000))
    assert metrics["expected_low"] <= metrics["fraud"] <= metrics["expected_high"]
    assert metrics["groups_that_fit"] < 8
    assert not calibration_verdict(metrics)[0]
