"""One list of implementations for each contract suite; a new store joins here and must pass everything."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from engine.eventlog import LogLayout
from engine.journal.sqlite import SqliteJournal
from engine.profiles.sqlite import SqliteProfiles

LAYOUTS = {
    "user": LogLayout("user", ("payment||", "login||"), ("sum:txn.amount_base", "hash:device.id"), keep=40),
    "card": LogLayout("card", ("payment||",), (), keep=1000),
}
PROFILES: dict[str, Callable[[Path], SqliteProfiles]] = {
    "sqlite": lambda path: SqliteProfiles(path / "profiles.sqlite")
}
JOURNALS: dict[str, Callable[[Path], SqliteJournal]] = {
    "sqlite": lambda path: SqliteJournal(path / "journal.sqlite", 0.0)
}


@pytest.fixture(params=PROFILES)
async def profiles(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteProfiles]:
    """A started, empty profile store of each kind."""
    store = PROFILES[request.param](tmp_path)
    await store.start(LAYOUTS)
    yield store
    await store.close()


@pytest.fixture(params=JOURNALS)
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    """A started, empty journal of each kind."""
    store = JOURNALS[request.param](tmp_path)
    await store.start()
    yield store
    await store.close()
