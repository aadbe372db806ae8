"""One simulated shop, cut at a time: a past in files, and a present as calls that are ready to send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from engine.intake import flatten
from engine.schema import ENTITIES, OUTCOMES
from engine.service import convert
from engine.simulator import Simulation, SimulatorConfig

START = datetime(2025, 9, 1, tzinfo=UTC)
_TELL_EVERY = 2_000
_ADDRESS = ("address.street", "address.postcode")
"""What tells addresses apart before they are normalised."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a demonstration is."""

    history_days: int
    stream_days: int
    shoppers: int
    payments_per_day: float
    browsing: float
    """Multiplies the pages looked at; few, because payments are what is shown."""

    def config(self) -> SimulatorConfig:
        """One shop over both parts; the held-out scheme begins with the stream."""
        return SimulatorConfig(
            start=START, days=self.history_days + self.stream_days, shoppers=self.shoppers,
            payments_per_day=self.payments_per_day, browsing=self.browsing, held_out_from_day=self.history_days,
        )  # fmt: skip

    @property
    def cut(self) -> str:
        """Where the stream begins, written like the times of documents, so that texts compare as times do."""
        return (START + timedelta(days=self.history_days)).isoformat(timespec="milliseconds")[:-6] + "Z"


FULL = Size(history_days=45, stream_days=14, shoppers=4_000, payments_per_day=400, browsing=0.1)
QUICK = Size(history_days=10, stream_days=4, shoppers=400, payments_per_day=60, browsing=0.1)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the stream."""

    method: str
    """Decide, Record or RecordOutcome."""
    id: str
    payment_id: str
    """The payment that it is about; "" for none."""
    body: bytes
    about: frozenset[str]
    """Person, device, card, network, mail, address and payment: calls that share one are sent one after the other."""


@dataclass(slots=True)
class Shop:
    """What the simulation gave."""

    folder: Path
    calls: list[Call] = field(default_factory=list)
    """The stream, in the order in which it happened."""
    payments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Event id → flat document of each payment of the stream."""
    truth: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Event id → the truth about it, for payments of history and stream; no call and no file of the shop holds it."""
    past_events: int = 0
    past_outcomes: int = 0
    past_payments: int = 0
    _known: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)
    """Event id of a payment → its payment id and what it is about, for outcomes that come later."""

    @property
    def events_file(self) -> Path:
        """The past's events, one document a line."""
        return self.folder / "events.jsonl"

    @property
    def outcomes_file(self) -> Path:
        """What the shop had learnt of them by the cut."""
        return self.folder / "outcomes.jsonl"


def open_shop(size: Size, seed: int, folder: Path, tell: Callable[[float, int], None]) -> Shop:
    """Simulate; `tell` hears the share of the period that has passed, 0..1, and the documents so far."""
    folder.mkdir(parents=True, exist_ok=True)
    shop = Shop(folder)
    simulation = Simulation(size.config(), seed, lambda label: shop.truth.__setitem__(label["event_id"], label))
    documents = iter(simulation.events())
    with shop.events_file.open("wb") as events, shop.outcomes_file.open("wb") as outcomes:
        for number, document in enumerate(documents):
            if number % _TELL_EVERY == 0:
                tell(simulation.progress, number)
            is_outcome = document["kind"] in OUTCOMES
            if document["known_at" if is_outcome else "time"] < size.cut:
                (outcomes if is_outcome else events).write(orjson.dumps(document) + b"\n")
                _count_past(shop, document, is_outcome)
            else:
                _add_call(shop, document, is_outcome)
    return shop


def _count_past(shop: Shop, document: Mapping[str, Any], is_outcome: bool) -> None:
    shop.past_outcomes += is_outcome
    shop.past_events += not is_outcome
    if document["kind"] == "payment":
        shop.past_payments += 1
        flat = flatten(document)
        shop._known[document["id"]] = flat["payment.id"], _about(flat)


def _add_call(shop: Shop, document: Mapping[str, Any], is_outcome: bool) -> None:
    if is_outcome:
        payment_id, about = shop._known[document["event_id"]]
        # The server's clock says when it became known; a request can't.
        told = {name: value for name, value in document.items() if name != "known_at"}
        request = convert.outcome_request(told).SerializeToString()
        shop.calls.append(Call("RecordOutcome", document["id"], payment_id, request, about))
        return
    flat = flatten(document)
    about, payment_id = _about(flat), flat.get("payment.id", "")
    if document["kind"] != "payment":
        request = convert.record_request(flat).SerializeToString()
        shop.calls.append(Call("Record", document["id"], payment_id, request, about))
        return
    flat["event.stage"] = "checkout"
    shop.payments[document["id"]] = flat
    shop._known[document["id"]] = payment_id, about
    request = convert.decide_request(flat).SerializeToString()
    shop.calls.append(Call("Decide", document["id"], payment_id, request, about))


def _about(flat: Mapping[str, Any]) -> frozenset[str]:
    """Everything that ties two events together, except seller and item, which tie almost all."""
    names = [name for entity, name in ENTITIES.items() if entity not in ("address", "merchant", "item")]
    found = {f"{name}={flat[name]}" for name in (*names, "payment.id") if name in flat}
    if all(name in flat for name in _ADDRESS):
        found.add("address=" + "|".join(flat[name] for name in _ADDRESS))
    return frozenset(found)
