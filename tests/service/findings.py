"""What is left after a fault: the stores are brought in order as the keeper would, then compared with a recount."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from engine.bootstrap import open_engine, open_program, open_stores
from engine.eventlog import ID, hash64
from engine.intake import read_event
from engine.keeper import Keeper
from engine.runtime import Runtime
from engine.service import convert
from engine.settings import Settings
from tests.service.recount import ENTITIES, Counts, Journal, broken_links, read_journal
from tests.service.shoppers import Ledger

LATER_US = 2**61
FAR_US = 2**62


@dataclass
class Findings:
    """Everything that must be empty after any fault, by id or by counter."""

    lost: list[str] = field(default_factory=list)
    """Acknowledged, but not in the journal."""
    changed: list[str] = field(default_factory=list)
    """Answered with something else than was acknowledged."""
    twice: list[str] = field(default_factory=list)
    """Ids with more than one decision."""
    unclean: list[str] = field(default_factory=list)
    """Admissions that are in profiles but not in the journal, the other way round, or in a log twice."""
    wrong: list[str] = field(default_factory=list)
    """Counters that differ from the recount."""
    unseen: list[str] = field(default_factory=list)
    """Decisions whose own counters differ from what had been admitted before them."""
    broken: list[int] = field(default_factory=list)
    """Records that break their writer's chain."""
    pending: int = 0
    admitted: int = 0
    undecided: int = 0

    @property
    def nothing(self) -> bool:
        """Whether all is as it must be."""
        lists = (self.lost, self.changed, self.twice, self.unclean, self.wrong, self.unseen, self.broken)
        return not any(lists) and not self.pending


async def bring_in_order(settings: Settings) -> None:
    """What the keeper does at a start, and what it does a minute after the last call."""
    profiles, journal = open_stores(settings)
    program = open_program(settings, with_models=False)
    profiles.open(program.layouts)
    journal.open()
    keeper = Keeper(program, profiles, journal, settings.state, {})
    keeper.recover()
    await keeper.reconcile(LATER_US)
    await profiles.close()
    await journal.close()


async def findings_of(settings: Settings, ledger: Ledger, *, power: bool = False) -> Findings:
    """Compare the stores of an installation that does not run with a recount, and with what callers were told.

    After a power cut a decision may have counted an attempt that was under way and is gone with the power, so only
    then its own counters are not compared.
    """
    await bring_in_order(settings)
    journal = read_journal(settings.state)
    found = Findings(changed=list(ledger.changed), broken=broken_links(journal), admitted=len(journal.facts))
    found.twice = [event_id for event_id, count in journal.decisions.items() if count > 1]
    found.undecided = journal.kinds["undecided"]
    engine = open_engine(settings)
    await engine.start(watch=False)
    try:
        await _answers(engine, ledger, found)
        found.pending = len(await engine.profiles.pending(FAR_US))
        await _logs(engine, journal, found)
        await _counters(engine, Counts(journal), journal, found)
    finally:
        await engine.close()
    if not power:
        found.unseen = _unseen(Counts(journal), journal)
    return found


async def _answers(engine: Runtime, ledger: Ledger, found: Findings) -> None:
    """Every acknowledged request is in the journal, and its decision is the very one that was answered."""
    for event_id, (method, _, reply) in ledger.answers.items():
        stored = await engine.journal.find(event_id)
        if stored is None or stored.record.kind == "undecided":
            found.lost.append(event_id)
        elif method == "Decide" and _decision_bytes(await engine.get_decision(event_id), reply) != reply:
            found.changed.append(event_id)


def _decision_bytes(decision: Any, reply: Message) -> Message:
    return type(reply).FromString(convert.decision_bytes(decision))


async def _logs(engine: Runtime, journal: Journal, found: Findings) -> None:
    """Each entity's log holds exactly the events of the journal, in order of admission."""
    program, counts = engine.pipeline.live.program, Counts(journal)
    for entity, layout in program.layouts.items():
        for value in counts.known(entity) if entity in ENTITIES else ():
            state = (await engine.profiles.peek({entity: program.identity.key(entity, value)}))[entity]
            words = memoryview(state.log).cast("q")[ID :: layout.size // 8].tolist()
            if words != [hash64(event_id) for event_id in counts.ids(entity, value)]:
                found.unclean.append(f"{entity}:{value}")


async def _counters(engine: Runtime, counts: Counts, journal: Journal, found: Findings) -> None:
    """Ask the engine, by its dry run, for the features of every person, card and device at the end."""
    end_us = max((fact.time_us for fact in journal.facts.values()), default=0) + 1_000_000
    names = {entity: counts.known(entity) for entity in ENTITIES}
    for turn in range(max(map(len, names.values()), default=0)):
        chosen = {entity: values[turn % len(values)] for entity, values in names.items()}
        _, case = await engine.consider(_probe(chosen, end_us))
        expected = counts.everything(*(chosen[entity] for entity in ENTITIES), end_us)
        found.wrong += [
            f"{name} of {chosen[name.partition('.')[0]]}: {case.row.get(name)} instead of {value}"
            for name, value in expected.items()
            if case.row.get(name) != value
        ]


def _probe(chosen: Mapping[str, str], time_us: int) -> Any:
    document = {"id": "probe", "kind": "payment", "time_us": time_us, "txn.amount_minor": 1, "txn.currency": "EUR"}
    return read_event(document | {ENTITIES[e]: value for e, value in chosen.items()}, now_us=time_us)


def _unseen(counts: Counts, journal: Journal) -> list[str]:
    """Each decision counted exactly what had a smaller admission number, also over retries and deaths of workers."""
    wrong = []
    for fact in journal.facts.values():
        if fact.decided and "card.payments_1h" in fact.snapshot:
            keys = [fact.fields[name] for name in ENTITIES.values()]
            for name, value in counts.simple(*keys, fact.time_us, fact.number).items():
                if fact.snapshot.get(name) != value:
                    wrong.append(f"{fact.id} {name}: {fact.snapshot.get(name)} instead of {value}")
    return wrong
