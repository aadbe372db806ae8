"""What an analyst does while the server runs: lowers a threshold, then makes a mistake; and what comes of both.

The server says in each answer which program gave it, so asking again and again (without a trace) tells when a saved
file is live. Why a file was refused stands in the server's log.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from engine.cli.endings import CANNOT_RUN, Ended
from engine.demo.stream import Client
from engine.intake import timestamp_us
from engine.simulator.timeline import stamp
from engine.values import Action, Decision

RULE = "new-account-big-basket"
"""The shipped rule that is edited: payments of young accounts above an amount."""
YOUNG_US = 7 * 86_400_000_000
PATIENCE_S = 20.0
ASK_EVERY_S = 0.1
_LIMIT = "txn.amount_base > "
_SPACE_MINOR = 2_000
"""The new threshold lies clearly below the amount that is asked about: by 20 in a currency with cents."""


@dataclass(frozen=True, slots=True)
class RuleFile:
    """The file that holds the rule, and the rule's threshold in it."""

    path: Path
    text: str
    place: int
    """Where the threshold's digits begin in the text."""
    limit: int
    """The threshold, in the policy's base currency."""

    @property
    def line(self) -> str:
        """The line with the threshold, without what surrounds it."""
        return self.text[self.text.rfind("\n", 0, self.place) + 1 :].partition("\n")[0].strip()

    def with_limit(self, limit: int) -> RuleFile:
        """The same rule with another threshold."""
        after = self.text[self.place + len(str(self.limit)) :]
        return RuleFile(self.path, f"{self.text[: self.place]}{limit}{after}", self.place, limit)

    def with_typo(self) -> RuleFile:
        """The same rule with two letters of a field's name in the wrong order."""
        at = self.place - len(_LIMIT)
        broken = self.text[:at] + _LIMIT.replace("amount", "amuont") + self.text[self.place :]
        return RuleFile(self.path, broken, self.place, self.limit)

    def save(self) -> None:
        """Write it as an editor does: the file is there as a whole, or as it was."""
        draft = self.path.with_suffix(".draft")
        draft.write_text(self.text)
        draft.replace(self.path)


@dataclass(frozen=True, slots=True)
class Change:
    """One payment before and after an edit."""

    before: Decision
    after: Decision
    seconds: float
    """From the save to the first answer of the new program on every connection, or to the refusal."""
    refusal: str
    """The server's words about a file that it refused; "" when it took it."""


def find_rule(rules: Path) -> RuleFile:
    """The shipped rule in a policy folder; `Ended` when it is not there any more."""
    pattern = re.compile(rf"id: {RULE}\b(?:(?!\bid:).)*?{re.escape(_LIMIT)}(\d+)", re.DOTALL)
    for path in sorted((rules / "risk").glob("*.yaml")):
        text = path.read_text()
        if found := pattern.search(text):
            return RuleFile(path, text, found.start(1), int(found.group(1)))
    raise Ended(f"no rule {RULE} with `{_LIMIT}NUMBER` in {rules / 'risk'}; the demonstration edits it", CANNOT_RUN)


async def find_payment(
    client: Client, payments: Mapping[str, Mapping[str, Any]], rule: RuleFile
) -> dict[str, Any] | None:
    """A payment like one of the stream that the rule would catch if its threshold were lower, and that is allowed now.

    Of those the largest, as a new payment a minute later; None when there is none.
    """
    fitting = [
        flat for event_id, flat in payments.items()
        if client.decisions[event_id].action is Action.ALLOW and "user.account_created" in flat
        and timestamp_us(flat["time"]) - timestamp_us(flat["user.account_created"]) < YOUNG_US * 0.9
        and _SPACE_MINOR < flat["txn.amount_minor"] < rule.limit * 100
    ]  # fmt: skip
    for flat in sorted(fitting, key=lambda flat: -int(flat["txn.amount_minor"])):
        similar = _a_minute_later(flat)
        if all(decision.action is Action.ALLOW for decision in await client.ask(similar)):
            return similar
    return None


def _a_minute_later(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same payment again, with ids of its own."""
    moment = stamp(timestamp_us(flat["time"]) + 60_000_000)
    return {**flat, "id": "demo-payment", "payment.id": "demo", "time": moment}


def lower_limit(payment: Mapping[str, Any]) -> int:
    """A round threshold clearly below a payment's amount."""
    return max(1, (int(payment["txn.amount_minor"]) - _SPACE_MINOR) // 1000 * 10)


async def lower(client: Client, edited: RuleFile, payment: dict[str, Any], log: Path) -> Change:
    """Save a rule and wait until every connection answers with another program; `Ended` when that doesn't come."""
    return await _saved(client, edited, payment, log, refused=False)


async def break_it(client: Client, broken: RuleFile, payment: dict[str, Any], log: Path) -> Change:
    """Save a broken rule and wait for the refusal; `Ended` when none comes."""
    return await _saved(client, broken, payment, log, refused=True)


async def _saved(client: Client, file: RuleFile, payment: dict[str, Any], log: Path, *, refused: bool) -> Change:
    before = (await client.ask(payment))[0]
    at, began, refusal = log.stat().st_size, time.monotonic(), ""
    file.save()
    while time.monotonic() - began < PATIENCE_S:
        await asyncio.sleep(ASK_EVERY_S)
        refusal, answers = _refusal(log, at), await client.ask(payment)
        if refusal if refused else all(answer.program != before.program for answer in answers):
            return Change(before, answers[0], time.monotonic() - began, refusal)
    what = "no refusal of the broken rule" if refused else "the saved rule was not live"
    raise Ended(f"{what} after {PATIENCE_S:.0f} s; {log}: {refusal}", CANNOT_RUN)


def _refusal(log: Path, at: int) -> str:
    """The server's words about the last policy that it refused, from a place in its log on."""
    with log.open("rb") as lines:
        lines.seek(at)
        whole = [line for line in lines if line.endswith(b"}\n")]
    told = [entry for line in whole if (entry := orjson.loads(line))["event"].startswith("policy refused")]
    return str(told[-1]["reason"]) if told else ""
