"""Who may learn from what, as known when."""

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import ModelError
from engine.scoring import rows
from engine.scoring.codec import DAY_US
from engine.scoring.config import Columns

from .conftest import FEATURES, START_US, days, shop_table


def _table(**columns: object) -> pa.Table:
    return pa.table({"a": [1.0, 2.0, None], "event_time": [1, 2, 3], "label": [True, False, None],
                     "label_known": [5, None, None], "group": ["x", "y", None], **columns})  # fmt: skip


def _read(**columns: object) -> rows.Rows:
    return rows.read_rows(_table(**columns), ("a",), Columns())


def test_nulls_have_their_meaning():
    """A missing feature is NaN, a null label is neither class, a null known time is never, a null group is nobody."""
    data = _read()
    assert np.isnan(data.matrix[2, 0])
    assert data.labelled.tolist() == [True, True, False]
    assert data.known_us.tolist() == [5, rows.NEVER_US, rows.NEVER_US]
    assert data.group.tolist() == [0, 1, -3]


def test_timestamps_of_any_unit_are_microseconds():
    """Seconds, milliseconds and nanoseconds, with a zone or without, mean the same instant."""
    for unit, factor in (("s", 1), ("ms", 10**3), ("ns", 10**9)):
        column = pa.array([n * factor for n in (1, 2, 3)], pa.timestamp(unit, "Europe/Berlin"))
        assert _read(event_time=column, label_known=[10**7] * 3).time_us.tolist() == [10**6, 2 * 10**6, 3 * 10**6]


def test_groups_are_numbered_by_their_own_order():
    """The order of rows does not decide which of two tied cards comes first."""
    assert _read(group=["b", "a", "b"]).group.tolist() == [1, 0, 1]
    assert _read(group=[30, 7, 30]).group.tolist() == [1, 0, 1]


@pytest.mark.parametrize(("columns", "said"), [
    ({"a": ["x", "y", "z"]}, "column a is string"),
    ({"a": [1.0, float("inf"), 2.0]}, "feature a holds infinite"),
    ({"label": [0, 1, 2]}, "0, 1 or null"),
    ({"event_time": [1, None, 3]}, "without a time"),
    ({"event_time": ["1", "2", "3"]}, "timestamp or int64"),
    ({"label_known": [0, 9, 9]}, "before their event"),
])  # fmt: skip
def test_a_column_that_can_not_be_used_is_named(columns, said):
    """Each kind of wrong column is a ModelError with its name."""
    with pytest.raises(ModelError, match=said):
        _read(**columns)


def test_every_missing_column_is_named():
    """All that lacks is told at once, with what is there."""
    with pytest.raises(ModelError, match=r"lacks b, c; it has a, event_time"):
        rows.read_rows(_table(), ("a", "b", "c"), Columns())


def test_a_label_is_no_feature():
    """Naming the label among the features is refused."""
    with pytest.raises(ModelError, match="no feature"):
        rows.read_rows(_table(), ("a", "label"), Columns())


def test_only_labels_known_at_the_cut_off_count():
    """A label known a moment too late is immature, not good."""
    data = rows.read_rows(shop_table(500), FEATURES, Columns())
    cut_off_us = START_US + 10 * DAY_US
    chosen = rows.mature(data, days(0, 20), cut_off_us)
    assert data.known_us[chosen].max() <= cut_off_us
    classes = rows.count_classes(data, days(0, 20), cut_off_us)
    assert classes.fraud + classes.good == chosen.sum()
    assert classes.immature == (data.time_us < START_US + 20 * DAY_US).sum() - chosen.sum()
    weeks = rows.weekly_maturity(data, days(0, 20), cut_off_us)
    assert sum(w.rows for w in weeks) == classes.fraud + classes.good + classes.immature
    assert sum(w.known for w in weeks) == classes.fraud + classes.good
    assert sum(w.fraud for w in weeks) == classes.fraud
    assert weeks[0].week == "2018-06-25"


def test_a_card_is_left_out_from_the_day_after_its_fraud_was_known():
    """Same day and unknown frauds leave a card in; so do frauds from before the training window."""

    def row(day: float, known: float, group: str, fraud: bool) -> tuple[int, int, str, bool]:
        return START_US + int(day * DAY_US), START_US + int(known * DAY_US), group, fraud

    made = [row(-1, 0, "old", True), row(1, 9, "a", True), row(2, 10.5, "b", True),
            row(10.2, 17, "a", False), row(10.7, 17, "b", False), row(11.1, 18, "b", False), row(11, 18, "old", False),
            row(11.5, 18, "c", True)]  # fmt: skip
    time_us, known_us, group, label = zip(*made, strict=True)
    table = pa.table({"a": [0.0] * 8, "event_time": time_us, "label_known": known_us, "group": group, "label": label})
    data = rows.read_rows(table, ("a",), Columns())
    out = rows.known_compromised(data, days(10, 12), START_US)
    assert out.tolist() == [False, False, False, True, False, True, False, False]
