"""Mapping files: what they accept, and where they say a mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.batch.bind import bind
from engine.batch.mapping import load_mapping, parse_mapping
from engine.errors import MappingError

ROOT = Path(__file__).parents[3]
GOOD = """mapping: shop
id: "{order}"
kind: payment
time: {column: at, zone: UTC}
fields:
  user.id: "{user}"
"""

MISTAKES = [
    ("kind: payment", "kind: paiment", "m.yaml:3:7: error[E116]: `paiment` is not a kind", "did you mean `payment`?"),
    ("user.id:", "usr.id:", "m.yaml:6:3: error[E301]: `usr.id` is not a field", "did you mean `user.id`?"),
    ("user.id:", "txn.amount:", "m.yaml:6:3: error[E301]: `txn.amount` is computed by Arbiter", ""),
    ("user.id:", "txn.currency:", "m.yaml:6:3: error[E111]", "declare `amount:` beside `fields:`"),
    ('user.id: "{user}"', "event.market: XX", "m.yaml:6:17: error[E114]: `event.market` is not an ISO 3166", ""),
    ('user.id: "{user}"', "review.rating: five", "m.yaml:6:18: error[E114]: `review.rating` is not a whole number", ""),
    ('user.id: "{user}"', "review.rating: 9", "m.yaml:6:18: error[E114]: `review.rating` must be between 1 and 5", ""),
    ('"{user}"', '"a {user"', "m.yaml:6:15: error[E114]: not a placeholder", "name a column as {COLUMN}"),
    ('"{user}"', "{column: user, extract: '(a'}", "m.yaml:6:37: error[E114]: not a regular expression", ""),
    ('"{user}"', "{column: user, extract: 'a'}", "m.yaml:6:36: error[E114]: put the part", ""),
    ('"{user}"', "{column1: user}", "m.yaml:6:13: error[E111]: unknown key `column1`", "did you mean `column`?"),
    ('id: "{order}"', "id: same", "m.yaml:2:5: error[E114]: every row would get the same id", "{ORDER}-{row}"),
    ("zone: UTC", "zone: Berlin", "m.yaml:4:26: error[E116]: `Berlin` is not an IANA time zone", "Europe/Berlin"),
    (", zone: UTC", ", format: '%d.%m.%Y'", "m.yaml:4:28: error[E112]: the format has no zone", "zone: UTC"),
    ("zone: UTC", "format: '%Q', zone: UTC", "m.yaml:4:28: error[E114]: `%Q` is not a time format", "epoch_ms"),
    ("zone: UTC", "start: 2020-01-01T00:00Z", "m.yaml:4:7: error[E112]: `start` and `step` belong together", ""),
    ("mapping: shop", "mapping1: shop", "m.yaml:1:1: error[E111]: unknown key `mapping1`", "did you mean `mapping`?"),
    ("fields:", "amount: {column: a, unit: cents, currency: EUR}\nfields:", "m.yaml:5:27: error[E116]", ""),
    ("fields:", "amount: {column: a, unit: major, currency: EURO}\nfields:", "m.yaml:5:44: error[E116]", "`EUR`"),
    ("fields:", "outcomes: [{kind: confirmed_fraud}]\nfields:", "m.yaml:5:12: error[E112]: say when it was known", ""),
    ("fields:", "skip: [{when: {}, reason: x}]\nfields:", "m.yaml:5:15: error[E112]: `when` tests nothing", ""),
    ("fields:", "source: {format: xls}\nfields:", "m.yaml:5:18: error[E116]: `xls` is not one of csv", ""),
    ("fields:", "source: {delimiter: ab}\nfields:", "m.yaml:5:21: error[E114]: `delimiter` must be one character", ""),
    ("fields:", "source: {encoding: klingon}\nfields:", "m.yaml:5:20: error[E114]: `klingon` is not a text", ""),
]


@pytest.mark.parametrize(("old", "new", "place", "hint"), MISTAKES, ids=[m[1][:40] for m in MISTAKES])
def test_mistake_is_shown_at_its_place(old: str, new: str, place: str, hint: str) -> None:
    """Each mistake names file, line and column, and a way out."""
    with pytest.raises(MappingError) as error:
        parse_mapping(GOOD.replace(old, new, 1).encode(), "m.yaml")
    assert place in str(error.value)
    assert hint in str(error.value)


def test_all_mistakes_are_shown_at_once() -> None:
    """A mapping with three mistakes reports three."""
    bad = GOOD.replace("payment", "paid").replace("user.id", "user.name").replace("UTC", "Mars")
    with pytest.raises(MappingError) as error:
        parse_mapping(bad.encode(), "m.yaml")
    assert str(error.value).count("error[") == 3


def test_missing_column_is_shown_where_the_mapping_names_it() -> None:
    """A column that the file lacks is a mistake at its place in the mapping, with the nearest name of the file."""
    mapping = parse_mapping(GOOD.encode(), "m.yaml")
    with pytest.raises(MappingError, match=r"m\.yaml:6:14: error\[E301\]: column `user` is not in the file") as error:
        bind(mapping, {"order": "text", "at": "text", "users": "text"})
    assert "did you mean `users`?" in str(error.value)


def test_time_column_without_zone_needs_a_declared_one() -> None:
    """A typed time column without a zone is refused before any row unless the mapping says the zone."""
    mapping = parse_mapping(GOOD.replace(", zone: UTC", "").encode(), "m.yaml")
    schema = {"order": "text", "at": "timestamp", "user": "text"}
    with pytest.raises(MappingError, match=r"m\.yaml:4:7: error\[E112\]: column `at` has no zone"):
        bind(mapping, schema)
    bind(mapping, {**schema, "at": "instant"})


def test_absent_mapping_is_named() -> None:
    """A mapping that isn't there gives its path and the system's reason."""
    with pytest.raises(MappingError, match=r"can't read the mapping nowhere\.yaml: No such file"):
        load_mapping(Path("nowhere.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "mappings").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_mappings_are_valid(path: Path) -> None:
    """Every mapping that ships loads, and is called like its file."""
    assert load_mapping(path).name == path.stem
