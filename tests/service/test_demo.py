"""The demonstration, small and whole, and the parts that its numbers rest on."""

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest

from engine.cli.endings import Ended
from engine.demo import analyst, judge
from engine.demo.__main__ import MARK, emptied
from engine.demo.server import COMMAND
from engine.demo.shop import QUICK, Call, Size, open_shop
from engine.demo.stream import Client, Phase
from engine.journal.sqlite import SqliteJournal
from engine.records import decision_of
from engine.service import convert
from engine.values import Action, Decision, Tier

PATIENCE_S = 120
"""Only a failing test waits so long."""
TITLES = (
    "A shop with a past", "An Arbiter of its own", "The server starts", "Customers come", "Three payments",
    "An analyst changes a rule, and then makes a mistake", "How good was it?", "How fast was it?", "What to try next",
)  # fmt: skip


def demo(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The demonstration as a process of its own."""
    command = [sys.executable, "-m", "engine.demo", "--quick", "--folder", str(folder), *words]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}  # its lines have their width
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def port_of(told: str) -> int:
    """The port in the sentence that says where the server is."""
    found = re.search(r"It serves on 127\.0\.0\.1:(\d+)", told)
    assert found, told
    return int(found.group(1))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def answers(port: int) -> bool:
    """Whether anybody listens there."""
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What one small run said, and its folder."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    process = demo(folder)
    said, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, complaints + said
    return said, folder


def test_it_tells_nine_steps_in_order(told: tuple[str, Path]):
    """Every step of the story is told, in order, as plain text away from a terminal."""
    said, _ = told
    assert re.findall(r"^(\d  .*)$", said, re.MULTILINE) == [f"{n}  {title}" for n, title in enumerate(TITLES, 1)]
    assert "\x1b" not in said


def test_the_page_shows_the_same_steps():
    """The output on the page has the steps of the story as it is told now."""
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text()
    assert re.findall(r"^(\d  .*)$", page, re.MULTILINE) == [f"{n}  {title}" for n, title in enumerate(TITLES, 1)]


def test_it_shows_an_allow_a_challenge_and_a_decline_with_reasons(told: tuple[str, Path]):
    """One payment of each is shown; the last two give a reason with its code and its source."""
    shown = told[0].split("Three payments")[1].split("An analyst")[0]
    parts = re.split(r"^   (ALLOW|CHALLENGE|DECLINE)  \d", shown, flags=re.MULTILINE)
    assert parts[1::2] == ["ALLOW", "CHALLENGE", "DECLINE"]
    assert all("in truth: " in part for part in parts[2::2])
    assert all(re.search(r"[A-Z]\d{3}  .*(rule|band|list|measure|required):", part, re.DOTALL) for part in parts[4::2])


def test_an_edited_rule_is_live_and_a_broken_one_is_refused(told: tuple[str, Path]):
    """The same payment is answered otherwise by another program; the typo is named at its place and changes nothing."""
    first, second = re.findall(r"before: (\w+) by program (\w+)\s+after: (\w+) by program (\w+)", told[0])
    assert (first[0], first[2]) == ("ALLOW", "REVIEW")
    assert first[1] != first[3] == second[1] == second[3]
    assert second[0] == second[2] == "REVIEW"
    assert re.search(r"risk/\w+\.yaml:\d+:\d+: error\[E301\]: unknown name `txn.amuont_base`", told[0])
    assert "Nothing has changed" in told[0]


def test_its_table_is_what_journal_and_truth_say(told: tuple[str, Path]):
    """Counts, precision and recall of the tiers equal a recount from the journal and the truth's file."""
    said, folder = told
    truth = {row["event_id"]: row["label"] for row in lines_of(folder / "truth.jsonl")}
    journal = SqliteJournal(folder / "shop" / "state" / "journal.sqlite")
    journal.open()
    decisions = [decision_of(stored) for stored in journal.read(0, ["decision"])]
    asyncio.run(journal.close())
    found = Counter((decision.tier, truth[decision.id]) for decision in decisions)
    table = said.split("payments by tier")[1].split("by what was answered")[0]
    fraud = good = 0
    for tier in (Tier.HIGH, Tier.MEDIUM, Tier.LOW):
        counts = [found[tier, label] for label in ("fraud", "abuse", "good")]
        row = re.search(rf"{tier.name} +([\d ,%–]+)$", table, re.MULTILINE)
        assert row
        cells = row.group(1).split()
        assert cells[:4] == [f"{count:,}" for count in (sum(counts), *counts)]
        fraud, good = fraud + counts[0], good + counts[2]
        if tier is not Tier.LOW:
            all_fraud = sum(count for (_, label), count in found.items() if label == "fraud")
            assert cells[4:] == [f"{fraud / (fraud + good):.0%}", f"{fraud / all_fraud:.0%}"]


def test_what_it_recommends_works(told: tuple[str, Path]):
    """The commands of the last step run as they stand."""
    said, folder = told
    commands = re.findall(r"^   \$ arbiter (.*)$", said.split("What to try next")[1], re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["decide", "rules", "serve"]
    for command in commands[:2]:
        words, there = [*COMMAND, *command.split()], folder / "shop"
        done = subprocess.run(words, cwd=there, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr


def test_no_server_is_left(told: tuple[str, Path]):
    """After the story nobody listens on its port."""
    assert not answers(port_of(told[0]))


def test_a_terminated_demonstration_ends_its_server(tmp_path: Path):
    """SIGTERM in the middle ends the server as well, and the exit code says so."""
    process = demo(tmp_path / "run")
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Customers come" in line:
            break
    port = port_of("".join(lines))
    assert answers(port)
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM, complaints
    assert not answers(port)


# --- its folder ------------------------------------------------------------------------------------------------------


def test_only_a_folder_of_its_own_is_emptied(tmp_path: Path):
    """A folder with other files is refused and left alone; one with the mark is emptied."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Ended, match="--folder"), emptied(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()
    (tmp_path / MARK).touch()
    with emptied(tmp_path) as empty:
        assert [path.name for path in empty.iterdir()] == [MARK]


def test_two_demonstrations_never_share_a_folder(tmp_path: Path):
    """While one runs, a second in its folder is refused and touches nothing; afterwards the folder is free."""
    with emptied(tmp_path):
        (tmp_path / "serve.log").touch()
        with pytest.raises(Ended, match="another demonstration"), emptied(tmp_path):
            pass
        assert (tmp_path / "serve.log").exists()
    with emptied(tmp_path) as empty:
        assert not (empty / "serve.log").exists()


# --- the shop --------------------------------------------------------------------------------------------------------

TINY = Size(history_days=4, stream_days=2, shoppers=100, payments_per_day=20, browsing=0.1)


def test_past_and_stream_are_one_run_cut_in_time(tmp_path: Path):
    """All of the past lies before the cut, every call after it, and no payment is in both or lost."""
    shop = open_shop(TINY, 3, tmp_path, lambda share, count: None)
    past = lines_of(shop.events_file)
    assert max(document["time"] for document in past) < TINY.cut
    assert min(flat["time"] for flat in shop.payments.values()) >= TINY.cut
    past_payments = {document["id"] for document in past if document["kind"] == "payment"}
    assert past_payments.isdisjoint(shop.payments)
    assert past_payments | set(shop.payments) == set(shop.truth)
    assert len(past) == shop.past_events
    assert len(past_payments) == shop.past_payments
    assert [call.id for call in shop.calls if call.method == "Decide"] == list(shop.payments)


def test_the_truth_is_in_nothing_that_the_server_may_see(tmp_path: Path):
    """Neither the past's files nor a call's bytes hold a scheme's name or a label."""
    shop = open_shop(TINY, 3, tmp_path, lambda share, count: None)
    words = {label["scheme"] for label in shop.truth.values() if label["scheme"]} | {"is_fraud", "oddities"}
    seen = shop.events_file.read_bytes() + b"".join(call.body for call in shop.calls)
    assert len(words) > 2
    assert not [word for word in words if word.encode() in seen]


def test_quick_is_smaller_than_full_but_whole():
    """Both sizes hold the held-out scheme from the cut on."""
    assert QUICK.config().held_out_from_day == QUICK.history_days


# --- the stream ------------------------------------------------------------------------------------------------------


class Recording(grpc.GenericRpcHandler):
    """A server that answers after a random while, and notes in which order calls began and ended."""

    def __init__(self, action: Action) -> None:
        self.began: list[str] = []
        self.ended: list[str] = []
        self.running = self.most = 0
        self._random, self._action = random.Random(5), action

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Any method; a request is an id, the reply a decision about it."""
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, _: object) -> bytes:
        self.began.append(request.decode())
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self._random.random() / 200)
        self.running -= 1
        self.ended.append(request.decode())
        return convert.decision_bytes(decision(request.decode(), Tier.LOW, self._action))


def decision(event_id: str, tier: Tier, action: Action) -> Decision:
    """A decision without reasons."""
    return Decision(event_id, tier, action, (), None, (), (), (), (), (), None, "00", 0)


def call(number: int, method: str, *about: str, payment: str = "") -> Call:
    """A call whose body is its id."""
    return Call(method, f"c{number}", payment, f"c{number}".encode(), frozenset(about))


async def sent(calls: list[Call], action: Action = Action.ALLOW) -> tuple[Recording, Phase]:
    """Send calls to a recording server."""
    recording, server = Recording(action), grpc.aio.server()
    server.add_generic_rpc_handlers([recording])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Client(f"127.0.0.1:{port}", connections=3, in_flight=8) as client:
        phase = await client.send(calls, lambda number: None)
    await server.stop(None)
    return recording, phase


async def test_calls_about_the_same_thing_keep_their_order():
    """A call begins when every earlier one that shares a person, device or card has ended, and others run beside it."""
    names = random.Random(2)
    calls = [
        call(n, "Record", f"user={names.randrange(6)}", f"device={names.randrange(6)}", f"card={names.randrange(20)}")
        for n in range(150)
    ]
    recording, phase = await sent(calls)
    assert phase.sent == len(calls) == len(recording.ended)
    assert recording.most > 1
    began, ended = ({name: at for at, name in enumerate(order)} for order in (recording.began, recording.ended))
    events = [(one, other) for at, one in enumerate(calls) for other in calls[at + 1 :] if one.about & other.about]
    assert events
    assert all(began[one.id] < began[other.id] and ended[one.id] < ended[other.id] for one, other in events)


@pytest.mark.parametrize(("action", "left_out"), [(Action.ALLOW, 0), (Action.REVIEW, 0), (Action.DECLINE, 2)])
async def test_a_declined_payment_ends_there(action: Action, left_out: int):
    """What would have followed a declined payment is not sent; another payment's events are."""
    calls = [
        call(1, "Decide", "payment.id=p1", payment="p1"), call(2, "Record", "payment.id=p1", payment="p1"),
        call(3, "RecordOutcome", "payment.id=p1", payment="p1"), call(4, "Record", "payment.id=p2", payment="p2"),
    ]  # fmt: skip
    recording, phase = await sent(calls, action)
    assert phase.left_out == left_out
    assert sorted(recording.ended) == ["c1", "c4"] if left_out else ["c1", "c2", "c3", "c4"]


# --- the sums --------------------------------------------------------------------------------------------------------


def payments() -> Iterator[judge.Judged]:
    """A handful whose rates are easy to work out: 5 frauds (one held out), 2 abuses, 10 honest."""
    yield judge.Judged(Tier.HIGH, Action.DECLINE, "fraud", "stolen_card", ())
    yield judge.Judged(Tier.HIGH, Action.REVIEW, "fraud", "stolen_card", ())
    yield judge.Judged(Tier.MEDIUM, Action.CHALLENGE, "fraud", "card_testing", ())
    yield judge.Judged(Tier.LOW, Action.ALLOW, "fraud", "card_testing", ())
    yield judge.Judged(Tier.MEDIUM, Action.CHALLENGE, "fraud", "triangulation", ())
    yield judge.Judged(Tier.HIGH, Action.REVIEW, "abuse", "reseller", ())
    yield judge.Judged(Tier.LOW, Action.ALLOW, "abuse", "reseller", ())
    yield judge.Judged(Tier.HIGH, Action.REVIEW, "good", "", ("traveller",))
    yield judge.Judged(Tier.MEDIUM, Action.CHALLENGE, "good", "", ("traveller", "gift"))
    yield from [judge.Judged(Tier.LOW, Action.ALLOW, "good", "", ("office",))] * 8


def test_precision_and_recall_by_tier():
    """Each tier is judged with those above it; abuse counts on neither side of precision."""
    high, medium, low = judge.tier_lines(list(payments()))
    assert (high.fraud, high.abuse, high.good, high.precision, high.recall) == (2, 1, 1, 2 / 3, 2 / 5)
    assert (medium.fraud, medium.abuse, medium.good, medium.precision, medium.recall) == (2, 0, 1, 4 / 6, 4 / 5)
    assert (low.fraud, low.abuse, low.good, low.recall) == (1, 1, 8, 1.0)


def test_recall_by_scheme_keeps_the_held_out_one_and_abuse_apart():
    """Every scheme has its line, also without a payment, and says which kind it is."""
    lines = {line.scheme: line for line in judge.scheme_lines(list(payments()))}
    assert lines["stolen_card"] == judge.SchemeLine("stolen_card", "fraud", 2, 2, 2, 2)
    assert lines["triangulation"] == judge.SchemeLine("triangulation", "held out", 1, 1, 0, 0)
    assert lines["reseller"] == judge.SchemeLine("reseller", "abuse", 2, 1, 1, 1)
    assert lines["velocity_spree"].payments == 0
    assert len(lines) == 9


def test_no_fraud_gives_no_rate():
    """Without a single fraud, recall is unknown and not zero."""
    only = [judge.Judged(Tier.LOW, Action.ALLOW, "good", "", ())]
    rates = [(line.precision, line.recall) for line in judge.tier_lines(only)]
    assert rates == [(None, None), (None, None), (0.0, None)]


def test_false_alarms_are_sorted_by_what_is_odd():
    """Honest payments that were raised are counted by oddity; an honest one may have several."""
    assert judge.false_alarms(list(payments())) == (10, 2, [("traveller", 2), ("gift", 1)])


def test_percentiles_are_of_what_was_measured():
    """p50 and p99 are measured times, in ms."""
    phase = Phase(decide_s=[number / 1000 for number in range(100, 0, -1)])
    assert (phase.percentile_ms(0.5), phase.percentile_ms(0.99)) == (51.0, 100.0)


# --- the edit --------------------------------------------------------------------------------------------------------


def test_the_shipped_policy_has_the_rule_that_is_edited(tmp_path: Path):
    """The rule is found in the policy that ships; an edit changes its number alone, a typo its field alone."""
    rule = analyst.find_rule(Path(__file__).parents[2] / "rules")
    assert f"txn.amount_base > {rule.limit}" in rule.line
    assert rule.with_limit(7).text == rule.text.replace(rule.line, rule.line.replace(f"> {rule.limit}", "> 7"))
    mistyped = rule.line.replace("txn.amount_base >", "txn.amuont_base >")
    assert rule.with_typo().text == rule.text.replace(rule.line, mistyped)
    assert rule.with_limit(7).with_typo().text.count("txn.amuont_base > 7") == 1


def test_a_policy_without_the_rule_is_named(tmp_path: Path):
    """Where the rule is gone, the message says which one and where it was looked for."""
    (tmp_path / "risk").mkdir()
    (tmp_path / "risk" / "payments.yaml").write_text("ruleset: payments\non: payment\nrules: []\n")
    with pytest.raises(Ended, match=analyst.RULE):
        analyst.find_rule(tmp_path)


@pytest.mark.parametrize(("amount_minor", "limit"), [(22_469, 200), (60_000, 580), (2_001, 1)])
def test_the_new_limit_is_round_and_below_the_amount(amount_minor: int, limit: int):
    """It lies below the amount by twenty at least where there is room, in whole tens."""
    assert analyst.lower_limit({"txn.amount_minor": amount_minor}) == limit
