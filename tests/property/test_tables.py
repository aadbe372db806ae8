"""Decision tables against a reader of cells that knows nothing of conditions, and rows that are tried one by one."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import PolicyError
from engine.loader import load_program
from engine.policy.evaluate import RuleSet
from engine.profiles.identity import Identity
from engine.values import Result
from tests.conftest import NOW_US, POLICY

numbers = st.integers(0, 6)
ranges = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: f"{pair[0]}..{pair[1]}")
number_cells = st.one_of(
    st.just(""), ranges, st.builds("{} {}".format, st.sampled_from(["<", "<=", ">", ">="]), numbers), numbers.map(str),
    st.lists(numbers, min_size=2, max_size=3).map(lambda some: '"' + ", ".join(map(str, some)) + '"'),
)  # fmt: skip
text_cells = st.sampled_from(["", "DE", '"DE, AT"', "not DE", '"not DE, AT"'])
flag_cells = st.sampled_from(["", "true", "FALSE"])
tables = st.lists(st.tuples(number_cells, text_cells, flag_cells), min_size=1, max_size=5)
inputs = st.tuples(st.integers(0, 6), st.sampled_from(["DE", "AT", "FR"]), st.booleans())
WHOLE = [(n, c, f) for n in range(-1, 8) for c in ("DE", "AT", "FR") for f in (True, False)]
"""Every combination of values that such tables can tell apart."""


def fits(cell: str, value: object) -> bool:
    """Whether a value fits a cell, as the documentation says it."""
    cell = cell.strip('"')
    if not cell:
        return True
    if isinstance(value, bool):
        return cell.lower() == str(value).lower()
    if isinstance(value, str):
        return (value in cell.removeprefix("not ").split(", ")) is not cell.startswith("not ")
    assert isinstance(value, int)
    if ".." in cell:
        low, high = map(int, cell.split(".."))
        return low <= value < high
    for sign in ("<=", ">=", "<", ">"):
        if cell.startswith(sign):
            bound = int(cell.removeprefix(sign))
            return {"<=": value <= bound, ">=": value >= bound, "<": value < bound, ">": value > bound}[sign]
    return str(value) in cell.split(", ")


def loaded(rows: list[tuple[str, str, str]], hit: str, gaps: str) -> RuleSet:
    """A policy with one table of such rows; lines of its file are numbered from 2."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(POLICY, Path(scratch) / "policy"))
        (folder / "risk" / "refunds.yaml").write_text(
            f"ruleset: t\non: login\ntables:\n  - id: t\n    file: t.csv\n    hit: {hit}\n    gaps: {gaps}\n"
            "    reason: R4\n    columns: {n: basket.quantity, c: event.market, f: ip.proxy}\n"
        )
        lines = [f"{n},{c},{f},MEDIUM" for n, c, f in rows]
        (folder / "tables" / "t.csv").write_text("\n".join(["n,c,f,tier", *lines, ""]))
        program = load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False)
    return program.policy.by_kind["login"]


@settings(max_examples=60, deadline=None)
@given(tables, st.lists(inputs, min_size=1, max_size=8), st.sampled_from(["first", "collect"]))
def test_the_rows_that_hit_are_those_that_fit(rows, events, hit):
    """`collect` gives all rows that fit, `first` the upper one of them."""
    rules = loaded(rows, hit, "allowed")
    for number, country, flag in events:
        row = {"basket.quantity": number, "event.market": country, "ip.proxy": flag}
        found = [h.rule for h in rules.evaluate(row, NOW_US)[0] if h.result is Result.HIT]
        wanted = [
            f"t#{line}" for line, cells in enumerate(rows, 2)
            if all(map(fits, cells, (number, country, flag)))
        ]  # fmt: skip
        assert found == (wanted[:1] if hit == "first" else wanted)


@settings(max_examples=120, deadline=None)
@given(tables)
def test_overlaps_and_gaps_are_found_and_not_invented(rows):
    """A table with `unique` loads if and only if exactly one row fits each combination of values there is."""
    counts = {sum(all(map(fits, cells, values)) for cells in rows) for values in WHOLE}
    try:
        loaded(rows, "unique", "forbidden")
    except PolicyError as problem:
        said = str(problem)
        assert ("E519" in said) == any(count > 1 for count in counts)
        assert ("E520" in said) == (0 in counts)
    else:
        assert counts == {1}


@pytest.mark.parametrize(("unknown", "wanted"), [("hit", ["t#2"]), ("miss", ["t#3"])])
def test_a_row_that_cannot_be_known_takes_the_road_that_is_named(tmp_path, unknown, wanted):
    """With `when_unknown: hit` it is the first that hits; with `miss` it is passed over. Both stay visible."""
    folder = Path(shutil.copytree(POLICY, tmp_path / "policy"))
    (folder / "risk" / "refunds.yaml").write_text(
        "ruleset: t\non: login\ntables:\n  - id: t\n    file: t.csv\n    hit: first\n    gaps: allowed\n"
        f"    when_unknown: {unknown}\n    columns: {{n: basket.quantity, c: event.market}}\n"
    )
    (folder / "tables" / "t.csv").write_text("n,c,tier,reason\n> 3,,HIGH,R4\n,DE,LOW,R4\n")
    program = load_program(folder, folder, Identity(bytes(32)), lambda: NOW_US, with_models=False)
    hits, sources = program.policy.by_kind["login"].evaluate({"event.market": "DE"}, NOW_US)
    assert [source.reason.source.removeprefix("rule:") for source in sources] == wanted
    assert hits[0].result is Result.UNKNOWN
