"""Typed lists: `lists/lists.yaml` says of what and for what each is, `lists/NAME.csv` holds its entries.

Rules ask with `in_list("name", value)`. Values are checked and brought into one form when they are read, and a value
that is asked for is brought into the same form. An entry past its end is not in its list.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from engine.intake import SHORTEST_CARD, holds_card_number
from engine.language import (
    Diagnostics,
    Fields,
    Located,
    Position,
    Reader,
    Scalar,
    load_yaml,
    parse_timestamp_us,
)
from engine.language.expression import Name
from engine.language.expression import Node as Tree
from engine.language.resolve import InList, children
from engine.policy.rules import OutcomeList
from engine.policy.sheets import Row, Sheet, read_sheet
from engine.schema import OUTCOMES

MAX_ENTRIES = 1_000_000
DAY_US = 86_400_000_000
MOST_ALLOWED_US = 180 * DAY_US
KINDS = ("block", "allow", "watch")
_NEEDED = ("value", "reason", "author", "added")
_COLUMNS = (*_NEEDED, "until")
_ALLOW_COLUMNS = ("rulesets", "max_amount")
_ID = re.compile(r"[!-~\u00a1-\ud7ff\ue000-\U0010ffff]{1,128}")
_BIN = re.compile(r"[0-9]{6}([0-9]{2})?")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_DOMAIN = re.compile(r"(?:[^\s.@/]{1,63}\.)+[^\s.@/]{2,63}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ADDRESS_KEY = re.compile(r"[a-z0-9]+\|[a-z0-9]+\|[a-z0-9]+")
Normalise = Callable[[str], str]
"""A value in the form in which it is compared; ValueError says what is wrong with it."""
Types = Mapping[str, Normalise]


@dataclass(slots=True)
class Moment:
    """As of when the lists of one program are asked: each time of the decision that is being made."""

    now_us: int = 0

    def __call__(self) -> int:
        """That time, µs."""
        return self.now_us


@dataclass(frozen=True, slots=True)
class Allowance:
    """One allow entry: who is trusted, by whom, how far and until when."""

    id: str
    """`LIST:LINE`."""
    author: str
    until_us: int
    rulesets: frozenset[str]
    max_base: float
    """The largest amount in base currency for which it counts."""
    place: Position


@dataclass(frozen=True, slots=True)
class ValueList:
    """One list of texts: `value in list` is a look-up in a dict."""

    name: str
    type: str
    kind: str
    entries: dict[str, int]
    """Value → end of the entry in µs, 0 = no end."""
    clock: Callable[[], int]
    """As of when the list is asked, µs."""
    normalise: Normalise | None = None
    """For a type whose values in events may be written in several ways."""
    allowances: Mapping[str, Allowance] = field(default_factory=dict)
    when: Scalar | None = None
    """Condition under which entries of an allow list hold."""
    follows: OutcomeList | None = None
    """Outcomes that put entities on it for a while, beside its file."""

    def __contains__(self, value: object) -> bool:
        end = self.entries.get(self.form(value))
        return end is not None and (end == 0 or self.clock() < end)

    def form(self, value: object) -> str:
        """The form in which a value is compared; empty, which no entry is, for what is no value of the type."""
        if self.normalise is not None:
            return form_of(self.normalise, value)
        return value if isinstance(value, str) else ""


def form_of(normalise: Normalise, value: object) -> str:
    """The form in which a value of an event is compared; empty if it is none of the type."""
    try:
        return normalise(value) if isinstance(value, str) else ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A list of addresses and networks: one look-up for each length of prefix that occurs."""

    name: str
    kind: str
    prefixes: tuple[tuple[int, int, dict[int, int]], ...]
    """Bits of the address family, length of the prefix, its leading bits → end of the entry in µs."""
    clock: Callable[[], int]
    type: str = "ip"

    def __contains__(self, value: object) -> bool:
        try:
            family, given, number = _network(value) if isinstance(value, str) else (0, 0, 0)
        except ValueError:
            return False
        for bits, length, networks in self.prefixes:
            end = networks.get(number >> bits - length) if bits == family and length <= given else None
            if end is not None and (end == 0 or self.clock() < end):
                return True
        return False


AnyList = ValueList | NetworkList


def list_types(normalise_email: Normalise) -> Types:
    """Type → how its values are checked and brought into one form."""
    return {**_TYPES, "email": partial(_email, normalise_email)}


def load_lists(folder: Path, diagnostics: Diagnostics, clock: Callable[[], int], types: Types) -> dict[str, AnyList]:
    """Every declared list by its name; mistakes of all of them are in `diagnostics`."""
    files = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    if not files and not (folder / "lists.yaml").exists():
        return {}
    reader = Reader(diagnostics)
    top = reader.fields(load_yaml(folder / "lists.yaml", diagnostics, "lists/lists.yaml"), {"lists"})
    lists: dict[str, AnyList] = {}
    for name, node in top.entries("lists"):
        declared = reader.fields(node, {"type", "kind"}, {"note", "when", "follows"})
        kind, of = declared.choice("kind", KINDS), declared.choice("type", types)
        if "when" in declared and kind != "allow":
            declared.mistake("E511", "only a list that allows has a condition", "when")
        if kind == "allow" and of not in FIELD_OF:
            hint = f"an allow entry is one entity: {', '.join(FIELD_OF)}"
            declared.mistake("E511", f"a list of the type {of} can't allow", "type", hint)
        lists[name.value] = ValueList(name.value, of, kind, {}, clock)  # so that rules may name it after a mistake
        if name.value not in files:
            hint = diagnostics.did_you_mean(name.value, files)
            where = f"there is no lists/{name.value}.csv"
            diagnostics.error("E511", where, name.position(), name.length, hint=hint)
        elif kind and of:
            sheet = _sheet(files[name.value], kind, diagnostics)
            if sheet is not None:
                lists[name.value] = _Entries(sheet, name.value, kind, diagnostics).read(
                    of, types[of], clock, declared.scalar("when")
                )
        if "follows" in declared:
            lists[name.value] = _following(lists[name.value], declared)
    _undeclared(files, top, diagnostics)
    return lists


def _following(one: AnyList, declared: Fields) -> AnyList:
    """A list that outcomes put entities of their event on."""
    fields = declared.fields("follows", {"on", "for"}, {"undo"})
    on, undo = fields.choices("on", OUTCOMES), fields.choices("undo", OUTCOMES)
    place = declared.position("follows")
    found = OutcomeList(one.name, one.type, on, undo, fields.duration_us("for"), place)
    if isinstance(one, NetworkList) or one.type not in FIELD_OF or one.kind == "allow":
        hint = f"a list of entities that blocks or watches can: {', '.join(FIELD_OF)}"
        declared.mistake(
            "E511", f"the {one.kind} list `{one.name}` of the type {one.type} can't follow", "follows", hint
        )
        return one
    return replace(one, follows=found)


def _sheet(path: Path, kind: str, diagnostics: Diagnostics) -> Sheet | None:
    columns = _COLUMNS + _ALLOW_COLUMNS if kind == "allow" else _COLUMNS
    return read_sheet(path, f"lists/{path.name}", columns, diagnostics)


def _undeclared(files: Mapping[str, Path], top: Fields, diagnostics: Diagnostics) -> None:
    declared = {name.value for name, _ in top.entries("lists")}
    for name in files.keys() - declared if top.node is not None else ():
        where = Position(f"lists/{name}.csv", 1, 1)
        hint = f"add `{name}: {{type: …, kind: …}}` there, or remove the file"
        diagnostics.error("E511", f"the list `{name}` is not declared in lists/lists.yaml", where, hint=hint)


@dataclass(slots=True)
class _Entries:
    """Reads the rows of one list."""

    sheet: Sheet
    name: str
    kind: str
    diagnostics: Diagnostics

    def read(self, of: str, normalise: Normalise, clock: Callable[[], int], when: Scalar | None) -> AnyList:
        """The list of all rows that are right."""
        at = self.sheet.at
        value_at, reason_at, author_at, added_at = (at[name] for name in _NEEDED)
        until_at, lives = at["until"], dict[tuple[str, str], int]()  # most entries of a long list share a few
        ends: dict[str, int] = {}
        lines: dict[str, int] = {}
        allowances: dict[str, Allowance] = {}
        for row in self.sheet.rows():
            line, cells = row
            if not (cells[value_at] and cells[reason_at] and cells[author_at] and cells[added_at]):
                self.lacks(row)
                continue
            try:
                value = normalise(cells[value_at])
            except ValueError as problem:
                self.mistake(row, "value", "E512", f"the value {problem}")
                continue
            if value in ends:
                self.mistake(row, "value", "E514", f"the value is in the list before, in line {lines[value]}")
            life = (cells[added_at], cells[until_at])
            end = lives.get(life, -1)
            if end < 0:
                end = lives[life] = self.end(row)
            ends[value], lines[value] = end, line
            if len(ends) > MAX_ENTRIES:
                self.mistake(row, "value", "E511", f"more than {MAX_ENTRIES:,} entries; split the list")
                break
            if self.kind == "allow":
                allowances[value] = self.allowance(row, ends[value])
        if of == "ip":
            return NetworkList(self.name, self.kind, _by_prefix(ends), clock)
        same = normalise if of == "email" else None
        return ValueList(self.name, of, self.kind, ends, clock, same, allowances, when)

    def lacks(self, row: Row) -> None:
        """Say what an entry lacks."""
        for name in _NEEDED:
            if not row[1][self.sheet.at[name]]:
                self.mistake(row, name, "E513", f"an entry needs {'an' if name[0] == 'a' else 'a'} {name}")

    def end(self, row: Row) -> int:
        """When the entry ends; 0 = never, -1 after a mistake."""
        added, until = self.time(row, "added"), self.time(row, "until")
        if 0 < until <= added:
            self.mistake(row, "until", "E513", "the entry ends before it was added")
        return -1 if added < 0 or 0 < until <= added else until

    def time(self, row: Row, name: str) -> int:
        """A date (its first moment in UTC), or a date and time with a zone; 0 for an empty cell, -1 for a mistake."""
        text = row[1][self.sheet.at[name]]
        found = _time_us(text)
        if found is None:
            self.mistake(row, name, "E513", f"{name} is not a time such as 2026-11-27 or 2026-11-27T09:30Z")
        return -1 if found is None else found

    def allowance(self, row: Row, until: int) -> Allowance:
        """What an allow entry says beside its value."""
        (line, cells), at = row, self.sheet.at
        added = _time_us(cells[at["added"]]) or 0
        if until >= 0 and not 0 < until - added <= MOST_ALLOWED_US:
            self.mistake(row, "until", "E513", "an allow entry ends, at most 180 days after it was added")
        rulesets = frozenset(re.split(r"[,;\s]+", cells[at["rulesets"]])) - {""}
        if not rulesets:
            self.mistake(row, "rulesets", "E513", "an allow entry names the rule sets that it holds against")
        amount = cells[at["max_amount"]]
        known = re.fullmatch(r"\d{1,12}(\.\d{1,6})?", amount)
        if not known:
            self.mistake(row, "max_amount", "E513", "an allow entry has a largest amount, in base currency")
        place, most = self.sheet.position(line, at["rulesets"]), float(amount) if known else 0.0
        return Allowance(f"{self.name}:{line}", cells[at["author"]], until, rulesets, most, place)

    def mistake(self, row: Row, column: str, code: str, message: str) -> None:
        """One mistake in one cell; the cell itself is not quoted, since it may hold what must not be shown."""
        if self.diagnostics.full:
            self.diagnostics.more += 1
            return
        index = self.sheet.at[column]
        place = self.sheet.position(row[0], index)
        self.diagnostics.error(code, message, place, len(row[1][index]))


def _time_us(text: str) -> int | None:
    if not text:
        return 0
    if _DAY.fullmatch(text):
        try:
            return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
        except ValueError:
            return None
    return parse_timestamp_us(text)


# --- types


def _shaped(shape: re.Pattern[str], otherwise: str, value: str) -> str:
    if not shape.fullmatch(value):
        raise ValueError(otherwise)
    return value


_identifier = partial(_shaped, _ID, "is not an id: 1 to 128 printable characters without blanks")
_bin = partial(_shaped, _BIN, "is not a BIN: the first six or eight digits")


def _card(value: str) -> str:
    if len(value) >= SHORTEST_CARD and holds_card_number(value):
        raise ValueError("looks like a card number; a list holds tokens or fingerprints")
    return _identifier(value)


def _email(normalise: Normalise, value: str) -> str:
    return normalise(_shaped(_EMAIL, "is not a mail address", value))


def _domain(value: str) -> str:
    text = value.lower().removeprefix("@").removesuffix(".")
    return _shaped(_DOMAIN, "is not a domain such as example.org", text)


def _address(value: str) -> str:
    """As `address.key`: street, postcode and country without blanks, marks and case."""
    if _ADDRESS_KEY.fullmatch(value):
        return value
    parts = [re.sub(r"[\W_]+", "", part.casefold()) for part in value.split("|")]
    if len(parts) != 3 or not all(parts[:2]):
        raise ValueError("is not an address: street|postcode|country")
    return "|".join(parts)


def _ip(value: str) -> str:
    family, length, number = _network(value)
    if number & (1 << family - length) - 1:
        raise ValueError(f"has bits beyond its prefix of {length}")
    return f"{family}/{length}/{number >> family - length}"


def _network(text: str) -> tuple[int, int, int]:
    """Bits of the family, length of the prefix and number of an address or network."""
    address, slash, prefix = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise ValueError("is neither an address nor a network such as 192.0.2.0/24") from None
    bits = len(packed) * 8
    length = int(prefix) if prefix.isascii() and prefix.isdigit() else bits
    if length > bits or (slash and not prefix.isdigit()):
        raise ValueError(f"has no prefix of 0 to {bits} bits")
    return bits, length, int.from_bytes(packed)


def _by_prefix(ends: Mapping[str, int]) -> tuple[tuple[int, int, dict[int, int]], ...]:
    """Networks by the family and length of their prefix, as `NetworkList` wants them."""
    found: dict[tuple[int, int], dict[int, int]] = {}
    for text, end in ends.items():
        family, length, number = map(int, text.split("/"))
        found.setdefault((family, length), {})[number] = end
    return tuple((family, length, networks) for (family, length), networks in sorted(found.items()))


_TYPES: Mapping[str, Normalise] = {
    "card": _card, "bin": _bin, "email": _identifier, "domain": _domain, "ip": _ip, "device": _identifier,
    "user": _identifier, "address": _address,
}  # fmt: skip
FIELD_OF: Mapping[str, str] = {
    "card": "card.token", "email": "email.address", "device": "device.id", "user": "user.id", "address": "address.key",
}  # fmt: skip
"""Type of one entity → the event field that names it; only such lists can allow."""
_ASKED = {of: {name} for of, name in FIELD_OF.items()} | {
    "bin": {"card.bin"}, "domain": {"email.domain"}, "ip": {"ip.address", "ip.network"},
}  # fmt: skip


def check_asked(tree: Tree, located: Located, lists: Mapping[str, AnyList], diagnostics: Diagnostics) -> None:
    """Report a field that a list is asked for although its values are of another type: it would never be in it."""
    if isinstance(tree, InList) and isinstance(tree.value, Name) and tree.list_name in lists:
        of, path = lists[tree.list_name].type, tree.value.path
        right = _ASKED.get(of, set())
        if path not in right and any(path in names for names in _ASKED.values()):
            place, hint = located.position(tree.value.start), f"ask for {' or '.join(sorted(right))}"
            message = f"`{path}` is never in the list `{tree.list_name}`, which holds the type {of}"
            diagnostics.error("E524", message, place, len(path), hint=hint)
    for node in children(tree):
        check_asked(node, located, lists, diagnostics)
