"""Safe YAML with exact places: every scalar can say where each character of its value stands in the file.

Only a small, unsurprising part of YAML is accepted: mappings, lists and scalars. Anchors, aliases, merges, tags, tab
indentation, duplicate keys and second documents are mistakes. Scalars stay the text that was written, so a country
`NO` is not a boolean and a code `012` is not ten; `engine.language.reader` turns them into typed values.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.language.diagnostics import Diagnostics, Position, Related
from engine.language.scalars import value_offsets

MAX_BYTES = 5_000_000
MAX_DEPTH = 60
_TAB_INDENT = re.compile(r"^[ ]*\t[ \t]*(?=[^\s])", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one file, without byte order mark; positions are computed from character indices."""

    file: str
    text: str
    _starts: list[int] = field(default_factory=list, repr=False, compare=False)

    def position(self, index: int) -> Position:
        """Line and column of a character index; lines end with LF, CR LF or CR."""
        if not self._starts:
            self._starts.append(0)
            self._starts.extend(m.end() for m in re.finditer(r"\r\n|\n|\r", self.text))
        line = bisect.bisect_right(self._starts, index) - 1
        return Position(self.file, line + 1, index - self._starts[line] + 1)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as written. `plain` tells unquoted text, in which `null`, `true` or `5` may mean more than text."""

    source: Source
    start: int
    end: int
    value: str
    style: str = ""

    @property
    def plain(self) -> bool:
        """Whether the value was written without quotes and not as a block."""
        return self.style == ""

    @property
    def length(self) -> int:
        """Characters from the first to the last on the first line, for a caret under the whole value."""
        first = self.source.text[self.start : self.end].splitlines() or [""]
        return max(1, len(first[0].rstrip()))

    def position(self, offset: int = -1) -> Position:
        """The exact place of character `offset` of the value; without offset, the start of the scalar itself."""
        if offset < 0:
            return self.source.position(self.start)
        raw = self.source.text[self.start : self.end]
        places = value_offsets(raw, self.value, self.style)
        return self.source.position(self.start + places[min(offset, len(places) - 1)])


@dataclass(frozen=True, slots=True)
class _Collection:
    source: Source
    start: int
    end: int

    @property
    def length(self) -> int:
        """Characters under a caret: the first."""
        return 1

    def position(self) -> Position:
        """Where it begins: its first key or item, or its bracket."""
        return self.source.position(self.start)


@dataclass(frozen=True, slots=True)
class Listing(_Collection):
    """A YAML list."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Table(_Collection):
    """A YAML mapping in written order; keys are scalars and unique."""

    entries: tuple[tuple[Scalar, Node], ...]


Node = Scalar | Listing | Table


def load_yaml(path: Path, diagnostics: Diagnostics, name: str | None = None) -> Node | None:
    """Read a file; None after a mistake, which is then in `diagnostics`. `name` is the file's name in messages."""
    file = name or str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        diagnostics.error("E101", f"can't read {file}: {error.strerror or error}", Position(file, 1, 1))
        return None
    return parse_yaml(data, file, diagnostics)


def parse_yaml(data: bytes | str, file: str, diagnostics: Diagnostics) -> Node | None:
    """Read YAML from memory; None after a mistake. Accepts a byte order mark and CR LF."""
    start = Position(file, 1, 1)
    if len(data) > MAX_BYTES:
        hint = "split it into several files; long lists belong in lists/ or in CSV tables"
        diagnostics.error("E102", f"{file} is larger than {MAX_BYTES:,} bytes", start, hint=hint)
        return None
    text = _decode(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"), file, diagnostics)
    if text is None:
        return None
    source = Source(file, text.removeprefix("\ufeff"))
    diagnostics.sources[file] = source.text
    if _tabs(source, diagnostics):
        return None
    try:
        return _Composer(source, diagnostics).document()
    except yaml.YAMLError as error:
        _syntax(error, source, diagnostics)
        return None


def _decode(data: bytes, file: str, diagnostics: Diagnostics) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode("utf-8", "replace")) + 1
        message, hint = f"byte 0x{data[error.start]:02x} is not valid UTF-8", "save the file as UTF-8"
        diagnostics.error("E103", message, Position(file, line, column), hint=hint)
        return None


def _tabs(source: Source, diagnostics: Diagnostics) -> bool:
    found = list(_TAB_INDENT.finditer(source.text))
    for match in found[:20]:
        index = match.start() + match.group().index("\t")
        hint = "indent with spaces"
        diagnostics.error("E105", "a tab is used for indentation", source.position(index), hint=hint)
    return bool(found)


def _syntax(error: yaml.YAMLError, source: Source, diagnostics: Diagnostics) -> None:
    """Translate an error of the YAML parser."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        index, said = error.problem_mark.index, error.problem or "syntax error"
        if error.context_mark is not None and error.context:
            place = Related(source.position(min(error.context_mark.index, len(source.text))), error.context)
            related: tuple[Related, ...] = (place,)
        else:
            related = ()
    else:
        index, said, related = int(getattr(error, "position", 0)), str(getattr(error, "reason", error)), ()
    code = "E110" if "nesting" in said else "E104"
    quote = "mapping values" in said or "cannot start any token" in said
    hint = "put quotes around a value that contains `: `, or begins with one of ``[ { & * ! % @ ` ``" if quote else ""
    diagnostics.error(code, f"YAML: {said}", source.position(min(index, len(source.text))), hint=hint, related=related)


def _at(mark: Any) -> int:
    """Character index of a parser mark, whose class differs between the C parser and the Python one."""
    return int(mark.index)


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been met; for a mapping, keys and values alternate in `items`."""

    start: int
    mapping: bool
    items: list[Node] = field(default_factory=list)


class _Composer:
    """Builds the node tree from parser events with a stack of its own, so that depth ends in a message."""

    def __init__(self, source: Source, diagnostics: Diagnostics) -> None:
        self.source, self.diagnostics = source, diagnostics
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.documents = 0
        self.refused = False

    def document(self) -> Node | None:
        """The root node; None if the file is empty or something was refused."""
        for event in yaml.parse(self.source.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if not self._take(event):
                return None
        if self.root is None and not self.refused:
            self._refuse("E109", "the file is empty", 0)
        return None if self.refused else self.root

    def _take(self, event: yaml.Event) -> bool:
        """Handle one event; False stops the reading."""
        if isinstance(event, yaml.ScalarEvent):
            self._check_node(event)
            style = event.style if event.style in ("'", '"', "|", ">") else ""
            self._add(Scalar(self.source, _at(event.start_mark), _at(event.end_mark), event.value, style))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check_node(event)
            self.stack.append(_Open(_at(event.start_mark), isinstance(event, yaml.MappingStartEvent)))
            if len(self.stack) > MAX_DEPTH:
                self._refuse("E110", f"nested deeper than {MAX_DEPTH} levels", _at(event.start_mark))
                return False
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(_at(event.end_mark))
        elif isinstance(event, yaml.AliasEvent):
            self._refuse("E106", f"alias `*{event.anchor}`: aliases are not allowed", _at(event.start_mark))
            return False
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse("E109", "a file holds one document; remove `---`", _at(event.start_mark))
                return False
        return True

    def _check_node(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            self._refuse("E106", f"anchor `&{event.anchor}`: anchors are not allowed", _at(event.start_mark))
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse("E107", f"tag `{tag}`: tags are not allowed", _at(event.start_mark))

    def _add(self, node: Node) -> None:
        if self.stack:
            self.stack[-1].items.append(node)
        else:
            self.root = node

    def _close(self, end: int) -> None:
        done = self.stack.pop()
        if not done.mapping:
            self._add(Listing(self.source, done.start, end, tuple(done.items)))
            return
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(done.items[::2], done.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._refuse("E113", "a key must be a single value", key.start)
            elif key.value == "<<" and key.plain:
                self._refuse("E106", "merge `<<`: merges are not allowed", key.start)
            elif key.value in entries:
                first = Related(entries[key.value][0].position(), "first given here")
                self._refuse("E108", f"key `{key.value}` is given twice", key.start, key.length, first)
            else:
                entries[key.value] = (key, value)
        self._add(Table(self.source, done.start, end, tuple(entries.values())))

    def _refuse(self, code: str, message: str, index: int, length: int = 1, *related: Related) -> None:
        self.refused = True
        hint = "write the values out where they are used" if code == "E106" else ""
        place = self.source.position(min(index, len(self.source.text)))
        self.diagnostics.error(code, message, place, length, hint=hint, related=related)
