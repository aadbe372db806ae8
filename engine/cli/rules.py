"""`arbiter rules`: the policy as files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from engine.batch.facts import facts_of, read_events
from engine.batch.rule_tests import run_tests
from engine.bootstrap import open_program
from engine.cli import findings
from engine.cli.endings import PROBLEMS, Ended
from engine.cli.init import TEMPLATE
from engine.cli.options import arbiter_command, place_options, settings_of
from engine.errors import ModelError, PolicyError
from engine.language import Diagnostics, DiagnosticsError
from engine.policy.lint import lint

if TYPE_CHECKING:
    from engine.program import Program


@click.group("rules")
def command() -> None:
    """Check and test the policy."""


@arbiter_command("check", """
    arbiter rules check
    arbiter rules check --folder shop && git commit
    arbiter rules check --format sarif > arbiter.sarif
    arbiter rules check --events history/events.jsonl --strict
""")  # fmt: skip
@click.option("--format", "form", type=click.Choice(findings.FORMATS), default="text", show_default=True,
              help="For people; one JSON object; SARIF 2.1.0; commands of GitHub workflows.")  # fmt: skip
@click.option("--events", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Events as JSON lines, to tell which inputs are mostly absent.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Warnings are mistakes too.")
@place_options
def check(form: str, events: Path | None, strict: bool, folder: Path, **flags: Any) -> None:
    """Load the policy with its models as the server would, and show every mistake at its place.

    Where there is none, warnings tell what is suspicious: conditions that are never true, rules that add nothing,
    empty lists and more. docs/errors explains each code.

    Exit code 1 when there are mistakes, in every format; warnings alone give 0, or 1 with --strict.
    """
    settings = settings_of(folder, flags)
    found, failure, program = Diagnostics(), "", None
    try:
        program = open_program(settings, diagnostics=found)
        facts = facts_of(program, read_events(events) if events else ())
        lint(program.policy, settings.rules, found, time.time_ns() // 1000, facts)
    except (PolicyError, ModelError) as problem:
        failure = "" if isinstance(problem, DiagnosticsError) else str(problem)
    bad = bool(found.failed or failure or (strict and found.items))
    if form == "text":
        _tell(settings.rules, found, failure, program if not bad else None)
        return
    summary = _summary(program) if program else {}
    if form == "json":
        click.echo(findings.as_json(found, settings.rules, failure, summary))
    elif form == "sarif":
        click.echo(findings.as_sarif(found, settings.rules, failure))
    elif told := findings.as_github(found, settings.rules, failure):
        click.echo(told)
    if bad:
        raise click.exceptions.Exit(PROBLEMS)


def _summary(program: Program) -> dict[str, Any]:
    return {
        "rules": len(program.policy.rules), "features": len(program.feature_set.names), "models": len(program.models),
        "digest": program.digest,
    }  # fmt: skip


def _tell(rules: Path, found: Diagnostics, failure: str, program: Program | None) -> None:
    """For people: what was found, then whether the policy can be used."""
    text = "\n".join(part for part in (found.render(), failure) if part)
    if program is None:
        raise Ended(f"the policy in {rules} can't be used:\n{text}", PROBLEMS)
    if text:
        click.echo(text, err=True)
    counts = _summary(program)
    models = f"{counts['models']} model" + "s" * (counts["models"] != 1)
    click.echo(f"ok: {counts['rules']} rules, {counts['features']} features, {models}, digest {counts['digest']}")


@arbiter_command("test", """
    arbiter rules test
    arbiter rules test rules/tests/velocity.yaml
    arbiter rules test --json | jq .uncovered
""")  # fmt: skip
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object with stable keys.")
@click.option("--coverage", is_flag=True, help="How often each rule hit, missed and was unknown; exit code 1 when an "
              "enforced rule lacks a hit or a miss.")  # fmt: skip
@place_options
def test(path: Path | None, as_json: bool, coverage: bool, folder: Path, **flags: Any) -> None:
    """Decide the cases of rules/tests, or of one file or folder, and show what comes out differently.

    The cases go through the code that decides live, in stores that are gone afterwards; nothing is counted.

    Exit code 1 when a case comes out differently.
    """
    settings = settings_of(folder, flags)
    only = path.absolute() if path else None
    report = run_tests(open_program(settings), settings.rules, only)
    if as_json:
        click.echo(orjson.dumps(findings.report_as_json(report), option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(findings.report_as_text(report, coverage))
    if not report.passed or (coverage and report.uncovered):
        raise click.exceptions.Exit(PROBLEMS)


@arbiter_command("schema", """
    arbiter rules schema
    arbiter rules schema rules > rules.schema.json
""")  # fmt: skip
@click.argument("kind", required=False)
def schema(kind: str | None) -> None:
    """Print the JSON Schema of one kind of file, or without KIND the names of all.

    `arbiter init` writes them into rules/schemas, and the files there name theirs, so that an editor with a YAML
    language server completes keys and marks mistakes.
    """
    known = {path.stem: path for path in sorted((TEMPLATE / "rules" / "schemas").glob("*.json"))}
    if kind is None:
        click.echo("\n".join(known))
    elif kind in known:
        click.echo(known[kind].read_text(), nl=False)
    else:
        raise click.UsageError(f"there is no schema {kind!r}; known: {', '.join(known)}")


command.add_command(check)
command.add_command(schema)
command.add_command(test)
