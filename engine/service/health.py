"""The standard health service: SERVING while the engine is ready, NOT_SERVING when it is not, and while draining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2

NAME = "grpc.health.v1.Health"
_NAMES = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """One state for the whole server, asked for as "" or by the name of a service."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = frozenset(("", *services))
        self._changed = asyncio.Condition()
        self.serving = False
        self.left = False
        """Whether the server is going away; it never serves again then."""

    def handler(self) -> grpc.GenericRpcHandler:
        """The standard service's two methods, to be added to a server."""
        reads, writes = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, reads, writes),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, reads, writes),
            },
        )

    async def _check(self, request: Any, context: Any) -> Any:
        """Answer the present state; NOT_FOUND for a service that isn't here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer the state now and at each change; ends by itself when the server leaves, so that it holds no drain."""
        while True:
            status = self._status(request.service)
            yield health_pb2.HealthCheckResponse(status=status)
            async with self._changed:
                while not self.left and self._status(request.service) == status:
                    await self._changed.wait()
            if self.left and self._status(request.service) == status:
                return

    def _status(self, service: str) -> int:
        known: int = _NAMES[self.serving] if service in self._services else _UNKNOWN
        return known

    async def set(self, serving: bool) -> None:
        """Change the state and tell the watchers; without effect once the server is leaving."""
        async with self._changed:
            serving = serving and not self.left
            if serving != self.serving:
                log = structlog.get_logger()
                (log.info if serving or self.left else log.warning)("health", serving=serving, leaving=self.left)
            self.serving = serving
            self._changed.notify_all()

    async def leave(self) -> None:
        """NOT_SERVING for good."""
        self.left = True
        await self.set(False)

    async def follow(self, ready: Callable[[], bool], every_s: float = 0.25) -> None:
        """Keep the state equal to `ready()` until cancelled; a check that fails is not ready."""
        while True:
            try:
                serving = ready()
            except Exception:
                structlog.get_logger().error("health check failed", exc_info=True)
                serving = False
            if serving != self.serving:
                await self.set(serving)
            await asyncio.sleep(every_s)
