"""The `arbiter` command in processes of its own, as a person would run it; none outlives the demonstration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.cli.endings import CANNOT_RUN, Ended

COMMAND = (sys.executable, "-c", "from engine.cli import main; main()")
SERVE = ("serve", "--port", "0", "--clock", "event")
START_S = 90.0
"""How long a server may take until it serves."""
END_S = 30.0
"""How long it may take to end before it is killed."""
_ADDRESS = re.compile(r"serving on (\S+)")


def activation() -> str:
    """What to type first so that the shell knows `arbiter`; "" where it does already."""
    if shutil.which("arbiter"):
        return ""
    return f". {os.path.relpath(Path(sys.executable).with_name('activate'))}"


def run(folder: Path, *words: str) -> str:
    """Run one command in a folder to its end and return what it said; `Ended` with its own words when it failed.

    Its progress goes to this process' standard error.
    """
    process = subprocess.Popen([*COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise Ended(f"`arbiter {' '.join(words)}` ended with code {process.returncode}\n{said}", CANNOT_RUN)
    return said


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """A server on a free loopback port, run in an installation's folder, as HOST:PORT; `log` takes its log lines."""
    with log.open("wb") as lines:
        # A session of its own: Ctrl-C reaches this process alone, which ends the server in order.
        process = subprocess.Popen(
            [*COMMAND, *SERVE], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=lines, text=True,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield _address(process, log)
    finally:
        _end(process)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    found = _ADDRESS.search(line)
    if found is None:
        said = "\n".join(log.read_text().splitlines()[-5:])
        raise Ended(f"the server did not start within {START_S:.0f} s; the end of {log}:\n{said}", CANNOT_RUN)
    return found.group(1)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()  # Its children notice, drain and leave by themselves.
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
