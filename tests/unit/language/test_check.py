"""Checked mode: what is right, what is a mistake, and what the checker leaves in the tree."""

from __future__ import annotations

import pytest

from engine.language import Diagnostics, ExpressionError, Reader, Schema, check, check_text, parse_type, parse_yaml
from engine.language.expression import Binary, Literal
from engine.language.types import DOUBLE, DYN, INT, fits, join, list_of

SCHEMA = Schema.of(
    {
        "txn.amount": "double", "user.count": "int", "user.visits": "uint", "user.vip": "bool", "card.bin": "string",
        "event.time": "timestamp", "user": "map(string, int)", "user.mean.amount": "double",
        "basket.items": "list(string)", "attributes": "map(string, string)", "extra": "dyn",
    },
    lists={"bins": "string", "ages": "double"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("txn.amount > 500", "bool"),
        ("500 <= txn.amount", "bool"),
        ("txn.amount in [1, 2, 3.5]", "bool"),
        ("txn.amount * 2 + 1", "double"),
        ("coalesce(txn.amount, 0) > 3", "bool"),
        ("(user.vip ? txn.amount : 0) >= 1", "bool"),
        ("math.greatest(txn.amount, 5)", "double"),
        ("haversine_km(52, 13, txn.amount, 0)", "double"),
        ('in_list("ages", 3)', "bool"),
        ("user.count + 1 > 3 && user.visits > 2u", "bool"),
        ('card.bin in attributes || attributes.x == "3" || attributes["y"] != ""', "bool"),
        ('basket.items.exists(i, i.startsWith("a"))', "bool"),
        ("basket.items.map(i, size(i))", "list(int)"),
        ("basket.items.filter(i, i > 'a')", "list(string)"),
        ('event.time - timestamp("2026-01-01T00:00:00Z") > duration("1h")', "bool"),
        ('event.time.getHours("Europe/Berlin")', "int"),
        ("user.mean.amount", "double"),
        ("user.other", "int"),
        ("extra.anything[3] == 1 && extra", "bool"),
        ("has(user.count) && has(extra.x) && has(attributes.k)", "bool"),
        ("{'a': 1}['a']", "int"),
        ("user.vip == (user.count > 3)", "bool"),
        ("'x'.matches(card.bin)", "bool"),
        ("extra == null || [1, 'a'] == extra", "bool"),
    ],
)
def test_right(text: str, kind: str) -> None:
    """An expression that is right has a type."""
    assert str(check_text(text, SCHEMA, want=None).type) == kind


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("txn.amnt > 1 && crd.bin == 'a'", ["E301", "E301"]),
        ("user.count > 2.5", ["E306"]),
        ("2.5 * user.count > 1.0", ["E306"]),
        ("user.count > txn.amount", ["E305"]),
        ("user.visits > 2", ["E305"]),
        ("card.bin > 5", ["E305"]),
        ("user.vip == null", ["E305"]),
        ("user.vip ? 1 : 'a'", ["E305"]),
        ("card.bin in ['a', 5]", ["E305"]),
        ("card.bin in [1, 2]", ["E305"]),
        ("card.bin in user.count", ["E304"]),
        ("txn.amount + card.bin > 1", ["E304"]),
        ("txn.amount % 2 > 1", ["E304"]),
        ("basket.items < basket.items", ["E304"]),
        ("-card.bin == 'a'", ["E304"]),
        ("!user.count", ["E304"]),
        ("basket.items['a'] == 'b'", ["E304"]),
        ("{1.5: 2} == extra", ["E304"]),
        ("basket.items.all(i, i)", ["E304"]),
        ("user.count.all(i, true)", ["E304"]),
        ("user.count[0] == 1", ["E309"]),
        ("card.bin.x == 1", ["E309"]),
        ("f(1) == 1", ["E302"]),
        ("size(card.bin, 1) == 1", ["E303"]),
        ("in_list(card.bin, 'a')", ["E303"]),
        ("in_list('bins', 5)", ["E303"]),
        ("in_list('bin', 'a')", ["E308"]),
        ("coalesce(user.count, 'a') == 1", ["E303"]),
        ("coalesce() == 1", ["E303"]),
        ("user.count", ["E307"]),
        ("Foo{a: 1} == 1", ["E310"]),
        ("type(card.bin) == int", ["E310", "E310"]),
        ("card.bin.matches('(')", ["E311"]),
        ("event.time > timestamp('2026-01-01')", ["E311"]),
        ("event.time.getHours('Mars') > 1", ["E311"]),
        ("ip_in(card.bin, ['10.0.0.0/8', '10.0.0.0/64'])", ["E311"]),
        ("(user.vip ? user.count : 1) > 2.5", ["E306"]),
    ],
)
def test_mistakes(text: str, codes: list[str]) -> None:
    """Each mistake has its code, and all of one expression come together."""
    root = parse_yaml(f"when: >-\n  {text}\n", "f.yaml", diagnostics := Diagnostics())
    scalar = Reader(diagnostics).fields(root, {"when"}).scalar("when")
    assert scalar is not None
    assert check(scalar, SCHEMA, diagnostics) is None
    assert [item.code for item in diagnostics.items] == codes


def test_literal_takes_the_type_beside_it() -> None:
    """The whole number beside a double is a double in the tree; elsewhere it stays an int."""
    tree = check_text("txn.amount > 500", SCHEMA).tree
    assert isinstance(tree, Binary)
    assert isinstance(tree.right, Literal)
    assert (tree.right.value, type(tree.right.value)) == (500.0, float)
    tree = check_text("user.count > 500", SCHEMA).tree
    assert isinstance(tree, Binary)
    assert tree.right.type == INT


def test_what_a_condition_reads_and_its_parts() -> None:
    """Names and lists that are read, also by has(), and the conditions joined at the top."""
    checked = check_text('has(user.count) && in_list("bins", card.bin)  &&  (user.vip || txn.amount > 1)', SCHEMA)
    assert checked.names == {"user.count", "card.bin", "user.vip", "txn.amount"}
    assert checked.lists == {"bins"}
    texts = [checked.conjunct_text(i) for i in range(3)]
    assert texts == ["has(user.count)", 'in_list("bins", card.bin)', "user.vip || txn.amount > 1"]


def test_place_inside_a_folded_block() -> None:
    """A mistake in the third line of a folded block has the line and column of that line."""
    text = "when: >\n  user.vip &&\n  user.count > 1 &&\n    txn.amnt > 5\n"
    scalar = (
        Reader(diagnostics := Diagnostics()).fields(parse_yaml(text, "f.yaml", diagnostics), {"when"}).scalar("when")
    )
    assert scalar is not None
    check(scalar, SCHEMA, diagnostics)
    assert diagnostics.render().startswith("f.yaml:4:5: error[E301]: unknown name `txn.amnt`\n        txn.amnt > 5\n")


def test_text_form_raises_with_everything() -> None:
    """`check_text` raises once, with all mistakes in its text."""
    with pytest.raises(ExpressionError, match=r"(?s)E301.*E305"):
        check_text("nme > 1 && card.bin == 5", SCHEMA)


@pytest.mark.parametrize("text", ["", "lst", "list(int", "list(int, int)", "map(int)", "int)", "list(foo)", "int int"])
def test_wrong_types_are_named(text: str) -> None:
    """A type that can't be read is a ValueError that shows it."""
    with pytest.raises(ValueError, match="type"):
        parse_type(text)


def test_types_fit_and_join() -> None:
    """dyn fits everything at any depth; what has nothing in common joins to dyn."""
    assert parse_type("list(map)") == parse_type("list(map(string, dyn))")
    assert fits(list_of(DYN), list_of(INT))
    assert not fits(list_of(DOUBLE), list_of(INT))
    assert join(list_of(DOUBLE), list_of(INT)) == list_of(DYN)
