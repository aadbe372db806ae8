"""Rows that could not be imported, in a JSON lines file with line, field and reason; their values stay in the source.

    {"source":"orders.csv","line":17,"row":16,"problems":[{"field":"txn.currency","reason":"is not an ISO 4217 …"}]}

A value is left out because it might be a card number or a person; line and row lead to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from engine.errors import MappingError, Violation

MAX_REASONS = 1_000
"""Different reasons that are counted apart; further ones are counted as `other`."""
MIN_ROWS = 10_000
"""Rows read before the share of bad ones can stop an import in its course; at its end any number can."""
ID_CONFLICT = "is known with another body; nothing was changed"


class Quarantine:
    """Writes bad rows, counts their reasons, and stops the import when too large a share is bad."""

    def __init__(self, path: Path, source: str, max_bad: float) -> None:
        self.path, self.source, self.max_bad = path, source, max_bad
        self.rows = 0
        """Bad rows so far."""
        self.reasons: Counter[str] = Counter()
        """`field: reason` → rows."""
        self._file: BinaryIO | None = None
        self._refused = _refused_in(path)

    def add(self, row: int, line: int, problems: Sequence[Violation], rows: int = 1) -> None:
        """Put one row away, or a group of `rows` that begins there."""
        self.rows += rows
        self._count(problems, rows)
        self._write(row, line, problems, rows)

    def conflict(self, row: int, line: int) -> None:
        """Note a row whose id is known with another body: it is not bad in itself, and counted by the sink."""
        self.refuse(row, line, [Violation("id", ID_CONFLICT)], bad=0)

    def refuse(self, row: int, line: int, problems: Sequence[Violation], bad: int = 1) -> None:
        """Note a row that the journal refused for what it knows already; `bad` rows of it count as bad."""
        self.rows += bad
        self._count(problems, 1)
        self._write(row, line, problems, 1, {"refused": bad})

    def check(self, rows: int, *, final: bool = False) -> None:
        """MappingError when more than the allowed share of `rows` is bad."""
        if rows and self.rows > self.max_bad * rows and (final or rows >= MIN_ROWS):
            often = "; ".join(f"{count:,} × {reason}" for reason, count in self.reasons.most_common(3))
            raise MappingError(
                f"{self.source}: {self.rows:,} of {rows:,} rows are bad ({self.rows / rows:.1%}), more than the "
                f"allowed {self.max_bad:.1%}: {often}. They are in {self.path}; mend the mapping, or allow more "
                "with --max-bad."
            )

    def keep_conflicts(self) -> None:
        """Carry over what was refused in the interrupted run that this one continues: it won't meet it again."""
        for entry in self._refused:
            problems = [Violation(problem["field"], problem["reason"]) for problem in entry["problems"]]
            self.refuse(entry["row"], entry["line"], problems, entry["refused"])
        self._refused = []

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()

    def finish(self) -> Path | None:
        """Close after a whole import; the path, or None when all was good, and then no file of an earlier one stays."""
        self.close()
        if self._file is None:
            self.path.unlink(missing_ok=True)
        return self.path if self._file is not None else None

    def _count(self, problems: Sequence[Violation], rows: int) -> None:
        for problem in problems:
            reason = f"{problem.field}: {problem.reason}"
            known = reason in self.reasons or len(self.reasons) < MAX_REASONS
            self.reasons[reason if known else "other"] += rows

    def _write(
        self, row: int, line: int, problems: Sequence[Violation], rows: int, more: Mapping[str, int] | None = None
    ) -> None:
        if self._file is None:
            self._file = self.path.open("wb")
        entry = {
            "source": self.source, "line": line, "row": row, **({"rows": rows} if rows > 1 else {}),
            "problems": [{"field": p.field, "reason": p.reason} for p in problems], **(more or {}),
        }  # fmt: skip
        self._file.write(orjson.dumps(entry) + b"\n")


def _refused_in(path: Path) -> list[dict[str, Any]]:
    """The refused rows that an earlier run left in the file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return [orjson.loads(line) for line in file if b'"refused":' in line and line.endswith(b"\n")]
