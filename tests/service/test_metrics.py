"""Metrics: what workers measure, merged over processes and their deaths, as Prometheus reads it."""

import json
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from engine.service.metrics import BOUNDS_S, COUNTERS, MergedMetrics, Metrics, MetricsServer


def scraped(server: MetricsServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples of one scrape: (name, labels) → value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def reported(*seconds: float, declined: int = 0, in_flight: int = 0) -> dict[str, object]:
    """What a worker reports after these durations of `score` and so many declines, through JSON as in life."""
    metrics = Metrics()
    for one in seconds:
        metrics.observe("score", one)
    for _ in range(declined):
        metrics.count("decisions", action="DECLINE", program="abc")
    metrics.in_flight = in_flight
    return json.loads(json.dumps(metrics.report()))


def test_durations_fall_into_buckets() -> None:
    """A duration counts in the first bucket whose bound is not below it, across several reports."""
    metrics = Metrics()
    metrics.observe("score", BOUNDS_S[0])
    assert metrics.report()["stages"]["score"][:2] == [1, 0]
    metrics.observe("score", BOUNDS_S[0] * 1.01)
    metrics.observe("score", 60.0)
    *buckets, seconds = metrics.report()["stages"]["score"]
    assert buckets[:2] == [1, 1]
    assert buckets[-1] == 1
    assert seconds == BOUNDS_S[0] + BOUNDS_S[0] * 1.01 + 60.0


def test_workers_are_summed_and_the_dead_still_count() -> None:
    """A scrape sums all workers; when one dies its counts stay, its calls in flight do not, and its successor adds."""
    merged = MergedMetrics()
    server = MetricsServer(merged, 0)
    try:
        merged.update("worker-0", reported(0.001, declined=2, in_flight=3))
        merged.update("worker-1", reported(0.001, 0.3, declined=1, in_flight=1))
        samples = scraped(server)
        decline = ("arbiter_decisions_total", (("action", "DECLINE"), ("program", "abc")))
        assert samples[decline] == 3
        assert samples["arbiter_stage_seconds_count", (("stage", "score"),)] == 3
        assert samples["arbiter_stage_seconds_bucket", (("le", "0.001"), ("stage", "score"))] == 2
        assert samples["arbiter_in_flight", ()] == 4
        assert samples["arbiter_workers", ()] == 2
        merged.retire("worker-0")
        merged.own.count("worker_restarts", role="worker")
        samples = scraped(server)
        assert (samples[decline], samples["arbiter_in_flight", ()], samples["arbiter_workers", ()]) == (3, 1, 1)
        assert samples["arbiter_worker_restarts_total", (("role", "worker"),)] == 1
        merged.update("worker-0", reported(declined=5))
        assert scraped(server)[decline] == 8
    finally:
        server.close()


def test_a_process_that_never_reported_leaves_nothing() -> None:
    """A child that dies before its first report is retired without a trace."""
    merged = MergedMetrics()
    merged.retire("worker-0")
    names = {family.name for family in merged.collect()}
    assert names == {"arbiter_stage_seconds", "arbiter_workers", "arbiter_in_flight"}


def test_the_docs_list_every_counter() -> None:
    """docs/operations.md names each counter as Prometheus shows it."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert not [name for name in COUNTERS if f"`arbiter_{name}_total{{" not in page]
