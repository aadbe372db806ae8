"""Why a score is what it is: each feature's contribution, and the reasons that follow, journaled beside the decision.

    explain(stored, program, explainers)           → Explained, or ModelError
    Follower(journal, explainers, load).follow()   → explains what has been decided, in the keeper's process

The stored decision never changes: an explanation is a record of its own, kind `explanation`, under the decision's id.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine.errors import ArbiterError, ModelError, NotFound
from engine.features.spec import Aggregate, Derived
from engine.journal.sqlite import SqliteJournal
from engine.policy.reasons import said_in
from engine.program import MISSING, Program
from engine.records import decision_of, event_of
from engine.schema import FIELDS
from engine.scoring.explain import Explainer, load_explainer
from engine.values import Action, Reason, Record, Row, Stored

KIND = "explanation"
SOURCE = "explanations"
"""Where the journal keeps how far the explaining has come."""
MOST_REASONS = 4
LEAST = 0.1
"""A reason that raises the log-odds by less (the odds by a tenth) is not told."""
AT_ONCE = 64
"""Decisions between two commits."""
PAUSE = 4
"""Times as long as it worked it pauses, so that it takes a fifth of a core at most: callers want the rest."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one feature did to the log-odds."""

    feature: str
    value: float | bool | None
    """None was missing."""
    log_odds: float
    """Above 0 raised the risk."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision's score, taken apart: `bias` and all contributions sum to `margin`."""

    model: str
    """`payment/1`."""
    score: float
    margin: float
    """Log-odds before calibration."""
    bias: float
    """Log-odds of a payment of which nothing is known."""
    contributions: tuple[Contribution, ...]
    """Those that are not 0, the largest first."""
    reasons: tuple[Reason, ...]
    """What raised the score most, in the policy's words; at most four."""


class Explainers:
    """Explainers of the models below a folder, each loaded when first needed."""

    def __init__(self, models: Path) -> None:
        self._models, self._loaded = models, dict[str, Explainer]()

    def of(self, name: str) -> Explainer:
        """The explainer of `payment/1`; ModelError when its folder is gone or not sound."""
        if name not in self._loaded:
            self._loaded[name] = load_explainer(self._models / name)
        return self._loaded[name]


def explain(stored: Stored, program: Program, explainers: Explainers) -> Explained:
    """Take apart the score of a stored decision; `program` is the one that decided, or a later one.

    NotFound where there is no score, ModelError when its model is gone or gives these features another score.
    """
    decision, event = decision_of(stored), event_of(stored.record)
    body = orjson.loads(stored.record.public)
    if decision.score is None:
        raise NotFound(f"{decision.id!r} was decided without a score; only scores are explained here")
    name = body["model"]
    explainer = explainers.of(name)
    row: Row = program.open(event, body.get("opened_us", event.time_us)).row | body["features"]
    features = explainer.model.features
    found = explainer.explain([row.get(feature, MISSING) for feature in features])
    score = explainer.model.calibration.score(found.margin)
    if score != decision.score:
        raise ModelError(f"{name} gives {decision.id!r} the score {score}, which was decided with {decision.score}")
    parts = [
        Contribution(feature, row.get(feature), log_odds)
        for feature, log_odds in zip(features, found.contributions, strict=True)
        if log_odds
    ]
    parts.sort(key=lambda part: -abs(part.log_odds))
    reasons = said_in(row.get("user.language", ""), _reasons(parts, program, name), program.policy.translations)
    return Explained(name, score, found.margin, found.bias, tuple(parts), reasons)


def _reasons(parts: list[Contribution], program: Program, model: str) -> tuple[Reason, ...]:
    """Contributions summed by reason, those that raise the score most."""
    explains, sums = program.policy.settings.explains, dict[Reason, float]()
    for part in parts:
        known = explains.get(part.feature)
        reason = known or Reason(part.feature, meaning_of(part.feature, program), "", "", "model")
        sums[reason] = sums.get(reason, 0.0) + part.log_odds
    told = sorted((r for r, log_odds in sums.items() if log_odds >= LEAST), key=lambda r: -sums[r])[:MOST_REASONS]
    return tuple(Reason(r.code, r.analyst, r.customer, f"model:{model}", r.category) for r in told)


def meaning_of(feature: str, program: Program) -> str:
    """What a feature or a field of an event means, in the words of its definition."""
    known: list[Aggregate | Derived] = [*program.feature_set.aggregates, *program.feature_set.derived]
    found = next((one.meaning for one in known if one.name == feature), "")
    return found or (FIELDS[feature].meaning if feature in FIELDS else feature)


def record_of(explained: Explained, stored: Stored) -> Record:
    """The record that keeps an explanation; it claims no id."""
    body = orjson.dumps({"explained": asdict(explained)})
    return Record(KIND, stored.record.id, b"", stored.record.event_us, "", body, b"", 0)


def read_record(record: Record) -> Explained:
    """The explanation that a record keeps."""
    body: Mapping[str, Any] = orjson.loads(record.public)["explained"]
    parts = tuple(Contribution(**part) for part in body["contributions"])
    reasons = tuple(Reason(**reason) for reason in body["reasons"])
    return Explained(**{**body, "contributions": parts, "reasons": reasons})


def _give_way() -> None:
    """Let whatever answers callers go first on a core that is wanted by both."""
    with suppress(OSError, AttributeError):  # where threads have no priority of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class Follower:
    """Explains every decision that is not ALLOW, in the journal's order. Nothing waits for it.

    Explanations and how far they have come are committed together, so what dies in between is done again, once.
    """

    def __init__(self, journal: SqliteJournal, explainers: Explainers, load: Callable[[str], Program]) -> None:
        """`load` gives the program of a digest, which decisions name."""
        self._journal, self._explainers = journal, explainers
        self._program = lru_cache(maxsize=4)(load)
        self._seen, self._warmed = journal.position(SOURCE), ""
        self._thread = ThreadPoolExecutor(1, "explaining", _give_way)
        self._log = structlog.get_logger()

    async def follow(self) -> int:
        """Explain what has been decided since; returns how many explanations that gave."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._warm)
        decisions, count, more = self._journal.read(self._seen, ("decision",)), 0, True
        while more:
            began_s = time.perf_counter()
            seen, made = await loop.run_in_executor(self._thread, self._some, decisions)
            if made:
                self._journal.load(made, SOURCE, seen)
            self._seen, count, more = seen or self._seen, count + len(made), seen > 0
            if made:
                await asyncio.sleep(PAUSE * (time.perf_counter() - began_s))
        return count

    def _warm(self) -> None:
        """Load what is live before the first decision needs it."""
        newest = self._journal.programs.newest()
        if newest is not None and newest.digest != self._warmed:
            self._warmed = newest.digest
            with suppress(ArbiterError):  # whatever is wrong is told with the decision that it concerns
                for name in self._program(newest.digest).policy.settings.models.values():
                    self._explainers.of(name)

    def _some(self, decisions: Iterator[Stored]) -> tuple[int, list[Record]]:
        """The next explanations, and up to which record they go; 0 at the end."""
        seen, made = 0, list[Record]()
        for stored in islice(decisions, AT_ONCE):
            seen, made = stored.seq, made + self._explained(stored)
        return seen, made

    def _explained(self, stored: Stored) -> list[Record]:
        decision = decision_of(stored)
        if decision.action is Action.ALLOW or decision.score is None:
            return []
        try:
            return [record_of(explain(stored, self._program(decision.program), self._explainers), stored)]
        except ArbiterError as problem:
            self._log.warning("a score is not explained", id=decision.id, reason=str(problem))
        except Exception:  # One strange record must not stop what explains all others.
            self._log.error("a score is not explained", id=decision.id, exc_info=True)
        return []
