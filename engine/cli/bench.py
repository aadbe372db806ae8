"""`arbiter bench`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click

import engine
from engine.cli.endings import CANNOT_RUN, Ended
from engine.cli.options import arbiter_command


@arbiter_command("bench", """
    arbiter bench
    arbiter bench scoring --quick
    arbiter bench decide --json
""")  # fmt: skip
@click.argument("name", required=False)
@click.option("--quick", is_flag=True, help="Fewer repeats: a first impression.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object as the last line.")
def command(name: str | None, quick: bool, as_json: bool) -> None:
    """Run a benchmark of this project, or list them.

    Benchmarks belong to a checkout of the project; an installed Arbiter has none. The exit code is the benchmark's.
    """
    checkout = Path(engine.__file__).parent.parent
    known = benchmarks(checkout / "benchmarks")
    if not known:
        raise Ended("benchmarks are part of a checkout of the project, and this Arbiter was installed", CANNOT_RUN)
    if name is None:
        for one, purpose in known.items():
            click.echo(f"{one:12} {purpose}")
        return
    if name not in known:
        raise click.UsageError(f"there is no benchmark {name!r}; there are {', '.join(known)}")
    words = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] * quick), *(["--json"] * as_json)]
    raise click.exceptions.Exit(subprocess.run(words, cwd=checkout, check=False).returncode)


def benchmarks(folder: Path) -> dict[str, str]:
    """Name → first line of its docstring, of every module that can be run."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        if "__main__" in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found
