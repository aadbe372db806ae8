"""The methods of `DecisionService`, and what stands around every call.

Bytes in, one protobuf parse, one engine call, one build, bytes out.

Each method is a plain function behind one boundary (`Boundary.guard`), which sheds, keeps the deadline, measures, and
turns errors into statuses. gRPC's own interceptors, deserialisers and serialisers would cost more for the same.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, Protocol, cast

import grpc
import grpc.aio
import structlog

from engine.errors import ArbiterError, DeadlinePassed, InvalidInput, Leaving, Overloaded, Unavailable, Violation
from engine.explanation import Explanation
from engine.review.desk import Desk
from engine.service import convert
from engine.service.metrics import Metrics
from engine.service.reviews import review_methods
from engine.service.tracing import Handler, Tracing
from engine.settings import Settings
from engine.values import Assessment, Decision, Event, Receipt

Method = Callable[[bytes, float], Awaitable[bytes]]
"""(request body, deadline on the loop's clock) → reply body."""
Context = grpc.aio.ServicerContext[bytes, bytes]
_DECIDE, _RECORD, _RECORD_OUTCOME, _ASSESS_USER, _GET_DECISION = (
    cast(Any, convert.METHODS[name][0]) for name in ("Decide", "Record", "RecordOutcome", "AssessUser", "GetDecision")
)
"""The request classes; only `convert` knows what they are."""
_EXPLAIN = cast(Any, convert.METHODS["Explain"][0])
RETRY_AFTER_MS = range(50, 201, 10)
"""Hints for what is shed: spread out, so that it does not come back together."""
REPLY_S = 0.001
"""What of a caller's deadline is kept for the reply's way back, seconds."""


class Engine(Protocol):
    """What the service needs of an engine; deadlines are seconds on the running loop's clock, errors `ArbiterError`."""

    @property
    def program_digest(self) -> str:
        """Digest of the live program."""

    @property
    def desk(self) -> Desk:
        """The review desk, once started."""

    async def start(self) -> None:
        """Open the stores and load the program; raises when it can't serve."""

    async def close(self) -> None:
        """Finish what was begun, and release everything."""

    def ready(self) -> bool:
        """Whether a program is live and the journal can be written; cheap, asked several times a second."""

    async def decide(self, event: Event, *, dry_run: bool, deadline: float | None) -> Decision:
        """Decide about an event; durable when it returns, unless it is a dry run."""

    async def record(self, event: Event, *, deadline: float | None) -> Receipt:
        """Take in an event; a known one gets the same receipt again."""

    async def record_outcome(self, outcome: dict[str, Any], *, deadline: float | None) -> Receipt:
        """Take in an outcome; a known one gets the same receipt again."""

    async def assess_user(self, user_id: str, *, dry_run: bool, deadline: float | None) -> Assessment:
        """Judge a person without an event."""

    async def explain(self, event_id: str) -> Explanation:
        """A stored decision with what led to it, or `NotFound`."""

    async def get_decision(self, event_id: str) -> Decision:
        """The stored decision about an event, or `NotFound`."""


class Methods:
    """The six methods as functions from body to body."""

    def __init__(self, engine: Engine, metrics: Metrics, clock_us: Callable[[], int]) -> None:
        self._engine, self._metrics, self._clock_us = engine, metrics, clock_us

    async def decide(self, body: bytes, deadline: float) -> bytes:
        """See `Decide` in the protos."""
        began = time.perf_counter()
        request = convert.parse(_DECIDE, body)
        event = convert.read_request(request, now_us=self._clock_us())
        self._metrics.observe("read", time.perf_counter() - began)
        decision = await self._engine.decide(event, dry_run=request.dry_run, deadline=deadline)
        began = time.perf_counter()
        reply = convert.decision_bytes(decision)
        self._metrics.observe("write", time.perf_counter() - began)
        if not decision.dry_run:
            self._count(decision)
        return reply

    def _count(self, decision: Decision) -> None:
        self._metrics.count("decisions", action=decision.action.name, program=decision.program[:12])
        for source in decision.degraded:
            self._metrics.count("degraded", source=source)

    async def record(self, body: bytes, deadline: float) -> bytes:
        """See `Record` in the protos."""
        now_us = self._clock_us()
        event = convert.read_request(convert.parse(_RECORD, body), now_us=now_us)
        receipt = await self._engine.record(event, deadline=deadline)
        return convert.record_reply(event.id, receipt.known_us, receipt.flags).SerializeToString()

    async def record_outcome(self, body: bytes, deadline: float) -> bytes:
        """See `RecordOutcome` in the protos."""
        now_us = self._clock_us()
        outcome = convert.read_outcome_request(convert.parse(_RECORD_OUTCOME, body), now_us=now_us)
        receipt = await self._engine.record_outcome(outcome, deadline=deadline)
        return convert.outcome_reply(outcome["id"], receipt.known_us, receipt.flags).SerializeToString()

    async def assess_user(self, body: bytes, deadline: float) -> bytes:
        """See `AssessUser` in the protos."""
        request = convert.parse(_ASSESS_USER, body)
        user_id = convert.required_id(request.user_id, "user_id")
        assessment = await self._engine.assess_user(user_id, dry_run=request.dry_run, deadline=deadline)
        return convert.assessment_message(
            user_id, assessment.risk, reasons=assessment.reasons, measures=assessment.measures, hits=assessment.hits,
            degraded=assessment.degraded, program=assessment.program, assessed_us=assessment.assessed_us,
            dry_run=request.dry_run,
        ).SerializeToString()  # fmt: skip

    async def get_decision(self, body: bytes, deadline: float) -> bytes:
        """See `GetDecision` in the protos."""
        event_id = convert.required_id(convert.parse(_GET_DECISION, body).id, "id")
        return convert.decision_bytes(await self._engine.get_decision(event_id))

    async def explain(self, body: bytes, deadline: float) -> bytes:
        """See `Explain` in the protos."""
        event_id = convert.required_id(convert.parse(_EXPLAIN, body).id, "id")
        return convert.explanation_bytes(await self._engine.explain(event_id))


class Boundary:
    """What stands around every method: the limits before it, the measuring, and the only place that knows errors."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing | None) -> None:
        self._metrics, self._tracing = metrics, tracing
        self.leaving = False
        """Whether new calls are sent away, because this worker ends."""
        self._in_flight_max = settings.in_flight_max
        self._message_max_bytes = settings.message_max_bytes
        self._default_s = settings.deadline_ms / 1e3
        self._least_s = settings.gather_ms / 1e3 + 2 * REPLY_S
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger()

    def guard(self, name: str, method: Method) -> Handler:
        """A gRPC handler for one method; it never lets an exception other than gRPC's own out."""
        metrics, perf_counter, admit = self._metrics, time.perf_counter, self._admit

        async def handle(body: bytes, context: Context) -> bytes:
            began = perf_counter()
            metrics.in_flight += 1
            try:
                deadline = admit(body, context)
                async with asyncio.timeout_at(deadline):
                    reply = await method(body, deadline)
                metrics.count("requests", method=name, code="OK")
                return reply
            except asyncio.CancelledError:
                metrics.count("requests", method=name, code="CANCELLED")
                raise
            except Exception as problem:
                await self._refuse(name, context, problem)
            finally:
                metrics.in_flight -= 1
                metrics.observe(name, perf_counter() - began)

        return handle if self._tracing is None else self._tracing.around(name, handle)

    def _admit(self, body: bytes, context: Context) -> float:
        """The call's deadline on the loop's clock; raises for what isn't worth beginning."""
        if self._metrics.in_flight > self._in_flight_max:
            self._metrics.count("shed", reason="in_flight")
            raise Overloaded(random.choice(RETRY_AFTER_MS))
        if len(body) > self._message_max_bytes:
            raise InvalidInput([Violation("", f"is {len(body)} bytes; at most {self._message_max_bytes} are taken")])
        remaining_s = context.time_remaining()
        if remaining_s is None:
            return self._loop.time() + self._default_s
        if remaining_s < self._least_s:
            self._metrics.count("shed", reason="deadline")
            raise DeadlinePassed(f"{remaining_s * 1e3:.1f} ms are left of the deadline; nothing was begun")
        return self._loop.time() + float(remaining_s) - REPLY_S

    def takes(self) -> bool:
        """Whether a call that has just come in goes on, so that its body is worth reading."""
        return not self.leaving and self._metrics.in_flight < self._in_flight_max

    def refusal(self, name: str) -> Any:
        """A gRPC handler that refuses calls of one method without reading their bodies."""
        later = [self._status(Overloaded(after_ms)) for after_ms in RETRY_AFTER_MS]
        elsewhere = [self._status(Leaving(after_ms)) for after_ms in RETRY_AFTER_MS]

        async def refuse(_: Any, context: Context) -> NoReturn:
            self._metrics.count("shed", reason="leaving" if self.leaving else "in_flight")
            self._metrics.count("requests", method=name, code=(Leaving if self.leaving else Overloaded).status)
            await context.abort(*random.choice(elsewhere if self.leaving else later))

        return grpc.stream_unary_rpc_method_handler(refuse)

    async def _refuse(self, name: str, context: Context, problem: Exception) -> NoReturn:
        """End the call with the error's status and its google.rpc.Status details; what is unexpected tells nothing."""
        request_id = ""
        if isinstance(problem, TimeoutError):
            problem = DeadlinePassed("the deadline passed; a retry with the same id is safe")
        if not isinstance(problem, ArbiterError) or problem.status == "INTERNAL":
            request_id = secrets.token_hex(8)
            self._log.error("internal error", method=name, request_id=request_id, exc_info=problem)
            problem = ArbiterError(f"internal error; quote request id {request_id}")
        if isinstance(problem, Unavailable):
            store = type(problem).__name__.removesuffix("Unavailable").lower() or "other"
            self._metrics.count("store_errors", store=store)
        self._metrics.count("requests", method=name, code=problem.status)
        await context.abort(*self._status(problem, request_id))

    @staticmethod
    def _status(problem: ArbiterError, request_id: str = "") -> tuple[Any, ...]:
        """What `abort` is told: code, words, and trailing metadata with the details."""
        status = convert.status_details(problem, request_id)
        return (
            grpc.StatusCode[problem.status], status.message,
            (("grpc-status-details-bin", status.SerializeToString()),),
        )  # fmt: skip


class Service(grpc.GenericRpcHandler):
    """The whole service, to be added to a server: chooses a call's handler as soon as its headers are there."""

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics, tracing: Tracing | None) -> None:
        """Must be made on the server's loop."""
        methods = Methods(engine, metrics, lambda: time.time_ns() // 1_000)
        reviews = review_methods(lambda: engine.desk, lambda: time.time_ns() // 1_000)
        decisions: dict[str, Method] = {
            "Decide": methods.decide, "Record": methods.record, "RecordOutcome": methods.record_outcome,
            "AssessUser": methods.assess_user, "GetDecision": methods.get_decision, "Explain": methods.explain,
        }  # fmt: skip
        by_service = {convert.SERVICE: decisions, convert.REVIEW_SERVICE: reviews}
        self._metrics = metrics
        self._boundary = boundary = Boundary(settings, metrics, tracing)
        self._handlers: dict[str, tuple[Any, Any]] = {
            f"/{service}/{name}": (
                grpc.unary_unary_rpc_method_handler(boundary.guard(name, method)), boundary.refusal(name)
            )
            for service, functions in by_service.items()
            for name, method in functions.items()
        }  # fmt: skip

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """None for a method that isn't here."""
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None
        handler, refusal = found
        return handler if self._boundary.takes() else refusal

    async def leave(self, grace_s: float) -> None:
        """Send new calls away with UNAVAILABLE and a hint, and return when those in flight have ended, or are late."""
        self._boundary.leaving = True
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        while self._metrics.in_flight and loop.time() < end:
            await asyncio.sleep(0.01)
