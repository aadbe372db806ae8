"""The external sort: right for any input, whatever fits in memory, and clean afterwards."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.batch import stage
from engine.batch.stage import ExternalSort, row_of, time_key


@given(st.lists(st.integers(-(2**62), 2**62), max_size=60), st.integers(100, 2_000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_records_come_back_by_time_then_row(tmp_path: Path, times: list[int], run_bytes: int) -> None:
    """Any times, any run size: the order is that of (time, row), and payloads stay with their keys."""
    with ExternalSort(tmp_path, run_bytes) as sort:
        for row, time_us in enumerate(times):
            sort.add(time_key(time_us, row), repr(time_us).encode())
        found = [(int(payload), row_of(key)) for key, payload in sort.sorted()]
    assert found == sorted((time_us, row) for row, time_us in enumerate(times))
    assert list(tmp_path.iterdir()) == []


def test_many_runs_are_merged_before_files_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than may be open at once are first merged into one; nothing is lost or doubled."""
    monkeypatch.setattr(stage, "MAX_RUNS", 4)
    rows = list(range(500))
    random.Random(3).shuffle(rows)
    with ExternalSort(tmp_path, 400) as sort:
        for row in rows:
            sort.add(time_key(row, row), b"x" * 20)
            assert len(list(tmp_path.iterdir())) <= 5
        assert sort.spilled > 100
        assert [row_of(key) for key, _ in sort.sorted()] == list(range(500))


def test_runs_are_removed_after_an_error(tmp_path: Path) -> None:
    """An exception inside leaves no file behind."""
    with pytest.raises(TypeError), ExternalSort(tmp_path, 100) as sort:
        _add_until_it_fails(sort)
    assert list(tmp_path.iterdir()) == []


def _add_until_it_fails(sort: ExternalSort) -> None:
    for payload in [b"x"] * 50 + [None]:
        sort.add(time_key(0, sort.records), payload)  # type: ignore[arg-type]
