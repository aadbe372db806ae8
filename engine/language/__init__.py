"""The only room that knows YAML and CEL. Rules, features, segments, labels and mapping files all speak through it.

Read a file, check the conditions in it, fail once with every mistake:

    diagnostics = Diagnostics()
    reader = Reader(diagnostics)
    top = reader.fields(load_yaml(path, diagnostics), required={"ruleset", "rules"}, optional={"on"})
    name = top.text("ruleset")                          # "" after a mistake; an absent optional key gives the default
    kind = top.choice("on", KINDS, "payment")
    schema = Schema.of({"txn.amount_base": "double", "user.payments_1h": "int"}, lists={"bins": "string"})
    for rule in top.fields_list("rules", required={"id", "when"}, optional={"rollout"}):
        share = rule.share("rollout", 1.0)
        when = rule.scalar("when")                      # keeps the place of each of its characters
        checked = check(when, schema, diagnostics) if when else None
    diagnostics.raise_if_failed()                       # DiagnosticsError (a PolicyError); its text is for people

Evaluate, many times:

    program = compile_rows([checked, …], lists)         # lists: name → anything that answers `in`
    found = program.evaluate(row)                       # row: dotted name → value; absent or None is UNKNOWN
    found.results[i], found.failing[i], found.notable   # Result as int, first failing condition, rules that didn't miss
    value = compile_value(checked)(row)                 # one expression: a value, UNKNOWN or a Failure (ERROR)

Whole tables are for `engine.language.columns`, which is imported where it is needed: it takes NumPy and Arrow along.

    program = compile_columns([checked, …], lists)      # table: Arrow, or a mapping of columns
    found = program.evaluate(table)                     # found.codes[i]: Result per row; found.failing(i)

A row's timestamps are int µs (or aware datetimes), a double may come as int. `evaluate(checked, row)` and
`outcome(checked, row)` are the reference that the generated code is proven equal to; `evaluate_expression(text,
bindings)` is the dynamic mode. `checked.conjunct_text(i)` is a condition as it was written.

A new kind of mistake is a line of `codes.txt`, a page docs/errors/E401.md, and then
`rule.mistake("E401", message, key="when", hint=…)`, or `diagnostics.error("E401", message, node.position(), …)`.
"""

from engine.language.check import Checked, Located, Schema, Snippet, check, check_text
from engine.language.diagnostics import (
    CODES,
    Diagnostic,
    Diagnostics,
    DiagnosticsError,
    Position,
    Related,
    did_you_mean,
)
from engine.language.interpret import evaluate, evaluate_expression, outcome
from engine.language.quantities import UNKNOWN, ExpressionError, Failure, UInt
from engine.language.reader import Fields, Reader, parse_duration_us, parse_timestamp_us
from engine.language.rows import RowProgram, RowResult, compile_rows, compile_value
from engine.language.source import Listing, Node, Scalar, Table, load_yaml, parse_yaml
from engine.language.types import Type, parse_type

__all__ = [
    "CODES", "UNKNOWN", "Checked", "Diagnostic", "Diagnostics", "DiagnosticsError", "ExpressionError", "Failure",
    "Fields", "Listing", "Located", "Node", "Position", "Reader", "Related", "RowProgram", "RowResult", "Scalar",
    "Schema", "Snippet", "Table", "Type", "UInt", "check", "check_text", "compile_rows", "compile_value",
    "did_you_mean", "evaluate", "evaluate_expression", "load_yaml", "outcome", "parse_duration_us",
    "parse_timestamp_us", "parse_type", "parse_yaml",
]  # fmt: skip
