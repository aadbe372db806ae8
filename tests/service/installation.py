"""A whole server in processes of its own, and callers that never take a lost call for an answer.

What the fault tests and `benchmarks.faults` share: the real supervisor with real stores over loopback gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from engine.service import convert
from engine.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
"""How long a test waits for what must come; only a failing test waits so long."""
LOST = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})
"""What a caller gets when a server is gone or slow: it knows nothing, and asks again with the same id."""
_PARENT = """
import sys
from engine.service import supervisor
from engine.settings import Settings
supervisor.LAST_DELAY_S = supervisor.FIRST_DELAY_S  # a test kills more often than anything dies by itself
supervisor.serve(Settings.model_validate_json(sys.argv[1]))
"""


def settings_in(folder: Path, **flags: Any) -> Settings:
    """Settings of an installation in a folder with the tests' small policy."""
    given = {"state": "state", "hash_key_file": "state/hash.key", "rules": str(ROOT / "tests" / "policy")}
    return read_settings(folder, given | {"port": 0, "workers": 2, "log_level": "warning"} | flags, {})


class Installation:
    """`arbiter serve` as processes: one supervisor, its keeper and its workers."""

    def __init__(self, settings: Settings, env: Mapping[str, str] | None = None) -> None:
        self.settings, self._env = settings, {**os.environ, **(env or {})}
        self._process: subprocess.Popen[str] | None = None
        self._log = settings.folder / "server.log"

    @property
    def port(self) -> int:
        """Where it listens; the same over restarts."""
        return self.settings.port

    @property
    def process(self) -> subprocess.Popen[str]:
        """The supervisor."""
        assert self._process is not None, "start the installation first"
        return self._process

    def start(self) -> None:
        """Start it and wait until every worker serves."""
        command = [sys.executable, "-c", _PARENT, self.settings.model_dump_json()]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._env, text=True, stdout=subprocess.PIPE, stderr=log
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("arbiter serving on 127.0.0.1:"), self._log.read_text()[-4000:]
        self.settings = self.settings.model_copy(update={"port": int(line.split(":")[1].split()[0])})

    def children(self, role: str = "") -> list[int]:
        """Process ids of the running children: `worker`, `keeper` or all."""
        return [pid for pid, words in _children(self.process.pid) if not role or role in words]

    def kill(self, role: str) -> None:
        """SIGKILL to one or more processes: a `worker`, all `workers`, the `keeper`, or `everything`."""
        if role == "everything":
            everybody = self.children()
            for pid in (self.process.pid, *everybody):
                _signal(pid, signal.SIGKILL)
            self.process.communicate()
            _gone(everybody)
            return
        chosen = self.children("worker" if role == "workers" else role)
        for pid in chosen if role == "workers" else chosen[:1]:
            _signal(pid, signal.SIGKILL)

    def signal_all(self, number: signal.Signals) -> None:
        """A signal to every process of the installation, the supervisor first."""
        for pid in (self.process.pid, *self.children()):
            _signal(pid, number)

    def freeze(self) -> None:
        """Stop every process where it is, until SIGCONT; returns when all stand still."""
        self.signal_all(signal.SIGSTOP)
        until_s = time.monotonic() + PATIENCE_S
        while any(_state(pid) not in "TZ" for pid in (self.process.pid, *self.children())):
            assert time.monotonic() < until_s, "a process does not stop"
            self.signal_all(signal.SIGSTOP)  # One may have been started meanwhile.
            time.sleep(0.002)

    def stop(self) -> int:
        """End it in order; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def close(self) -> None:
        """Leave nothing running, whatever the test did."""
        if self._process is not None and self._process.poll() is None:
            self.kill("everything")


@contextlib.contextmanager
def installed(settings: Settings, env: Mapping[str, str] | None = None) -> Iterator[Installation]:
    """A running installation that is gone afterwards."""
    one = Installation(settings, env)
    try:
        one.start()
        yield one
    finally:
        one.close()


class Caller:
    """One connection to a server that may die at any moment."""

    def __init__(self, port: int) -> None:
        options = (
            ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.min_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 100),
        )  # fmt: skip
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options)
        self._methods = {
            name: self._channel.unary_unary(f"/{convert.SERVICE}/{name}", None, reply.FromString)
            for name, (_, reply) in convert.METHODS.items()
        }

    async def once(self, method: str, request: Message, timeout_s: float | None = PATIENCE_S, wait: bool = True) -> Any:
        """One attempt; raises `AioRpcError`."""
        return await self._methods[method](request.SerializeToString(), timeout=timeout_s, wait_for_ready=wait)

    async def call(self, method: str, request: Message) -> Any:
        """Ask with the same id until an answer comes."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self.once(method, request, 5.0)
            except grpc.aio.AioRpcError as problem:
                shed = problem.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                if not (shed or problem.code() in LOST) or time.monotonic() > until_s:
                    raise
                await asyncio.sleep(0.1 if shed else 0)

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


@contextlib.asynccontextmanager
async def calling(port: int, count: int) -> AsyncIterator[list[Caller]]:
    """Callers, each with a connection of its own."""
    callers = [Caller(port) for _ in range(count)]
    try:
        yield callers
    finally:
        for caller in callers:
            await caller.close()


async def until(true: Callable[[], bool]) -> None:
    """Wait for what must come."""
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "it did not come"
        await asyncio.sleep(0.01)


def _children(parent: int) -> list[tuple[int, list[str]]]:
    """(process id, words of its command line) of every descendant that has not ended."""
    found, parents = [], {parent}
    for entry in sorted(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, ppid = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) in parents and state != "Z":
                parents.add(entry)
                found.append((entry, Path(f"/proc/{entry}/cmdline").read_text().split("\0")))
    return found


def _state(pid: int) -> str:
    """One letter: R runs, S sleeps, T is stopped, Z has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _gone(pids: list[int]) -> None:
    """Wait until processes that were killed have let go of their files and locks."""
    until_s = time.monotonic() + PATIENCE_S
    for pid in pids:
        while _state(pid) != "Z":
            assert time.monotonic() < until_s, f"process {pid} outlives SIGKILL"
            time.sleep(0.002)
