"""What is measured while deciding: cheap in a worker, merged by the supervisor, shown to Prometheus.

A worker only appends seconds to lists and adds to counters (about 0.1 µs and 0.3 µs each); it sorts them into buckets
when it reports, once a second. The supervisor keeps each worker's newest report, and what dead workers had counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

BOUNDS_S = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5,
)  # fmt: skip
"""Upper bounds of the latency buckets, seconds: from a rule set to a deadline that nobody waits for."""

COUNTERS = {
    "requests": "calls answered, by method and gRPC code",
    "decisions": "decisions given, by action and program; a retry answered from the journal counts again",
    "degraded": "decisions made without a source, by source",
    "shed": "calls refused before any work, by reason",
    "store_errors": "failures of a store, by store",
    "worker_restarts": "child processes started again after they ended, by role",
}
"""Counter names with their meaning; they are exposed as `arbiter_NAME_total`."""


class Recorder(Protocol):
    """What the pipeline tells about itself; any object with these methods will do."""

    def observe(self, stage: str, seconds: float) -> None:
        """Say that a stage took so long."""

    def count(self, name: str, **labels: str) -> None:
        """Say that something happened once; each call site of one name states the same labels in the same order."""


class Metrics:
    """A worker's measurements since its start."""

    def __init__(self) -> None:
        self._pending: dict[str, list[float]] = {}
        self._stages: dict[str, list[float]] = {}
        self._counts: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self.in_flight = 0
        """Calls that are being worked on now."""

    def observe(self, stage: str, seconds: float) -> None:
        """Keep one duration until the next report."""
        try:
            self._pending[stage].append(seconds)
        except KeyError:
            self._pending[stage] = [seconds]

    def count(self, name: str, **labels: str) -> None:
        """Add one to the counter of this name and these labels."""
        key = (name, tuple(labels.items()))
        self._counts[key] = self._counts.get(key, 0) + 1

    def report(self) -> dict[str, Any]:
        """Everything since the start as plain JSON: {stages: {name: [bucket counts…, sum]}, counts: […], in_flight}."""
        for stage, pending in self._pending.items():
            if pending:
                buckets = self._stages.setdefault(stage, [0] * (len(BOUNDS_S) + 1) + [0.0])
                for seconds in pending:
                    buckets[bisect_left(BOUNDS_S, seconds)] += 1
                buckets[-1] += sum(pending)
                pending.clear()
        counts = [[name, labels, n] for (name, labels), n in list(self._counts.items())]
        return {"stages": self._stages, "counts": counts, "in_flight": self.in_flight}


class MergedMetrics:
    """All workers' measurements as one Prometheus collector; counters never fall when a worker dies."""

    def __init__(self) -> None:
        self._live: dict[str, Mapping[str, Any]] = {}
        self._gone: dict[str, Any] = {"stages": {}, "counts": []}
        self.own = Metrics()
        """What the supervisor itself counts."""

    def update(self, worker: str, report: Mapping[str, Any]) -> None:
        """Take a worker's newest report in place of its last."""
        self._live[worker] = report

    def retire(self, worker: str) -> None:
        """Keep what a dead worker had counted."""
        if (last := self._live.pop(worker, None)) is not None:
            counts = _summed_counts([self._gone, last])
            self._gone = {
                "stages": _summed_stages([self._gone, last]),
                "counts": [[name, labels, n] for name, series in counts.items() for labels, n in series.items()],
            }

    def collect(self) -> Iterator[Metric]:
        """Yield the Prometheus families; called in the metrics server's thread."""
        reports = [self._gone, self.own.report(), *self._live.copy().values()]
        stages = HistogramMetricFamily("arbiter_stage_seconds", "time per stage of a call, seconds", labels=["stage"])
        for stage, (*buckets, seconds) in sorted(_summed_stages(reports).items()):
            stages.add_metric([stage], list(_cumulative(buckets)), seconds)
        yield stages
        for name, series in sorted(_summed_counts(reports).items()):
            names = [label for label, _ in next(iter(series))]
            counter = CounterMetricFamily(f"arbiter_{name}", COUNTERS.get(name, name), labels=names)
            for labels, number in sorted(series.items()):
                counter.add_metric([value for _, value in labels], number)
            yield counter
        workers = sum(name.startswith("worker") for name in self._live.copy())
        yield GaugeMetricFamily("arbiter_workers", "workers that report", value=workers)
        in_flight = sum(report.get("in_flight", 0) for report in reports)
        yield GaugeMetricFamily("arbiter_in_flight", "calls being worked on now", value=in_flight)


def _summed_stages(reports: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    total: dict[str, list[float]] = {}
    for report in reports:
        for stage, buckets in report["stages"].items():
            known = total.get(stage)
            total[stage] = list(buckets) if known is None else [a + b for a, b in zip(known, buckets, strict=True)]
    return total


def _summed_counts(reports: Iterable[Mapping[str, Any]]) -> dict[str, dict[tuple[tuple[str, str], ...], int]]:
    """Counter name → labels → number; labels are tuples again where JSON made lists of them."""
    total: dict[str, dict[tuple[tuple[str, str], ...], int]] = {}
    for report in reports:
        for name, labels, number in report["counts"]:
            series = total.setdefault(name, {})
            key = tuple((str(label), str(value)) for label, value in labels)
            series[key] = series.get(key, 0) + number
    return total


def _cumulative(buckets: list[float]) -> Iterator[tuple[str, float]]:
    total = 0.0
    for bound, number in zip((*map(str, BOUNDS_S), "+Inf"), buckets, strict=True):
        total += number
        yield bound, total


class MetricsServer:
    """Prometheus' HTTP endpoint on loopback; `port` 0 takes a free one."""

    def __init__(self, metrics: MergedMetrics, port: int) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(metrics)
        server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        self._server: WSGIServer = server
        self.port: int = server.server_port

    def close(self) -> None:
        """Stop answering."""
        with suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join()
