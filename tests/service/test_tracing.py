"""Tracing: one span per call, its stages as events, the caller's trace as parent, and no personal data."""

from collections.abc import Iterator

import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from engine.service import convert
from engine.service.metrics import Metrics
from engine.service.tracing import Tracing, open_tracing
from engine.settings import Settings
from tests.service.conftest import PAYMENT, Open


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Where the spans of a test end up."""
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.clear()


def traced(exporter: InMemorySpanExporter, metrics: Metrics) -> Tracing:
    """Tracing that keeps its spans in memory."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider, metrics)


async def test_a_call_is_one_span_with_its_stages(open_service: Open, exporter: InMemorySpanExporter) -> None:
    """Each call has one span; the stages of the pipeline are its events, and are measured as without tracing."""
    async with open_service(tracing=lambda metrics: traced(exporter, metrics)) as service:
        await service.decide()
        await service.decide(id="e2")
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["arbiter.v1/Decide"] * 2
    assert {event.name for event in spans[0].events} >= {"admission"}
    assert service.metrics.report()["stages"]["admission"][-2:] != [0, 0]


async def test_a_span_continues_the_callers_trace(open_service: Open, exporter: InMemorySpanExporter) -> None:
    """A `traceparent` that comes with the call is the parent of the span."""
    async with open_service(tracing=lambda metrics: traced(exporter, metrics)) as service:
        parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
        await service.call("Decide", convert.decide_request(PAYMENT), metadata=(("traceparent", parent),))
    (span,) = exporter.get_finished_spans()
    assert format(span.context.trace_id, "032x") == "ab" * 16
    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == "cd" * 8


async def test_a_failed_call_is_marked_without_its_text(open_service: Open, exporter: InMemorySpanExporter) -> None:
    """A call that fails has a span with an error status, and no exception text or personal value in it."""
    async with open_service(tracing=lambda metrics: traced(exporter, metrics)) as service:
        with pytest.raises(grpc.aio.AioRpcError):
            await service.decide(attributes={"do": "fail anna"})
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert "anna" not in span.to_json()


def test_tracing_is_off_unless_an_endpoint_is_set() -> None:
    """Without an endpoint there is no tracing, and so nothing to pay."""
    assert open_tracing(Settings(), Metrics()) is None


def test_tracing_with_an_endpoint_starts_and_stops_without_its_collector() -> None:
    """A collector that can't be reached stops neither the start nor the end."""
    tracing = open_tracing(Settings(otel_endpoint="http://127.0.0.1:9"), Metrics())
    assert tracing is not None
    tracing.close()
