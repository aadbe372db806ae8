"""Logs: JSON lines that a machine can read, and never a person's data."""

import asyncio
import io
import json
import logging

import grpc.aio
import pytest
import structlog

from engine.schema import PERSONAL
from engine.service import convert
from engine.service.logs import configure_logs, log_loop_failures
from tests.service.conftest import PAYMENT, Service
from tests.service.test_bad_input import CARD, DIGITS, RAW, TABLE


def lines(log: io.StringIO) -> list[dict[str, object]]:
    """All log lines as objects."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_no_personal_value_reaches_the_log(service: Service, log: io.StringIO) -> None:
    """After decisions, defects and the whole table of bad input, the log holds no personal value that was sent."""
    await service.decide()
    for what in ("fail anna.lind@example.org", "unwritable"):
        with pytest.raises(grpc.aio.AioRpcError):
            await service.decide(id=f"e-{what[:4]}", attributes={"do": what})
    for _, change, _ in TABLE:
        request = convert.decide_request(PAYMENT)
        change(request)
        with pytest.raises(grpc.aio.AioRpcError):
            await service.call("Decide", request)
    for body in RAW.values():
        with pytest.raises(grpc.aio.AioRpcError):
            await service.call("Decide", body)
    sent = {str(PAYMENT[name]) for name in PERSONAL & PAYMENT.keys()} | {CARD, DIGITS}
    assert len(sent) > 9
    assert any(line["event"] == "internal error" for line in lines(log))
    # As whole values: the four digits of a card may stand inside a time stamp.
    words = {str(value) for line in lines(log) for value in line.values()}
    assert not [value for value in sent if value in (log.getvalue() if len(value) > 6 else words)]


def test_an_exception_is_its_types_and_places(log: io.StringIO) -> None:
    """A failure is logged with its chain of types and the code's places, and without its text."""
    try:
        try:
            {}["anna"]
        except KeyError as problem:
            raise ValueError("bob") from problem
    except ValueError:
        structlog.get_logger().error("failed", exc_info=True)
        logging.getLogger("foreign").exception("failed too")
    ours, foreign = lines(log)
    assert ours["error"] == foreign["error"] == ["builtins.ValueError", "builtins.KeyError"]
    assert "test_an_exception_is_its_types_and_places" in str(ours["where"])
    assert (ours["role"], foreign["role"], foreign["event"]) == ("worker", "worker", "failed too")
    assert not {"anna", "bob"} & set(log.getvalue().replace('"', " ").split())


async def test_what_a_forgotten_task_raised_is_logged_without_its_text(log: io.StringIO) -> None:
    """asyncio's own report of a lost exception would print it; ours does not."""
    loop = asyncio.get_running_loop()
    log_loop_failures(loop)
    loop.call_exception_handler({"message": "lost", "exception": ValueError("anna")})
    loop.set_exception_handler(None)
    line = lines(log)[-1]
    assert (line["event"], line["what"], line["error"]) == ("unhandled", "lost", ["builtins.ValueError"])
    assert "anna" not in log.getvalue()


def test_people_may_read_text_instead() -> None:
    """The text form has the same facts on one line; lines below the level are left out."""
    stream = io.StringIO()
    configure_logs("warning", "text", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud", slot=3)
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()
    assert "slot=3" in stream.getvalue()


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """A full disk under the log costs its lines and nothing else."""

    tried: list[str] = []

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    configure_logs("debug", "json", Full())
    structlog.get_logger().error("lost")
    logging.getLogger("foreign").error("lost too")
    assert len(tried) >= 2
