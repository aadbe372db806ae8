"""Labels: what counts as fraud and as good, as known at a time; and the windows that leave labels time to arrive."""

from __future__ import annotations

import pytest

from engine.batch.training import Label, label_at, plan
from engine.errors import ModelError
from engine.scoring.codec import DAY_US

FRAUD = frozenset({"chargeback", "confirmed_fraud"})
EVER = 10_000
LET, LATE = Label(False, 90), 95


@pytest.mark.parametrize(
    ("outcomes", "at", "label"),
    [
        ([], 89, None),
        ([], 90, LET),
        ([], EVER, LET),
        ([("chargeback", 20)], 19, None),
        ([("chargeback", 20)], 20, Label(True, 20)),
        ([("chargeback", 20), ("confirmed_fraud", 10)], EVER, Label(True, 10)),
        ([("chargeback", LATE)], 94, LET),
        ([("chargeback", LATE)], 95, Label(True, 95)),
        ([("chargeback", 20), ("dispute_won", 50)], 49, Label(True, 20)),
        ([("chargeback", 20), ("dispute_won", 50)], 50, Label(False, 50)),
        ([("confirmed_good", 5)], 4, None),
        ([("confirmed_good", 5)], 5, Label(False, 5)),
        ([("confirmed_good", 5), ("chargeback", 30)], EVER, Label(True, 30)),
        ([("service_dispute", 30)], EVER, Label(None, 30)),
        ([("abuse", 30), ("confirmed_fraud", 40)], EVER, Label(True, 40)),
        ([("abuse", 30), ("confirmed_good", 10)], 29, Label(False, 10)),
        ([("abuse", 30), ("confirmed_good", 10)], 30, Label(None, 30)),
        ([("dispute_won", 30)], EVER, LET),
    ],
)
def test_label_at(outcomes, at, label):
    """A label is what the outcomes known by then say: fraud before other classes, those before good."""
    assert label_at(0, outcomes, at, FRAUD, 90) == label


def test_windows_leave_labels_time():
    """Learning rows are mature at the cut-off, the test begins there, and its rows are mature at the end."""
    end_us = 300 * DAY_US
    window, test = plan(0, end_us, 90 * DAY_US)
    assert window.start_us >= 20 * DAY_US
    assert window.end_us + 90 * DAY_US == test.start_us
    assert test.end_us + 90 * DAY_US <= end_us
    assert test.end_us - test.start_us >= 20 * DAY_US


def test_a_short_history_is_refused():
    """Where labels could not arrive in time, the message says how many days are needed."""
    with pytest.raises(ModelError, match="needed") as told:
        plan(0, 199 * DAY_US, 90 * DAY_US)
    assert "200 days are needed" in str(told.value)
