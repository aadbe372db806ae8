"""Simulated time: scripts that sleep, woken in time order, and how a moment is written."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import heappop, heappush, heapreplace
from typing import Any
from zoneinfo import ZoneInfo

Script = Generator[float, None, Any]
"""Something that unfolds in time: it yields the seconds it sleeps, and acts each time it wakes."""

HOUR_S = 3_600.0
DAY_S = 86_400.0
DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Timeline:
    """Wakes scripts in time order; memory grows with the sleeping scripts, never with what has happened."""

    __slots__ = ("_heap", "_order", "end_us", "now_us")

    def __init__(self, start_us: int, end_us: int) -> None:
        self._heap: list[tuple[int, int, Script]] = []
        self._order = 0
        self.now_us = start_us
        self.end_us = end_us

    def __len__(self) -> int:
        return len(self._heap)

    def start(self, script: Script, delay_s: float = 0.0) -> None:
        """Let a script begin after `delay_s` seconds (not before now)."""
        self._order += 1
        heappush(self._heap, (self.now_us + max(0, int(delay_s * 1000)) * 1000, self._order, script))

    def run(self, outbox: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Wake script after script until the end; hand on what each put into `outbox`."""
        heap = self._heap
        while heap and heap[0][0] < self.end_us:
            now_us, _, script = heap[0]
            self.now_us = now_us
            sleep_s = next(script, None)
            # what the script started is later in (time, order), so its own entry is still on top
            if sleep_s is None:
                heappop(heap)
            else:
                self._order += 1
                # whole milliseconds, at least one: nothing of one script happens at the same time
                heapreplace(heap, (now_us + max(1, int(sleep_s * 1000)) * 1000, self._order, script))
            if outbox:
                yield from outbox
                outbox.clear()


def microseconds(moment: datetime) -> int:
    """An aware moment as µs since 1970-01-01 UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def stamp(time_us: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    day, ms = divmod(time_us // 1000, 86_400_000)
    second, ms = divmod(ms, 1000)
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{_date(day)}T{hour:02d}:{minute:02d}:{second:02d}.{ms:03d}Z"


@lru_cache(maxsize=256)
def _date(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).strftime("%Y-%m-%d")


@lru_cache(maxsize=65_536)
def zone_offset_s(zone: str, day: int) -> float:
    """Seconds that local time is ahead of UTC at noon of a day (days since 1970)."""
    offset = ZoneInfo(zone).utcoffset((_EPOCH + timedelta(days=day, hours=12)).replace(tzinfo=None))
    return offset.total_seconds() if offset else 0.0


def seconds_until(now_us: int, day: int, local_hour: float, zone: str) -> float:
    """Seconds from now to an hour of the local clock on a day, or a day later where that is past."""
    at_s = day * DAY_S + local_hour * HOUR_S - zone_offset_s(zone, day)
    wait_s = at_s - now_us / 1e6
    return wait_s if wait_s > 0 else wait_s % DAY_S
