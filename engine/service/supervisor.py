"""The parent of all processes of one server: starts them, watches them, replaces what dies, and ends them in order.

Workers share one port (SO_REUSEPORT). The parent holds it, bound but not listening, for as long as it lives: it stays
taken while a worker is replaced, and a second server on it is refused instead of sharing its calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import structlog

from engine.errors import ArbiterError, SettingsError
from engine.service.logs import configure_logs
from engine.service.metrics import MergedMetrics, MetricsServer
from engine.service.server import address
from engine.settings import Settings

COMMAND = (sys.executable, "-m", "engine.service")
FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0
"""A dead child is started again after the first delay, then twice as long each time, up to the last."""
STEADY_S = 10.0
"""A child that lived this long starts again without delay."""
SILENT_S = 30.0
"""A child that has not reported for so long is wedged, and is killed."""
MARGIN_S = 5.0
"""What a child gets beyond the drain before it is killed."""


class Child:
    """One child process and its successors."""

    def __init__(self, role: str, slot: int) -> None:
        self.role, self.slot = role, slot
        self.name = f"{role}-{slot}"
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.program = ""
        self.failed = ""
        """The words with which it said that it can't start."""
        self.heard_s = time.monotonic()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Runs `workers` workers and one keeper until it is told to stop."""

    def __init__(self, settings: Settings, command: Sequence[str] = COMMAND) -> None:
        self._settings, self._command = settings, command
        self.workers = [Child("worker", slot) for slot in range(settings.workers)]
        self.keeper = Child("keeper", 0)
        self.metrics = MergedMetrics()
        self.stopping = asyncio.Event()
        self._in_order = asyncio.Event()
        self._log = structlog.get_logger()

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until `stopping` is set; raises `ArbiterError` if the first start fails."""
        children = [self.keeper, *self.workers]
        tasks = [asyncio.create_task(self._keep_running(child)) for child in children]
        watch = asyncio.create_task(self._watch(children))
        stop = asyncio.create_task(self.stopping.wait())
        try:
            if await self._first_start(children, tasks, stop):
                announce(self._announcement())
            await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.stopping.set()
            watch.cancel()
            grace_s = self._settings.drain_s + MARGIN_S
            await self._end(self.workers, tasks[1:], grace_s)
            await self._end([self.keeper], tasks[:1], grace_s)
        for problem in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(problem, BaseException):
                raise problem

    def _announcement(self) -> str:
        workers = f"{len(self.workers)} worker{'s' if len(self.workers) > 1 else ''}"
        where = address(self._settings.host, self._settings.port)
        return f"arbiter serving on {where} ({workers}, program {self.workers[0].program[:12]})"

    async def _first_start(
        self, children: list[Child], tasks: list[asyncio.Task[None]], stop: asyncio.Task[bool]
    ) -> bool:
        """Wait until all are ready; False if one ended before that, or if the server is to stop."""
        ready = asyncio.gather(*(child.ready.wait() for child in children))
        awaited: set[asyncio.Future[Any]] = {ready, stop, *tasks}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ready
        return all(child.ready.is_set() for child in children)

    async def _keep_running(self, child: Child) -> None:
        """Start a child again and again until the server stops.

        The first life must become ready: what ends it would end its successors too, so it raises `ArbiterError`.
        """
        delay_s, first = FIRST_DELAY_S, True
        while not self.stopping.is_set():
            began_s = time.monotonic()
            code = await self._one_life(child)
            self.metrics.retire(child.name)
            if self.stopping.is_set():
                return
            if first and not child.ready.is_set():
                words = f"{child.name} ended with code {code} before it was ready; its log lines say why"
                raise ArbiterError(child.failed or words)
            first = False
            if time.monotonic() - began_s >= STEADY_S:
                delay_s = FIRST_DELAY_S
            self._log.error("child ended", child=child.name, code=code, again_in_s=delay_s, failed=child.failed)
            self.metrics.own.count("worker_restarts", role=child.role)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), delay_s)
            delay_s = min(2 * delay_s, LAST_DELAY_S)

    async def _one_life(self, child: Child) -> int:
        """Start one process, read its reports to the end, and return its exit code."""
        child.failed = ""
        child.ready.clear()
        reports, handed_down = os.pipe()
        try:
            child.process = process = await asyncio.create_subprocess_exec(
                *self._command, child.role, str(child.slot), str(handed_down),
                stdin=asyncio.subprocess.PIPE, stdout=2, pass_fds=(handed_down,), start_new_session=True,
                # gRPC's own lines are no JSON, and name callers' addresses.
                env={"GRPC_VERBOSITY": "ERROR", **os.environ},
            )  # fmt: skip
        finally:
            os.close(handed_down)
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):  # It died at once; its exit code tells.
            process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        permit = asyncio.create_task(self._permit(process.stdin))
        if self.stopping.is_set():
            child.signal(signal.SIGTERM)
        await self._listen(child, reports)
        code = await process.wait()
        permit.cancel()
        process.stdin.close()
        return code

    async def _permit(self, stdin: asyncio.StreamWriter) -> None:
        """Let a worker serve as soon as the first keeper has brought the stores in order."""
        await self._in_order.wait()
        with contextlib.suppress(ConnectionError):
            stdin.write(b"serve\n")
            await stdin.drain()

    async def _listen(self, child: Child, handle: int) -> None:
        """Take in a child's reports until it closes its end."""
        stream = asyncio.StreamReader(limit=2**22)
        pipe = os.fdopen(handle, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe
        )
        try:
            while line := await stream.readline():
                self._take(child, orjson.loads(line))
        except (ValueError, OSError):  # A line that a kill has cut.
            self._log.warning("report cut", child=child.name)
        finally:
            transport.close()

    def _take(self, child: Child, report: dict[str, Any]) -> None:
        child.heard_s = time.monotonic()
        if "metrics" in report:
            self.metrics.update(child.name, report["metrics"])
        if "ready" in report:
            child.program = report["ready"]
            child.ready.set()
            if child is self.keeper:
                self._in_order.set()
        child.failed = report.get("failed", child.failed)

    async def _watch(self, children: list[Child]) -> None:
        """Kill a child that is stopped or stuck; its calls are lost either way, and the next one serves."""
        while True:
            slept_from_s = time.monotonic()
            await asyncio.sleep(1)
            now_s = time.monotonic()
            for child in children:
                if now_s - slept_from_s > SILENT_S / 2:
                    child.heard_s = now_s  # It was this process that did not run: reports wait in the pipes.
                elif child.ready.is_set() and now_s - child.heard_s > SILENT_S:
                    self._log.error("child is silent", child=child.name)
                    child.heard_s = now_s
                    child.signal(signal.SIGKILL)

    async def _end(self, children: list[Child], tasks: list[asyncio.Task[None]], grace_s: float) -> None:
        """Ask children to leave, and kill those that have not within the grace."""
        for child in children:
            child.signal(signal.SIGTERM)
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        if late:
            self._log.error("children killed", late=len(late), grace_s=grace_s)
            for child in children:
                child.signal(signal.SIGKILL)
            await asyncio.wait(late)

    def kill(self) -> None:
        """End everything at once: the second Ctrl-C."""
        for child in (*self.workers, self.keeper):
            child.signal(signal.SIGKILL)


def hold_port(host: str, port: int) -> socket.socket:
    """A bound socket that keeps the port for this server's workers; `SettingsError` when somebody else has it."""
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without SO_REUSEPORT, so that a server that is there already is found instead of joined.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as problem:
            words = f"can't listen on {address(host, port)}: {problem.strerror}"
            raise SettingsError(f"{words}; choose another port, or 0 for a free one") from problem
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(where)
    return held


async def _supervise(settings: Settings, command: Sequence[str]) -> None:
    supervisor = Supervisor(settings, command)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        (supervisor.kill if supervisor.stopping.is_set() else supervisor.stopping.set)()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server = MetricsServer(supervisor.metrics, settings.metrics_port) if settings.metrics_port else None
    try:
        await supervisor.run(lambda line: print(line, flush=True))  # noqa: T201  what a person or a script waits for
    finally:
        if server is not None:
            server.close()


def serve(settings: Settings, command: Sequence[str] = COMMAND) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain and return; raises `ArbiterError` when the first start fails.

    Prints one line when every worker is ready: `arbiter serving on 127.0.0.1:50051 (2 workers, program 1a2b3c4d5e6f)`.
    """
    configure_logs(settings.log_level, settings.log_format, role="supervisor")
    with hold_port(settings.host, settings.port) as held:
        chosen = settings.model_copy(update={"port": held.getsockname()[1]})
        asyncio.run(_supervise(chosen, command))
