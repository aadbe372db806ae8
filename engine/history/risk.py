"""The risk report's numbers: fraud and loss by week, market and scheme, what stopped it, and what each change did.

Everything is counted from attempts to pay in the journal, in whole micro-units of base currency, so that any sum can be
recounted from the records to the cent. A report is a document of plain values; `MEANING` says what its sums are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from engine.history.labels import Floats, Ints, Label, Labels, Mask, arrival, day_of, labels_of, monday_of, weeks
from engine.history.ledger import NOT_TOLD, Ledger, Texts
from engine.history.money import Interval, interval, ratio
from engine.history.schemes import BEFORE, Schemes, exceeded
from engine.scoring.codec import DAY_US
from engine.values import Action, Tier

EARLIER_US = 190 * DAY_US
"""So old a payment may be whose chargeback comes in the window."""
EFFECT_US = 14 * DAY_US
"""What is compared before and after a change, at most."""
MEANING: Mapping[str, str] = {
    "payments": "attempts to pay: a payment and a card, with all their stages and retries",
    "amount_micro": "what they are worth, in millionths of the base currency",
    "without_rate": "payments whose amount in base currency is not known; their money is in no sum",
    "approved": "let through: neither we nor the issuer refused, and no challenge ended it",
    "approved_micro": "what those are worth",
    "declined": "declined by us",
    "fraud": "let through and known as fraud",
    "loss_micro": "what that cost",
    "caught": "known as fraud and not let through",
    "caught_micro": "what that would have cost",
    "good": "known as good, and old enough that their frauds are known too",
    "good_stopped": "of the good, challenged, reviewed or declined at some stage",
    "challenged": "challenged at some stage",
    "challenge_told": "of those, with a challenge whose end is known",
    "challenge_passed": "of those, passed",
    "reviewed": "sent to review at some stage",
    "review_labelled": "of those, known as fraud or good",
    "review_fraud": "of those, fraud",
    "unseen": "not let through, and nobody told what they were: neither caught nor wrongly stopped",
}
"""Every sum of `Book.figures`."""
RATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "approval_rate": ("approved", ("payments",)),
    "fraud_rate": ("fraud", ("approved",)),
    "loss_bps": ("loss_micro", ("approved_micro",)),
    "caught_share": ("caught", ("caught", "fraud")),
    "caught_money_share": ("caught_micro", ("caught_micro", "loss_micro")),
    "false_positive_rate": ("good_stopped", ("good",)),
    "challenge_success": ("challenge_passed", ("challenge_told",)),
    "review_yield": ("review_fraud", ("review_labelled",)),
}
"""Rate → what is divided by the sum of what; `_bps` is in basis points, the others are shares 0..1."""


def rates(figures: Mapping[str, int]) -> dict[str, float | None]:
    """Every rate; None where there is nothing to divide by."""
    found: dict[str, float | None] = {}
    for name, (above, below) in RATES.items():
        whole = sum(figures[part] for part in below)
        found[name] = figures[above] * (10_000 if name.endswith("_bps") else 1) / whole if whole else None
    return found


@dataclass(frozen=True)
class Book:
    """A ledger with labels and losses: one entry an attempt."""

    ledger: Ledger
    labels: Labels
    loss_micro: Ints
    amount_micro: Ints
    action: Ints
    time_us: Ints

    @classmethod
    def of(cls, ledger: Ledger, fraud: frozenset[str], mature_us: int, as_of_us: int) -> Book:
        """Labels as known at a time."""
        time_us = ledger.column("time_us")
        labels = labels_of(time_us, ledger.attempts.let_through, ledger.told(), as_of_us, fraud, mature_us)
        losses, amount = ledger.losses(fraud, as_of_us), ledger.column("amount_micro")
        return cls(ledger, labels, losses, amount, ledger.column("action").astype(np.int64), time_us)

    def figures(self, here: Mask) -> dict[str, int]:
        """Sums over the chosen payments, as `MEANING` has them."""
        attempts, amount = self.ledger.attempts, np.maximum(self.amount_micro, 0)
        mature = self.time_us + self.labels.mature_after_us <= self.labels.as_of_us
        fraud, known_good = (here & (self.labels.codes == label) for label in (Label.FRAUD, Label.GOOD))
        good = known_good & mature
        through, told, reviewed = here & attempts.let_through, attempts.challenge > 0, here & attempts.reviewed
        touched = (self.action > Action.ALLOW) | attempts.challenged | attempts.reviewed
        challenged = here & attempts.challenged
        sums = (
            here, amount[here], here & (self.amount_micro < 0), through, amount[through],
            here & (self.action == Action.DECLINE), fraud & through, self.loss_micro[fraud & through], fraud & ~through,
            self.loss_micro[fraud & ~through], good, good & touched, challenged, challenged & told,
            challenged & (attempts.challenge == 1), reviewed, reviewed & (fraud | known_good), reviewed & fraud,
            here & (self.labels.codes == Label.UNSEEN),
        )  # fmt: skip
        return {name: int(part.sum()) for name, part in zip(MEANING, sums, strict=True)}


def risk_report(book: Book, schemes: Schemes) -> dict[str, Any]:
    """The document of a ledger that was read with `EARLIER_US`."""
    ledger, labels, time_us = book.ledger, book.labels, book.time_us
    inside = time_us >= ledger.window.from_us
    curve = arrival(time_us, labels)
    inner = Labels(labels.codes[inside], labels.known_us[inside], labels.as_of_us, labels.mature_after_us)
    bins, methods = ledger.texts("bin", None), ledger.texts("method", None)
    scheme = np.array([schemes.of(*pair) for pair in zip(bins, methods, strict=True)], object)
    monday = np.array([day_of(day).isoformat() for day in monday_of(time_us).tolist()], object)
    return {
        "from_us": ledger.window.from_us, "to_us": ledger.window.to_us, "as_of_us": labels.as_of_us,
        "currency": ledger.currency, "mature_after_us": labels.mature_after_us,
        "total": book.figures(inside), "by_week": _by(book, inside, monday),
        "by_market": _by(book, inside, ledger.texts("market")), "by_scheme": _by(book, inside, scheme),
        "tiers": _tiers(book, inside), "weeks": weeks(time_us[inside], inner, curve),
        "arrival": curve.share.tolist(), "arrival_frauds": curve.frauds, "months": _months(book, scheme, schemes),
        "effects": _effects(book, inside), "measures": ledger.measures, "partial": ledger.gaps(),
        "remarks": ledger.remarks(),
    }  # fmt: skip


def _by(book: Book, inside: Mask, names: Texts) -> dict[str, dict[str, int]]:
    return {name: book.figures(inside & (names == name)) for name in sorted(set(names[inside].tolist()))}


def _tiers(book: Book, inside: Mask) -> dict[str, Any]:
    """With the fraud rate of mature payments that were let through, and its Wilson interval."""
    from scipy.stats import binomtest

    tier, found = book.ledger.column("tier"), {}
    known = inside & book.ledger.attempts.let_through & (book.labels.codes <= Label.FRAUD)
    known &= book.time_us + book.labels.mature_after_us <= book.labels.as_of_us
    for value in (each for each in Tier if each):
        here = known & (tier == value)
        frauds, labelled = int((book.labels.codes[here] == Label.FRAUD).sum()), int(here.sum())
        ends = binomtest(frauds, labelled).proportion_ci(method="wilson") if labelled else (0.0, 1.0)
        figures = book.figures(inside & (tier == value))
        found[value.name] = figures | {
            "rate": Interval(frauds / max(labelled, 1), *map(float, ends)),
            "labelled": labelled,
        }
    return found


def _months(book: Book, scheme: Texts, schemes: Schemes) -> list[dict[str, Any]]:
    """What each scheme counts, in every month that lies in the window at least in part."""
    ledger, wanted = book.ledger, {each.name: each for each in schemes.schemes}
    through = ledger.attempts.let_through
    paid = Counter(zip(scheme[through].tolist(), map(month_of, book.time_us[through].tolist()), strict=True))
    counted = Counter(
        (scheme[row], month_of(told["known_us"]))
        for row, outcomes in ledger.outcomes.items() if scheme[row] in wanted
        for told in outcomes if told["kind"] in wanted[scheme[row]].counts and told["known_us"] <= book.labels.as_of_us
    )  # fmt: skip
    found = []
    for each in schemes.schemes:
        for month in sorted({month_of(at) for at in range(ledger.window.from_us, ledger.window.to_us, DAY_US)}):
            count = counted[each.name, month]
            payments = paid[each.name, month_before(month) if each.over == BEFORE else month]
            if count or payments:
                found.append({
                    "scheme": each.name, "month": month, "counted": count, "payments": payments, "over": each.over,
                    "limits": [f"{limit.name}: {limit.rate:.1%} and {limit.at_least:,}" for limit in each.limits],
                    "exceeded": [limit.name for limit in exceeded(each, count, payments)],
                })  # fmt: skip
    return found


def month_of(time_us: int) -> str:
    """`2026-11`, UTC."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).strftime("%Y-%m")


def month_before(month: str) -> str:
    """The month before `2026-01` is `2025-12`."""
    year, number = map(int, month.split("-"))
    return f"{year - (number == 1)}-{(number - 2) % 12 + 1:02}"


def _effects(book: Book, inside: Mask) -> list[dict[str, Any]]:
    """Each change of the program that decides, as payments show it, with what it did to rates."""
    ledger, program = book.ledger, book.ledger.texts("program")
    decided = np.flatnonzero(inside & (program != NOT_TOLD))
    order = decided[np.argsort(book.time_us[decided], kind="stable")]
    changes = order[1:][program[order[1:]] != program[order[:-1]]]
    said = {one.digest: f"{one.author}: {one.reason}" for one in ledger.activations}
    edges = [*book.time_us[order[:1]].tolist(), *book.time_us[changes].tolist(), ledger.window.to_us]
    found = []
    for number, row in enumerate(changes.tolist(), 1):
        at = edges[number]
        start, end = max(edges[number - 1], at - EFFECT_US), min(edges[number + 1], at + EFFECT_US)
        before, after = (inside & (book.time_us >= a) & (book.time_us < b) for a, b in ((start, at), (at, end)))
        found.append({
            "program": program[row], "since_us": at, "who": said.get(program[row], NOT_TOLD),
            "before_days": (at - start) / DAY_US, "after_days": (end - at) / DAY_US,
            "mature": end + book.labels.mature_after_us <= book.labels.as_of_us,
            "differences": _differences(book, before, after),
        })  # fmt: skip
    return found


def _differences(book: Book, before: Mask, after: Mask) -> dict[str, Any]:
    """Rate → after less before, with its interval."""
    attempts, fraud, both = book.ledger.attempts, book.labels.codes == Label.FRAUD, before | after
    through, ones, money = attempts.let_through, np.ones(len(both)), np.maximum(book.amount_micro, 0)
    parts: dict[str, tuple[Any, Any]] = {
        "declined": (book.action == Action.DECLINE, ones), "challenged": (attempts.challenged, ones),
        "reviewed": (attempts.reviewed, ones), "approval_rate": (through, ones),
        "fraud_rate": (fraud & through, through),
        "loss_bps": (book.loss_micro * (fraud & through) * 10_000, money * through),
    }  # fmt: skip

    def difference(totals: Floats) -> Floats:
        return ratio(totals[..., :2]) - ratio(totals[..., 2:])

    def columns(parts: Sequence[Any]) -> list[Any]:
        return [np.where(side, part, 0)[both] for side in (after, before) for part in parts]

    group = book.ledger.column("group")[both]
    return {name: interval(group, columns(pair), difference) for name, pair in parts.items()}
