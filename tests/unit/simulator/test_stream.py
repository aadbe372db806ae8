"""The stream: repeatable, in order, valid, of the wanted size, in bounded memory, and without the truth."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any

import orjson
import pytest

from engine.errors import SettingsError
from engine.intake import flatten, read_event, read_outcome
from engine.schema import DERIVED, FIELDS
from engine.simulator import ABUSE_SCHEMES, FRAUD_SCHEMES, Simulation, SimulatorConfig
from engine.simulator.timeline import stamp

SMALL = SimulatorConfig(days=4, shoppers=800, payments_per_day=60, held_out_from_day=1)
NOW_US = 4_000_000_000_000_000


def lines(seed: int, config: SimulatorConfig = SMALL) -> bytes:
    """A whole run as JSON lines."""
    return b"\n".join(map(orjson.dumps, Simulation(config, seed).events()))


def test_same_seed_gives_the_same_bytes():
    """A seed fixes every byte; another seed gives another shop; each call of events() starts afresh."""
    assert lines(3) == lines(3)
    assert lines(3) != lines(4)
    again = Simulation(SMALL, 3)
    list(islice(again.events(), 100))
    assert b"\n".join(map(orjson.dumps, again.events())) == lines(3)


def test_listening_to_the_truth_changes_nothing():
    """The truth goes its own way: with and without a listener the documents are the same."""
    labels: list[dict[str, Any]] = []
    heard = b"\n".join(map(orjson.dumps, Simulation(SMALL, 3, labels.append).events()))
    assert labels
    assert heard == lines(3)


def test_documents_come_in_time_order(shop):
    """Events are ordered by event time and outcomes among them by known_at; ids are unique."""
    times = [d.get("known_at", d["time"]) for d in shop.documents]
    assert times == sorted(times)
    assert len({d["id"] for d in shop.documents}) == len(shop.documents)


def test_every_document_passes_intake(shop):
    """Each event and outcome is accepted by the same checks that a caller's meet."""
    events = [read_event(d, now_us=NOW_US) for d in shop.events]
    outcomes = [read_outcome(d, now_us=NOW_US) for d in shop.outcomes]
    assert len(events) > 10_000
    assert len(outcomes) > 300


def test_only_fields_that_a_caller_may_send(shop):
    """Fields are those of the schema, derived ones never."""
    names = {name for d in shop.events for name in flatten(d)} - {"id", "kind", "time"}
    assert {n for n in names if not n.startswith("attributes")} <= set(FIELDS) - DERIVED


def test_one_payment_has_one_life(shop):
    """Each payment is answered once, captured only if approved, and every outcome names a payment event."""
    approved = {
        d["payment"]["id"] for d in shop.events if d["kind"] == "payment_result" and d["result"]["status"] == "approved"
    }
    captured = {d["payment"]["id"] for d in shop.events if d["kind"] == "captured"}
    assert captured == approved
    answers = sum(d["kind"] == "payment_result" for d in shop.events)
    assert answers == len(shop.payments) == len(shop.truth)
    assert {o["event_id"] for o in shop.outcomes} <= set(shop.truth)


def test_an_account_opened_in_the_period_is_seen_opening(shop):
    """A user whose account is younger than the shop's first day has account_created before any payment."""
    opened: dict[str, str] = {}
    for event in shop.events:
        user = event.get("user")
        if event["kind"] == "account_created":
            opened[user["id"]] = event["time"]
            assert user["account_created"] == event["time"]
        elif user and event["kind"] == "payment" and user["account_created"] >= shop.documents[0]["time"]:
            aged = user["id"] not in opened  # a fraudster's bought account was opened unseen
            assert not aged or shop.truth[event["id"]]["label"] != "good"


def test_outcomes_come_late(shop):
    """Chargebacks of fraud come two to nine weeks after the payment, and warnings before them."""
    paid = {p["id"]: datetime.fromisoformat(p["time"]) for p in shop.payments}
    days: dict[str, list[float]] = {}
    known: dict[tuple[str, str], datetime] = {}
    for outcome in shop.outcomes:
        at = datetime.fromisoformat(outcome["known_at"])
        assert outcome["time"] <= outcome["known_at"]
        known[outcome["kind"], outcome["event_id"]] = at
        days.setdefault(outcome["kind"], []).append((at - paid[outcome["event_id"]]).total_seconds() / 86_400)
    assert min(days["chargeback"]) >= 14
    assert max(days["chargeback"]) <= 63
    assert max(days["fraud_warning"]) <= 15
    both = [e for kind, e in known if kind == "chargeback" and ("fraud_warning", e) in known]
    assert both
    assert all(known["fraud_warning", e] < known["chargeback", e] for e in both)


def test_labels_are_noisy_as_in_life(shop):
    """Part of the approved fraud is never charged back, and some honest payments are."""
    charged = {o["event_id"] for o in shop.outcomes if o["kind"] == "chargeback"}
    approved = {d["payment"]["id"] for d in shop.events if d["kind"] == "captured"}
    fraud = {e for e, t in shop.truth.items() if t["is_fraud"] and t["payment_id"] in approved}
    assert 0.7 < len(charged & fraud) / len(fraud) < 0.92
    assert any(not shop.truth[e]["is_fraud"] for e in charged)
    assert {"service_dispute", "confirmed_good", "confirmed_fraud", "abuse"} <= {o["kind"] for o in shop.outcomes}


def test_nothing_of_the_truth_is_in_a_document(shop):
    """No document holds a scheme's name, a label or an oddity, and fraud has no field that honest payments lack."""
    secret = {*FRAUD_SCHEMES, *ABUSE_SCHEMES, "triangulation"} | {o for t in shop.truth.values() for o in t["oddities"]}
    for event in shop.events:
        assert not any(
            name in secret or value in secret for name, value in flatten(event).items() if isinstance(value, str)
        )

    def shapes(label: str) -> set[str]:
        return {n for p in shop.payments if shop.truth[p["id"]]["label"] == label for n in flatten(p)}

    assert shapes("fraud") <= shapes("good")
    assert shapes("abuse") <= shapes("good")


def test_ids_tell_only_the_order(shop):
    """Event ids count up in time, so an id that was planned early by a scheme can't give it away."""
    ids = [d["id"] for d in shop.events]
    assert ids == sorted(ids)
    first_seen = list(dict.fromkeys(p["payment"]["id"] for p in shop.payments))
    late = sum(a > b for a, b in pairwise(first_seen))
    assert late < len(first_seen) / 100


def test_wanted_sizes_come_out(shop):
    """Payments per day and the shares of fraud and abuse are about what was asked for."""
    config = shop.simulation.config
    honest = sum(t["label"] == "good" for t in shop.truth.values())
    assert honest / config.days == pytest.approx(config.payments_per_day, rel=0.12)
    assert sum(t["is_fraud"] for t in shop.truth.values()) / len(shop.truth) == pytest.approx(0.118, rel=0.25)
    assert sum(t["is_abuse"] for t in shop.truth.values()) / len(shop.truth) == pytest.approx(0.06, rel=0.25)


def test_held_out_scheme_waits_for_its_day():
    """The held-out scheme never runs by default, and else not before its day; honest life goes on as before."""
    labels: list[dict[str, Any]] = []
    config = SimulatorConfig(days=12, shoppers=800, payments_per_day=60, held_out_from_day=6, browsing=0)
    times = {d["id"]: d["time"] for d in Simulation(config, 5, labels.append).events()}
    held = [times[x["event_id"]] for x in labels if x["scheme"] == "triangulation"]
    assert held
    assert min(held) >= "2026-06-07"
    labels.clear()
    without = SimulatorConfig(days=12, shoppers=800, payments_per_day=60, browsing=0)
    list(Simulation(without, 5, labels.append).events())
    assert "triangulation" not in {x["scheme"] for x in labels}


def test_a_shop_without_fraud():
    """With both shares at zero every payment is honest."""
    labels: list[dict[str, Any]] = []
    config = SimulatorConfig(days=5, shoppers=400, payments_per_day=50, fraud_share=0, abuse_share=0)
    list(Simulation(config, 1, labels.append).events())
    assert {x["label"] for x in labels} == {"good"}


def test_currencies_follow_the_shopper():
    """Where the shop takes pounds and dollars, people there pay in them; else all pay in the first currency."""
    config = SimulatorConfig(days=3, shoppers=800, payments_per_day=100, currencies=("EUR", "GBP", "USD"))
    paid = {(d["event"]["market"], d["txn"]["currency"]) for d in Simulation(config).events() if d["kind"] == "payment"}
    assert {("GB", "GBP"), ("US", "USD"), ("DE", "EUR")} <= paid
    assert {d["txn"]["currency"] for d in Simulation(SMALL).events() if d["kind"] == "payment"} == {"EUR"}


def test_memory_follows_the_people_not_the_events():
    """Between the 25,000th and the 105,000th event neither live objects nor sleeping scripts grow by a tenth."""
    simulation = Simulation(SimulatorConfig(days=300, shoppers=1_500, payments_per_day=100, browsing=0.4), 2)
    stream, sizes = simulation.events(), []
    for count in (25_000, 40_000, 40_000):
        assert sum(1 for _ in islice(stream, count)) == count
        gc.collect()
        sizes.append((len(gc.get_objects()), len(simulation._world.timeline)))
    assert sizes[2][0] < sizes[0][0] * 1.1
    assert sizes[2][1] < sizes[0][1] * 1.1


def test_impossible_configurations_are_refused_with_every_reason():
    """All that is wrong with a configuration is said at once, with the way out."""
    with pytest.raises(SettingsError) as refused:
        SimulatorConfig(start=datetime(2026, 1, 1), days=0, schemes=("magic",), currencies=("XXX",))
    for part in ("has no zone", "days 0", "'magic'", "held_out_from_day", "currencies ['XXX']"):
        assert part in str(refused.value)
    with pytest.raises(SettingsError, match="for honest payments"):
        SimulatorConfig(fraud_share=0.5, abuse_share=0.5)
    with pytest.raises(SettingsError, match="raise shoppers"):
        SimulatorConfig(shoppers=100, payments_per_day=500)


def test_times_are_written_in_utc_milliseconds():
    """A moment is written as RFC 3339, the same as the standard library reads it."""
    moment = datetime(2027, 2, 28, 23, 59, 59, 987_000, UTC)
    assert stamp(int(moment.timestamp() * 1000) * 1000) == "2027-02-28T23:59:59.987Z"
