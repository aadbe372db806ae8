"""What `arbiter rules check` found, for people and for machines: text, JSON, SARIF 2.1.0, commands of GitHub workflows.

Paths are those that an editor or a code review knows: relative to the working folder where that is possible.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from engine.batch.rule_tests import TestReport
from engine.language import CODES, Diagnostic, Diagnostics

FORMATS = ("text", "json", "sarif", "github")
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_json(found: Diagnostics, folder: Path, failure: str, summary: dict[str, Any]) -> str:
    """One object: `ok`, `failure` (what kept the policy from being used without having a place), findings in order."""
    findings = [_finding(item, folder) for item in found.ordered()]
    ok = not (found.failed or failure)
    return _text({"ok": ok, "failure": failure or None, **summary, "findings": findings, "more": found.more})


def _finding(item: Diagnostic, folder: Path) -> dict[str, Any]:
    entry = asdict(item)
    for part in (entry, *entry["related"]):
        part.update(part.pop("position"))
        part["file"] = path_of(part["file"], folder)
    return {name: entry[name] for name in _ORDER}


_ORDER = ("code", "severity", "file", "line", "column", "length", "message", "hint", "found", "wanted", "related")


def as_sarif(found: Diagnostics, folder: Path, failure: str) -> str:
    """A SARIF log with one run: code scanners and editors show each finding at its place."""
    codes = sorted({item.code for item in found.items})
    rules = [{"id": code, "shortDescription": {"text": CODES[code]}} for code in codes]
    results = [
        {
            "ruleId": item.code, "ruleIndex": codes.index(item.code), "level": item.severity,
            "message": {"text": _said(item)}, "locations": [_location(item.position, item.length, folder)],
            "relatedLocations": [
                _location(place.position, 1, folder) | {"message": {"text": place.message}} for place in item.related
            ],
        }
        for item in found.ordered()
    ]  # fmt: skip
    told = [{"level": "error", "message": {"text": failure}}] if failure else []
    invocation = {"executionSuccessful": not failure, "toolExecutionNotifications": told}
    run = {
        "tool": {"driver": {"name": "arbiter", "rules": rules}}, "columnKind": "unicodeCodePoints",
        "invocations": [invocation], "results": results,
    }  # fmt: skip
    return _text({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def _location(position: Any, length: int, folder: Path) -> dict[str, Any]:
    region = {
        "startLine": position.line, "startColumn": position.column, "endColumn": position.column + length,
    }  # fmt: skip
    artifact = {"uri": quote(path_of(position.file, folder))}
    return {"physicalLocation": {"artifactLocation": artifact, "region": region}}


def as_github(found: Diagnostics, folder: Path, failure: str) -> str:
    """Workflow commands, which GitHub shows beside the lines of a change."""
    lines = [f"::error title=arbiter::{_escaped(failure)}"] if failure else []
    for item in found.ordered():
        place = item.position
        file = _escaped(path_of(place.file, folder), ":,")
        ends = f"line={place.line},col={place.column},endColumn={place.column + item.length}"
        lines.append(f"::{item.severity} file={file},{ends},title={item.code}::{_escaped(_said(item))}")
    return "\n".join(lines)


def report_as_text(report: TestReport, coverage: bool) -> str:
    """What came out differently, as a person reads it, then the counts."""
    lines: list[str] = []
    for failed in report.failed:
        lines.append(f"{failed.case.place}: {failed.case.name}")
        for what, expected, got in failed.differences:
            lines += [f"    {what}", f"      expected  {expected}", f"      got       {got}"]
    if coverage:
        width = max(map(len, report.coverage), default=4)
        lines.append(f"{'rule':{width}}    hit   miss  unknown")
        for rule, given in report.coverage.items():
            mark = "  lacks a hit or a miss" if rule in report.uncovered else ""
            lines.append(f"{rule:{width}} {given.hit:6} {given.miss:6} {given.unknown:8}{mark}")
    covered = len(report.coverage) - len(report.uncovered)
    lines.append(
        f"{'ok' if report.passed else f'{len(report.failed)} failed'}: {report.cases} cases, "
        f"{covered} of {len(report.coverage)} rules with a hit and a miss or only observed"
    )
    return "\n".join(lines)


def report_as_json(report: TestReport) -> dict[str, Any]:
    """The same for programs."""
    return {
        "passed": report.passed, "cases": report.cases, "uncovered": list(report.uncovered),
        "failed": [
            {
                "name": failed.case.name, "place": str(failed.case.place),
                "differences": [{"what": w, "expected": e, "got": g} for w, e, g in failed.differences],
            }
            for failed in report.failed
        ],
        "coverage": {rule: asdict(given) for rule, given in report.coverage.items()},
    }  # fmt: skip


def path_of(file: str, folder: Path) -> str:
    """The path of a policy's file as seen from the working folder, with `/`."""
    path = os.path.relpath(folder / file)
    return (path if not path.startswith("..") else str(folder / file)).replace(os.sep, "/")


def _said(item: Diagnostic) -> str:
    kinds = f"found {item.found or 'nothing'}, wanted {item.wanted}" if item.wanted else ""
    return "\n".join(part for part in (item.message, kinds, item.hint) if part)


def _escaped(text: str, signs: str = "") -> str:
    """A value of a workflow command: line ends, %, and in properties : and , would end it."""
    for sign in ("%", "\r", "\n", *signs):
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


def _text(document: dict[str, Any]) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
