"""Processes: one port, workers that are replaced, an end in order, and no orphans."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.errors import ArbiterError, SettingsError
from engine.service import convert, supervisor
from engine.service.supervisor import Supervisor, hold_port
from engine.settings import Settings, read_settings
from tests.service.conftest import PAYMENT

ROOT = Path(__file__).parents[2]
TINY = (sys.executable, "-m", "tests.service.tiny")
PARENT = """
import sys
from engine.errors import ArbiterError
from engine.service.supervisor import serve
from engine.settings import Settings
try:
    serve(Settings.model_validate_json(sys.argv[1]), (sys.executable, "-m", "tests.service.tiny"))
except ArbiterError as problem:
    sys.exit(f"refused: {problem}")
"""
PATIENCE_S = 60
"""How long a test waits for what must come; only a failing test waits so long."""


@contextlib.contextmanager
def parent(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """`arbiter serve` with tiny engines, as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, settings.model_dump_json()], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready_port(process: subprocess.Popen[str]) -> int:
    """The port in the line that says that it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("arbiter serving on 127.0.0.1:"), line
    return int(line.split(":")[1].split()[0])


@contextlib.asynccontextmanager
async def supervised(settings: Settings, **changes: Any) -> AsyncIterator[tuple[Supervisor, int]]:
    """A supervisor in this process, ready, with its port."""
    with hold_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        one = Supervisor(settings.model_copy(update={"port": port, **changes}), TINY)
        announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(one.run(announced.set_result))
        await asyncio.wait({task, announced}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if announced.done():
                yield one, port
        finally:
            one.stopping.set()
            await task


async def decided_by(port: int, event_id: str, **fields: Any) -> int:
    """Decide over a new connection, however often it takes, and return the id of the worker's process."""
    request = convert.decide_request({**PAYMENT, "id": event_id, **fields}).SerializeToString()
    until_s = time.monotonic() + PATIENCE_S
    while True:
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call = channel.unary_unary(f"/{convert.SERVICE}/Decide", None, convert.METHODS["Decide"][1].FromString)
            try:
                reply = await call(request, timeout=PATIENCE_S, wait_for_ready=True)
                return int(reply.flags[0].removeprefix("pid:"))
            except grpc.aio.AioRpcError as problem:
                if problem.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > until_s:
                    raise


async def until(true: Callable[[], bool]) -> None:
    """Wait for what must come."""
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "it did not come"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended but was not waited for does not)."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings on a free port in a folder of their own."""
    return read_settings(tmp_path, {"port": 0}, {})


async def test_a_call_in_flight_is_answered_before_the_end(settings: Settings) -> None:
    """SIGTERM: health turns, new calls are refused, the call in flight gets its answer, and the exit code is 0."""
    with parent(settings) as process:
        port = await asyncio.to_thread(ready_port, process)
        gate = settings.folder / "gate"
        held = asyncio.create_task(decided_by(port, "held", attributes={"do": f"hold {gate}"}))
        await until(Path(f"{gate}.held").exists)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
            process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as sent_away:
                await channel.unary_unary(f"/{convert.SERVICE}/Decide")(b"", timeout=PATIENCE_S)
        assert sent_away.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not held.done()
        gate.touch()
        pid = await held
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0
        assert (settings.state / f"closed-{pid}").exists()
        assert (settings.state / "kept").exists()
        assert not alive(pid)


async def test_ctrl_c_ends_it_too(settings: Settings) -> None:
    """Ctrl-C in a terminal ends the server like SIGTERM."""
    with parent(settings) as process:
        await asyncio.to_thread(ready_port, process)
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0


async def test_a_drain_has_an_end(settings: Settings) -> None:
    """A call that takes longer than the drain is given up, and the server ends."""
    async with supervised(settings, drain_s=0.1) as (one, port):
        gate = settings.folder / "gate"
        held = asyncio.create_task(decided_by(port, "held", attributes={"do": f"hold {gate}"}))
        await until(Path(f"{gate}.held").exists)
        one.stopping.set()
    held.cancel()
    assert one.workers[0].process is not None
    assert one.workers[0].process.returncode == 0


async def test_a_dead_worker_is_replaced_on_the_same_port(settings: Settings) -> None:
    """After SIGKILL of the only worker its successor answers on the same port, and the death is counted."""
    async with supervised(settings) as (one, port):
        first = await decided_by(port, "a")
        os.kill(first, signal.SIGKILL)
        second = await decided_by(port, "b")
        assert first != second
        assert ["worker_restarts", (("role", "worker"),), 1] in one.metrics.own.report()["counts"]
    assert not alive(second)


async def test_workers_share_the_port(settings: Settings) -> None:
    """With two workers both get connections, and while one is dead the other answers."""
    async with supervised(settings, workers=2) as (_, port):
        pids: set[int] = set()
        for number in range(1_000):
            pids.add(await decided_by(port, f"e{number}"))
            if len(pids) == 2:
                break
        assert len(pids) == 2


async def test_a_dead_keeper_is_replaced(settings: Settings) -> None:
    """The background work goes on in a new process; the workers don't notice."""
    async with supervised(settings, notices_file=settings.state / "notices") as (one, port):
        worker = await decided_by(port, "a")
        assert one.keeper.process is not None
        first = one.keeper.process.pid
        one.keeper.signal(signal.SIGKILL)
        await until(lambda: one.keeper.ready.is_set() and one.keeper.process.pid != first)  # type: ignore[union-attr]
        assert await decided_by(port, "b") == worker
        notices = (settings.state / "notices").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in notices] == ["started", "started"]


async def test_nothing_is_served_before_the_stores_are_in_order(settings: Settings) -> None:
    """Workers open their stores at once, but listen only when the keeper has brought in what a crash had left."""
    settings.state.mkdir()
    (settings.state / "disorder").touch()
    with parent(settings) as process:
        line = asyncio.create_task(asyncio.to_thread(ready_port, process))
        await until((settings.state / "started").exists)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(line), 0.3)
        (settings.state / "disorder").unlink()
        await decided_by(await line, "a")


async def test_a_stopped_worker_is_killed_and_replaced(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that says nothing for too long is taken for dead."""
    monkeypatch.setattr(supervisor, "SILENT_S", 4.0)
    async with supervised(settings) as (_, port):
        first = await decided_by(port, "a")
        os.kill(first, signal.SIGSTOP)
        await until(lambda: not alive(first))
        assert await decided_by(port, "b") != first


async def test_no_orphan_outlives_the_parent(settings: Settings) -> None:
    """When the parent is killed its workers drain and leave by themselves."""
    with parent(settings) as process:
        port = await asyncio.to_thread(ready_port, process)
        pid = await decided_by(port, "a")
        process.kill()
        await until(lambda: not alive(pid))
        assert (settings.state / f"closed-{pid}").exists()


async def test_a_start_that_cannot_succeed_says_why(settings: Settings) -> None:
    """A broken policy stops the first start with the policy's own words, and nothing is left running."""
    settings.rules.mkdir()
    (settings.rules / "policy.yaml").write_text("broken")
    with parent(settings) as process:
        _, words = await asyncio.to_thread(process.communicate)
        assert process.returncode == 1
        assert "refused: policy.yaml:1:1: it is broken" in words


async def test_a_worker_that_cannot_even_begin_is_named(settings: Settings) -> None:
    """When a child dies without a word, the refusal names it and its exit code."""
    one = Supervisor(settings, (sys.executable, "-c", "import sys; sys.exit(7)"))
    with pytest.raises(ArbiterError, match="ended with code 7 before it was ready"):
        await one.run(lambda _: None)


async def test_a_policy_that_breaks_later_does_not_end_the_server(settings: Settings) -> None:
    """A worker that can't start again is tried again, and serves when what was wrong is mended."""
    async with supervised(settings) as (one, port):
        settings.rules.mkdir()
        (settings.rules / "policy.yaml").write_text("broken")
        os.kill(await decided_by(port, "a"), signal.SIGKILL)
        await until(lambda: "it is broken" in one.workers[0].failed)
        (settings.rules / "policy.yaml").unlink()
        await decided_by(port, "b")


def test_a_port_that_is_taken_is_refused(settings: Settings) -> None:
    """A second server on a port is refused with a way out, whether or not the first one is listening already."""
    with hold_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(SettingsError, match="choose another port"):
            hold_port("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SettingsError, match="choose another port"):
        hold_port("127.0.0.1", other.getsockname()[1])


async def test_metrics_are_served_on_loopback(settings: Settings) -> None:
    """The parent shows what its workers measured."""
    with hold_port("127.0.0.1", 0) as held:
        metrics_port = held.getsockname()[1]
    with parent(settings.model_copy(update={"metrics_port": metrics_port})) as process:
        await decided_by(await asyncio.to_thread(ready_port, process), "a")

        def scraped() -> bool:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as answer:
                return 'arbiter_decisions_total{action="ALLOW",program="717171717171"} 1.0' in answer.read().decode()

        until_s = time.monotonic() + PATIENCE_S
        while not await asyncio.to_thread(scraped):
            assert time.monotonic() < until_s


async def test_health_turns_when_the_journal_cannot_be_written(settings: Settings) -> None:
    """A worker whose engine isn't ready says NOT_SERVING, and SERVING again when it is."""
    async with supervised(settings) as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=convert.SERVICE))
        while (await watch.read()).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        settings.state.mkdir(exist_ok=True)
        (settings.state / "unwritable").touch()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        (settings.state / "unwritable").unlink()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
