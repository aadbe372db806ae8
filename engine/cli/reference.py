"""The page `docs/cli.md`, made from the commands themselves: `python -m engine.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from engine.cli.app import app

WIDTH = 100
HEAD = """\
# The command line

Made from the commands by `python -m engine.cli.reference > docs/cli.md`; a test holds it.

Results go to standard output, progress and errors to standard error. Colour is used on a terminal only, and never with
`NO_COLOR` set. Away from a terminal lines are 100 characters wide (`COLUMNS` changes it) and progress is a line every
few seconds instead of a bar.

| exit code | meaning |
| --- | --- |
| 0 | all went well |
| 1 | done, but with problems: a degraded decision, too many bad rows, conflicting ids, mistakes in a policy |
| 2 | wrong usage or bad input: an option, an event, a mapping, a file that can't be read as declared |
| 3 | can't run: settings, policy, model or stores |
| 130 | stopped with Ctrl-C |

Errors are messages, not tracebacks; `--debug` shows where in the code one came from. Shell completion:
`arbiter completion bash`, `zsh` or `fish`.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, text in helps(app, "arbiter", None):
        parts.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def helps(command: click.Command, path: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    """Path and help text of a command and of all below it."""
    with click.Context(command, parent, path.rpartition(" ")[2], terminal_width=WIDTH) as ctx:
        yield path, command.get_help(ctx)
        if isinstance(command, click.Group):
            for name in command.list_commands(ctx):
                found = command.get_command(ctx, name)
                if found is not None:
                    yield from helps(found, f"{path} {name}", ctx)


if __name__ == "__main__":
    click.echo(page(), nl=False)
