"""Event and outcome documents as they are: JSON lines in the engine's own form, which need no mapping.

    load(path, EVENTS, sink, …)        # or OUTCOMES

Everything else is as for mapped files: each line is checked like a live event, put into time order, and resumable.
"""

from __future__ import annotations

from collections.abc import Mapping as Lookups
from dataclasses import replace

from engine.batch.bind import Bound, bind
from engine.batch.declared import Constant, FileFormat, Mapping, Moment
from engine.batch.read import DOCUMENT
from engine.language.diagnostics import Position

_PLACE = Position("documents", 1, 1)
_COLUMNS = ("time", "document")

EVENTS = Mapping(
    name="events", file="documents", digest=b"event documents", produces="events", format=FileFormat(DOCUMENT),
    id=Constant(""), kind=Constant(""), time=Moment("time", "iso", "", 0, 0, _PLACE), fields={}, attributes={},
    amount=None, skips=(), outcomes=(), group=None, missing=frozenset(),
    uses=dict.fromkeys(_COLUMNS, (_PLACE, 1)), text="",
)  # fmt: skip
"""Each line is an event document."""
OUTCOMES = replace(EVENTS, name="outcomes", digest=b"outcome documents", produces="outcomes")
"""Each line is an outcome document, which names its event and may say when it was known."""


def bound_to(mapping: Mapping, schema: Lookups[str, str] | None) -> Bound:
    """The functions of a mapping over one file's rows."""
    return _WHOLE if mapping.format.format == DOCUMENT else bind(mapping, schema)


_WHOLE = Bound(_COLUMNS, lambda row: row[3])
