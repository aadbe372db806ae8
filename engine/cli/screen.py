"""Output for people: results on standard output, progress on standard error, colour on a terminal only.

`NO_COLOR` turns colour off. Away from a terminal lines are 100 characters wide (`COLUMNS` changes it), and progress is
a line now and then instead of a bar.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

WIDTH = 100
QUIET_S = 5.0
"""Away from a terminal, a line of progress comes at most so often."""


def output(*, stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    plain = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=WIDTH if plain else None, highlight=False, emoji=False, markup=False)


class Meter:
    """Tells how far a long step is. Call it as often as you like: `meter(0.4, "12,000 events")`."""

    def __init__(self, label: str) -> None:
        self._label, self._console = label, output(stderr=True)
        self._told_s = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(), console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task(label, total=1.0, detail="")

    def __enter__(self) -> Meter:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, share: float | None, detail: str, label: str = "") -> None:
        """A share of 0..1, None where the end can't be known; `label` names a new part of the step."""
        self._label = label or self._label
        self._bar.update(
            self._task, description=self._label, completed=share or 0.0, total=None if share is None else 1.0,
            detail=detail,
        )  # fmt: skip
        now_s = time.monotonic()
        if self._bar.disable and now_s - self._told_s >= QUIET_S:
            self._told_s = now_s
            part = "" if share is None else f" {share:.0%}"
            self._console.print(f"{self._label}{part}  {detail}")
