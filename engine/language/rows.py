"""One generated Python function for a whole rule set: each rule's result for a row, and its first failing condition.

    program = compile_rows([checked, …], lists)
    found = program.evaluate(row)                  # row: dotted name → value; absent or None is UNKNOWN
    found.results[i]  found.failing[i]  found.notable

Inputs are fetched once into local variables. A rule is nested ifs, cheap on the roads that most rules take: a false
first condition stores nothing. ERROR is an exception inside the function; that rule alone is then asked of the
interpreter (`interpret.outcome`), to which all of this is proven equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.language.check import Checked
from engine.language.codegen import BUILTINS, Code, Generator, TooDeep, plain
from engine.language.expression import Node
from engine.language.interpret import Lists, Row, evaluate, outcome, to_row
from engine.language.types import DURATION, DYN, TIMESTAMP
from engine.values import Result

_CHUNK = 250
"""Rules in one function; Python compiles a longer one more than proportionally slower."""
_MOST_CONDITIONS = 8
"""A rule with more conditions than this is evaluated condition by condition, so that code grows linearly."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of each rule, by its index."""

    results: list[int]
    """`engine.values.Result` as int."""
    failing: list[int]
    """Number of the first condition that was false (MISS), unknown (UNKNOWN) or failed (ERROR); 0 for a HIT."""
    notable: list[int]
    """Indices of the rules that did not simply miss, ascending."""


@dataclass(frozen=True, slots=True)
class RowProgram:
    """A compiled rule set; immutable, for any number of threads."""

    conditions: tuple[Checked, ...]
    names: frozenset[str]
    """Every input that some rule reads."""
    _functions: tuple[Callable[..., None], ...]
    source: str = field(repr=False)
    """The generated Python, for the curious."""

    def evaluate(self, row: Row) -> RowResult:
        """All rules on one row."""
        count = len(self.conditions)
        found = RowResult([0] * count, [0] * count, [])
        for function in self._functions:
            function(row, found.results, found.failing, found.notable.append)
        return found


def compile_rows(conditions: Sequence[Checked], lists: Lists | None = None) -> RowProgram:
    """One program for conditions of type bool. The objects in `lists` are asked with `in` at each evaluation."""
    named = lists or {}
    functions, sources = [], []
    for start in range(0, len(conditions), _CHUNK):
        writer = _Rules(conditions[start : start + _CHUNK], start, named)
        functions.append(writer.compiled())
        sources.append(writer.source)
    names = frozenset(name for condition in conditions for name in condition.names)
    return RowProgram(tuple(conditions), names, tuple(functions), "\n".join(sources))


def compile_value(checked: Checked, lists: Lists | None = None) -> Callable[[Row], Any]:
    """A function from a row to the value of one expression, UNKNOWN, or a Failure; times come as int µs."""
    named = lists or {}

    def slow(row: Row) -> Any:
        return to_row(evaluate(checked, row, named))

    generator = Generator(named, depth=2)
    try:
        code = generator.floating(checked.tree)
    except TooDeep:
        return slow
    unknown = generator.is_unknown(code.needs)
    if unknown:
        generator.emit(f"if {unknown}: return UNKNOWN")
    times = checked.type in (TIMESTAMP, DURATION, DYN)
    generator.emit(f"return to_row({plain(code)})" if times else f"return {plain(code)}")
    loads = ["\t" + line for line in generator.loads()]
    head, last = ["def value(row, ABSENT=ABSENT, UNKNOWN=UNKNOWN):", "\ttry:"], ["\texcept Exception: return slow(row)"]
    source = "\n".join([*head, *loads, *generator.lines, *last])
    built: Callable[[Row], Any] = _build(source, "value", generator, named, slow=slow, to_row=to_row)
    return built


def _build(source: str, name: str, generator: Generator, lists: Lists, **extra: Any) -> Any:
    space = {**BUILTINS, **generator.constants, "lists": lists, **extra}
    exec(compile(source, f"<generated {name}>", "exec"), space)  # the text was made here, from a checked tree
    return space[name]


class _Rules:
    """Writes the function of up to `_CHUNK` rules, whose indices begin at `start`."""

    def __init__(self, conditions: Sequence[Checked], start: int, lists: Lists) -> None:
        self.conditions, self.start, self.lists = conditions, start, lists
        self.generator = Generator(lists, depth=2)
        self.source = ""

    def compiled(self) -> Callable[..., None]:
        """The function of (row, results, failing, notable.append)."""
        body: list[str] = []
        for index, condition in enumerate(self.conditions, self.start):
            body += self.rule(index, condition)
        head = "def rules(row, r, f, note, ABSENT=ABSENT, UNKNOWN=UNKNOWN):"
        self.source = "\n".join([head, *self.generator.loads(), *body]) + "\n"

        def slow(index: int, row: Row, r: list[int], f: list[int], note: Callable[[int], None]) -> None:
            result, failing = outcome(self.conditions[index - self.start], row, self.lists)
            r[index], f[index] = result, failing
            if result is not Result.MISS:
                note(index)

        built: Callable[..., None] = _build(self.source, "rules", self.generator, self.lists, slow=slow)
        return built

    def rule(self, index: int, condition: Checked) -> list[str]:
        """The statements of one rule, guarded by the road to the interpreter."""
        generator = self.generator
        generator.lines = []
        fallback = f"slow({index}, row, r, f, note)"
        nodes = condition.conjuncts
        if len(nodes) > _MOST_CONDITIONS or any(node.type == DYN for node in nodes):
            return [f"\t{fallback}"]
        try:
            self.step(index, nodes, 0)
        except TooDeep:
            generator.depth = 2
            return [f"\t{fallback}"]
        return ["\ttry:", *generator.lines, f"\texcept Exception: {fallback}"]

    def step(self, index: int, nodes: tuple[Node, ...], at: int) -> None:
        """Condition `at`, when all before it were true."""
        g = self.generator
        if at == len(nodes):
            g.emit(f"r[{index}] = {Result.HIT.value}; note({index})")
            return
        code = g.condition(nodes[at])
        unknown = g.is_unknown(code.needs)
        if code.quiet and not code.denied:
            g.block(f"if {code.text}:", lambda: self.step(index, nodes, at + 1))
            g.block(f"elif {unknown}:", lambda: self.undecided(index, nodes, at, at + 1))
            self.otherwise_miss(index, at)
        elif code.quiet:
            g.block(f"if {code.text}:", lambda: self.miss(index, at))
            g.block(f"elif {unknown}:", lambda: self.undecided(index, nodes, at, at + 1))
            g.block("else:", lambda: self.step(index, nodes, at + 1))
        else:
            self.guarded(index, nodes, at, code, unknown)

    def guarded(self, index: int, nodes: tuple[Node, ...], at: int, code: Code, unknown: str) -> None:
        """A condition that may only be evaluated when all its inputs are there."""
        g = self.generator
        if unknown:
            g.block(f"if {unknown}:", lambda: self.undecided(index, nodes, at, at + 1))
        g.block(f"{'elif' if unknown else 'if'} {plain(code)}:", lambda: self.step(index, nodes, at + 1))
        self.otherwise_miss(index, at)

    def otherwise_miss(self, index: int, at: int) -> None:
        if at:
            self.generator.block("else:", lambda: self.miss(index, at))

    def miss(self, index: int, at: int) -> None:
        """A false condition; that of the first is what the lists were filled with."""
        if at:
            self.generator.emit(f"f[{index}] = {at}")

    def undecided(self, index: int, nodes: tuple[Node, ...], first: int, at: int) -> None:
        """Condition `first` was unknown: a later false one still decides."""
        g = self.generator
        if at == len(nodes):
            failing = f"; f[{index}] = {first}" if first else ""
            g.emit(f"r[{index}] = {Result.UNKNOWN.value}{failing}; note({index})")
            return
        code = g.condition(nodes[at])
        known = "" if code.quiet and code.denied else g.is_known(code.needs)
        false = code.text if code.denied else f"not {code.text}"
        g.block(f"if {known} and {false}:" if known else f"if {false}:", lambda: self.miss(index, at))
        g.block("else:", lambda: self.undecided(index, nodes, first, at + 1))
