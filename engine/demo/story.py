"""The story in nine steps. Each function is a step: it does, and says what came of it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console

from engine.cli.screen import Meter
from engine.demo import analyst, judge, server, tell
from engine.demo.shop import Shop, Size, open_shop
from engine.demo.stream import Client, Phase
from engine.simulator import HELD_OUT_SCHEME
from engine.values import Action, Decision

CONNECTIONS = 4
IN_FLIGHT = 32
CALM_SHARE = 0.15
"""Share of the stream, its end, that is sent at half of the rate that the rest reached."""


@dataclass(frozen=True, slots=True)
class Demo:
    """What every step needs."""

    console: Console
    folder: Path
    size: Size
    shop: Shop

    @property
    def installation(self) -> Path:
        """The folder that `arbiter init` writes."""
        return self.folder / "shop"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "serve.log"

    @property
    def example(self) -> Path:
        """A payment to ask about after the demonstration."""
        return self.folder / "payment.json"

    def say(self, text: str) -> None:
        """One paragraph."""
        tell.say(self.console, text)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the server gave while it was running."""

    phases: Mapping[str, Phase]
    decisions: Mapping[str, Decision]
    payment: dict[str, Any] | None
    """The payment whose decision an edit changed."""


def story(console: Console, folder: Path, size: Size, seed: int) -> None:
    """Tell everything; raises what makes going on impossible, with the server ended."""
    began = time.monotonic()
    tell.say(console, "Arbiter, shown on a made-up shop", "bold", 0)
    tell.say(
        console, "A shop asks Arbiter about each payment before it takes the money. All of this happens here and now: "
        f"a real server, real calls, and every number is measured in this run (seed {seed}).", indent=0,
    )  # fmt: skip
    demo = Demo(console, folder, size, _a_past(console, folder, size, seed))
    _an_installation(demo)
    tell.chapter(console, 3, "The server starts")
    tell.typed(console, "arbiter " + " ".join(server.SERVE))
    started = time.monotonic()
    with server.serving(demo.installation, demo.log) as address:
        demo.say(f"It serves on {address} after {time.monotonic() - started:.1f} s. For it, now is always the time of "
                 f"the event at hand, because {size.stream_days} days are about to pass in minutes.")  # fmt: skip
        answers = uvloop.run(_live(demo, address))
    _the_truth(demo, answers.decisions)
    tell.chapter(console, 8, "How fast was it?")
    tell.speeds(console, answers.phases)
    _what_next(demo, answers.payment, time.monotonic() - began)


def _a_past(console: Console, folder: Path, size: Size, seed: int) -> Shop:
    tell.chapter(console, 1, "A shop with a past")
    began = time.monotonic()
    with Meter("simulating") as meter:
        shop = open_shop(
            size, seed, folder / "past", lambda share, count: meter(share, f"{count:,} events and outcomes")
        )
    # for whoever wants to check the sums
    (folder / "truth.jsonl").write_bytes(b"".join(orjson.dumps(label) + b"\n" for label in shop.truth.values()))
    seconds = time.monotonic() - began
    tell.say(
        console, f"A marketplace with {size.shoppers:,} regular shoppers, passers-by, and fraudsters among them, made "
        f"up in {seconds:.1f} s. Its first {size.history_days} days are the past: {shop.past_events:,} events, "
        f"{shop.past_payments:,} payments, and {shop.past_outcomes:,} outcomes (chargebacks and the like) that the "
        f"shop had heard of by then. The next {size.stream_days} days come live. Who is a fraudster is in "
        f"{folder / 'truth.jsonl'}; the server never sees it.",
    )  # fmt: skip
    return shop


def _an_installation(demo: Demo) -> None:
    tell.chapter(demo.console, 2, "An Arbiter of its own")
    tell.typed(demo.console, f"arbiter init {demo.installation} && cd {demo.installation}")
    server.run(Path(), "init", str(demo.installation))
    key = demo.installation / "state" / "hash.key"
    key.parent.mkdir()
    key.touch(mode=0o600)
    key.write_text("00" * 32)  # rollouts are drawn by it, and a demonstration shall repeat itself
    demo.say("A folder with the shipped policy, model and settings. What the policy holds:")
    _typed_and_run(demo, "rules", "check")
    demo.say("The past goes in, the way of any history: checked, made durable, merged into profiles.")
    _typed_and_run(demo, "import", f"../past/{demo.shop.events_file.name}")
    _typed_and_run(demo, "import", f"../past/{demo.shop.outcomes_file.name}", "--kind", "outcomes")


def _typed_and_run(demo: Demo, *words: str) -> None:
    tell.typed(demo.console, "arbiter " + shlex.join(words))
    tell.quoted(demo.console, server.run(demo.installation, *words))


# --- with the server running -----------------------------------------------------------------------------------------


async def _live(demo: Demo, address: str) -> Answers:
    async with Client(address, CONNECTIONS, IN_FLIGHT) as client:
        phases = await _customers(demo, client)
        decisions = dict(client.decisions)
        _three_payments(demo, decisions)
        payment = await _an_edit(demo, client)
    return Answers(phases, decisions, payment)


async def _customers(demo: Demo, client: Client) -> dict[str, Phase]:
    calls, payments = demo.shop.calls, demo.shop.payments
    tell.chapter(demo.console, 4, "Customers come")
    demo.say(
        f"{len(calls):,} calls over {CONNECTIONS} connections, up to {IN_FLIGHT} at once: Decide for {len(payments):,} "
        "payments, Record for what happens around them (logins, carts, parcels, refunds), RecordOutcome for what turns "
        "out later. What concerns one person, device, card, network or address is sent in its order."
    )  # fmt: skip
    split = int(len(calls) * (1 - CALM_SHARE))
    with Meter("full speed") as meter:
        full = await client.send(calls[:split], lambda done: meter(done / len(calls), f"{done:,} calls"))
    half = full.sent / full.seconds / 2
    with Meter("half speed") as meter:
        calm = await client.send(
            calls[split:], lambda done: meter((split + done) / len(calls), f"{split + done:,} calls"), per_second=half
        )
    phases = {"as fast as it goes": full, "at half of that rate": calm}
    _sent(demo, client, phases)
    return phases


def _sent(demo: Demo, client: Client, phases: Mapping[str, Phase]) -> None:
    left_out = sum(phase.left_out for phase in phases.values())
    retried = sum(phase.retried for phase in phases.values())
    degraded = sum(bool(decision.degraded) for decision in client.decisions.values())
    demo.say(
        f"All answered in {sum(phase.seconds for phase in phases.values()):.0f} s; {retried:,} calls had to be tried "
        f"again, {degraded:,} decisions were made without some part. {left_out:,} calls fell away, because a payment "
        "that was declined ends there."
    )  # fmt: skip
    if degraded:
        missing = sorted({name for decision in client.decisions.values() for name in decision.degraded})
        demo.say(f"Missing or late were: {', '.join(missing)}.")


def _three_payments(demo: Demo, decisions: Mapping[str, Decision]) -> None:
    tell.chapter(demo.console, 5, "Three payments")
    for action, reasons in ((Action.ALLOW, 0), (Action.CHALLENGE, 3), (Action.DECLINE, 3)):
        event_id = _readable(decisions, action, reasons)
        if event_id is None:
            demo.say(f"No payment was answered with {action.name} in this run.")
            continue
        label = demo.shop.truth[event_id]
        odd = " and ".join(label["oddities"]).replace("_", " ")
        honest = f"an honest shopper ({odd})" if odd else "an honest shopper"
        truth = (label["scheme"] or honest).replace("_", " ")
        tell.payment(demo.console, demo.shop.payments[event_id], decisions[event_id], truth)


def _readable(decisions: Mapping[str, Decision], action: Action, reasons: int) -> str | None:
    """The decision with this action whose number of reasons comes nearest, the earliest of several; right or wrong."""
    found = [event_id for event_id, decision in decisions.items() if decision.action is action]
    return min(found, key=lambda event_id: abs(len(decisions[event_id].reasons) - reasons), default=None)


async def _an_edit(demo: Demo, client: Client) -> dict[str, Any] | None:
    tell.chapter(demo.console, 6, "An analyst changes a rule, and then makes a mistake")
    rule = analyst.find_rule(demo.installation / "rules")
    payment = await analyst.find_payment(client, demo.shop.payments, rule)
    if payment is None:
        demo.say(f"No allowed payment of a young account lies below the limit of {analyst.RULE}; nothing to show.")
        return None
    limit = analyst.lower_limit(payment)
    edited = rule.with_limit(limit)
    demo.say(f"A young account wants to pay {tell.money(payment)}. In {rule.path} the limit for that is {rule.limit}:")
    tell.quoted(demo.console, rule.line)
    demo.say(f"It is lowered to {limit}, and the file is saved. The server is not restarted.")
    change = await analyst.lower(client, edited, payment, demo.log)
    tell.change(demo.console, change)
    tell.verdict(demo.console, change.after)
    demo.say(f"Live on all {CONNECTIONS} connections {change.seconds:.1f} s after the save.")
    await _a_mistake(demo, client, edited, payment)
    return payment


async def _a_mistake(demo: Demo, client: Client, good: analyst.RuleFile, payment: dict[str, Any]) -> None:
    demo.say("Now a typo is saved. The server refuses the file, and says where and why:")
    try:
        change = await analyst.break_it(client, good.with_typo(), payment, demo.log)
    finally:
        good.save()
    tell.quoted(demo.console, change.refusal)
    tell.change(demo.console, change)
    if (change.before.program, change.before.action) == (change.after.program, change.after.action):
        demo.say("Nothing has changed: the last good program goes on.")
    else:
        demo.say("The answer has CHANGED although the file was refused: that is a defect.")


# --- afterwards ------------------------------------------------------------------------------------------------------


def _the_truth(demo: Demo, decisions: Mapping[str, Decision]) -> None:
    tell.chapter(demo.console, 7, "How good was it?")
    payments = judge.judged(decisions, demo.shop.truth)
    demo.say("The live payments by tier, against the simulator's truth. Precision and recall are of fraud, for acting "
             "on this tier and those above; precision leaves abuse out of the sum.")  # fmt: skip
    tell.tiers(demo.console, judge.tier_lines(payments))
    demo.say("The same payments by what was answered:")
    tell.actions(demo.console, judge.actions(payments))
    lines = judge.scheme_lines(payments)
    demo.say(
        f"Recall by scheme. No rule was written and no model trained for {HELD_OUT_SCHEME}, which began with the live "
        "days: it shows what happens to the unknown. Abuse is done with one's own money, and judged apart."
    )  # fmt: skip
    tell.schemes(demo.console, lines)
    honest, raised, odd = judge.false_alarms(payments)
    demo.say(f"Of {honest:,} honest payments {raised:,} were raised to MEDIUM or HIGH ({raised / max(1, honest):.1%})."
             + (f" What is odd about them: {tell.oddities(odd)}." if odd else ""))  # fmt: skip
    fewest = min(lines, key=lambda line: line.payments)
    demo.say(f"Some of the counts are small ({fewest.scheme.replace('_', ' ')} has {fewest.payments:,} payments): take "
             "the table as a story, not as a benchmark.")  # fmt: skip


def _what_next(demo: Demo, payment: Mapping[str, Any] | None, seconds: float) -> None:
    tell.chapter(demo.console, 9, "What to try next")
    example = payment or next(iter(demo.shop.payments.values()))
    demo.example.write_bytes(orjson.dumps(example, option=orjson.OPT_INDENT_2))
    there = [part for part in (server.activation(), f"cd {demo.installation}") if part]
    tell.typed(demo.console, " && ".join(there))
    demo.say("Everything behind one decision: each rule, each condition, each feature.")
    tell.typed(demo.console, f"arbiter decide ../{demo.example.name} --clock event")
    demo.say("Write a rule of your own in rules/risk, and have it checked.")
    tell.typed(demo.console, "arbiter rules check")
    demo.say("Serve it, and call it from your own code as README.md shows.")
    tell.typed(demo.console, "arbiter serve")
    demo.say(f"All files are in {demo.folder}; the server is ended. The whole took {seconds:.0f} s.")
