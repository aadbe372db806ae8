"""Giving the word to another model: what it would have changed, and the edit of `policy.yaml` that does it.

`policy.yaml` decides which model scores, so promotion writes there and nowhere else: the one name is replaced where it
stands, every comment and line stays as it is, and the change is seen in the history of the file like any other.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from engine.errors import PolicyError
from engine.journal.sqlite import SqliteJournal
from engine.language import Diagnostics, Listing, Node, Scalar, Table, parse_yaml
from engine.policy.combine import band_of
from engine.program import Program
from engine.scoring.model import ScoringModel
from engine.snapshot import redecide
from engine.values import Action, Decision, Stored

POLICY = "policy.yaml"
NONE = -1
"""The band of a decision without a score."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Recent decisions made again from their records, with one model and with another; all else is equal."""

    decisions: int
    changed: int
    """Of them, how many would get another action or tier."""
    bands: Counter[tuple[int, int]]
    """(band before, band after) → decisions; an index into the policy's bands, or NONE."""
    actions: Counter[tuple[Action, Action]]

    @property
    def share(self) -> float:
        """Share of the decisions that would change, 0..1."""
        return self.changed / self.decisions if self.decisions else 0.0


def recent(journal: SqliteJournal, kind: str, most: int) -> deque[Stored]:
    """The newest decisions about a kind of event, oldest first."""
    found: deque[Stored] = deque(maxlen=most)
    # Records of other kinds stand between them; what lies before these is not recent.
    for stored in journal.read(max(0, journal.last_seq() - 20 * most), ("decision",)):
        if orjson.loads(stored.record.public)["kind"] == kind:
            found.append(stored)
    return found


def shift(
    decisions: deque[Stored], program: Program, kind: str, before: ScoringModel | None, after: ScoringModel
) -> Shift:
    """What another model changes about decisions, under the same policy and from what their records keep."""
    models = {other: model for other, model in program.models.items() if other != kind}
    old = replace(program, models=models | ({kind: before} if before else {}), challengers={})
    new = replace(program, models=models | {kind: after}, challengers={})
    bands, actions, changed = Counter[tuple[int, int]](), Counter[tuple[Action, Action]](), 0
    for stored in decisions:
        was, will = redecide(stored, old), redecide(stored, new)
        bands[_band(was, program, kind), _band(will, program, kind)] += 1
        actions[was.action, will.action] += 1
        changed += (was.action, was.tier) != (will.action, will.tier)
    return Shift(len(decisions), changed, bands, actions)


def _band(decision: Decision, program: Program, kind: str) -> int:
    bands = program.policy.settings.bands.get(kind, ())
    band = band_of(bands, decision.score) if decision.score is not None else None
    return bands.index(band) if band else NONE


def promoted(text: str, kind: str, name: str) -> str:
    """The text of `policy.yaml` with another model that decides about a kind of event.

    A challenger that is promoted changes places with the model before it. PolicyError when there is no such place.
    """
    diagnostics = Diagnostics()
    top = parse_yaml(text, POLICY, diagnostics)
    diagnostics.raise_if_failed()
    models = _under(top, "models")
    if models is None:
        return f"{text.rstrip()}\n\nmodels: {{{kind}: {name}}}\n"
    decides, rivals = _under(models, kind), _under(_under(top, "challengers"), kind)
    if not isinstance(decides, Scalar):
        raise PolicyError(f"{models.position()}: no model is named for {kind}; write there `{kind}: {name}`")
    named = [one for one in (rivals.items if isinstance(rivals, Listing) else ()) if isinstance(one, Scalar)]
    places = [(decides, name), *((rival, decides.value) for rival in named if rival.value == name)]
    for place, word in sorted(places, key=lambda pair: -pair[0].start):
        text = text[: place.start] + word + text[place.end :]
    return text


def _under(node: Node | None, key: str) -> Node | None:
    entries = node.entries if isinstance(node, Table) else ()
    return next((value for name, value in entries if name.value == key), None)


def draft(rules: Path, text: str, target: Path) -> Path:
    """A copy of the policy's folder in `target` with another `policy.yaml`, to see whether it loads."""
    made = target / rules.name
    shutil.copytree(rules, made)
    (made / POLICY).write_text(text, newline="")
    return made


def policy_text(rules: Path) -> str:
    """What `policy.yaml` holds, line ends as they are."""
    return (rules / POLICY).read_bytes().decode().removeprefix("\ufeff")


def write_policy(rules: Path, text: str, seen: str) -> None:
    """Replace `policy.yaml` at once; PolicyError when somebody changed it since it was `seen`."""
    path = rules / POLICY
    new = path.with_name(f".{POLICY}.{os.getpid()}")
    try:
        if policy_text(rules) != seen:
            raise PolicyError(f"{path} was changed meanwhile; nothing was written, say it again")
        with new.open("w", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(path, new)
        new.replace(path)
    except OSError as error:
        raise PolicyError(f"{path} can't be written: {error.strerror or error}; it is as it was") from error
    finally:
        new.unlink(missing_ok=True)
