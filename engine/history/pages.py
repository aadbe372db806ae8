"""The backtest and the risk report as pages; their documents hold every number that is shown here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.history.compare import ACTIONS, TIERS, moment
from engine.history.money import MICRO, Interval, money_text
from engine.history.risk import MEANING, rates
from engine.page import Cell, Page, Picture, Value, bars, heat, lines
from engine.scoring.codec import DAY_US

Line = Mapping[str, Any]
RULES_IN_PICTURE = 12
NARROW, LOW = 4.6, 2.5
"""Inches: two pictures fit beside each other on a sheet of A4."""


def share(value: float | None) -> str:
    """`12.3%`; a dash where it is not known."""
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """One decimal."""
    return "–" if value is None else f"{value:,.1f}"


def money(micro: float) -> str:
    """Two decimals, the currency said elsewhere."""
    return f"{micro / MICRO:,.2f}"


def _between(write: Callable[[float], str]) -> Callable[[Interval], str]:
    return lambda found: f"{write(found[0])} ({write(found[1])} to {write(found[2])})"


_COUNTED = _between(lambda value: f"{value:+,.0f}")
_PAID = _between(lambda value: f"{value / MICRO:+,.2f}")
_POINTS = _between(lambda value: f"{100 * value:+.1f}")
_TITLES = {
    "name": "", "what": "", "fraud_micro": "fraud money", "good_micro": "good money", "immature": "too young",
    "unseen": "unknown", "fraud_stopped_micro": "fraud money stopped", "good_hurt_micro": "good money hurt",
    "only_fraud": "only it: fraud", "only_micro": "only it: money", "only_good": "only it: good",
    "arrived": "of its frauds known", "decided": "labels known", "net_micro": "net from here on",
    "approved_micro": "money", "loss_micro": "loss", "approval_rate": "approved", "fraud_rate": "rate",
    "loss_bps": "bps", "caught_share": "caught", "false_positive_rate": "good hurt", "challenge_success": "passed",
    "review_yield": "reviews", "rate": "fraud rate", "labelled": "old enough", "bps": "loss, bps",
}  # fmt: skip
"""Key of a line → title of its column, where it is not the key itself."""
_WRITERS: Mapping[str, Callable[[Any], Value]] = {
    **dict.fromkeys(("fraud_micro", "good_micro", "only_micro", "net_micro", "approved_micro", "loss_micro"), money),
    **dict.fromkeys(("precision", "arrived", "decided", "approval_rate", "fraud_rate", "caught_share"), share),
    **dict.fromkeys(("false_positive_rate", "challenge_success", "review_yield"), share),
    **dict.fromkeys(("fraud_stopped", "good_hurt"), _COUNTED),
    **dict.fromkeys(("fraud_stopped_micro", "good_hurt_micro"), _PAID),
    **dict.fromkeys(("declines", "challenges", "reviewed_share", "approvals", "frauds"), _POINTS),
    "bps": _between(lambda value: f"{value:+.1f}"), "rate": _between(share), "loss_bps": number, "review_hours": number,
    "from_score": lambda value: f"{value:.4f}", "amount": lambda value: f"{value:,.2f}",
    "score": lambda value: "–" if value is None else f"{value:.4f}",
    "average_precision": lambda value: "–" if value is None else f"{value:.3f}",
    "week": lambda value: value.replace("-", "\u2011"),
}  # fmt: skip
_KNOWN = "payments fraud fraud_micro good good_micro immature unseen precision"


def _table(page: Page, rows: Iterable[Line], keys: str, texts: int = 1, grey: Sequence[int] = ()) -> None:
    """Lines under the titles of their keys; the first `texts` columns are texts."""
    names = keys.split()
    cells = [[_WRITERS.get(key, _text)(row.get(key)) for key in names] for row in rows]
    page.table([_TITLES.get(key, key.replace("_", " ")) for key in names], cells, range(texts), grey)


def _text(value: Any) -> Value:
    return ", ".join(value) if isinstance(value, list | tuple) else value


def _maturity(page: Page, report: Line) -> None:
    """What each week can be judged by, and the label arrival curve."""
    days = report["mature_after_us"] // DAY_US
    page.heading("Labels by week", f"Grey weeks are immature: some of their payments are younger than {days} days.")
    _table(page, report["weeks"], "week payments fraud arrived decided unseen", grey=_immature(report))
    curve = report["arrival"]
    if report["arrival_frauds"]:
        page.pictures(Picture(
            "How fast frauds become known", f"Share known so many days after the payment, learnt from "
            f"{report['arrival_frauds']:,} labels, corrected for payments too young to show slow ones.",
            lines(range(len(curve)), {"known": curve}, "days after the payment", "share known"), NARROW, LOW,
        ))  # fmt: skip


def _immature(report: Line) -> list[int]:
    return [at for at, week in enumerate(report["weeks"]) if not week["mature"]]


def backtest_page(report: Line) -> Page:
    """What a draft would have done."""
    currency, draft = report["currency"], report["sides"][0]
    page = Page(
        f"{'PARTIAL: ' if report['partial'] else ''}Backtest of {report['draft']}",
        f"Payments from {moment(report['from_us'])} to {moment(report['to_us'])} UTC, beside {report['against']}; "
        f"labels as known on {moment(report['as_of_us'])}; money in {currency}.",
    )
    for remark in report["partial"]:
        page.note(remark, "bad")
    page.listed(report["remarks"])
    page.cards({
        "payments": report["payments"], "with another tier or action": draft["changed"],
        "fraud stopped": _COUNTED(draft["fraud_stopped"]), f"fraud, {currency}": _PAID(draft["fraud_stopped_micro"]),
        "good orders hurt": _COUNTED(draft["good_hurt"]), f"good orders, {currency}": _PAID(draft["good_hurt_micro"]),
        "review hours": f"{report['live']['review_hours']:,.1f} → {draft['review_hours']:,.1f}",
    })  # fmt: skip
    page.heading("In money", "Stopped is anything but ALLOW. Differences to live with 95 % intervals: cards and people "
                 "drawn again a thousand times. Unknown: stopped live, and nobody told what they were.")  # fmt: skip
    keys = "fraud_stopped fraud_stopped_micro good_hurt good_hurt_micro review_hours changed"
    _table(page, report["sides"], f"name {keys}")
    freed = draft["freed_unknown"]
    if freed["payments"]:
        page.note(f"{freed['payments']:,} payments stopped live without a label would be let through: whether "
                  "they are good or fraud is not known, so they are in no sum above.", "warn")  # fmt: skip
    for side in (report["live"], *report["sides"]):
        page.heading(side["name"], level=3)
        _table(page, ({"action": name, **sums} for name, sums in side["steps"].items()), f"action {_KNOWN}")
    page.heading("What changes", "Payments by what was live (rows) and by the draft (columns).")
    for name, values in (("actions", ACTIONS), ("tiers", TIERS)):
        rows = [(one.name, *line) for one, line in zip(values, report[name], strict=True)]
        page.table(["live \\ draft", *(value.name for value in values)], rows)
    _maturity(page, report)
    _rules(page, report)
    _shadow(page, report)
    _curve(page, report)
    page.heading("Payments to look at", "Those whose action changes: the largest of each kind of change by turns.")
    _table(page, report["examples"], "event_id time label live draft live_rules draft_rules amount score", 7)
    return page


def _rules(page: Page, report: Line) -> None:
    page.heading("Rules", "Precision counts payments that are old enough. “Only it” would have got a milder action "
                 "without the rule; of an observed rule, a severer one with it.")  # fmt: skip
    rows = [
        {"only_fraud": line["only"]["fraud"], "only_micro": line["only"]["fraud_micro"],
         "only_good": line["only"]["good"], **_named(line)}
        for line in report["rules"]
    ]  # fmt: skip
    _table(
        page,
        rows,
        "rule what payments fraud fraud_micro good unseen precision only_fraud only_micro only_good live_hits",
        2,
    )
    if report["silent"]:
        page.note(f"Hit nothing: {', '.join(report['silent'])}.", "grey")
    names, matrix = report["overlap"]["rules"][:RULES_IN_PICTURE], report["overlap"]["share"]
    if len(names) > 1:
        percent = [[100 * cell for cell in row[: len(names)]] for row in matrix[: len(names)]]
        caption = "Per cent of the hits of a rule (row) that another one (column) hits too."
        page.pictures(Picture("Overlap", caption, heat(names, names, percent), 9.5, 5.0))


def _named(line: Line) -> Line:
    return {**line, "what": "observed" if line["observed"] else "enforced"}


def _shadow(page: Page, report: Line) -> None:
    page.heading("Observed on live traffic", "From the journal: rules that changed nothing beside those that were "
                 "enforced, and models that were scored beside the one that decided.")  # fmt: skip
    if report["side_by_side"]:
        _table(page, map(_named, report["side_by_side"]), f"rule what {_KNOWN}", 2)
    for each in report["challengers"]:
        page.heading(f"{each['model']}: {each['scored']:,} scored", "Stopped, were the bands read by its score.", 3)
        rows = ({"name": who, **each[who]} for who in ("live", "challenger"))
        _table(page, rows, f"name {_KNOWN} average_precision")
    if not report["side_by_side"] and not report["challengers"]:
        page.note("Nothing was observed.")


def _curve(page: Page, report: Line) -> None:
    found, currency, margin = report["curve"], report["currency"], report["assumed"]["margin"]
    page.heading("Where a decline would pay", f"If all from a score on were declined: the loss that is saved, less "
                 f"{margin:.0%} of the good orders' amounts. A proposal; policy.yaml is not touched.")  # fmt: skip
    if not found:
        page.note("No payment with a score is known as fraud.")
        return
    if report["proposed_score"] is not None:
        best = money_text(max(line["net_micro"] for line in found), currency)
        page.note(f"Proposed: DECLINE from {report['proposed_score']:.4f}, worth {best} here.", "good")
    scores, net = [line["from_score"] for line in found], [line["net_micro"] / MICRO for line in found]
    draw = lines(scores, {"net": net}, "declined from this score on", currency)
    page.pictures(
        Picture("Net of declining", "On the right only the highest scores, on the left all.", draw, NARROW, LOW)
    )
    _table(page, found, f"from_score {_KNOWN} net_micro")


def risk_page(report: Line) -> Page:
    """One page for a head of risk, to print."""
    total, found, currency = report["total"], rates(report["total"]), report["currency"]
    first, last = (moment(report[end])[:10] for end in ("from_us", "to_us"))
    page = Page(
        f"{'PARTIAL: ' if report['partial'] else ''}Risk report {first} to {last}",
        f"Money in {currency}; outcomes as known on {moment(report['as_of_us'])} UTC.",
    )
    immature = _immature(report)
    if immature:
        named = ", ".join(report["weeks"][at]["week"] for at in immature)
        page.note(f"Still immature, so that more of their fraud will become known: weeks of {named}.", "warn")
    for remark in (*report["partial"], *report["remarks"]):
        page.note(remark, "bad")
    page.cards({
        "payments": total["payments"], f"approved, {currency}": money(total["approved_micro"]),
        f"fraud loss, {currency}": money(total["loss_micro"]), "loss, basis points": number(found["loss_bps"]),
        "fraud rate": share(found["fraud_rate"]), "of known fraud caught": share(found["caught_share"]),
        "good stopped": share(found["false_positive_rate"]), "approval rate": share(found["approval_rate"]),
        "challenges passed": share(found["challenge_success"]), "review yield": share(found["review_yield"]),
    })  # fmt: skip
    by_week = {name: rates(figures) for name, figures in report["by_week"].items()}
    names = [name[5:] for name in by_week]
    loss, approved = ([each[rate] or 0 for each in by_week.values()] for rate in ("loss_bps", "approval_rate"))
    grey_from = names[immature[0]] if immature else None
    page.pictures(
        Picture("Fraud loss", "Of what was approved, by week of the payment; grey is immature.",
                lines(names, {"loss": loss}, "", "basis points", grey_from=grey_from), NARROW, LOW),
        Picture("Approval rate", "Share of attempts that were let through.", lines(names, {"approved": approved}),
                NARROW, LOW),
    )  # fmt: skip
    keys = "payments approval_rate approved_micro fraud fraud_rate loss_micro loss_bps caught_share"
    for title, key in (("week", "by_week"), ("market", "by_market"), ("scheme", "by_scheme")):
        page.heading(f"By {title}")
        rows = ({"week": name, "name": name, **figures, **rates(figures)} for name, figures in report[key].items())
        first = "week" if title == "week" else "name"
        _table(page, rows, f"{first} {keys} false_positive_rate challenge_success review_yield unseen",
               grey=immature if title == "week" else ())  # fmt: skip
    _limits(page, report)
    _tiers(page, report)
    _effects(page, report)
    page.heading("What measures did", "Told: notices that the shop was sent. In force: at the end of the period.")
    rows = ({"measure": name, **counts} for name, counts in report["measures"].items())
    _table(page, rows, "measure given told begun lifted in_force")
    asked, told, passed = (total[key] for key in ("challenged", "challenge_told", "challenge_passed"))
    page.note(f"Challenges: {asked:,} asked for, {told:,} known to have ended, {passed:,} of them passed.")
    _maturity(page, report)
    page.heading("What the words mean")
    page.listed(f"{name.removesuffix('_micro').replace('_', ' ')}: {text}" for name, text in MEANING.items())
    return page


def _limits(page: Page, report: Line) -> None:
    page.heading("Chargebacks against the schemes' limits", "By the month in which they became known.")
    if not report["months"]:
        page.note("No payment names a scheme's card (card.bin), so there is nothing to count.")
    rows = [
        {**line, "counted_share": share(line["counted"] / line["payments"] if line["payments"] else None),
         "state": Cell(", ".join(line["exceeded"]), "bad", True) if line["exceeded"] else Cell("below", "good")}
        for line in report["months"]
    ]  # fmt: skip
    _table(page, rows, "scheme month over limits state counted payments counted_share", 5)


def _tiers(page: Page, report: Line) -> None:
    page.heading("How much fraud is in a tier", "Of payments that were let through and are old enough.")
    tiers = {name: line["rate"] for name, line in report["tiers"].items() if line["labelled"]}
    if tiers:
        value, low, high = (list(ends) for ends in zip(*tiers.values(), strict=True))
        draw = bars(list(tiers), {"fraud rate": value}, "share", (low, high))
        page.pictures(Picture("Fraud rate by tier", "With 95 % intervals.", draw, NARROW, LOW))
    rows = ({"tier": name, **line} for name, line in report["tiers"].items())
    _table(page, rows, "tier payments approved labelled rate")


def _effects(page: Page, report: Line) -> None:
    page.heading("What each change of the policy did", "After less before in percentage points, and in basis points of "
                 "money, with 95 % intervals; grey: the days after it are immature.")  # fmt: skip
    if not report["effects"]:
        page.note("Nothing else went live in this period.")
        return
    renamed = {"declined": "declines", "challenged": "challenges", "reviewed": "reviewed_share",
               "approval_rate": "approvals", "fraud_rate": "frauds", "loss_bps": "bps"}  # fmt: skip
    rows = [
        {**{renamed[name]: found for name, found in line["differences"].items()}, "since": moment(line["since_us"]),
         "change": f"{line['program'][:8]} {line['who']}",
         "days": f"{line['before_days']:.0f} | {line['after_days']:.0f}"}
        for line in report["effects"]
    ]  # fmt: skip
    grey = [at for at, line in enumerate(report["effects"]) if not line["mature"]]
    _table(page, rows, "change since days declines challenges approvals frauds bps", 3, grey)
