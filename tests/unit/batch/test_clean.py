"""Cleaning as a mapping declares it: what becomes of a value, its flag, and how often it is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.batch.load import load
from engine.batch.mapping import parse_mapping
from engine.errors import MappingError
from tests.unit.batch.conftest import NOW_US, Importer, MemorySink

BASE = """
mapping: shop
source: {format: csv}
missing: ["-"]
id: "{order}"
kind: payment
time: {column: at, zone: UTC}
fields:
  user.id: "{user}"
"""
HEADER = "order,at,user,city,price\n"


def fields(sink: MemorySink, name: str) -> list[Any]:
    """One field of all events, in the order of their rows."""
    return [sink.events[key].fields.get(name) for key in sorted(sink.events, key=lambda key: int(key[1:]))]


def lines(*rows: str) -> str:
    """Rows `city,price`, a minute apart, of one user each."""
    return HEADER + "".join(f"o{n},2026-01-01 10:{n:02d}:00,u{n},{row}\n" for n, row in enumerate(rows))


def test_texts_are_tidied_and_harmonised(run: Importer, sink: MemorySink) -> None:
    """Spaces go, case is one, spellings become one; only what changed is counted."""
    mapping = (
        BASE + "attributes: {city: '{city}'}\nclean:\n  columns:\n    city: {tidy: upper, values: {EIRE: IRELAND}}\n"
    )
    summary = run(lines(" rome ,1", "ROME,1", "new  york,1", "Eire,1"), mapping)
    assert [a["city"] for a in fields(sink, "attributes")] == ["ROME", "ROME", "NEW YORK", "IRELAND"]
    assert summary.cleaned == {"city: tidied": 3, "city: harmonised": 1}


def test_repeated_rows_are_left_out(run: Importer, sink: MemorySink) -> None:
    """The first of equal rows stays; equal in all columns of the file, or in those that are named."""
    data = HEADER + "o1,2026-01-01,u,a,1\no1,2026-01-01,u,a,1\no1,2026-01-01,u,b,2\no2,2026-01-01,u,a,1\n"
    amount = "amount: {column: price, unit: major, currency: EUR}\ngroup: {by: order}\n"
    summary = run(data, BASE + amount + "clean: {repeated: rows}\n")
    assert summary.cleaned == {"repeated rows left out": 1}
    assert fields(sink, "txn.amount_minor") == [300, 100]
    sink.events.clear()
    summary = run(data, BASE + amount + "clean: {repeated: [order]}\n")
    assert summary.cleaned == {"repeated rows left out": 2}
    assert fields(sink, "txn.amount_minor") == [100, 100]


AMOUNT = "amount: {column: price, unit: major, currency: EUR}\n"


@pytest.mark.parametrize(
    ("missing", "filled"),
    [
        ("leave", [None, None]),
        ("{default: '7.50'}", [750, 750]),
        ("median", [300, 300]),
        ("{median_by: city}", [1000, 200]),
    ],
)
def test_missing_values_keep_a_flag(run: Importer, sink: MemorySink, missing: str, filled: list[int | None]) -> None:
    """Left, a default, the median of all, or of the group: the flag stays on every event, and a count."""
    mapping = BASE + AMOUNT + f"clean:\n  columns:\n    price: {{missing: {missing}}}\n"
    summary = run(lines("rome,-", "oslo,", "oslo,2", "oslo,1", "rome,10", "oslo,3", "rome,30"), mapping)
    assert fields(sink, "txn.amount_minor")[:2] == filled
    assert fields(sink, "attributes") == [{"missing.price": "true"}] * 2 + [None] * 5
    assert summary.cleaned == {f"price: missing, {missing.strip('{').split('_')[0].split(':')[0]}": 2}


def test_a_flag_of_any_row_of_a_group_is_the_flag_of_its_event(run: Importer, sink: MemorySink) -> None:
    """The second line of an order lacks its price; the order says so."""
    data = HEADER + "o1,2026-01-01,u,a,1\no1,2026-01-01,u,b,\no2,2026-01-01,u,a,3\n"
    mapping = BASE + AMOUNT + "group: {by: order, rows: scattered}\nclean:\n  columns:\n    price: {missing: median}\n"
    run(data, mapping)
    assert fields(sink, "attributes") == [{"missing.price": "true"}, None]
    assert fields(sink, "txn.amount_minor") == [200, 300]


def numbers_file() -> tuple[str, np.ndarray]:
    """Prices of 400 orders, four of them far off."""
    prices = np.round(np.random.default_rng(4).gamma(4, 5, 400), 2)
    prices[[3, 77, 200, 399]] = [5_000, 0.01, 9_999.99, 7_000]
    rows = "".join(f"o{n},2026-01-01,u,a,{price}\n" for n, price in enumerate(prices))
    return HEADER + rows, prices


@pytest.mark.parametrize("do", ["winsorise", "flag"])
def test_outliers_by_quantile(run: Importer, sink: MemorySink, do: str) -> None:
    """What lies beyond the quantiles is flagged, and drawn in to a price that some row really has."""
    data, prices = numbers_file()
    low, high = (np.quantile(prices, share, method="inverted_cdf") for share in (0.005, 0.99))
    mapping = BASE + AMOUNT + f"clean:\n  columns:\n    price: {{outliers: {{quantiles: [0.5%, 99%], do: {do}}}}}\n"
    summary = run(data, mapping)
    far = (prices < low) | (prices > high)
    expected = np.clip(prices, low, high) if do == "winsorise" else prices
    assert fields(sink, "txn.amount_minor") == [round(price * 100) for price in expected]
    assert [a is not None for a in fields(sink, "attributes")] == far.tolist()
    assert summary.cleaned == {f"price: far, {'drawn in' if do == 'winsorise' else 'flagged'}": far.sum()}
    assert summary.new == len(prices)


def test_outliers_by_deviation(run: Importer, sink: MemorySink) -> None:
    """The median ± 8 median deviations, as numpy has them; no row is lost."""
    data, prices = numbers_file()
    middle = np.quantile(prices, 0.5, method="inverted_cdf")
    spread = 1.4826 * np.quantile(np.abs(prices - middle), 0.5, method="inverted_cdf")
    run(data, BASE + AMOUNT + "clean:\n  columns:\n    price: {outliers: {mad: 8}}\n")
    expected = np.clip(prices, middle - 8 * spread, middle + 8 * spread)
    assert fields(sink, "txn.amount_minor") == [round(price * 100) for price in expected]
    assert sum(a is not None for a in fields(sink, "attributes")) == 3


def test_units_and_zones_by_column(run: Importer, sink: MemorySink) -> None:
    """Cents and euros become one unit, and each row's clock is read in its own zone, even if that changes the order."""
    data = "order,at,user,zone,unit,price\n" + (
        "o1,2026-01-01 12:00,u,Tokyo,ct,1250\no2,2026-01-01 11:00,u,Paris,eur,12.50\no3,2026-01-01 11:00,u,Paris,oz,1\n"
    )
    clean = """
clean:
  columns:
    price: {scale: {by: unit, factors: {ct: 0.01, eur: 1}}}
    at: {zone: {by: zone, values: {Tokyo: Asia/Tokyo, Paris: Europe/Paris}}}
"""
    summary = run(data, BASE + AMOUNT + clean)
    assert fields(sink, "txn.amount_minor") == [1250, 1250]
    assert [event.time_us // 3_600_000_000 % 24 for event in sink.events.values()] == [3, 10]
    assert summary.reasons == {"clean: column `price` has a unit that is not declared": 1}
    assert summary.cleaned["price: scaled"] == 2


def test_scaled_amounts_keep_the_marks_of_the_file(run: Importer, sink: MemorySink) -> None:
    """Where a point parts thousands, half a unit is written with a comma, and is not five hundred."""
    marks = 'amount: {column: price, unit: major, currency: EUR, decimal: ",", thousands: "."}\n'
    clean = "clean:\n  columns:\n    price: {scale: 0.001, missing: median}\n"
    run(lines("a,500", "a,1.500", 'a,"2500,0"', "a,-"), BASE + marks + clean)
    assert fields(sink, "txn.amount_minor") == [50, 150, 250, 150]


def test_skipped_and_repeated_rows_do_not_shape_what_is_usual(run: Importer, sink: MemorySink) -> None:
    """The median is of the rows that become events, as they are after tidying."""
    skip = "skip:\n  - when: {city: TEST}\n    reason: tests\n"
    clean = "clean:\n  repeated: [order]\n  columns:\n    city: {tidy: upper}\n    price: {missing: median}\n"
    data = lines("a,1", "a,5", "a,9", "test ,900", "test,900", "a,") + "o0,2026-01-01 10:00:00,u0,a,800\n"
    summary = run(data, BASE + AMOUNT + skip + clean)
    assert fields(sink, "txn.amount_minor") == [100, 500, 900, 500]
    assert summary.skipped == {"tests": 2}


def test_the_same_rows_in_another_format_are_cleaned_alike(run: Importer, sink: MemorySink, tmp_path: Path) -> None:
    """Parquet's own numbers and gaps give the events that texts give."""
    data, prices = numbers_file()
    mapping = BASE + AMOUNT + "clean:\n  columns:\n    price: {missing: median, outliers: {quantiles: [1%, 99%]}}\n"
    run(data, mapping)
    as_text, other = fields(sink, "txn.amount_minor"), MemorySink()
    frame = pd.DataFrame({"order": [f"o{n}" for n in range(len(prices))], "price": prices}).assign(user="u", city="a")
    frame.assign(at=pd.Timestamp("2026-01-01")).to_parquet(tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", mapping.replace("format: csv", "format: parquet"), sink=other)
    assert fields(other, "txn.amount_minor") == as_text


# --- references -------------------------------------------------------------------------------------------------------

TABLES = {
    "bins.csv": "bin,country,since\n4111,DE,2026-01-01\n41,US,2020-01-01\n4111,FR,2026-01-10\n",
    "nets.csv": "network,owner\n10.0.0.0/8,office\n10.1.0.0/16,lab\n2001:db8::/32,docs\n",
    "days.csv": "country,from,to,name\nDE,2026-01-06,2026-01-07,Epiphany\n",
}
JOINED = """
mapping: joined
source: {format: csv}
id: "{order}"
kind: payment
time: {column: at, zone: UTC}
references:
  bins: {file: bins.csv, key: bin, match: prefix, from: since}
  nets: {file: nets.csv, key: ip, column: network, match: network}
  days: {file: days.csv, key: country, from: from, until: to}
fields:
  card.country: {column: bins.country}
attributes: {owner: '{nets.owner}', holiday: '{days.name}'}
"""


def test_tables_are_joined_as_they_were_known(tmp_path: Path, sink: MemorySink) -> None:
    """The longest prefix and the smallest network win; a row of the table counts from its time on and until its end."""
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "t.csv").write_text(
        "order,at,bin,ip,country\no1,2025-12-31,411111,10.1.2.3,DE\no2,2026-01-06 23:00,411111,10.2.2.3,DE\n"
        "o3,2026-01-10,411111,2001:db8::1,FR\no4,2026-01-07,555555,8.8.8.8,DE\n"
    )

    def loaded() -> Any:
        return load(
            tmp_path / "t.csv", parse_mapping(JOINED.encode(), str(tmp_path / "m.yaml")), sink, workdir=tmp_path,
            quarantine=tmp_path / "q", now_us=NOW_US,
        )  # fmt: skip

    summary = loaded()
    assert fields(sink, "card.country") == ["US", "DE", "FR", None]
    assert fields(sink, "attributes") == [
        {"owner": "lab"}, {"owner": "office", "holiday": "Epiphany"}, {"owner": "docs"}, None,
    ]  # fmt: skip
    assert summary.cleaned["bins: not found"] == 1
    first = parse_mapping(JOINED.encode(), str(tmp_path / "m.yaml")).digest
    (tmp_path / "bins.csv").write_text(TABLES["bins.csv"] + "5,IT,2020-01-01\n")
    assert parse_mapping(JOINED.encode(), str(tmp_path / "m.yaml")).digest != first
    (tmp_path / "bins.csv").write_text("bin,country,since\n4111,DE,soon\n")
    with pytest.raises(MappingError, match=r"bins.csv:2: is not an ISO 8601 time"):
        loaded()
    (tmp_path / "bins.csv").write_text("bin,land,since\n")
    with pytest.raises(MappingError, match=r"m.yaml:8:3: error\[E301\]: column `country` is not in"):
        loaded()


def test_mistakes_are_all_shown_at_their_place() -> None:
    """Unknown keys, two ways at once, shares in the wrong order, a table that isn't there."""
    wrong = (
        BASE
        + """
clean:
  repeated: lines
  columns:
    city: {tidy: loud, case: x}
    price: {missing: {default: 1, median_by: city}, outliers: {quantiles: [99%, 1%]}}
    user: {outliers: {mad: 3, quantiles: [1%, 99%]}, scale: much}
references:
  bins: {file: none.csv, key: city, until: x}
"""
    )
    with pytest.raises(MappingError) as caught:
        parse_mapping(wrong.encode(), "m.yaml")
    at = {
        line.split(": error")[0].removeprefix("m.yaml:") for line in str(caught.value).splitlines() if ": error" in line
    }
    assert {place.split(":")[0] for place in at} == {"12", "14", "15", "16", "18"}
    assert len(at) == 9


def test_outcomes_are_not_cleaned() -> None:
    """A feed of outcomes has no place for flags, so it says so."""
    with pytest.raises(MappingError, match="`clean` has no place in a mapping that produces outcomes"):
        parse_mapping(
            b'mapping: o\nproduces: outcomes\nid: "{id}"\nkind: chargeback\ntime: {column: at, zone: UTC}\n'
            b'fields: {event_id: "{e}"}\nclean: {repeated: rows}\n', "o.yaml",
        )  # fmt: skip
