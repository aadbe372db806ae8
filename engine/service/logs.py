"""Structured log lines on standard error: what happened, never to whom.

No line may hold personal data. An exception's text can quote any value that code touched, so it is never written:
a failure is logged as its type and the places in the code that it came through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import traceback
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger


class _Lossy:
    """A stream whose full disk or closed pipe stops nobody: a line that can't be written is lost, a decision is not."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if that can be done; returns the length either way."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that can be done."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure_logs(level: str, form: str, stream: TextIO | None = None, **bound: Any) -> None:
    """Send structlog and the standard library's loggers to `stream` (standard error) as JSON lines or text.

    `bound` stands in every line: the process' role and number.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        without_texts,
        lambda _, __, event: {**bound, **event},
    ]
    shown: Any = (
        structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode())
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    target = cast(TextIO, _Lossy(stream or sys.stderr))
    structlog.configure(
        processors=[*shared, shown],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown]
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def without_texts(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by `error` (types, cause last) and `where` (file:line function), both free of values."""
    given = event.pop("exc_info", None)
    if given:
        problem = given if isinstance(given, BaseException) else (sys.exc_info() if given is True else given)[1]
        if isinstance(problem, BaseException):
            event["error"], event["where"] = _types(problem), _places(problem)
    return event


def _types(problem: BaseException) -> list[str]:
    """Names of the exception and of those it came from."""
    names: list[str] = []
    one: BaseException | None = problem
    while one is not None and len(names) < 8:
        names.append(f"{type(one).__module__}.{type(one).__qualname__}")
        one = one.__cause__ or one.__context__
    return names


def _places(problem: BaseException) -> list[str]:
    frames = traceback.extract_tb(problem.__traceback__)[-12:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def log_loop_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Log what asyncio could hand to nobody, without the texts that its own handler would print."""

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        structlog.get_logger().error("unhandled", what=context.get("message"), exc_info=context.get("exception"))

    loop.set_exception_handler(handle)
