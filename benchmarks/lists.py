"""Lists of a million entries: how long they take to load, and what a question costs beside a list of a thousand.

python -m benchmarks.lists [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.language import Diagnostics
from engine.policy.lists import list_types, load_lists
from engine.profiles.identity import normalise_email

VALUES: dict[str, Callable[[int], str]] = {
    "card": lambda n: f"tok_{n:012x}",
    "email": lambda n: f"shopper.{n}@mail{n % 997}.example",
    "ip": lambda n: f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
}
ASKED, REPEATS = 20_000, 7


def main() -> None:
    """Prints a table, or with --json one object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundred thousand entries")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    given = parser.parse_args()
    figures = measure(100_000 if given.quick else 1_000_000)
    for name, value in figures.items():
        print(f"{name:24}{value:>12,.3f}")
    if given.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def measure(size: int) -> dict[str, float]:
    """Seconds to load a list of each type, and µs of one question to it and to a list of a thousand; processor time."""
    figures = {}
    for kind, value in VALUES.items():
        seconds, large = load(kind, value, size)
        _, small = load(kind, value, 1_000)
        figures[f"{kind}_load_s"] = seconds
        figures[f"{kind}_ask_us"] = ask(large, [value(n * 104_729 % (2 * size)) for n in range(ASKED)])
        figures[f"{kind}_ask_1000_us"] = ask(small, [value(n * 37 % 2_000) for n in range(ASKED)])
    return figures


def load(kind: str, value: Callable[[int], str], size: int) -> tuple[float, object]:
    """A list of so many entries from its files, and the seconds of processor time that took, on one thread."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lists.yaml").write_text(f"lists:\n  some: {{type: {kind}, kind: block}}\n")
        rows = (f"{value(n)},seen in a fraud,fraud desk,2026-11-01,2027-11-01\n" for n in range(size))
        (folder / "some.csv").write_text("value,reason,author,added,until\n" + "".join(rows))
        diagnostics = Diagnostics()
        began = time.process_time()
        lists = load_lists(folder, diagnostics, lambda: 0, list_types(normalise_email))
        seconds = time.process_time() - began
    diagnostics.raise_if_failed()
    return seconds, lists["some"]


def ask(entries: object, values: list[str]) -> float:
    """µs of one question, the median of several rounds; half of the values are in the list."""
    rounds = []
    for _ in range(REPEATS):
        began = time.process_time()
        found = sum(value in entries for value in values)  # type: ignore[operator]
        rounds.append((time.process_time() - began) / len(values) * 1e6)
        assert 0 < found < len(values)
    return statistics.median(rounds)


if __name__ == "__main__":
    main()
