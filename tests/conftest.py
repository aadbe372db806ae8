"""What tests share: a small policy, a running engine over real stores, event documents."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.bootstrap import open_engine
from engine.intake import read_event
from engine.runtime import Runtime
from engine.settings import Settings, read_settings
from engine.values import Event

ROOT = Path(__file__).parents[1]
POLICY = ROOT / "tests" / "policy"
NOW_US = 1_795_514_400_000_000
"""2026-11-24T10:00:00Z."""


def shared_data() -> Path:
    """Folder of the public data sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ARBITER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the public data sets are not at {folder}; set ARBITER_SHARED_DATA")
    return folder


def payment(number: int, *, at_s: float = 0.0, **fields: Any) -> Event:
    """A payment of 49.90 EUR; `fields` replace or, as None, remove dotted fields (written with __ for the dot)."""
    document: dict[str, Any] = {
        "id": f"e{number}", "kind": "payment", "time_us": NOW_US + round(at_s * 1e6), "user.id": "u1",
        "device.id": "d1", "card.token": "tok_1", "ip.address": "203.0.113.7", "ip.country": "DE",
        "event.market": "DE", "txn.amount_minor": 4990, "txn.currency": "EUR", "payment.id": f"p{number}",
    }  # fmt: skip
    document |= {name.replace("__", "."): value for name, value in fields.items()}
    if document["kind"] != "payment":
        document["txn.amount_minor"] = document["txn.currency"] = None
    return read_event(document, now_us=NOW_US + 86_400_000_000 * 3650)


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of an installation in a temporary folder with the small policy; history's clock."""

    def make(**flags: Any) -> Settings:
        state = flags.pop("state", tmp_path / "state")
        given = {"state": str(state), "rules": str(POLICY)}
        return read_settings(tmp_path, given | {"clock": "event", "gather_ms": 0} | flags, {})

    return make


@pytest.fixture
async def engine(settings_of: Callable[..., Settings]) -> AsyncIterator[Runtime]:
    """A started engine with the small policy over embedded stores."""
    runtime = open_engine(settings_of())
    await runtime.start(watch=False)
    yield runtime
    await runtime.close()
