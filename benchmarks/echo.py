"""The yardstick: an empty gRPC server on the service's own stack, a bare `grpc.aio` handler on uvloop, bytes to bytes.

    python -m benchmarks.echo REPLY_BYTES       # prints its port

It answers every call with so many bytes and does nothing else: no interceptors, no parsing, no limits.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop

from engine.service import convert


async def serve(reply: bytes) -> None:
    """Serve until killed."""
    server = grpc.aio.server()

    async def echo(_: bytes, __: Any) -> bytes:
        return reply

    handlers = {"Decide": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(convert.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Serve on a free port of loopback."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(bytes(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
