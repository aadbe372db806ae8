"""From histories to signals: the connection to the pattern matcher's child process, its life and its death.

The matching runs in a process of its own because durable_rules can crash, and is not thread-safe. A child that dies or
is late costs the decision its signals (`PatternsUnavailable`, `degraded: [patterns]`), never the service.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

from engine.errors import PatternsUnavailable
from engine.policy import matcher
from engine.policy.patterns import History, PatternSet

NO_SIGNALS: Final[frozenset[str]] = frozenset()
_MAX_WAITING: Final = 256
_STUCK_S: Final = 1.0
"""A child that has had a question for so long and said nothing is killed; a late one is not, it may just lack CPU."""
_START_S: Final = 20.0
_PATIENT_S: Final = 10.0
_GRACE_S: Final = 2.0
_CALM_S: Final = 1.0
"""A child that lived so long is replaced at once; the pause before the next grows while they die younger."""
_MAX_PAUSE_S: Final = 5.0
_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "134217728"}
"""glibc keeps a scratch session's memory for the next one; giving it back each time doubled the time of a match."""


class _Line(asyncio.Protocol):
    """The connection to one child process: questions go out and answers come back in the same order."""

    def __init__(self, process: subprocess.Popen[bytes], lost: Callable[[_Line], None]) -> None:
        self.process = process
        self.since_s = self._heard_s = time.monotonic()
        self._lost = lost
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: each answer goes to the oldest question."""
        self._buffer += data
        self._heard_s = time.monotonic()
        while len(self._buffer) >= matcher.LENGTH.size:
            end = matcher.LENGTH.size + matcher.LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            answer, self._buffer = self._buffer[matcher.LENGTH.size : end], self._buffer[end:]
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Part of asyncio.Protocol: the child is gone; nobody waits for it any longer."""
        self.process.kill()
        code = self.process.wait()
        for future in self._waiting:
            if not future.done():
                future.set_exception(PatternsUnavailable(f"the pattern matcher's process ended with status {code}"))
        self._waiting.clear()
        self._lost(self)

    @property
    def is_gone(self) -> bool:
        """Nothing can be asked any more."""
        return self._transport is None or self._transport.is_closing()

    async def ask(self, message: bytes, timeout_s: float) -> bytes:
        """What the child answers after its status; raises PatternsUnavailable when it is dead, late or failed."""
        if self._transport is None or self.is_gone or len(self._waiting) >= _MAX_WAITING:
            raise PatternsUnavailable(f"the pattern matcher is gone or has {len(self._waiting)} questions waiting")
        if not self._waiting:
            self._heard_s = time.monotonic()
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._transport.write(matcher.LENGTH.pack(len(message)) + message)
        try:
            async with asyncio.timeout(timeout_s):
                answer: bytes = await future
        except TimeoutError:
            if time.monotonic() - self._heard_s > _STUCK_S:
                self.process.kill()  # it has not said a word for long: a new one is the only cure
            answer = matcher.LATE
        if answer[:1] == matcher.LATE:
            raise PatternsUnavailable(f"the pattern matcher did not answer within {timeout_s * 1000:.0f} ms")
        if answer[:1] == matcher.FAILED:
            raise PatternsUnavailable(f"the pattern matcher failed: {answer[1:].decode()}")
        return answer[1:]

    def stop(self) -> None:
        """Ends the child; it holds nothing worth a farewell."""
        self.process.kill()
        self.process.wait()
        if self._transport is not None:
            self._transport.abort()


class PatternMatcher:
    """Asks one child process about one pattern set; a dead child is replaced in the background.

    Belongs to one event loop; `match_now` is for callers without one, and brings its own. A set without patterns never
    starts a process.
    """

    def __init__(self, patterns: PatternSet, timeout_s: float = 0.02) -> None:
        self.patterns = patterns
        self._timeout_s = timeout_s
        self._line: _Line | None = None
        self._starting: asyncio.Task[_Line] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._pause_s = 0.0
        self._trouble = "is starting"
        self._closed = False
        self._own_loop: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the child that answers now; None while there is none."""
        return self._line.process.pid if self._line else None

    async def start(self) -> None:
        """Returns when the child answers; raises PatternsUnavailable when it can't, with its reason."""
        if self.patterns.patterns:
            await self._ready()

    async def match(self, histories: Iterable[History], timeout_s: float | None = None) -> frozenset[str]:
        """Signals that the current event completes; raises PatternsUnavailable when the child is dead or late.

        Costs no more than a few mask tests when no pattern can match.
        """
        question = self.patterns.question(histories)
        if question is None:
            return NO_SIGNALS
        if self._line is None:
            if self._retry is None:
                self._begin()
            raise PatternsUnavailable(f"the pattern matcher {self._trouble}")
        return await self._ask(self._line, question, self._timeout_s if timeout_s is None else timeout_s)

    def match_now(self, histories: Iterable[History]) -> frozenset[str]:
        """`match` for batch and command line: waits for a child that starts, and tries a second one when it dies."""
        question = self.patterns.question(histories)
        if question is None:
            return NO_SIGNALS
        if self._own_loop is None:
            self._own_loop = asyncio.new_event_loop()
        return self._own_loop.run_until_complete(self._patient(question))

    async def reload(self, patterns: PatternSet) -> PatternMatcher:
        """The matcher of `patterns`, ready to answer: this one when they are the same, else a new one.

        The old one answers those who still hold it for two seconds, then ends. Raises PatternsUnavailable and leaves
        everything as it was when the new child doesn't start.
        """
        if patterns.digest == self.patterns.digest:
            return self
        new = PatternMatcher(patterns, self._timeout_s)
        try:
            await new.start()
        except BaseException:
            new.close()
            raise
        asyncio.get_running_loop().call_later(_GRACE_S, self.close)
        return new

    def close(self) -> None:
        """Ends the child; whoever still waits for it gets PatternsUnavailable. May be called twice."""
        self._closed, self._trouble = True, "is closed"
        if self._retry is not None:
            self._retry.cancel()
        if self._starting is not None:
            self._starting.cancel()
        if self._line is not None:
            self._line.stop()
        if self._own_loop is not None and not self._own_loop.is_closed():
            self._own_loop.run_until_complete(_settle(self._starting))
            self._own_loop.close()

    async def _ask(self, line: _Line, question: bytes, timeout_s: float) -> frozenset[str]:
        deadline = struct.pack("<d", time.monotonic() + timeout_s)
        return self.patterns.signals(await line.ask(deadline + question, timeout_s))

    async def _patient(self, question: bytes) -> frozenset[str]:
        try:
            return await self._ask(await self._ready(), question, _PATIENT_S)
        except PatternsUnavailable:
            return await self._ask(await self._ready(), question, _PATIENT_S)

    async def _ready(self) -> _Line:
        """The line that answers; waits for the start that is under way."""
        if self._line is not None:
            return self._line
        self._begin()
        if self._starting is None:
            raise PatternsUnavailable(f"the pattern matcher {self._trouble}")
        return await asyncio.shield(self._starting)

    def _begin(self) -> None:
        """Starts a child unless one is there, is starting, or the matcher is closed."""
        self._retry = None
        if self._closed or self._line is not None or self._starting is not None:
            return
        self._starting = asyncio.get_running_loop().create_task(self._spawn())
        self._starting.add_done_callback(self._started)

    async def _spawn(self) -> _Line:
        ours, theirs = socket.socketpair()
        command, end = [sys.executable, "-P", matcher.__file__], theirs.fileno()
        try:
            with theirs:
                process = subprocess.Popen(command, stdin=end, stdout=end, env={**os.environ, **_ALLOCATOR})
        except OSError as error:
            ours.close()
            raise PatternsUnavailable(f"the pattern matcher's process can't be made: {error}") from error
        line = _Line(process, self._gone)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
            await line.ask(self.patterns.spec(), _START_S)
        except BaseException:
            line.stop()
            raise
        return line

    def _started(self, task: asyncio.Task[_Line]) -> None:
        self._starting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._again(f"can't start: {error}")
        elif self._closed:
            task.result().stop()
        else:
            self._line = task.result()
            if self._line.is_gone:
                self._gone(self._line)

    def _gone(self, line: _Line) -> None:
        """The end of the line in use: replace it, at once when it had lived a while."""
        if line is self._line:
            self._line = None
            if time.monotonic() - line.since_s > _CALM_S:
                self._pause_s = 0.0
            self._again("is being restarted")

    def _again(self, trouble: str) -> None:
        if not self._closed:
            self._trouble = trouble
            self._retry = asyncio.get_running_loop().call_later(self._pause_s, self._begin)
            self._pause_s = min(max(2 * self._pause_s, 0.05), _MAX_PAUSE_S)


async def _settle(starting: asyncio.Task[_Line] | None) -> None:
    """Lets a cancelled start and a closed connection come to their end."""
    if starting is not None:
        await asyncio.wait([starting])
    await asyncio.sleep(0)
