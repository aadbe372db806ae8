"""How a command ends: known errors as messages for people, each with its exit code."""

from __future__ import annotations

import os
from typing import IO, Any

import click

from engine.errors import ArbiterError, CaseConflict, InvalidInput, MappingError

PROBLEMS, BAD_INPUT, CANNOT_RUN, STOPPED = 1, 2, 3, 130


class Ended(click.ClickException):
    """A command that could not do what it was asked, with the words and the code to leave with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """The message on standard error."""
        label = "error: " if "NO_COLOR" in os.environ else click.style("error: ", fg="red", bold=True)
        click.echo(label + self.message, file, err=True)


def ending(problem: Exception) -> Ended | None:
    """What a known error means to the caller; None for one that nobody foresaw."""
    if isinstance(problem, InvalidInput):
        lines = (f"  {wrong.field}: {wrong.reason}" for wrong in problem.violations)
        return Ended("\n".join(["this can't be read as an event:", *lines]), BAD_INPUT)
    if isinstance(problem, CaseConflict):
        return Ended(str(problem), PROBLEMS)
    if isinstance(problem, MappingError):
        return Ended(str(problem), BAD_INPUT)
    if isinstance(problem, ArbiterError):
        return Ended(str(problem), CANNOT_RUN)
    if isinstance(problem, OSError) and not isinstance(problem, BrokenPipeError):
        where = f"{problem.filename}: " if problem.filename else ""
        return Ended(f"{where}{problem.strerror or problem}", CANNOT_RUN)
    return None
