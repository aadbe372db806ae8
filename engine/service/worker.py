"""A child process of the supervisor: a worker that decides, or the keeper that does the background work.

    python -m engine.service ROLE SLOT REPORT_FD

Standard input brings its settings as one JSON line, then, for a worker, a line that it may serve (the keeper has
brought the stores in order), and says by its end that the supervisor is gone. REPORT_FD takes reports as JSON lines:
{"ready": digest}, {"failed": words}, and each second {"metrics": …}.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol

import orjson
import structlog
import uvloop

from engine.errors import ArbiterError
from engine.service.handlers import Engine
from engine.service.logs import configure_logs, log_loop_failures
from engine.service.metrics import Metrics, Recorder
from engine.service.outbox_sinks import Sink, open_sinks
from engine.service.server import Server
from engine.service.tracing import open_tracing
from engine.settings import Settings

REPORT_EVERY_S = 1.0
CANNOT_START = 3
"""Exit code after {"failed": …}: another try would end the same."""


class OpenEngine(Protocol):
    """Wires an engine for one worker, without starting it."""

    def __call__(self, settings: Settings, *, recorder: Recorder, slot: int) -> Engine:
        """`slot` is the worker's number, 0 … workers − 1, kept over restarts."""


class Keeper(Protocol):
    """The background work of one installation: checkpoints, reconciler, outbox.

    What workers need in order before they serve it does before it first waits for anything.
    """

    def __call__(self, settings: Settings, *, recorder: Recorder, sinks: Mapping[str, Sink]) -> Awaitable[None]:
        """Work until cancelled, then end in order."""


class Reports:
    """The way to the supervisor; never blocks, and leaves a report out while the one before is still waiting."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport

    @classmethod
    async def open(cls, handle: int) -> Reports:
        """Take over the pipe that the supervisor handed down."""
        pipe = os.fdopen(handle, "wb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.Protocol, pipe)
        return cls(transport)

    def send(self, report: Mapping[str, Any]) -> None:
        """Hand over one report."""
        if self._transport.get_write_buffer_size() == 0:
            self._transport.write(orjson.dumps(report) + b"\n")

    async def sent(self) -> None:
        """Wait until everything is handed over; `send` writes at the end of the loop's turn."""
        while self._transport.get_write_buffer_size():
            await asyncio.sleep(0)


class Orders:
    """What the supervisor has said so far."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.serve, self.leave = asyncio.Event(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()

    def _end(self) -> None:
        self.leave.set()
        self.serve.set()  # Nobody waits for it any more.

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread, until standard input ends: then nobody would restart or stop this process, so it leaves."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: this process is leaving anyway.
            while os.read(sys.stdin.fileno(), 4_096):
                loop.call_soon_threadsafe(self.serve.set)
            loop.call_soon_threadsafe(self._end)


async def _serve(settings: Settings, slot: int, reports: Reports, orders: Orders, open_engine: OpenEngine) -> None:
    metrics = Metrics()
    tracing = open_tracing(settings, metrics)
    engine = open_engine(settings, recorder=tracing or metrics, slot=slot)
    await engine.start()
    try:
        await orders.serve.wait()
        server = Server(engine, settings, metrics, tracing)
        _settle_memory()
        await server.start()
        reports.send({"ready": engine.program_digest})
        await _report_until(orders.leave, reports, metrics)
        await server.drain(settings.drain_s)
    finally:
        await engine.close()
        if tracing is not None:
            tracing.close()
        reports.send({"metrics": metrics.report()})


def _settle_memory() -> None:
    """What lives as long as the worker is not searched for cycles again, and the rest less often.

    A full search of a worker takes 40 ms, in which no call is answered; decisions leave hardly any cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 100)


async def _keep(settings: Settings, reports: Reports, orders: Orders, keeper: Keeper) -> None:
    metrics = Metrics()
    work = asyncio.ensure_future(keeper(settings, recorder=metrics, sinks=open_sinks(settings)))
    reporting = asyncio.create_task(_report_until(orders.leave, reports, metrics))
    await asyncio.sleep(0)  # The keeper brings the stores in order before it first waits for anything.
    if not work.done():
        reports.send({"ready": ""})
    await asyncio.wait({work, reporting}, return_when=asyncio.FIRST_COMPLETED)
    work.cancel()
    reporting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work  # If it ended by itself its error is the process' own.


async def _report_until(leave: asyncio.Event, reports: Reports, metrics: Metrics) -> None:
    while not leave.is_set():
        reports.send({"metrics": metrics.report()})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(leave.wait(), REPORT_EVERY_S)


async def _run(role: str, slot: int, handle: int, settings: Settings, open_engine: OpenEngine, keeper: Keeper) -> int:
    loop = asyncio.get_running_loop()
    log_loop_failures(loop)
    orders = Orders(loop)
    reports = await Reports.open(handle)
    try:
        if role == "keeper":
            await _keep(settings, reports, orders, keeper)
        else:
            await _serve(settings, slot, reports, orders, open_engine)
    except ArbiterError as problem:
        reports.send({"failed": str(problem)})
        structlog.get_logger().error("can't go on", exc_info=problem)
        return CANNOT_START
    await reports.sent()
    sys.stderr.flush()
    os._exit(0)  # With the connections open: see Server.drain.


def main(open_engine: OpenEngine, keeper: Keeper) -> int:
    """Run the role that the command line names; returns the exit code."""
    role, slot, handle = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor, which says when to leave.
    settings = Settings.model_validate_json(_first_line(sys.stdin.fileno()))
    configure_logs(settings.log_level, settings.log_format, role=role, slot=slot)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(role, slot, handle, settings, open_engine, keeper))
    except Exception:
        structlog.get_logger().error("ended", exc_info=True)
        return 1


def _first_line(handle: int) -> bytes:
    """Standard input up to the first line end, unbuffered, so that nothing is left in a buffer."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (byte := os.read(handle, 1)):
            break
        line += byte
    return bytes(line)
