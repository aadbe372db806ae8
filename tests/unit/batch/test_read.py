"""Readers: each format gives the same rows, and what can't be read is named, row by row."""

from __future__ import annotations

import gzip
import io
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.batch import read
from engine.batch.declared import FileFormat
from engine.batch.read import open_source
from engine.errors import MappingError

ROWS = [(1, 2, "a", "1"), (2, 3, "b;ü", "2"), (3, 4, 'say "x"', "")]
CSV = 'name,n\na,1\nb;ü,2\n"say ""x""",\n'


def rows_of(path: Path | None, columns: tuple[str, ...], form: FileFormat | None = None, **more: Any) -> list[Any]:
    """All rows, and (row, line, reason) of what can't be read, in order of their row numbers."""
    workdir = path.parent if path else more.pop("workdir")
    found: list[Any] = []
    with open_source(path, form or FileFormat(), workdir, **more) as source:
        for chunk in source.chunks(columns):
            found += [*chunk.rows, *((bad.row, bad.line, bad.reason) for bad in chunk.unreadable)]
    return sorted(found, key=lambda row: row[0])


def written(tmp_path: Path, name: str, data: str | bytes) -> Path:
    """A file with this content."""
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.csv", CSV, FileFormat()),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode(), FileFormat()),
        ("crlf.csv", CSV.replace("\n", "\r\n"), FileFormat()),
        ("tab.csv", CSV.replace(",", "\t"), FileFormat(delimiter="\t")),
        ("latin.csv", CSV.encode("latin-1"), FileFormat(encoding="latin-1")),
        ("packed.csv.gz", gzip.compress(CSV.encode()), FileFormat()),
        ("a.txt", CSV, FileFormat(format="csv")),
    ],
)
def test_csv_dialects_give_the_same_rows(tmp_path: Path, name: str, data: str | bytes, form: FileFormat) -> None:
    """Byte order mark, line ends, delimiter, encoding and gzip change nothing."""
    assert rows_of(written(tmp_path, name, data), ("name", "n"), form) == ROWS


def test_csv_without_header_takes_the_declared_one(tmp_path: Path) -> None:
    """A declared header names the columns, and the first line is a row."""
    path = written(tmp_path, "a.csv", "x 1\ny 2\n")
    assert rows_of(path, ("n",), FileFormat(delimiter=" ", header=("name", "n"))) == [(1, 1, "1"), (2, 2, "2")]


def test_standard_input_is_read_as_declared(tmp_path: Path) -> None:
    """Standard input gives the same rows, leaves no copy behind, and needs a declared format."""
    form = FileFormat(format="csv")
    assert rows_of(None, ("name", "n"), form, workdir=tmp_path, stdin=io.BytesIO(CSV.encode())) == ROWS
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MappingError, match="no name that tells its format"):
        rows_of(None, ("name",), workdir=tmp_path, stdin=io.BytesIO(b""))


def test_bad_csv_rows_are_named_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short row, broken UTF-8 and an endless line each cost one row; line numbers count physical lines."""
    monkeypatch.setattr(read, "MAX_LINE", 40)
    data = b'name,n\n"two\nlines",1\nshort\nbad\xff,2\n' + b"x" * 100 + b",3\n\nlast,4\n"
    found = rows_of(written(tmp_path, "a.csv", data), ("name", "n"))
    assert found == [
        (1, 2, "two\nlines", "1"),
        (2, 4, "has 1 columns where the header has 2"),
        (3, 5, "is not valid text in the declared encoding"),
        (4, 6, "is longer than 40 characters"),
        (5, 8, "last", "4"),
    ]


def test_quote_that_never_closes_costs_one_row_of_bounded_size(tmp_path: Path) -> None:
    """An open quote swallows at most one field's limit; what follows is read again."""
    data = 'name,n\na,1\n"open,2\n' + "filler,3\n" * 20_000
    found = rows_of(written(tmp_path, "a.csv", data), ("name", "n"))
    bad = [row for row in found if isinstance(row[2], str) and "not closed" in row[2]]
    assert len(bad) == 1
    assert bad[0][:2] == (2, 3)
    assert len(found) > 5_000


@pytest.mark.parametrize("data", ["", "\n\n", "a,a\n1,2\n"])
def test_unusable_header_is_refused(tmp_path: Path, data: str) -> None:
    """A file without a header line, or with a name twice, is refused as a whole."""
    with pytest.raises(MappingError, match="header"):
        rows_of(written(tmp_path, "a.csv", data), ())


def test_json_lines_reach_into_objects(tmp_path: Path) -> None:
    """A dotted name reads a value inside an object; a literal key with a dot comes first; absent is None."""
    data = '{"a":{"b":1},"c":"x"}\n\n{"a.b":2}\nnot json\n[1]\n{"a":5,"c":null}'
    assert rows_of(written(tmp_path, "a.jsonl", data), ("a.b", "c")) == [
        (1, 1, 1, "x"), (2, 3, 2, None), (3, 4, "is not JSON"), (4, 5, "is not a JSON object"), (5, 6, None, None),
    ]  # fmt: skip


def test_sequences_give_a_row_for_each_item(tmp_path: Path) -> None:
    """`user item item` becomes two rows with positions; a user without items is a bad row."""
    path = written(tmp_path, "s.txt", "u1 i5 i6\nu2\nu3 i7\n")
    assert rows_of(path, ("user", "item", "position"), FileFormat(format="sequence")) == [
        (1, 1, "u1", "i5", 1),
        (2, 1, "u1", "i6", 2),
        (3, 2, "is not `user item item …` in UTF-8"),
        (4, 3, "u3", "i7", 1),
    ]


def parquet(tmp_path: Path) -> Path:
    """One row of each type that a column may have, then a row of nulls."""
    table = pa.table({
        "text": pa.array(["x", None], pa.large_string()),
        "code": pa.array(["c", None]).dictionary_encode(),
        "money": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
        "ratio": pa.array([float("nan"), None]),
        "yes": pa.array([True, None]),
        "n": pa.array([7, None], pa.uint8()),
        "at": pa.array([datetime(2026, 1, 1), None], pa.timestamp("ms")),
        "instant": pa.array([datetime(2026, 1, 1, tzinfo=UTC), None], pa.timestamp("ns", "Europe/Berlin")),
        "day": pa.array([date(2026, 1, 1), None]),
        "nested": pa.array([[1], None]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def test_parquet_types_become_plain_values(tmp_path: Path) -> None:
    """Times become µs, decimals exact text, NaN the text NaN, and null is no value."""
    midnight = 1_767_225_600_000_000
    columns = ("text", "code", "money", "ratio", "yes", "n", "at", "instant", "day")
    first = (1, 1, "x", "c", "1.50", "NaN", True, 7, midnight, midnight, midnight)
    assert rows_of(parquet(tmp_path), columns) == [first, (2, 2, *[None] * 9)]


def test_parquet_row_groups_follow_each_other_and_are_let_go(tmp_path: Path) -> None:
    """Rows are numbered across groups, and the bytes of a group that was read are not kept for the rest of the file."""
    path, draw, held = tmp_path / "t.parquet", random.Random(2), list[int]()
    table = pa.table({"n": range(1_600), "long": [draw.randbytes(40_000).hex() for _ in range(1_600)]})
    pq.write_table(table, path, row_group_size=100, use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    with open_source(path, FileFormat(), tmp_path) as source:
        for chunk in source.chunks(("n", "long")):
            assert [row[0] for row in chunk.rows] == [row[2] + 1 for row in chunk.rows]
            held += [pa.total_allocated_bytes() - before] * len(chunk.rows)
    assert len(held) == 1_600
    assert max(held) < path.stat().st_size / 3


def test_parquet_schema_is_told(tmp_path: Path) -> None:
    """The schema says which columns are times with and without a zone, and which can't be a field."""
    with open_source(parquet(tmp_path), FileFormat(), tmp_path) as source:
        assert source.schema is not None
        assert [source.schema[name] for name in ("at", "instant", "day", "nested", "money")] == [
            "timestamp", "instant", "timestamp", "nested", "text",
        ]  # fmt: skip
        assert source.rows_total == 2


def test_gzipped_parquet_is_unpacked_and_removed(tmp_path: Path) -> None:
    """Parquet inside gzip is read through a temporary copy that doesn't stay."""
    packed = written(tmp_path, "b.parquet.gz", gzip.compress(parquet(tmp_path).read_bytes()))
    assert rows_of(packed, ("n",)) == [(1, 1, 7), (2, 2, None)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet.gz"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("a.csv.gz", gzip.compress(CSV.encode() * 9_000)[:-30], "can't be read after row"),
        ("a.xls", b"x", "the ending tells no format"),
    ],
)
def test_broken_files_are_refused_in_words(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    """A file that is not what it says, or ends early, gives one clear error."""
    with pytest.raises(MappingError, match=reason):
        rows_of(written(tmp_path, name, data), ("n",) if "csv" in name else ())


def test_absent_file_is_named(tmp_path: Path) -> None:
    """A path that isn't there gives the path and the system's reason."""
    with pytest.raises(MappingError, match=r"can't read .*nowhere\.csv: No such file"):
        rows_of(tmp_path / "nowhere.csv", ())
