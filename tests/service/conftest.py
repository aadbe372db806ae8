"""One running service for the tests of this folder."""

import io
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import structlog

from engine.bootstrap import open_engine
from engine.service import convert
from engine.service.logs import configure_logs
from engine.service.metrics import Metrics
from engine.service.server import Server
from engine.service.tracing import Tracing
from engine.service.worker import OpenEngine
from engine.settings import Settings, read_settings
from tests.service.tiny import TinyEngine

PAYMENT = {
    "id": "e1", "kind": "payment", "time": "2024-11-24T10:00:00Z", "user.id": "u-771", "device.id": "d-88",
    "payment.id": "p1", "txn.amount_minor": 4_990, "txn.currency": "EUR", "card.token": "tok_31", "card.bin": "411111",
    "card.last4": "1881", "email.address": "anna.lind@example.org", "ip.address": "203.0.113.7",
    "phone.number": "+4930123456", "address.street": "Lindenweg 5", "address.city": "Halle",
    "address.postcode": "06108", "address.country": "DE",
}  # fmt: skip
"""An event document that nothing is wrong with."""


@dataclass
class Service:
    """A server in this process, its engine, and a channel to it."""

    engine: Any
    server: Server
    metrics: Metrics
    channel: grpc.aio.Channel

    async def call(self, method: str, request: Any, timeout: float = 20, **options: Any) -> Any:
        """Call a method with a request or with raw bytes, and return the reply."""
        reply = convert.METHODS[method][1].FromString
        body = request if isinstance(request, bytes) else request.SerializeToString()
        return await self.channel.unary_unary(f"/{convert.SERVICE}/{method}", None, reply)(
            body, timeout=timeout, **options
        )

    async def decide(self, timeout: float = 20, dry_run: bool = False, **fields: Any) -> Any:
        """Decide about `PAYMENT` with these fields changed (`user_id=` is `user.id`)."""
        document = PAYMENT | {name.replace("_", ".", 1): value for name, value in fields.items()}
        return await self.call("Decide", convert.decide_request(document, dry_run=dry_run), timeout)


ROOT = Path(__file__).parents[2]
Open = Callable[..., AbstractAsyncContextManager[Service]]


@asynccontextmanager
async def _open(
    settings: Settings, tracing: Callable[[Metrics], Tracing] | None = None, make: OpenEngine = TinyEngine
) -> AsyncIterator[Service]:
    metrics = Metrics()
    traced = tracing(metrics) if tracing else None
    engine = make(settings, recorder=traced or metrics, slot=0)
    await engine.start()
    server = Server(engine, settings, metrics, traced)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Service(engine, server, metrics, channel)
    await server.stop()
    await engine.close()


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """What the service logs, as JSON lines."""
    stream = io.StringIO()
    configure_logs("debug", "json", stream, role="worker", slot=0)
    yield stream
    structlog.reset_defaults()
    logging.getLogger().handlers.clear()


@pytest.fixture
def open_service(tmp_path: Path) -> Open:
    """Opens a service with the settings that a test names."""

    def opened(
        tracing: Callable[[Metrics], Tracing] | None = None, **flags: Any
    ) -> AbstractAsyncContextManager[Service]:
        return _open(read_settings(tmp_path, {"port": 0, **flags}, {}), tracing)

    return opened


@pytest.fixture
async def service(open_service: Open) -> AsyncIterator[Service]:
    """A service with default settings."""
    async with open_service() as running:
        yield running


@pytest.fixture
async def real_service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service over the engine that ships, with the policy that ships, in a folder of its own."""
    settings = read_settings(tmp_path, {"port": 0, "rules": ROOT / "rules", "models": ROOT / "models"}, {})
    async with _open(settings, make=open_engine) as running:
        yield running
