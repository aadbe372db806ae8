"""What is suspicious in a policy that loads: each finding with its place, and nothing that can't be told for sure.

    lint(policy, folder, diagnostics, now_us, facts)

A rule's condition is a region (`ranges.py`): for each expression the values that are left. Against what an expression
can be at all it shows what is never or always true; against the other parts of the condition, contradiction and
repetition; against the regions of other rules, duplicates and rules that say nothing of their own.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from engine.intake import RANGES
from engine.language import Checked, Diagnostics, Position, Related, Scalar, Table, evaluate, load_yaml
from engine.language.diagnostics import Severity
from engine.language.expression import Binary, Literal, Logic, Name, Node, Unary
from engine.language.resolve import Coalesce, InList, Present, children
from engine.language.types import BOOL, DOUBLE
from engine.policy.bundle import policy_files
from engine.policy.evaluate import Policy
from engine.policy.lists import AnyList, NetworkList
from engine.policy.ranges import ALL, Allowed, Atom, Demand, after, atoms, before, demand_of, meet, points, within
from engine.policy.rules import Rule
from engine.schema import FIELDS
from engine.values import Action, Tier

DAY_US = 86_400_000_000
LONG_OBSERVED_US = 90 * DAY_US
OFTEN_MISSING = 0.5
MOST_COMPARED = 3_000_000
_MONEY = frozenset({"txn.amount", "txn.amount_minor"})
_ORDERED = frozenset({"<", "<=", ">", ">=", "==", "!="})
_LIMITS = RANGES | {
    "score": (0.0, 1.0), "event.local_hour": (0, 23), "event.utc_hour": (0, 23), "event.weekday": (0, 6),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the policy itself."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Feature → least and largest value that it can have."""
    present: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Event kind → input → the share of events that have it, as measured on a history."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One rule, what its condition leaves, and where its parts stand."""

    rule: Rule
    checked: Checked
    demand: Demand
    region: dict[str, Allowed] = field(default_factory=dict)
    parts: dict[str, Node] = field(default_factory=dict)

    def place(self, node: Node) -> Position:
        """Where a part of the condition stands; a band of a scorecard has none of its own, and stands as a whole."""
        assert self.checked.located is not None
        place = self.checked.located.position(node.start)
        file, _, line = self.rule.place.rpartition(":")
        return place if place.file == file else Position(file, int(line), 1)

    def text(self, node: Node) -> str:
        """A part as it was written."""
        return self.checked.text[node.start : node.end]


def lint(policy: Policy, folder: Path, diagnostics: Diagnostics, now_us: int, facts: Facts | None = None) -> None:
    """Add everything suspicious to `diagnostics`, as warnings; money without a currency is an error."""
    work = _Lint(policy, diagnostics, now_us, facts or Facts())
    pairs = chain.from_iterable(zip(found.rules, found.conditions, strict=True) for found in policy.by_kind.values())
    unique = {rule.id: (rule, checked) for rule, checked in pairs}
    subjects = [Subject(rule, checked, demand_of(checked.tree)) for rule, checked in unique.values()]
    for subject in subjects:
        work.condition(subject)
        work.inputs(subject)
        work.life(subject)
    work.pairs(subjects)
    work.bands(folder)
    work.unused(folder)


@dataclass(slots=True)
class _Lint:
    policy: Policy
    diagnostics: Diagnostics
    now_us: int
    facts: Facts

    def warn(self, code: str, message: str, subject: Subject, node: Node, hint: str = "", *also: Related) -> None:
        """A finding under a part of a rule's condition."""
        severity: Severity = "error" if code == "L609" else "warning"
        length = max(1, node.end - node.start)
        self.diagnostics.error(code, message, subject.place(node), length, hint=hint, related=also, severity=severity)

    # --- one condition

    def condition(self, subject: Subject) -> None:
        """Fill the subject's region part by part, and say what each part is against what it can be and those before."""
        for node in subject.checked.conjuncts:
            if not _reads(node):
                self.constant(subject, node)
            elif _off_the_scale(node):
                hint = "a score is a probability, from 0 to 1: write 0.5 for 50 %"
                self.warn(
                    "L607", f"`{subject.text(node)}` compares the score with what it never is", subject, node, hint
                )
            else:
                for atom in atoms(node):
                    self.atom(subject, node, atom)

    def constant(self, subject: Subject, node: Node) -> None:
        """A part that reads nothing."""
        value = evaluate(replace(subject.checked, tree=node), {})
        if value is True and "#" not in subject.rule.id:  # a row of a table may be for everything
            self.warn("L602", f"`{subject.text(node)}` is always true", subject, node, "leave it out")
        elif value is not True:
            self.warn("L601", f"`{subject.text(node)}` is never true, so the rule never hits", subject, node)

    def atom(self, subject: Subject, node: Node, atom: Atom) -> None:
        """One atom against what its expression can be, then against what is left of it so far."""
        limits = self.domain(atom.subject, subject.rule)
        allowed, before_it = meet(atom.allowed, limits), subject.region.get(atom.key)
        said, about = subject.text(node), subject.text(atom.subject)
        if not allowed:
            self.warn("L601", f"`{said}` is never true: `{about}` is {_described(limits)}", subject, node)
        elif within(limits, atom.allowed) and not (limits == ALL and atom.subject.type == DOUBLE):  # NaN passes nothing
            hint = f"to ask whether it is known, write has({about})" if isinstance(atom.subject, Name) else ""
            self.warn("L602", f"`{said}` is always true: `{about}` is {_described(limits)}", subject, node, hint)
        elif before_it is not None:
            other = subject.parts[atom.key]
            also = Related(subject.place(other), "the other part")
            if not meet(before_it, allowed):
                message = f"`{said}` and `{subject.text(other)}` are never true together"
                self.warn("L603", message, subject, node, "", also)
            elif within(before_it, allowed) or within(allowed, before_it):
                idle, by = (node, other) if within(before_it, allowed) else (other, node)
                message = f"`{subject.text(idle)}` adds nothing: `{subject.text(by)}` says as much"
                self.warn("L604", message, subject, idle, "leave it out", replace(also, position=subject.place(by)))
        subject.region[atom.key] = allowed if before_it is None else meet(before_it, allowed)
        subject.parts[atom.key] = node

    def domain(self, node: Node, rule: Rule) -> Allowed:
        """All values that an expression can have, as far as that is known."""
        if node.type == BOOL:
            return points([False, True])
        if not isinstance(node, Name):
            return ALL
        known = FIELDS.get(node.path)
        choices: Sequence[str] = known.choices if known else ()
        if node.path == "user.risk.tier":
            choices = [tier.name for tier in Tier if tier]
        elif node.path == "event.kind" and rule.on != ("user",):
            choices = rule.on
        if choices:
            return points(choices)
        limits = _LIMITS.get(node.path) or self.facts.ranges.get(node.path)
        return ((before(limits[0]), after(limits[1])),) if limits else ALL

    # --- what a condition reads

    def inputs(self, subject: Subject) -> None:
        """Lists without entries, money without a currency, inputs that are mostly not there."""
        tree = subject.checked.tree
        for node in _all(tree):
            if isinstance(node, InList) and not _live(self.policy.lists[node.list_name], self.now_us):
                message = f"the list `{node.list_name}` has no entry in force, so this is never true"
                self.warn("L608", message, subject, node)
        for node in _unfixed(tree):
            hint = 'use txn.amount_base, which is in the base currency, or add `txn.currency == "…"`'
            self.warn("L609", f"`{subject.text(node)}` means another sum in each currency", subject, node, hint)
        asked = {node.path for node in _all(tree) if isinstance(node, Present)}
        for node in () if subject.rule.unknown_hits else _all(tree, but=Coalesce):
            if isinstance(node, Name) and node.path not in asked:
                share = max(self.facts.present.get(kind, {}).get(node.path, 1.0) for kind in subject.rule.on)
                if share < OFTEN_MISSING:
                    asked.add(node.path)
                    message = f"`{node.path}` is absent from {1 - share:.0%} of the events given"
                    hint = "say what is meant then: coalesce(…, default), has(…), or `when_unknown: hit`"
                    self.warn("L610", message, subject, node, hint)

    # --- when, and to what end

    def life(self, subject: Subject) -> None:
        """Schedules that are over, and outcomes that nothing carries out."""
        rule, tree = subject.rule, subject.checked.tree
        if 0 < rule.until_us <= self.now_us:
            hint = "remove it, or set `status: off`"
            self.warn("L612", f"the rule `{rule.id}` has ended and does nothing any more", subject, tree, hint)
        elif rule.status == "observe" and 0 < rule.from_us < self.now_us - LONG_OBSERVED_US:
            days = (self.now_us - rule.from_us) // DAY_US
            hint = "look at what it would have done, then enforce or remove it"
            self.warn("L613", f"the rule `{rule.id}` has been observed for {days} days", subject, tree, hint)
        if rule.on == ("user",) and (rule.outcome.action or rule.outcome.measures):
            message = f"`{rule.id}` runs `on: user`, which sets a tier; its action and measures reach nobody"
            self.warn("L611", message, subject, tree, "write a rule on an event that reads user.risk.tier")

    def bands(self, folder: Path) -> None:
        """Bands of a kind that no model scores."""
        for name in _declared(folder / "policy.yaml", "policy.yaml", "bands"):
            if name.value in self.policy.settings.bands.keys() - self.policy.settings.models.keys():
                message = f"no model scores `{name.value}`, so none of its bands is ever reached"
                self.diagnostics.warn("L611", message, name.position(), name.length)

    def unused(self, folder: Path) -> None:
        """Parameters, lists and reasons that stand nowhere but where they are declared."""
        files = {path.relative_to(folder).as_posix(): path for path in policy_files(folder)}
        texts = {name: path.read_text("utf-8-sig") for name, path in files.items() if not name.startswith("lists/")}
        lists = {name for name, one in self.policy.lists.items() if one.kind != "allow"}
        explained = {reason.code for reason in self.policy.settings.explains.values()}
        for file, key, what, names in (
            ("policy.yaml", "parameters", "param.", None), ("lists/lists.yaml", "lists", "", lists),
            ("reasons.yaml", "reasons", "", None),
        ):  # fmt: skip
            elsewhere = "\n".join(text for name, text in texts.items() if name != file or what)
            words = set(re.findall(r"[\w.]+", elsewhere)) | explained
            for name in _declared(folder / file, file, key):
                word = what + name.value
                used = word in words or re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", elsewhere)
                if (names is None or name.value in names) and not used:
                    self.diagnostics.warn("L614", f"`{name.value}` is used nowhere", name.position(), name.length)

    # --- rules against each other

    def pairs(self, subjects: Sequence[Subject]) -> None:
        """Each rule against those whose condition its own may imply; the more telling of two findings is told."""
        live = [subject for subject in subjects if subject.region and all(subject.region.values())]
        count = Counter(key for subject in live for key in subject.region)
        index: defaultdict[str, list[int]] = defaultdict(list)
        for at, subject in enumerate(live):
            for key in subject.demand.keys(count.__getitem__):
                index[_narrow(key, subject.region)].append(at)
        compared = 0
        for at, subject in enumerate(live):
            keys = {narrow for key in subject.region for narrow in (key, _narrow(key, subject.region))}
            others = sorted({other for key in keys for other in index.get(key, ()) if other != at})
            compared += len(others)
            if compared > MOST_COMPARED:
                self.warn("L615", "rules from here on are not compared with others", subject, subject.checked.tree)
                return
            for other in others:
                implied = live[other].demand.met(subject.region)
                if implied and self.pair(subject, live[other], is_later=at > other):
                    break

    def pair(self, subject: Subject, other: Subject, is_later: bool) -> bool:
        """Say what it means that a rule hits only where another does too; False if that means nothing."""
        rule, by = subject.rule, other.rule
        tree = subject.checked.tree
        also = Related(other.place(other.checked.tree), "the other rule")
        if rule.first and rule.first == by.first:
            if is_later:
                self.warn(
                    "L611", "a row above hits wherever this one does, so it is never reached", subject, tree, "", also
                )
            return is_later
        if "#" in rule.id or by.first:  # a row speaks for its table, and one of a table with `first` not always
            return False
        if (
            subject.demand.met(other.region)
            and set(rule.on) & set(by.on)
            and rule.status == by.status
            and _together(rule, by)
        ):
            if is_later:
                self.warn(
                    "L605", f"`{rule.id}` and `{by.id}` have the same condition", subject, tree, "join them", also
                )
            return is_later
        if self.swallows(by, rule):
            message = f"wherever `{rule.id}` hits, `{by.id}` hits too and gives at least as much"
            self.warn("L606", message, subject, tree, "remove it, or let it give more", also)
            return True
        return False

    def swallows(self, by: Rule, rule: Rule) -> bool:
        """Whether a rule always acts where another does, and does at least as much."""
        actions = self.policy.settings.default_actions
        given = [
            (o.tier or 0, o.action or (actions[o.tier] if o.tier else Action.UNSPECIFIED))
            for o in (by.outcome, rule.outcome)
        ]
        allowing = any(one.kind == "allow" for one in self.policy.lists.values())
        return (
            rule.status == by.status == "enforce" and not rule.unknown_hits
            and by.rollout >= 1.0 and not by.until_us and by.from_us <= max(rule.from_us, self.now_us)
            and set(rule.on) <= set(by.on) and (by.final or not rule.final)
            and (rule.ruleset == by.ruleset or by.final or not allowing)
            and all(mine >= its for mine, its in zip(*given, strict=True))
            and all(measure in by.outcome.measures for measure in rule.outcome.measures)
        )  # fmt: skip


def _narrow(key: str, region: Mapping[str, Allowed]) -> str:
    """The key, with its value where only one is left: rules for other values need not be compared."""
    allowed = region.get(key, ALL)
    single = len(allowed) == 1 and allowed[0][0] != ALL[0][0] and allowed == points([allowed[0][0][1]])
    return f"{key} = {allowed[0][0][1]!r}" if single else key


def _together(one: Rule, other: Rule) -> bool:
    """Whether there is a time at which both run."""
    ends = [rule.until_us or 2**63 for rule in (one, other)]
    return max(one.from_us, other.from_us) < min(ends)


def _all(node: Node, but: type[Node] | None = None) -> Iterator[Node]:
    """A node and all below it; nothing below one of the type `but`."""
    yield node
    for child in children(node) if but is None or not isinstance(node, but) else ():
        yield from _all(child, but)


def _reads(node: Node) -> bool:
    return any(isinstance(part, Name | Present | InList) for part in _all(node))


def _off_the_scale(node: Node) -> bool:
    """Whether this compares the score with a number that is no probability."""
    if not isinstance(node, Binary) or node.operator not in _ORDERED:
        return False
    sides = (node.left, node.right)
    named = any(isinstance(side, Name) and side.path == "score" for side in sides)
    return named and any(isinstance(side, Literal) and not 0.0 <= side.value <= 1.0 for side in sides)


def _unfixed(node: Node, fixed: bool = False) -> Iterator[Node]:
    """Comparisons of money that no `txn.currency == …` stands beside."""
    if isinstance(node, Logic):
        if node.operator == "&&":
            found = [atom for operand in node.operands for atom in atoms(operand) if atom.key == "txn.currency"]
            fixed = fixed or any(atom.allowed and atom.allowed[0][0] != ALL[0][0] for atom in found)
        for operand in node.operands:
            yield from _unfixed(operand, fixed)
    elif isinstance(node, Unary):
        yield from _unfixed(node.operand, fixed)
    elif not fixed and isinstance(node, Binary) and node.operator in _ORDERED:
        parts = (node.left, node.right) if node.operator in ("==", "!=") else _all(node)
        if any(isinstance(part, Name) and part.path in _MONEY for part in parts):
            yield node


def _live(one: AnyList, now_us: int) -> bool:
    """Whether a list has an entry in force."""
    groups = [group for *_, group in one.prefixes] if isinstance(one, NetworkList) else [one.entries]
    return any(end == 0 or now_us < end for group in groups for end in group.values())


def _described(limits: Allowed) -> str:
    """A range in words."""
    if limits == ALL:
        return "any value"
    (_, low, _), (_, high, side) = limits[0][0], limits[-1][1]
    if len(limits) > 1 or isinstance(low, str | bool):
        return f"one of {', '.join(str(span[0][1]) for span in limits)}"
    high = high if side else high - 1
    return f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"


def _declared(path: Path, name: str, key: str) -> list[Scalar]:
    """The names under a key of a file, which has been read without a mistake before."""
    top = load_yaml(path, Diagnostics(), name) if path.exists() else None
    found = next((node for k, node in top.entries if k.value == key), None) if isinstance(top, Table) else None
    return [name for name, _ in found.entries] if isinstance(found, Table) else []
