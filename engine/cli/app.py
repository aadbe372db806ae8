"""The `arbiter` command: which commands there are, and what each way of ending means to a shell.

Exit codes: 0 all went well; 1 done, but with problems (a degraded decision, too many bad rows, a policy with mistakes);
2 wrong usage or bad input; 3 can't run (settings, store, model, policy). A command's module is imported when it runs.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from engine.cli.endings import STOPPED, Ended, ending

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("engine.cli.init", "Write a folder to start from: policy, model, mapping, settings."),
    "serve": ("engine.cli.serve", "Answer callers over gRPC."),
    "decide": ("engine.cli.decide", "Show one decision and everything that led to it."),
    "data": ("engine.cli.data", "Say how clean a file is."),
    "explain": ("engine.cli.explain", "Show a stored decision and everything that led to it."),
    "replay": ("engine.cli.replay", "Decide stored decisions again: same, or differs because."),
    "rescore": ("engine.cli.rescore", "Decide a history again in columns, as live would have."),
    "backtest": ("engine.cli.backtest", "What a draft would have done, in money, before it goes live."),
    "policy": ("engine.cli.policy", "What is live and what was; change it, or go back."),
    "review": ("engine.cli.review", "The review desk: what people are to look at, and what they decided."),
    "import": ("engine.cli.imports", "Take in a history from a file."),
    "simulate": ("engine.cli.simulate", "Make up a shop's history, with fraud and its truth."),
    "train": ("engine.cli.train", "Train a model on a labelled history."),
    "features": ("engine.cli.features", "Check, list and show features; build them for a file."),
    "models": ("engine.cli.models", "List, judge and compare models, and say which decides."),
    "rules": ("engine.cli.rules", "Check and test the policy."),
    "report": ("engine.cli.report", "What happened: fraud, loss and what stopped it."),
    "rebuild": ("engine.cli.rebuild", "Derive all profiles anew from the journal."),
    "bench": ("engine.cli.bench", "Run a benchmark of this project."),
    "completion": ("engine.cli.completion", "Print the completion script of a shell."),
    "version": ("engine.cli.version", "Say which version this is."),
}
"""Command → its module, whose `command` it is, and its line in the list."""

EPILOG = """\b
A first walk:
  arbiter init shop && cd shop
  arbiter decide examples/payment.json
  arbiter serve

\b
Exit codes:
  0  all went well
  1  done, but with problems: a degraded decision, too many bad rows
  2  wrong usage or bad input
  3  can't run: settings, policy, model or stores"""


class Commands(click.Group):
    """A group that lists its commands without importing them, and turns known errors into a message and a code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        found = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `arbiter --help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names that begin like this."""
        named = [CompletionItem(n, help=line) for n, (_, line) in COMMANDS.items() if n.startswith(incomplete)]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one names the nearest."""
        nearest = get_close_matches(args[0], COMMANDS, 1)
        if args[0] not in COMMANDS and nearest:
            raise click.UsageError(f"there is no command {args[0]!r}; did you mean {nearest[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; `--debug` lets the error through as it is."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Ended("stopped", STOPPED) from None
        except Exception as problem:
            ended = ending(problem)
            if ended is None or ctx.meta.get("debug"):
                raise
            raise ended from problem


@click.group(cls=Commands, epilog=EPILOG, context_settings={"max_content_width": 100})
@click.version_option(package_name="arbiter", message="arbiter %(version)s")
def app() -> None:
    """Arbiter decides in milliseconds what to do with a user or a payment."""


def main() -> None:
    """The entry point; leaves with one of the exit codes above."""
    app.main(prog_name="arbiter")
