"""OpenTelemetry spans, when an endpoint is configured: one span per call, one event per stage, no personal data.

OpenTelemetry is an optional extra (`pip install arbiter[otel]`) and is imported only when it is asked for; without it
a call pays nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from engine.errors import SettingsError
from engine.service.metrics import Recorder
from engine.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Handler = Callable[[bytes, Any], Awaitable[bytes]]
"""A method as gRPC calls it: (request body, gRPC's context) → reply body."""


class Tracing:
    """Puts spans around calls and, as the pipeline's recorder, adds each stage to the span of its call."""

    def __init__(self, provider: TracerProvider, recorder: Recorder) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._recorder = provider, recorder
        self._tracer = provider.get_tracer("arbiter")
        self._current: Callable[[], Span] = trace.get_current_span
        self._parent = TraceContextTextMapPropagator().extract
        self._kind, self._failed = trace.SpanKind.SERVER, trace.Status(trace.StatusCode.ERROR)

    def around(self, name: str, handle: Handler) -> Handler:
        """The same handler inside a span, a child of the caller's where `traceparent` came with the call.

        Exceptions are not recorded in the span: their texts may quote what was sent.
        """

        async def traced(body: bytes, context: Any) -> bytes:
            carrier = {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}
            with self._tracer.start_as_current_span(
                f"arbiter.v1/{name}",
                context=self._parent(carrier),
                kind=self._kind,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    return await handle(body, context)
                except BaseException:
                    span.set_status(self._failed)
                    raise

        return traced

    def observe(self, stage: str, seconds: float) -> None:
        """Measure a stage, and add it to the current span."""
        self._recorder.observe(stage, seconds)
        self._current().add_event(stage, {"seconds": seconds})

    def count(self, name: str, **labels: str) -> None:
        """Count; a span has no part in it."""
        self._recorder.count(name, **labels)

    def close(self) -> None:
        """Send what is waiting; returns after 2 s at the latest."""
        self._provider.force_flush(2_000)
        self._provider.shutdown()


def open_tracing(settings: Settings, recorder: Recorder) -> Tracing | None:
    """The tracing that the settings ask for; None when they ask for none."""
    if not settings.otel_endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as problem:
        words = "otel_endpoint is set but OpenTelemetry is not installed; run: pip install 'arbiter[otel]'"
        raise SettingsError(words) from problem
    provider = TracerProvider(
        resource=Resource.create({"service.name": "arbiter"}),
        sampler=ParentBased(TraceIdRatioBased(settings.otel_share)),
    )
    insecure = settings.otel_endpoint.startswith("http://")
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otel_endpoint, insecure=insecure))
    )
    return Tracing(provider, recorder)
