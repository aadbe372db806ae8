"""What changed between two policies, in their own terms: thresholds, entries, statuses, bands, not lines of text.

    for line in differences(described(old.policy, old_others), described(new.policy, new_others)):
        …                                       # rule velocity: threshold of card.payments_1h 3 → 4

Both are read as loaded, so a file that was only moved or commented says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from difflib import SequenceMatcher
from enum import Enum
from typing import Any

from engine.policy.evaluate import Policy
from engine.policy.lists import AnyList, NetworkList
from engine.policy.rules import MeasureSpec, Outcome, Rule
from engine.values import Result

Thing = Mapping[str, Any]
"""What is said of one thing, by name."""
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[\w.]+|&&|\|\||[<>=!]=|\S')
_NUMBER, _NAME = re.compile(r"\d[\w.]*"), re.compile(r"[A-Za-z_]")
_MOMENTS = {"from", "until"}
_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"))


def described(policy: Policy, others: Mapping[str, Thing]) -> dict[str, Thing]:
    """Everything that a policy holds, by kind and name; `others` are things that this room does not know."""
    settings = policy.settings
    found: dict[str, Thing] = {}
    texts = {
        rule.id: checked.text
        for rules in policy.by_kind.values()
        for rule, checked in zip(rules.rules, rules.conditions, strict=True)
    }
    for card in (card for rules in policy.by_kind.values() for card in rules.adders):
        points = {c.text: card.hits[line, Result.HIT][1] for line, c in enumerate(card.program.conditions)}
        found[f"scorecard {card.name.removeprefix('scorecard.')}"] = {"points of": points}
    for rule in policy.rules:
        found[f"rule {rule.id}"] = _rule(rule, texts.get(rule.id, ""))
        found[f"reason {rule.reason.code}"] = _reason(rule.reason)
    for name, one in policy.lists.items():
        found[f"list {name}"] = {"type": one.type, "kind": one.kind, "entries": _entries(one)}
    for kind, bands in settings.bands.items():
        for number, band in enumerate(bands, 1):
            found[f"band {kind} {number}"] = {
                "from": band.from_score,
                "gives": band.outcome,
                "reason": band.reason.code,
            }
            found[f"reason {band.reason.code}"] = _reason(band.reason)
    for name, value in settings.parameters.items():
        found[f"parameter {name.removeprefix('param.')}"] = {"": value}
    for pattern in policy.plan.patterns.patterns:
        found[f"pattern {pattern.id}"] = _plain(pattern)
    for source, snoozes in policy.lowering.snoozes.items() if policy.lowering else ():
        for snooze in snoozes:
            told = {"author": snooze.author, "from": snooze.from_us, "until": snooze.until_us}
            found[f"snooze {snooze.id} of {source}"] = told
    for language, said in policy.translations.items():
        found |= {f"reason {code} in {language}": {"customer": text} for code, text in said.items()}
    found |= others
    apart = {"bands", "parameters", "limit_reason"}
    found["setting"] = {name: value for name, value in _plain(settings).items() if name not in apart}
    found.pop("reason ", None)
    return found


def differences(old: Mapping[str, Thing], new: Mapping[str, Thing]) -> Iterator[str]:
    """One line for each difference, sorted by what it is about."""
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            yield f"{name} added{_brief(new[name])}"
        elif name not in new:
            yield f"{name} removed{_brief(old[name])}"
        else:
            for part in (part for part in {**old[name], **new[name]} if old[name].get(part) != new[name].get(part)):
                for line in _changed(part, old[name].get(part), new[name].get(part)):
                    yield f"{name}: {line}" if name and part != "entries" else f"{name} {line}".strip()


def _rule(rule: Rule, text: str) -> Thing:
    told = {name: value for name, value in _plain(rule).items() if name not in {"id", "place", "reason", "outcome"}}
    return {**told, "gives": rule.outcome, "reason": rule.reason.code, "condition": text}


def _reason(reason: Any) -> Thing:
    return {"analyst": reason.analyst, "customer": reason.customer, "category": reason.category}


def _entries(one: AnyList) -> dict[Any, Any]:
    if isinstance(one, NetworkList):
        return {(bits, length, net): end for bits, length, nets in one.prefixes for net, end in nets.items()}
    return {value: (end, one.allowances.get(value)) for value, end in one.entries.items()}


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a value by their names as an analyst knows them."""
    assert is_dataclass(value)
    return {field.name.removesuffix("_us"): getattr(value, field.name) for field in fields(value)}


def _changed(part: str, old: Any, new: Any) -> Iterator[str]:
    if part == "entries":
        yield _entry_counts(old, new)
    elif part == "condition":
        if old and new:  # a rule that is off has no compiled condition
            yield from _conditions(old, new)
    elif is_dataclass(old) and type(old) is type(new) and not isinstance(old, Outcome):
        yield from (f"{part} {line}" for line in differences({"": _plain(old)}, {"": _plain(new)}))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            if old.get(key) != new.get(key):
                yield f"{part} {said(key)}: {said(old.get(key), part)} → {said(new.get(key), part)}"
    else:
        yield f"{part} {said(old, part)} → {said(new, part)}".strip()


def _entry_counts(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> str:
    other = sum(old[value] != new[value] for value in old.keys() & new.keys())
    counts = (("+", len(new.keys() - old.keys())), ("−", len(old.keys() - new.keys())))
    told = [f"{sign}{count}" for sign, count in counts if count]
    return " ".join([*told, *([f"{other} with another end or allowance"] if other else [])])


def _conditions(old: str, new: str) -> Iterator[str]:
    """Numbers that moved by the name they are compared with; what else changed between both whole texts."""
    before, after = _TOKEN.findall(old), _TOKEN.findall(new)
    moved = [at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]]
    if len(before) == len(after) and all(_NUMBER.match(before[at]) and _NUMBER.match(after[at]) for at in moved):
        for at in moved:
            names = [*filter(_NAME.match, before[:at][::-1]), *filter(_NAME.match, before[at:]), ""]
            yield f"threshold of {names[0]} {before[at]} → {after[at]}"
        return
    changed = [op for op in SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if op[0] != "equal"]
    first, last = changed[0], changed[-1]
    parts = (" ".join(before[first[1] : last[2]]), " ".join(after[first[3] : last[4]]))
    yield f"condition {parts[0] or 'nothing'} → {parts[1] or 'nothing'}\n    was {old}\n    is  {new}"


def _brief(thing: Thing) -> str:
    if "entries" in thing:
        return f" ({len(thing['entries'])} entries)"
    return f" ({thing['status']})" if "status" in thing else ""


def said(value: Any, part: str = "") -> str:
    """A value in an analyst's words."""
    if value is None or value in ("", ()):
        return "nothing"
    if isinstance(value, Enum):
        return value.name
    if part in {"rollout", "share"}:
        return f"{100 * value:g} %"
    if part in _MOMENTS and isinstance(value, int) and not isinstance(value, bool):
        return datetime.fromtimestamp(value / 1e6, UTC).isoformat().replace("+00:00", "Z") if value else "always"
    if part in {"hold", "lateness", "within", "mature_after", "window", "offset"} and isinstance(value, int):
        size, unit = next((one for one in _UNITS if value % one[0] == 0), (1, "µs"))
        return f"{value // size}{unit}"
    if isinstance(value, MeasureSpec):
        return value.kind
    if is_dataclass(value):
        parts = [said(getattr(value, field.name), field.name.removesuffix("_us")) for field in fields(value)]
        return " ".join(part for part in parts if part != "nothing")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(said(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
