"""Imports into the embedded stores give the profiles of the online path, whatever stopped them, however often."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.batch.documents import EVENTS, OUTCOMES
from engine.batch.load import BATCH_EVENTS, Summary, load
from engine.bootstrap import open_program, open_stores, rebuild
from engine.errors import ProfilesUnavailable
from engine.eventlog import NUMBER, LogLayout
from engine.intake import read_event, read_outcome
from engine.keeper import Keeper
from engine.settings import Settings
from engine.sink import ImportSink
from engine.values import EntityState
from tests.conftest import POLICY
from tests.memory import MemoryProfiles

START = datetime(2026, 11, 1, 10, tzinfo=UTC)
COUNT, BATCH = 400, 90
LATER_US = 2**62
STOPS = [("before", 0), ("before", 3), ("after", 0), ("after", 2), ("merge", 0), ("merge", 20), ("merged", 0)]
"""Where an import loses its power: before or after its n-th batch is durable, in its merge at a part, after it."""
EVERYONE = [
    *(("user", f"u{n}") for n in range(12)), *(("device", f"d{n}") for n in range(20)),
    *(("card", f"tok_{n}") for n in range(4)),
]  # fmt: skip
Contents = dict[tuple[str, str], tuple[Any, list[bytes]]]
Make = Callable[..., Settings]


def events(count: int = COUNT) -> Iterator[dict[str, Any]]:
    """A small shop: payments, further attempts with another card, their results, accounts, changed contacts."""
    rnd = random.Random(5)
    for number in range(count):
        at = (START + timedelta(minutes=number)).isoformat()
        base = {
            "id": f"e{number}",
            "time": at,
            "user.id": f"u{rnd.randrange(12)}",
            "device.id": f"d{rnd.randrange(20)}",
        }
        kind = rnd.choice(["payment", "payment", "payment", "payment_result", "contact_changed", "account_created"])
        payment, card = f"p{number // 9 * 9 + rnd.randrange(3)}", {"card.token": f"tok_{rnd.randrange(4)}"}
        amount = {"txn.amount_minor": rnd.randrange(1, 9_000), "txn.currency": "EUR"}
        result = {"result.status": rnd.choice(["approved", "declined"])}
        if kind == "payment":
            yield base | card | amount | {"kind": kind, "payment.id": payment}
        elif kind == "payment_result":
            yield base | (card if rnd.random() < 0.7 else {}) | result | {"kind": kind, "payment.id": payment}
        else:
            yield base | {"kind": kind}


def outcomes() -> Iterator[dict[str, Any]]:
    """What turned out of some of it; some disputes were won later."""
    for number in range(0, COUNT, 7):
        about = {"event_id": f"e{number}", "time": START.isoformat()}
        yield about | {"id": f"o{number}", "kind": "chargeback", "known_at": (START + timedelta(days=9)).isoformat()}
        if number % 3 == 0:
            won = (START + timedelta(days=20)).isoformat()
            yield about | {"id": f"w{number}", "kind": "dispute_won", "known_at": won}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The shop's events and outcomes as JSON lines."""
    return written(tmp_path / "events.jsonl", events()), written(tmp_path / "outcomes.jsonl", outcomes())


def written(path: Path, documents: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


@contextmanager
def opened(settings: Settings) -> Iterator[ImportSink]:
    """A sink over the stores of an installation."""
    settings.state.mkdir(exist_ok=True, parents=True)
    program = open_program(settings, with_models=False)
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    try:
        with closing(ImportSink(program, profiles, journal, settings.state)) as sink:
            yield sink
    finally:
        asyncio.run(profiles.close())
        asyncio.run(journal.close())


def imported(settings: Settings, path: Path, mapping: Any = EVENTS, batch: int = BATCH, **stop: Any) -> Summary:
    """Import a file; `stop=(where, n)` lets it lose its power there, as `Stopped`."""
    with opened(settings) as sink:
        return load(
            path, mapping, Stopping(sink, *stop["stop"]) if stop else sink, workdir=settings.state,
            quarantine=settings.state / "quarantine", now_us=LATER_US, batch_events=batch,
        )  # fmt: skip


class Stopped(Exception):
    """The power went out."""


class Stopping:
    """The sink, until the power goes out."""

    def __init__(self, sink: ImportSink, where: str, turn: int) -> None:
        self._sink, self._where, self._left = sink, where, turn
        self.position = sink.position
        merge = sink._profiles.merge

        def merging(*given: Any) -> None:
            self._pass("merge")
            merge(*given)

        sink._profiles.merge = merging

    def _pass(self, where: str) -> None:
        if where == self._where:
            if not self._left:
                raise Stopped
            self._left -= 1

    def write(self, batch: Any, position: int) -> Any:
        """One batch."""
        self._pass("before")
        answer = self._sink.write(batch, position)
        self._pass("after")
        return answer

    def finish(self) -> None:
        """The merge; what it merged may be all there although nobody noted it."""
        self._sink._spill.merge_into(self._sink._profiles)
        self._pass("merged")
        self._sink.finish()


def contents(settings: Settings) -> Contents:
    """What is stored about everyone in the shop."""
    program = open_program(settings, with_models=False)
    profiles, _ = open_stores(settings)
    profiles.open(program.layouts)
    try:
        return {
            who: plain(
                program.layouts[who[0]], asyncio.run(profiles.peek({who[0]: program.identity.key(*who)}))[who[0]]
            )
            for who in EVERYONE
        }
    finally:
        asyncio.run(profiles.close())


def plain(layout: LogLayout, state: EntityState) -> tuple[Any, list[bytes]]:
    """Head, and rows in order of admission without their numbers, in which stops leave gaps."""
    rows = layout.rows(state.log)
    numbers = [layout.number_of(row) for row in rows]
    assert numbers == sorted(set(numbers))
    return dict(state.head), [row[: 8 * NUMBER] + row[8 * NUMBER + 8 :] for row in rows]


@pytest.fixture
def whole(settings_of: Make, tmp_path: Path, files: tuple[Path, Path]) -> Contents:
    """The profiles of an import that nothing stopped."""
    settings = installation(settings_of, tmp_path, "whole")
    summary = imported(settings, files[0])
    assert (summary.new, summary.bad_rows) == (COUNT, 0)
    imported(settings, files[1], OUTCOMES)
    return contents(settings)


def installation(settings_of: Make, tmp_path: Path, name: str) -> Settings:
    """Settings with stores of their own and the same secret key, so that profiles can be compared."""
    return settings_of(state=tmp_path / name, hash_key_file=str(tmp_path / "hash.key"))


def test_an_import_gives_the_profiles_of_the_online_path(settings_of, tmp_path, whole):
    """Logs, dispositions, attributes and outcomes are those of admitting each event in turn."""
    program = open_program(installation(settings_of, tmp_path, "whole"), with_models=False)
    online = MemoryProfiles(program)
    for document in events():
        event = read_event(document, now_us=LATER_US)
        online.admit(event, event.time_us)
    for document in outcomes():
        online.learn(read_outcome(document, now_us=LATER_US))
    for who, found in whole.items():
        entity = online._entity(who[0], program.identity.key(*who))
        assert found == plain(program.layouts[who[0]], EntityState(entity.head, entity.log)), who


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: f"{stop[0]}-{stop[1]}")
def test_an_import_that_was_stopped_goes_on_where_it_was(settings_of, tmp_path, files, whole, stop):
    """Wherever the power went out, starting again gives the same profiles, and nothing counts twice."""
    settings = installation(settings_of, tmp_path, "stopped")
    with pytest.raises(Stopped):
        imported(settings, files[0], stop=stop)
    summary = imported(settings, files[0])
    assert summary.resumed_at + summary.new == COUNT
    assert summary.repeated == 0
    imported(settings, files[1], OUTCOMES)
    assert contents(settings) == whole


def test_every_batch_may_be_the_last_one(settings_of, tmp_path, files, whole):
    """An import that never comes farther than one batch at a time still ends with the same profiles."""
    settings = installation(settings_of, tmp_path, "stopped")
    for _ in range(COUNT // BATCH + 1):
        with pytest.raises(Stopped):
            imported(settings, files[0], stop=("after", 0))
    assert imported(settings, files[0]).new == 0
    imported(settings, files[1], OUTCOMES)
    assert contents(settings) == whole


def test_importing_again_changes_nothing(settings_of, tmp_path, files, whole):
    """The same file is known by its position, its rows in another file by their ids; the journal grows by neither."""
    settings = installation(settings_of, tmp_path, "whole")
    assert imported(settings, files[0]).resumed_at == COUNT
    again = written(
        tmp_path / "again.jsonl", [*events(), {"id": "new", "kind": "login", "time": "2026-11-30T10:00:00Z"}]
    )
    summary = imported(settings, again)
    assert (summary.new, summary.repeated, summary.conflicts) == (1, COUNT, 0)
    assert contents(settings) == whole


def test_a_known_id_with_another_body_is_a_conflict(settings_of, tmp_path, files, whole):
    """The known event stays, in profiles too, and the row is named."""
    settings = installation(settings_of, tmp_path, "whole")
    summary = imported(settings, written(tmp_path / "other.jsonl", [{**next(events()), "user.id": "u1"}]))
    assert (summary.new, summary.conflicts, "another body" in next(iter(summary.reasons))) == (0, 1, True)
    assert contents(settings) == whole


def test_a_rebuild_gives_the_profiles_of_the_import(settings_of, tmp_path, whole):
    """The journal holds all that profiles were made of."""
    settings = installation(settings_of, tmp_path, "whole")
    rebuild(settings)
    assert contents(settings) == whole


def test_a_keeper_beside_an_import_takes_no_record_for_merged(settings_of, tmp_path, files, whole, monkeypatch):
    """A running server's checkpoint does not hide the journaled batches of an import that dies after it."""
    settings = installation(settings_of, tmp_path, "stopped")
    program = open_program(settings, with_models=False)
    profiles, journal = open_stores(settings)
    profiles.open(program.layouts)
    journal.open()
    served = Keeper(program, profiles, journal, settings.state, {})
    write = ImportSink.write

    def beside(sink: ImportSink, batch: Any, position: int) -> Any:
        answer = write(sink, batch, position)
        asyncio.run(served.checkpoint())
        return answer

    monkeypatch.setattr(ImportSink, "write", beside)
    with pytest.raises(Stopped):
        imported(settings, files[0], stop=("after", 2))
    monkeypatch.undo()
    asyncio.run(served.checkpoint())
    assert served.recover() == 3 * BATCH
    asyncio.run(profiles.close())
    asyncio.run(journal.close())
    imported(settings, files[0])
    imported(settings, files[1], OUTCOMES)
    assert contents(settings) == whole


def test_two_imports_at_once_are_refused(settings_of, tmp_path, files):
    """The second one says why and leaves the first alone."""
    settings = installation(settings_of, tmp_path, "both")
    with opened(settings) as sink:
        sink.position(b"first")
        with pytest.raises(ProfilesUnavailable, match="another import is under way"):
            imported(settings, files[0])
        sink.finish()
    assert imported(settings, files[0]).new == COUNT


KILLED = """
import os, signal, sys
from engine.cli import main
from engine.sink import ImportSink
from engine.values import EntityState
write = ImportSink.write
def killed(sink, batch, position):
    write(sink, batch, position)
    os.kill(os.getpid(), signal.SIGKILL)
ImportSink.write = killed
main()
"""


def test_a_process_that_is_killed_leaves_nothing_behind(settings_of, tmp_path):
    """After SIGKILL in the middle the same command ends the import, and the dead one's temporary files are gone."""
    count = BATCH_EVENTS + 50
    path = written(tmp_path / "long.jsonl", events(count))
    whole, settings = (installation(settings_of, tmp_path, name) for name in ("whole", "killed"))
    imported(whole, path, batch=BATCH_EVENTS)
    words = ["import", str(path), "--rules", str(POLICY), "--state", str(settings.state)]
    environment = {**os.environ, "ARBITER_HASH_KEY_FILE": str(settings.hash_key_file)}
    settings.state.mkdir()
    ended = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=tmp_path, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(settings.state.glob(".import-*"))
    go_on = [sys.executable, "-c", "from engine.cli import main; main()", *words]
    said = subprocess.run(go_on, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert f"{BATCH_EVENTS:,}" in said
    assert not list(settings.state.glob(".import-*"))
    assert contents(settings) == contents(whole)
