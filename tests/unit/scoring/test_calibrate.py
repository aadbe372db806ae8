"""From margin to probability."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from engine.errors import ModelError
from engine.scoring.calibrate import Logistic, calibration, fit_logistic

_margin = st.floats(-1e4, 1e4, width=32)


def _bits(value: float) -> bytes:
    return struct.pack("d", value)


@given(st.lists(_margin, min_size=1, max_size=40), st.floats(0.01, 10), st.floats(-20, 20))
def test_one_by_one_and_all_at_once_give_the_same_bits(margins, slope, intercept):
    """The array form gives the very bits of the scalar form, at every size of the array."""
    logistic = Logistic(slope, intercept)
    together = logistic.scores(np.array(margins)).tolist()
    assert list(map(_bits, together)) == [_bits(logistic.score(m)) for m in margins]


def test_a_million_margins_have_the_same_bits_both_ways():
    """Scalar and array form agree on a dense grid of float32 margins, where vector code would differ in last bits."""
    margins = np.random.default_rng(0).normal(0, 5, 1_000_000).astype(np.float32).astype(np.float64)
    logistic = Logistic(1.0281770898024318, 0.2458225970137703)
    single = np.fromiter(map(logistic.score, margins.tolist()), np.float64)
    assert np.array_equal(single, logistic.scores(margins))


@given(_margin)
def test_a_score_is_a_probability(margin):
    """Every finite margin gives a number in 0..1, without overflow."""
    assert 0.0 <= Logistic(3.0, -2.0).score(margin) <= 1.0


@given(st.floats(-18, 18, width=32).filter(lambda m: abs(m) > 1e-6))
def test_neighbouring_margins_keep_their_order(margin):
    """Two float32 margins that differ in the last bit get different scores, in their order."""
    following = float(np.nextafter(np.float32(margin), np.float32(np.inf)))
    logistic = Logistic(1.0, 0.0)
    assert logistic.score(margin) < logistic.score(following)


def test_the_fit_is_the_maximum_of_likelihood():
    """Slope and intercept agree with an unregularised logistic regression on many rows."""
    random = np.random.default_rng(3)
    margins = random.normal(-3, 2, 50_000)
    fraud = random.random(50_000) < 1 / (1 + np.exp(-(0.7 * margins + 0.4)))
    fitted = fit_logistic(margins, fraud)
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(margins[:, None], fraud)
    assert fitted.slope == pytest.approx(peer.coef_[0, 0], rel=1e-2)
    assert fitted.intercept == pytest.approx(peer.intercept_[0], rel=1e-2)


def test_separated_classes_stay_finite():
    """Margins that separate the classes perfectly still give a finite, increasing calibration."""
    fitted = fit_logistic(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    assert 0 < fitted.slope < 100
    assert math.isfinite(fitted.intercept)


def test_margins_that_fall_with_fraud_are_refused():
    """A model that ranks upside down can't be calibrated."""
    with pytest.raises(ModelError, match="slope above 0"):
        fit_logistic(np.array([-1.0, 0.0, 1.0, 2.0] * 9), np.array([True, True, False, False] * 9))


def test_one_class_is_refused():
    """Without any fraud there is nothing to calibrate on."""
    with pytest.raises(ModelError, match="not 0 and 3"):
        fit_logistic(np.zeros(3), np.zeros(3, np.bool_))


@pytest.mark.parametrize(("kind", "parameters"), [
    ("magic", {"slope": 1.0, "intercept": 0.0}), ("logistic", {"slope": 1.0}), ("logistic", {}),
    ("logistic", {"slope": 0.0, "intercept": 0.0}), ("logistic", {"slope": -1.0, "intercept": 0.0}),
])  # fmt: skip
def test_unknown_or_impossible_calibrations_are_refused(kind, parameters):
    """A manifest can't name a calibration that does not exist or does not rise."""
    with pytest.raises(ModelError):
        calibration(kind, parameters)
