"""Calls over real gRPC: answers, errors with their details, deadlines, shedding, health and reflection."""

import asyncio
import io
import random

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from engine.service import convert
from engine.values import Action, Tier
from tests.service.conftest import PAYMENT, Open, Service


async def refused(call: asyncio.Future) -> grpc.aio.AioRpcError:
    """The error with which a call ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def detail(error: grpc.aio.AioRpcError, kind: type) -> object:
    """The one google.rpc detail of a kind, read with the standard library for it."""
    code, message, metadata = error.code(), error.details(), error.trailing_metadata()
    status = rpc_status.from_call(_Ended(code, message, metadata))
    found = kind()
    assert [d for d in status.details if d.Unpack(found)], f"no {kind.__name__} in {status}"
    return found


class _Ended:
    """What grpc_status wants to be asked, from an error of grpc.aio."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: object) -> None:
        self.code, self.details = lambda: code, lambda: details
        self.trailing_metadata = lambda: tuple(metadata)


async def test_a_decision_comes_back_whole(service: Service) -> None:
    """What the engine decided is what the caller reads, also when asked for again."""
    reply = await service.decide(txn_amount_minor=250_000)
    decision = convert.decision_value(reply)
    assert (decision.tier, decision.action, decision.score) == (Tier.HIGH, Action.DECLINE, 0.25)
    assert decision == service.engine.decided["e1"][1]
    again = await service.call("GetDecision", convert.METHODS["GetDecision"][0](id="e1"))
    assert again == reply


async def test_what_is_recorded_reaches_the_engine(service: Service) -> None:
    """Record and RecordOutcome answer with the id and the time at which it was known."""
    event = {"id": "e2", "kind": "login", "time": "2024-11-24T10:00:00Z", "user.id": "u1"}
    reply = await service.call("Record", convert.record_request(event))
    assert reply.id == "e2"
    assert reply.known_at.seconds > 0
    outcome = {"id": "o1", "kind": "chargeback", "event_id": "e2", "time": "2024-11-24T10:00:00Z"}
    reply = await service.call("RecordOutcome", convert.outcome_request(outcome))
    assert reply.id == "o1"
    assert service.engine.recorded["e2"].kind == "login"
    assert service.engine.recorded["o1"]["kind"] == "chargeback"


async def test_a_conflict_names_both_digests(service: Service) -> None:
    """The same id with another body is ALREADY_EXISTS, with both digests for a program to read."""
    await service.decide()
    error = await refused(service.decide(txn_amount_minor=1))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.reason == "BODY_CONFLICT"
    assert info.metadata["stored_digest"] == service.engine.decided["e1"][0].hex()


async def test_what_is_not_there_is_not_found(service: Service) -> None:
    """An unknown decision is NOT_FOUND, and an id that can't be one is refused before the engine is asked."""
    request = convert.METHODS["GetDecision"][0]
    assert (await refused(service.call("GetDecision", request(id="e9")))).code() == grpc.StatusCode.NOT_FOUND
    assert (await refused(service.call("GetDecision", request()))).code() == grpc.StatusCode.INVALID_ARGUMENT
    request = convert.METHODS["AssessUser"][0]
    assert (await refused(service.call("AssessUser", request(user_id="u")))).code() == grpc.StatusCode.NOT_FOUND


async def test_a_defect_tells_nothing_of_the_inside(service: Service, log: io.StringIO) -> None:
    """An unexpected exception is INTERNAL with a request id that the log has too, and with no inner text."""
    error = await refused(service.decide(attributes={"do": "fail Anna"}))
    assert error.code() == grpc.StatusCode.INTERNAL
    request_id = detail(error, error_details_pb2.ErrorInfo).metadata["request_id"]
    assert request_id in error.details()
    assert "Anna" not in repr(error)
    assert request_id in log.getvalue()
    assert "builtins.RuntimeError" in log.getvalue()
    assert "tiny.py" in log.getvalue()
    assert "Anna" not in log.getvalue()


async def test_an_unwritable_journal_is_unavailable(service: Service) -> None:
    """A caller hears that a retry is safe, and nothing of paths."""
    error = await refused(service.decide(attributes={"do": "unwritable"}))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "secret" not in repr(error)


async def test_a_deadline_that_passes_inside_is_told(service: Service) -> None:
    """What could not be made durable in time is DEADLINE_EXCEEDED, and the engine was told the caller's deadline."""
    error = await refused(service.decide(timeout=0.3, attributes={"do": "late"}))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_without_a_deadline_gets_the_default(open_service: Open) -> None:
    """A caller that names no deadline is answered within the default one."""
    async with open_service(deadline_ms=50) as service:
        error = await refused(service.decide(timeout=None, attributes={"do": "late"}))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        # The engine and the boundary both keep the deadline; either may be the first to say so.
        assert error.details().startswith(("the journal was late", "the deadline passed"))


async def test_a_hopeless_deadline_begins_nothing(open_service: Open) -> None:
    """A call whose deadline is shorter than a commit takes is refused without work."""
    async with open_service(gather_ms=100) as service:
        error = await refused(service.decide(timeout=0.09))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert not service.engine.decided


async def test_overload_is_shed_with_a_hint(open_service: Open) -> None:
    """Beyond the calls that may be in flight, a call is refused before its body is read and told when to come back."""
    async with open_service(in_flight_max=1) as service:
        held = asyncio.ensure_future(service.decide(attributes={"do": "hold"}))
        await service.engine.holding.wait()
        error = await refused(service.call("Decide", b"\xff not a message"))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        delay = detail(error, error_details_pb2.RetryInfo).retry_delay
        assert 0 < delay.nanos < 1e9
        service.engine.release.set()
        assert (await held).id == "e1"
        assert (await service.decide(id="e2")).id == "e2"
        assert service.metrics.in_flight == 0


async def test_a_large_body_is_refused_with_words(open_service: Open) -> None:
    """A body over the limit is INVALID_ARGUMENT with both sizes; one far over it never gets into memory."""
    async with open_service() as service:
        error = await refused(service.call("Decide", b"\0" * 5_000_000))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "5000000 bytes; at most 4194304" in error.details()
        error = await refused(service.call("Decide", b"\0" * 9_000_000))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_connections_are_limited(open_service: Open) -> None:
    """Beyond the connections that are allowed a caller finds nobody, and those that are there go on."""
    async with open_service(connections_max=1) as service:
        await service.decide(id="a")
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.server.port}", options) as channel:
            error = await refused(channel.unary_unary(f"/{convert.SERVICE}/Decide")(b"", timeout=20))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
        await service.decide(id="b")


async def test_a_cancelled_call_leaves_no_trace_in_flight(service: Service) -> None:
    """A caller that goes away frees its place."""
    held = asyncio.ensure_future(service.decide(attributes={"do": "hold"}))
    await service.engine.holding.wait()
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    while service.metrics.in_flight:
        await asyncio.sleep(0.01)
    assert ["requests", (("method", "Decide"), ("code", "CANCELLED")), 1] in service.metrics.report()["counts"]


async def test_many_calls_at_once_get_their_own_answers(service: Service) -> None:
    """A thousand calls on one channel, 200 at once, each get the answer with their id."""
    ids = [f"many-{n}" for n in range(1_000)]
    random.Random(3).shuffle(ids)
    for start in range(0, len(ids), 200):
        replies = await asyncio.gather(*(service.decide(id=one) for one in ids[start : start + 200]))
        assert [reply.id for reply in replies] == ids[start : start + 200]


async def test_health_follows_the_engine(service: Service) -> None:
    """Health is SERVING by name and for the whole, turns with the engine's readiness, and is unknown for others."""
    health = health_pb2_grpc.HealthStub(service.channel)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(service=convert.SERVICE))
    while (await watch.read()).status != serving:
        pass
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == serving
    error = await refused(health.Check(health_pb2.HealthCheckRequest(service="shop.v1")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    service.engine.healthy = False
    assert (await watch.read()).status == not_serving
    service.engine.healthy = True
    assert (await watch.read()).status == serving
    watch.cancel()


class _Broken:
    """Raises when it is asked whether it is true."""

    def __bool__(self) -> bool:
        raise OSError("disk gone")


async def test_a_failing_check_is_not_serving(service: Service) -> None:
    """A readiness check that raises counts as not ready, and the server goes on."""
    health = health_pb2_grpc.HealthStub(service.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
        pass
    service.engine.healthy = _Broken()
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_a_drain_tells_watchers_and_waits_for_calls(service: Service) -> None:
    """While draining, health is NOT_SERVING, its watchers are let go, new calls are sent away with a hint, and a call
    in flight is answered."""
    watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest())
    while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
        pass
    held = asyncio.ensure_future(service.decide(attributes={"do": "hold"}))
    await service.engine.holding.wait()
    drain = asyncio.ensure_future(service.server.drain(60))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    error = await refused(service.decide(id="e2"))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert 50 <= detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() <= 200
    assert not drain.done()
    service.engine.release.set()
    assert (await held).id == "e1"
    await drain


async def test_reflection_tells_the_services_when_it_is_on(open_service: Open) -> None:
    """With reflection a stranger learns the services by name; without, the method isn't there."""
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    async with open_service() as service:
        stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([ask]))]
        names = {one.name for one in answers[0].list_services_response.service}
        assert {convert.SERVICE, "grpc.health.v1.Health"} <= names
    async with open_service(reflection=False) as service:
        stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [answer async for answer in stub.ServerReflectionInfo(iter([ask]))]
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_decisions_are_counted_by_action_and_program(service: Service) -> None:
    """The service counts what it answered, what was degraded, and how each call ended; a dry run is no decision."""
    await service.decide(id="a")
    await service.decide(id="b", txn_amount_minor=200_000)
    await service.decide(id="c", dry_run=True)
    await refused(service.decide(attributes={"do": "unwritable"}))
    counts = {(name, tuple(dict(labels).values())): n for name, labels, n in service.metrics.report()["counts"]}
    assert counts == {
        ("decisions", ("ALLOW", "717171717171")): 1,
        ("decisions", ("DECLINE", "717171717171")): 1,
        ("degraded", ("model",)): 1,
        ("requests", ("Decide", "OK")): 3,
        ("requests", ("Decide", "UNAVAILABLE")): 1,
        ("store_errors", ("journal",)): 1,
    }
    assert set(service.metrics.report()["stages"]) == {"Decide", "read", "admission", "write"}


async def test_the_engine_that_ships_answers_every_method(real_service: Service) -> None:
    """A login, a payment, its outcome, the person and the stored decision, one after the other over real gRPC."""
    login = {"id": "l1", "kind": "login", "time": PAYMENT["time"], "user.id": PAYMENT["user.id"]}
    assert (await real_service.call("Record", convert.record_request(login))).id == "l1"
    decision = await real_service.decide()
    assert decision.program.digest == real_service.engine.program_digest
    assert await real_service.decide() == decision
    outcome = {"id": "o1", "kind": "confirmed_good", "event_id": "e1", "time": PAYMENT["time"]}
    assert (await real_service.call("RecordOutcome", convert.outcome_request(outcome))).id == "o1"
    request = convert.METHODS["AssessUser"][0](user_id=PAYMENT["user.id"])
    assessment = await real_service.call("AssessUser", request)
    assert (assessment.user_id, assessment.program) == (PAYMENT["user.id"], decision.program)
    assert assessment.assessed_at.seconds > 0
    assert await real_service.call("GetDecision", convert.METHODS["GetDecision"][0](id="e1")) == decision
    explained = await real_service.call("Explain", convert.METHODS["Explain"][0](id="e1"))
    assert explained.decision == decision
    points = {hit.rule for hit in decision.hits if "+" in hit.rule}
    assert {hit.rule for hit in decision.hits} - points <= {rule.rule for rule in explained.rules}
    assert {rule.rule: rule.result for rule in explained.rules}["card-velocity"] == 1
    velocity = next(rule for rule in explained.rules if rule.rule == "card-velocity")
    assert (velocity.first_failing, velocity.conditions[0].inputs["card.payments_1h"].whole) == (0, 0)
    assert "card.payments_1h" in {feature.name for feature in explained.features}
    stages = real_service.metrics.report()["stages"]
    assert {"read", "admission", "features", "score", "rules", "journal", "write", "Decide"} <= set(stages)
