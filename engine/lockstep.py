"""Lets decisions that are under way at the same time go through their stages together.

A decision alone finds that each stage has driven the code and data of the next one out of the processor's caches. A
dozen that take the same stage one after another share them, and share transactions too: a third less CPU for each.
Nobody waits for company that doesn't come: a group departs as soon as a few turns of the loop bring no further member.

    async with lockstep:                 # joins the next group
        …; await asyncio.sleep(0); …     # between stages: let the others of the group do theirs first
"""

from __future__ import annotations

import asyncio

MOST = 32
"""Members of a group."""
PATIENCE = 12
"""Turns of the loop without a further member before a group departs, where calls come close together. A turn without
work takes some µs, and a call that waits at the server needs a few of them to come in."""
LIMIT_S = 0.005
"""A group that is under way for so long holds the next one back no longer."""


class Lockstep:
    """Groups of one event loop. One is under way while the next one gathers."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._inside = 0
        self._held = False
        """Whether the group under way still holds the next one back."""
        self._last = 1
        """Size of the last group: 1 says that calls come one by one, and waiting for company is in vain."""
        self._seen = self._idle_turns = 0
        self._armed = False
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        place = loop.create_future()
        self._waiting.append(place)
        self._arm(loop)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it had departed
                self._leave(loop)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave(asyncio.get_running_loop())

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        self._inside -= 1
        if not self._inside:
            self._release(loop)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        """The group under way is through, or late."""
        self._held = False
        if self._waiting:
            self._arm(loop)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._armed and not self._held:
            self._armed, self._seen, self._idle_turns = True, 0, 0
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Depart, or wait one more turn for company."""
        count = len(self._waiting)
        self._idle_turns = 0 if count > self._seen else self._idle_turns + 1
        self._seen = count
        if count < MOST and self._idle_turns < (PATIENCE if self._last > 1 else 1):
            loop.call_soon(self._turn, loop)
            return
        group = [place for place in self._waiting if not place.done()]
        self._waiting, self._armed = [], False
        if group:
            self._depart(loop, group)

    def _depart(self, loop: asyncio.AbstractEventLoop, group: list[asyncio.Future[None]]) -> None:
        self._last = len(group)
        self._inside += len(group)
        self._held = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(LIMIT_S, self._release, loop)
        for place in group:
            place.set_result(None)
