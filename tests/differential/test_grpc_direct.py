"""The same events decided over gRPC and by a direct call give the same decisions, to the last bit."""

import dataclasses
from datetime import UTC, datetime

import grpc.aio

from engine.bootstrap import open_engine
from engine.intake import read_event
from engine.schema import OUTCOMES
from engine.service import convert
from engine.service.metrics import Metrics
from engine.service.server import Server
from engine.settings import read_settings
from engine.simulator import Simulation, SimulatorConfig
from tests.conftest import NOW_US, ROOT


def documents(count: int) -> list[dict]:
    """The first events of a small simulated shop."""
    config = SimulatorConfig(start=datetime(2026, 6, 1, tzinfo=UTC), days=3, shoppers=240, payments_per_day=60.0)
    events = (e for e in Simulation(config, seed=5).events() if e["kind"] not in OUTCOMES)
    return [event for event, _ in zip(events, range(count), strict=False)]


async def test_grpc_and_direct_calls_decide_alike(tmp_path):
    """Every decision equals its twin; the two installations share the key by which rollouts are drawn, and no more."""
    engines = []
    for name in ("served", "direct"):
        flags = {"state": tmp_path / name, "rules": ROOT / "rules", "models": ROOT / "models", "clock": "event"}
        flags["hash_key_file"] = tmp_path / "hash.key"
        flags |= {"port": 0, "gather_ms": 0}
        engines.append((open_engine(settings := read_settings(tmp_path, flags, {})), settings))
        await engines[-1][0].start(watch=False)
    (served, settings), (direct, _) = engines
    server = Server(served, settings, Metrics(), None)
    await server.start()
    compared = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:

        async def call(method, request):
            reply = convert.METHODS[method][1].FromString
            return await channel.unary_unary(f"/{convert.SERVICE}/{method}", None, reply)(request.SerializeToString())

        for document in documents(600):
            event = read_event(document, now_us=NOW_US)
            if event.kind == "payment":
                over = convert.decision_value(await call("Decide", convert.decide_request(document)))
                twin = await direct.decide(event)
                kept = await served.get_decision(event.id)
                assert kept == twin
                assert over == dataclasses.replace(twin, hits=over.hits, measures=over.measures)
                compared += 1
            else:
                await call("Record", convert.record_request(document))
                await direct.record(event)
            await served.pipeline.drain()
            await direct.pipeline.drain()
    await server.stop()
    await served.close()
    await direct.close()
    assert compared > 15
