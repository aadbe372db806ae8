"""Strategies for expressions that are right by their types, and for rows to evaluate them on."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from engine.language import Schema, UInt

SCHEMA = Schema.of(
    {
        "user.age": "int", "user.count": "int", "user.visits": "uint", "txn.amount": "double", "txn.mean": "double",
        "user.vip": "bool", "ip.proxy": "bool", "card.bin": "string", "card.country": "string",
        "event.at": "timestamp", "user.since": "timestamp", "user.segments": "list(string)",
        "basket.quantities": "list(int)", "attributes": "map(string, string)", "extra": "dyn",
    },
    lists={"bins": "string", "ages": "int"},
)  # fmt: skip
LISTS: dict[str, Any] = {"bins": frozenset({"a", "b", "4242"}), "ages": frozenset({1, 2, 18})}
INTS = (0, 1, 2, 3, 5, 18, -1, 2**62, -(2**63), 2**63 - 1)
DOUBLES = (0.0, -0.0, 1.0, 2.5, -3.5, 1e300, math.inf, -math.inf, math.nan)
TEXTS = ("", "a", "b", "4242", "424242", "Ä b", "x@example.org", "10.0.0.1")
TIMES_US = (0, 1_700_000_000_000_000, 1_700_000_000_000_001, -5)

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.sampled_from(INTS) | st.integers(-5, 20),
    "uint": st.integers(0, 5).map(UInt),
    "double": st.sampled_from(DOUBLES) | st.integers(-3, 5) | st.floats(-10, 10),
    "bool": st.booleans(),
    "string": st.sampled_from(TEXTS),
    "timestamp": st.sampled_from(TIMES_US),
    "list(string)": st.lists(st.sampled_from(TEXTS), max_size=3),
    "list(int)": st.lists(st.sampled_from(INTS[:6]), max_size=3),
    "map(string, string)": st.dictionaries(st.sampled_from(("k", "l")), st.sampled_from(TEXTS), max_size=2),
    "dyn": st.sampled_from([1, 2.5, "a", True, ["a"], {"k": 1}]),
}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row in which each input may be there, None, or absent."""
    row: dict[str, Any] = {}
    for name, kind in SCHEMA.names.items():
        state = draw(st.sampled_from(("there", "there", "there", "there", "none", "absent")))
        if state == "there":
            row[name] = draw(_VALUES[str(kind)])
        elif state == "none":
            row[name] = None
    return row


def _quoted(text: str) -> str:
    return '"' + text + '"'


def _either(*forms: str) -> st.SearchStrategy[str]:
    return st.sampled_from(forms)


def ints(depth: int) -> st.SearchStrategy[str]:
    """Expressions of type int."""
    leaf = _either("user.age", "user.count", "user.age", "0", "1", "18", "-1", "9223372036854775807")
    if depth == 0:
        return leaf
    inner = ints(depth - 1)
    return st.one_of(
        leaf,
        st.builds("({} {} {})".format, inner, _either("+", "-", "*", "/", "%"), inner),
        st.builds("(-{})".format, inner),
        st.builds("({} ? {} : {})".format, bools(depth - 1), inner, inner),
        st.builds("coalesce({}, {})".format, inner, inner),
        st.builds("size({})".format, texts(depth - 1)),
        st.builds("(user.age {} user.count)".format, _either("+", "-", "*")),
        _either("size(user.segments)", "basket.quantities[0]", "event.at.getHours()", "int(user.visits)"),
        st.builds("int({})".format, doubles(depth - 1)),
    )


def doubles(depth: int) -> st.SearchStrategy[str]:
    """Expressions of type double."""
    leaf = _either("txn.amount", "txn.mean", "txn.amount", "0.0", "2.5", "-3.5", "1e300")
    if depth == 0:
        return leaf
    inner = doubles(depth - 1)
    return st.one_of(
        leaf,
        st.builds("({} {} {})".format, inner, _either("+", "-", "*", "/"), inner),
        st.builds("({} * 2)".format, inner),
        st.builds("(-{})".format, inner),
        st.builds("double({})".format, ints(depth - 1)),
        st.builds("coalesce({}, 0)".format, inner),
        st.builds("({} ? {} : 1)".format, bools(depth - 1), inner),
        st.builds("math.abs({})".format, inner),
        _either("haversine_km(txn.amount, txn.mean, 52, 13.4)", "math.greatest(txn.amount, txn.mean, 1)"),
    )


def texts(depth: int) -> st.SearchStrategy[str]:
    """Expressions of type string."""
    leaf = _either("card.bin", "card.country", "card.bin", '""', '"a"', '"4242"')
    if depth == 0:
        return leaf
    inner = texts(depth - 1)
    return st.one_of(
        leaf,
        st.builds("({} + {})".format, inner, inner),
        st.builds("lower({})".format, inner),
        st.builds("domain_of({})".format, inner),
        st.builds("string({})".format, st.one_of(ints(depth - 1), doubles(depth - 1), bools(depth - 1))),
        st.builds("coalesce({}, {})".format, inner, inner),
        _either("attributes.k", 'attributes["l"]', "user.segments[0]"),
    )


def bools(depth: int) -> st.SearchStrategy[str]:
    """Expressions of type bool."""
    relation, equal = _either("<", "<=", ">", ">=", "==", "!="), _either("==", "!=")
    near = max(0, depth - 1)
    leaf = st.one_of(
        _either("user.vip", "ip.proxy", "true", "has(user.age)", "has(card.bin)", "has(attributes.k)", "!user.vip"),
        st.builds("{} {} {}".format, ints(near), relation, ints(near)),
        st.builds("{} {} {}".format, doubles(near), relation, doubles(near)),
        st.builds("{} {} {}".format, doubles(near), relation, _either("1", "0", "2.5")),
        st.builds("{} {} {}".format, texts(near), relation, texts(near)),
        st.builds('{} in ["a", "4242"]'.format, texts(near)),
        st.builds("{} in [1, 2, 18]".format, ints(near)),
        st.builds("{} in user.segments".format, texts(near)),
        st.builds('in_list("bins", {})'.format, texts(near)),
        st.builds('in_list("ages", {})'.format, ints(near)),
        st.builds("{}.startsWith({})".format, texts(near), texts(near)),
        st.builds('{}.matches("^4+")'.format, texts(near)),
        st.builds('ip_in({}, "10.0.0.0/8")'.format, texts(near)),
        _either(
            "event.at > user.since", 'event.at - user.since > duration("1h")', "user.visits > 2u", "extra == 1",
            'event.at >= timestamp("2023-11-14T22:13:20Z")', 'extra in ["a", 1]', "extra > 1", "1 / user.age > 0",
            "1 == 2", "1 != 2", "user.vip == ip.proxy", "card.bin == card.country",
        ),
    )  # fmt: skip
    if depth == 0:
        return leaf
    inner = bools(depth - 1)
    return st.one_of(
        leaf,
        leaf,
        st.builds("({} {} {})".format, inner, _either("&&", "||"), inner),
        st.builds("({} || {} || {})".format, inner, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds("(({}) {} ({}))".format, inner, equal, inner),
        st.builds("user.segments.{}(x, x == {} || {})".format, _either("all", "exists", "exists_one"), texts(0), inner),
        st.builds("basket.quantities.filter(q, q / {} > 0).size() > 1".format, ints(0)),
    )


def comparisons() -> st.SearchStrategy[str]:
    """What an index and columns know best: one name beside constants."""
    relation = _either("<", "<=", ">", ">=", "==", "!=")
    leaf = st.one_of(
        st.builds("{} {} {}".format, _either("user.age", "user.count"), relation, _either("-1", "0", "2", "3", "18")),
        st.builds("{} {} {}".format, _either("txn.amount", "txn.mean"), relation, _either("-3.5", "0", "1", "2.5")),
        st.builds("{} {} {}".format, _either("0", "1", "2.5"), relation, _either("txn.amount", "txn.mean")),
        st.builds("card.{} {} {}".format, _either("bin", "country"), _either("==", "!="), _either('""', '"a"', '"b"')),
        st.builds("card.{} in {}".format, _either("bin", "country"), _either('["a", "4242"]', '["b"]')),
        _either("user.vip", "!user.vip", "ip.proxy", "!ip.proxy", "user.visits == 2u", "user.visits >= 3u"),
        st.builds("user.age {} user.count {} {}".format, _either("+", "-", "*", "/", "%"), relation, _either("0", "2")),
        st.builds("txn.amount {} txn.mean {} 1".format, _either("+", "-", "*", "/"), relation),
    )
    return st.one_of(leaf, leaf, st.builds("({} {} {})".format, leaf, _either("||", "&&"), leaf))


def conditions() -> st.SearchStrategy[str]:
    """Rules: one to four conditions joined by `&&`."""
    return st.lists(st.one_of(bools(2), comparisons()), min_size=1, max_size=4).map(" && ".join)
