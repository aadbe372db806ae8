"""One worker's gRPC server: limits, the decision service, health and reflection on one port."""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio

from engine.service import convert
from engine.service.handlers import Engine, Service
from engine.service.health import NAME as HEALTH
from engine.service.health import Health
from engine.service.metrics import Metrics
from engine.service.tracing import Tracing
from engine.settings import Settings

MAX_METADATA_BYTES = 16_384
WAITING_MAX = 256
"""Calls that came and were not looked at yet. As many more as the worker can do would only wait for their deadlines."""


LEAVING_S = 0.1
"""So long the last answers, and those who watch health, have to hear of it."""


class Server:
    """Serves one engine from `start` until `drain` has returned."""

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics, tracing: Tracing | None = None) -> None:
        """Must be made on the loop that will serve."""
        self._engine, self._settings = engine, settings
        self.health = Health((convert.SERVICE, convert.REVIEW_SERVICE))
        self._server = grpc.aio.server(options=_options(settings))
        self._service = Service(engine, settings, metrics, tracing)
        self._server.add_generic_rpc_handlers((self._service, self.health.handler()))
        if settings.reflects:
            _reflect(self._server)
        self.port = self._server.add_insecure_port(address(settings.host, settings.port))
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer calls, and follow the engine's health."""
        await self._server.start()
        self._following = asyncio.create_task(self.health.follow(self._engine.ready))

    async def drain(self, grace_s: float) -> None:
        """Say NOT_SERVING, send new calls away, and give those in flight up to `grace_s` seconds.

        The port stays open: a process ends as it is then, and callers hear UNAVAILABLE of a connection that is gone.
        gRPC's own stop would answer CANCELLED to whatever comes in that moment.
        """
        await self.health.leave()
        await self._service.leave(grace_s)
        await asyncio.sleep(LEAVING_S)

    async def stop(self) -> None:
        """Close the port at once, in a process that goes on."""
        await self._server.stop(None)
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following


def address(host: str, port: int) -> str:
    """Host and port as gRPC writes them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        # Our own limit refuses with words and fields; this one only bounds what is read into memory.
        ("grpc.max_receive_message_length", 2 * settings.message_max_bytes),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # Calls that wait to be looked at; beyond them gRPC's core closes calls itself, with CANCELLED and no hint.
        ("grpc.server.max_pending_requests", WAITING_MAX),
        ("grpc.server.max_pending_requests_hard_limit", WAITING_MAX),
        ("grpc.max_concurrent_streams", settings.streams_max),
        ("grpc.max_allowed_incoming_connections", settings.connections_max),
        # A connection that is half open for ten seconds, or dead without a word for forty, is let go.
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection(
        (convert.SERVICE, convert.REVIEW_SERVICE, HEALTH, reflection.SERVICE_NAME), server
    )
