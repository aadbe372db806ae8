"""The JSON Schemas of the files that people write: fresh, and right about every file that ships."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from engine.cli.app import app
from engine.cli.init import TEMPLATE
from rules.schemas.generate import FILES, schemas, text_of
from tests.conftest import ROOT

FOLDER = ROOT / "rules" / "schemas"
MADE = schemas()


class Plain(yaml.SafeLoader):
    """YAML 1.2, as editors read it: `on` is a word, and times are texts."""


Plain.yaml_implicit_resolvers = {
    sign: [(tag, found) for tag, found in resolvers if tag.rpartition(":")[2] not in ("timestamp", "bool")]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Plain.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), "tf")


def kind_of(name: str) -> str:
    """The kind of file that a name below a policy's folder is."""
    return next((kind for start, kind in FILES.items() if name.startswith(start)), "")


def mistakes(kind: str, text: str) -> list[str]:
    """What a schema says against a text."""
    checker = jsonschema.Draft202012Validator(MADE[kind])
    return [error.message for error in checker.iter_errors(yaml.load(text, Plain))]


def shipped() -> dict[str, Path]:
    """Every YAML file that ships, by its name below its policy's folder."""
    found = {}
    for folder in (ROOT / "rules", ROOT / "tests" / "policy"):
        for path in sorted(folder.rglob("*.yaml")):
            found[f"{folder.name}:{path.relative_to(folder)}"] = path
    for path in (*sorted((ROOT / "mappings").glob("*.yaml")), *sorted((TEMPLATE / "mappings").glob("*.yaml"))):
        found[f"{path.parents[1].name}:mappings/{path.name}"] = path
    return found


@pytest.mark.parametrize("kind", MADE)
def test_the_files_are_fresh(kind):
    """`python rules/schemas/generate.py` would change nothing, and each schema is one."""
    file = FOLDER / f"{kind}.json"
    if os.environ.get("ARBITER_REWRITE_GOLDEN") == "1":
        file.write_text(text_of(MADE[kind]))
    assert file.read_text() == text_of(MADE[kind])
    jsonschema.Draft202012Validator.check_schema(MADE[kind])


def test_every_kind_has_a_file():
    """No file is left over, and docs/schemas is the same folder."""
    assert {path.stem for path in FOLDER.glob("*.json")} == set(MADE) == {*FILES.values(), "settings"}
    assert (ROOT / "docs" / "schemas").resolve() == FOLDER


@pytest.mark.parametrize("name", shipped())
def test_every_file_that_ships_is_right(name):
    """Schemas have nothing against files that the loaders take."""
    assert mistakes(kind_of(name.partition(":")[2]), shipped()[name].read_text()) == []


def test_the_settings_of_the_template_are_right():
    """The settings file, which is all remarks but for a few lines."""
    assert mistakes("settings", (TEMPLATE / "arbiter.yaml").read_text() or "{}") in (
        [],
        ["None is not of type 'object'"],
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("rules", "ruleset: a\non: paiment\nrules: []\n"),
        ("rules", "ruleset: a\non: payment\nrules: [{id: r, wen: x, then: {tier: LOW}, reason: R}]\n"),
        ("rules", "ruleset: a\non: payment\nrules: [{id: r, when: x, then: {tier: LOWER}, reason: R}]\n"),
        ("rules", "ruleset: a\non: payment\nrules: [{id: r, when: x, then: {tier: LOW}}]\n"),
        ("policy", "name: a\n"),
        ("features", "features: {user.a: {measure: counting, unit: events, meaning: x}}\n"),
        ("lists", "lists: {a: {type: cards, kind: block}}\n"),
        ("tests", "cases: [{name: a, event: {kind: paiment}, expect: {}}]\n"),
        ("tests", "cases: [{name: a, expect: {action: ALLOWED}}]\n"),
        ("reasons", "reasons: {A: {category: x}}\n"),
    ],
)
def test_an_editor_marks_mistakes(kind, text):
    """Wrong words, unknown keys and missing ones are found without Arbiter."""
    assert mistakes(kind, text) != []


def test_each_file_names_its_schema():
    """Every YAML file of the shipped policy and of the template begins with the line that editors look for."""
    files = [
        *sorted((ROOT / "rules").rglob("*.yaml")),
        TEMPLATE / "arbiter.yaml",
        *(TEMPLATE / "mappings").glob("*.yaml"),
    ]
    for path in files:
        name = path.relative_to(ROOT / "rules").as_posix() if path.is_relative_to(ROOT / "rules") else path.name
        kind = "settings" if name == "arbiter.yaml" else "mapping" if path.parent.name == "mappings" else kind_of(name)
        first, _, schema = path.read_text().partition("\n")[0].partition("$schema=")
        assert first == "# yaml-language-server: "
        assert schema.endswith(f"/{kind}.json"), path
        if path.is_relative_to(ROOT / "rules"):
            assert (path.parent / schema).resolve() == FOLDER / f"{kind}.json"


def test_the_command():
    """`arbiter rules schema` lists, and prints one."""
    call = CliRunner().invoke
    assert call(app, ["rules", "schema"]).stdout.split() == sorted(MADE)
    assert json.loads(call(app, ["rules", "schema", "rules"]).stdout) == MADE["rules"]
    refused: Any = call(app, ["rules", "schema", "rule"])
    assert refused.exit_code == 2
