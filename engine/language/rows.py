"""Generated Python for a whole rule set: each rule's result for a row, and its first failing condition.

    program = compile_rows([checked, …], lists)
    found = program.evaluate(row)                  # row: dotted name → value; absent or None is UNKNOWN
    found.results[i]  found.failing[i]  found.notable

Inputs are fetched once, and a part that several rules have is computed by the first that needs it. A rule is nested
ifs, cheap on the roads that most rules take: a false first condition stores nothing. ERROR is an exception inside the
function; that rule alone is then asked of the interpreter (`interpret.outcome`), to which all of this is proven equal.
When rules are many, an index decides their comparisons with constants, and few are run (`rows_index.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from engine.language.check import Checked
from engine.language.codegen import BUILTINS, Code, Generator, TooDeep, plain, shared_parts
from engine.language.expression import Node
from engine.language.interpret import Lists, Row, evaluate, outcome, to_row
from engine.language.types import DURATION, DYN, TIMESTAMP
from engine.values import Result

if TYPE_CHECKING:
    from engine.language.rows_index import Indexed

INDEX_FROM = 800
"""So many rules are indexed: it costs about 40 µs, as much as running 800 rules."""
_CHUNK = 250
"""Rules in one function that is always run; Python compiles a longer one more than proportionally slower."""
Run = Callable[..., None]


class RowResult:
    """What became of each rule, by its index. Keep the row as it is while you read `failing`."""

    __slots__ = ("_all", "_size", "codes", "notable")

    def __init__(
        self, size: int, codes: list[int] | dict[int, int], notable: list[int],
        all_codes: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        self._size, self._all = size, all_codes
        self.codes = codes
        """4 × first failing condition + result, of each notable rule at least."""
        self.notable = notable
        """Indices of the rules that did not simply miss, ascending."""

    @property
    def results(self) -> list[int]:
        """`engine.values.Result` of each rule as int."""
        if isinstance(self.codes, dict):
            return [self.codes.get(index, 0) & 3 for index in range(self._size)]
        return [code & 3 for code in self.codes]

    @property
    def failing(self) -> list[int]:
        """Number of the first condition that was false (MISS), unknown (UNKNOWN) or failed (ERROR); 0 for a HIT.

        The rules that the index ruled out are completed when this is first read.
        """
        if self._all is None:
            return [code >> 2 for code in self.codes]
        failing: list[int] = (self._all() >> 2).tolist()
        return failing


@dataclass(frozen=True, slots=True)
class RowProgram:
    """A compiled rule set; immutable, for any number of threads."""

    conditions: tuple[Checked, ...]
    names: frozenset[str]
    """Every input that some rule reads."""
    _functions: tuple[Run, ...]
    _indexed: Indexed | None
    source: str = field(repr=False)
    """The generated Python, for the curious."""

    def evaluate(self, row: Row) -> RowResult:
        """All rules on one row."""
        if self._indexed is not None:
            return RowResult(len(self.conditions), *self._indexed.evaluate(row))
        notable: list[int] = []
        codes = [0] * len(self.conditions)
        for function in self._functions:
            function(row, codes, notable.append)
        return RowResult(len(codes), codes, notable)


def compile_rows(
    conditions: Sequence[Checked], lists: Lists | None = None, *, index_from: int = INDEX_FROM
) -> RowProgram:
    """One program for conditions of type bool, indexed if there are `index_from` of them or more.

    The objects in `lists` are asked with `in` at each evaluation.
    """
    writer = _Rules(conditions, lists or {})
    names = frozenset(name for condition in conditions for name in condition.names)
    indexed = writer.indexed() if len(conditions) >= index_from else None
    functions = () if indexed else writer.chunks()
    return RowProgram(tuple(conditions), names, functions, indexed, "\n".join(writer.sources))


def compile_value(checked: Checked, lists: Lists | None = None) -> Callable[[Row], Any]:
    """A function from a row to the value of one expression, UNKNOWN, or a Failure; times come as int µs."""
    named = lists or {}

    def slow(row: Row) -> Any:
        return to_row(evaluate(checked, row, named))

    generator = Generator(named, depth=2)
    try:
        code = generator.code(checked.tree)
    except TooDeep:
        return slow
    unknown = generator.is_unknown(code.needs)
    if unknown:
        generator.emit(f"if {unknown}: return UNKNOWN")
    times = checked.type in (TIMESTAMP, DURATION, DYN)
    generator.emit(f"return to_row({plain(code)})" if times else f"return {plain(code)}")
    loads = ["\t" + line for line in generator.loads()]
    head, last = ["def value(row, ABSENT=ABSENT, UNKNOWN=UNKNOWN):", "\ttry:"], ["\texcept Exception: return slow(row)"]
    space = _space(generator, named, slow=slow, to_row=to_row)
    _define("\n".join([*head, *loads, *generator.lines, *last]), space)
    built: Callable[[Row], Any] = space["value"]
    return built


def _space(generator: Generator, lists: Lists, **extra: Any) -> dict[str, Any]:
    """The globals of generated code."""
    return {**BUILTINS, **generator.constants, "lists": lists, **extra}


def _define(source: str, space: dict[str, Any]) -> None:
    exec(compile(source, "<generated rules>", "exec"), space)  # the text was made here, from checked trees


class _Rules:
    """Writes the functions of a rule set: chunks with local variables, or one a rule, which share a list of them."""

    def __init__(self, conditions: Sequence[Checked], lists: Lists) -> None:
        self.conditions, self.lists = conditions, lists
        self.generator = Generator(lists)
        self.sources: list[str] = []

    def chunks(self) -> tuple[Run, ...]:
        """Functions of (row, codes, notable.append) that run all rules in turn."""
        return tuple([self.chunk(start) for start in range(0, len(self.conditions), _CHUNK)])

    def indexed(self) -> Indexed:
        """The index, and functions of (row, codes, notable.append, inputs) for rules that are more than cells."""
        from engine.language.rows_index import Indexed, make_index  # only many rules pay for NumPy

        index = make_index(self.conditions)
        rules = index.more
        self.renew("v[{}]", [self.conditions[rule] for rule in rules])
        texts = [self.function(f"rule_{rule}(row, c, note, v)", [rule], loads=False) for rule in rules]
        inputs = self.generator.loads()
        size = len(self.generator.inputs) + len(self.generator.parts)
        texts.append("\n".join(["def load(row):", f"\tv = [None] * {size}", *inputs, "\treturn v"]))
        space = _space(self.generator, self.lists, slow=self.slow)
        for start in range(0, len(texts), _CHUNK):
            self.sources.append("\n".join(texts[start : start + _CHUNK]))
            _define(self.sources[-1], space)
        functions = {rule: space[f"rule_{rule}"] for rule in rules}
        reads = tuple([frozenset(condition.names) for condition in self.conditions])
        return Indexed(index, reads, space["load"], functions, self.slow)

    def chunk(self, start: int) -> Run:
        """One function of many rules."""
        indices = range(start, min(start + _CHUNK, len(self.conditions)))
        self.renew("v{}", [self.conditions[index] for index in indices])
        self.sources.append(self.function("rules(row, c, note, ABSENT=ABSENT)", indices, loads=True))
        space = _space(self.generator, self.lists, slow=self.slow)
        _define(self.sources[-1], space)
        built: Run = space["rules"]
        return built

    def renew(self, variable: str, conditions: Sequence[Checked]) -> None:
        """A generator for functions that share their variables."""
        self.generator = Generator(self.lists, variable, shared_parts(conditions, self.lists))

    def function(self, head: str, indices: Iterable[int], *, loads: bool) -> str:
        """The text of one function."""
        body: list[str] = []
        for index in indices:
            body += self.rule(index)
        return "\n".join([f"def {head}:", *(self.generator.loads() if loads else ()), *body]) + "\n"

    def slow(self, index: int, row: Row, codes: list[int] | dict[int, int], note: Callable[[int], None]) -> None:
        """A rule by the interpreter."""
        result, failing = outcome(self.conditions[index], row, self.lists)
        codes[index] = failing << 2 | result
        if result is not Result.MISS:
            note(index)

    def rule(self, index: int) -> list[str]:
        """The statements of one rule, guarded by the road to the interpreter."""
        generator, condition = self.generator, self.conditions[index]
        generator.lines, generator.depth, generator.source = [], 2, condition.text
        fallback = f"slow({index}, row, c, note)"
        nodes = condition.conjuncts
        if any(node.type == DYN for node in nodes):
            return [f"\t{fallback}"]
        try:
            self.step(index, nodes, 0, ())
        except TooDeep:
            return [f"\t{fallback}"]
        return ["\ttry:", *generator.lines, f"\texcept Exception: {fallback}"]

    def step(self, index: int, nodes: tuple[Node, ...], at: int, unknown: tuple[str, ...]) -> None:
        """Condition `at`, when none before it was false; `unknown` are the tests whether these were unknown."""
        g = self.generator
        if at == len(nodes):
            g.emit(f"c[{index}] = {' else '.join([*unknown, str(Result.HIT.value)])}")
            g.emit(f"note({index})")
            return
        code = g.condition(nodes[at])
        test = g.is_unknown(code.needs)
        here = f"({test}) and not {code.text}" if code.partial else test
        asked = (*unknown, f"{at << 2 | Result.UNKNOWN.value} if {here}") if test else unknown
        g.block(f"if {_not_false(code, test)}:", partial(self.step, index, nodes, at + 1, asked))
        if at:
            g.emit(f"else: c[{index}] = {at << 2}")


def _not_false(code: Code, unknown: str) -> str:
    """A test that a condition is true or unknown."""
    if not unknown or (code.quiet and code.denied):
        return plain(code)
    return f"{code.text} or {unknown}" if code.quiet else f"{unknown} or {plain(code)}"
