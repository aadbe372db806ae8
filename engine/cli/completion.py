"""`arbiter completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from engine.cli.options import arbiter_command

SHELLS = ("bash", "zsh", "fish")


@arbiter_command("completion", """
    arbiter completion bash > ~/.local/share/bash-completion/completions/arbiter
    arbiter completion zsh > ~/.zfunc/_arbiter
    arbiter completion fish > ~/.config/fish/completions/arbiter.fish
""")  # fmt: skip
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(ctx.find_root().command, {}, "arbiter", "_ARBITER_COMPLETE").source())
