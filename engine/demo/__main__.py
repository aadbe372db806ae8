"""`python -m engine.demo`, which `make demo` runs."""

from __future__ import annotations

import fcntl
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
import grpc

from engine.cli.endings import BAD_INPUT, CANNOT_RUN, STOPPED, Ended, ending
from engine.cli.screen import output
from engine.demo.shop import FULL, QUICK
from engine.demo.story import story
from engine.errors import ArbiterError

MARK = ".arbiter-demo"
"""Lies in the folder of a demonstration: only such a folder is ever emptied."""
SEED = 11
"""The first seed from 1 on that gives every scheme ten live payments or more; what is decided about them was no
part of the choice."""


@click.command("demo", context_settings={"max_content_width": 100})
@click.option("--seed", default=SEED, show_default=True, help="The same seed gives the same shop.")
@click.option("--quick", is_flag=True, help="A small shop; too small for its rates to mean much.")
@click.option("--folder", default=Path("var/demo"), show_default=True, type=click.Path(file_okay=False, path_type=Path),
              help="Where everything goes; emptied first.")  # fmt: skip
def command(seed: int, quick: bool, folder: Path) -> None:
    """Show Arbiter on a made-up shop: history, server, payments, a rule changed live, and how good it was."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # as an exception, so that the server is ended too
    try:
        with emptied(folder) as empty:
            story(output(), empty, QUICK if quick else FULL, seed)
    except KeyboardInterrupt:
        raise Ended("stopped; the server is ended", STOPPED) from None
    except grpc.RpcError as problem:
        raise Ended(f"a call failed: {problem}\nthe server's log is in {folder}", CANNOT_RUN) from problem
    except (ArbiterError, OSError) as problem:
        raise ending(problem) or problem from problem


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """An empty folder with our mark, for one demonstration at a time; one that holds somebody's files is refused."""
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise Ended(f"{folder} holds files of somebody else; name another with --folder", BAD_INPUT)
    folder.mkdir(parents=True, exist_ok=True)
    with mark.open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Ended(f"another demonstration runs in {folder}; name another with --folder", BAD_INPUT) from None
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != mark:
                path.unlink()
        yield folder


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    command.main(prog_name="python -m engine.demo")
