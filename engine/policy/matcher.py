"""The child process of the pattern matcher: durable_rules, alone behind a socket.

Run by path (`python -P engine/policy/matcher.py`), never with the parent's state: it imports four modules of the
standard library and the C core of durable_rules, and holds no data between two questions. Both ends take the wire
format from here. Every message is a little-endian uint32 length and that many bytes:

- first the parent sends the patterns (JSON, written by `PatternSet.spec`); each later message is one question:
  deadline (double, CLOCK_MONOTONIC seconds), number of histories (uint8), and for each history entity, number of
  facts (uint8 each) and number of candidate patterns (uint16), the candidates (uint16), the facts (time in µs since the
  oldest: int64; flags: bytes; one uint8 for each join key, 0 = missing), oldest first, the current event last;
- every message is answered, in order, by a status byte and the patterns that fired (uint16), or a text after FAILED.

What makes durable_rules safe here, and the semantics that the rules below spell, are in `docs/patterns.md`.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

LENGTH = struct.Struct("<I")
QUESTION = struct.Struct("<dB")
HISTORY = struct.Struct("<BBH")
DONE, LATE, FAILED = b"\0", b"\1", b"\2"

MAX_STEPS = 8
"""Present steps of one pattern; durable_rules holds 16 messages in a frame."""
FLAGS_PER_RULESET = 40
"""durable_rules fails a message that matches more than 64 alpha nodes at one level (error 303)."""
_LAST_ID = 100
"""The current event is posted once per candidate, with ids from here on; earlier facts have their rank as id."""


def row_format(flag_bytes: int, keys: int) -> struct.Struct:
    """One fact on the wire: time in µs since the oldest fact, flags, join keys."""
    return struct.Struct(f"<q{flag_bytes}s{keys}B")


class Mark(NamedTuple):
    """What an event becomes that is one of a pattern's earlier steps."""

    bit: int
    text: str
    """JSON of the flags that it sets in the fact."""
    barrier: str
    """Name of the field that holds the rank of the newest absent event before it; empty without absent steps there."""
    absent: int
    """Flag bits of those absent steps."""


class Compiled(NamedTuple):
    """One pattern as its ruleset knows it."""

    number: int
    """Place in the pattern set: the number that the parent asks for and gets back."""
    within_us: int
    keys: tuple[int, ...]
    """The join keys that all steps must share; a fact without one of them takes no part."""
    marks: tuple[Mark, ...]
    """For the last step, which only the current event is, and then for the earlier ones, newest first."""
    answer: str
    """How durable_rules begins the result of this rule."""


def rule(steps: Sequence[tuple[int, bool]], keys: Sequence[int], flags: Iterator[str]) -> tuple[list[Any], list[Mark]]:
    """One durable_rules rule, newest step first, and what its facts must carry.

    A step takes the newest event that fits, `$not` shuts out those before it: they could not match more, unless an
    absent event lies between. Without it n events that fit k steps are n-over-k results: six steps over 50 facts took
    2 s and 1 GB. Every flag stands in one node only: durable_rules shares equal nodes, and the second one then lacks
    the comparison. And the last comparison of a node must never be the one that is false (it would read on past the
    list): it repeats the first one.
    """
    joins = [{f"k{key}": {"m0": f"k{key}"}} for key in keys]
    parts: list[Any] = []
    marks: list[Mark] = []
    for place, (bit, absent) in enumerate(reversed(gaps(steps))):
        own, me, newer = next(flags), f"m{place}", f"m{place - 1}"
        text, barrier = f',"{own}":1', f"b{own}" if absent else ""
        if place == 0:
            parts.append({me: {own: 1}})
        else:
            older, in_time = {"$lt": {"n": {newer: "n"}}}, {"$gte": {"t": {"m0": "low"}}}
            clear = [{"$gte": {"n": {newer: marks[-1].barrier}}}] if marks[-1].absent else []
            parts.append({me: {"$and": [{own: 1}, older, *clear, *joins, in_time, {"$lte": {"n": {newer: "n"}}}]}})
            after = next(flags)
            text += f',"{after}":1'
            later, alike = {"$gt": {"n": {me: "n"}}}, [{barrier: {me: barrier}}] if absent else []
            between = [{after: 1}, later, older, *alike, *joins, {"$gte": {"n": {me: "n"}}}]
            parts.append({f"{after}$not": {"$and": between}})
        marks.append(Mark(1 << bit, text, barrier, absent))
    return parts, marks


def gaps(steps: Sequence[tuple[int, bool]]) -> list[tuple[int, int]]:
    """Each present step's flag number, with the flag bits that may not lie between the step before and it."""
    present, absent = [], 0
    for bit, is_absent in steps:
        if is_absent:
            absent |= 1 << bit
        else:
            present.append((bit, absent))
            absent = 0
    return present


class Ruleset:
    """Some patterns of one entity in one durable_rules ruleset, and its scratch session."""

    def __init__(self, core: Any, name: str, patterns: Sequence[dict[str, Any]]) -> None:
        self._core = core
        flags = map("f{}".format, count())
        self.patterns: list[Compiled] = []
        rules: dict[str, Any] = {}
        for place, each in enumerate(patterns):
            parts, marks = rule(each["steps"], each["same"], flags)
            rules[f"r{place}"] = {"all": parts}
            keys, answer = tuple(each["same"]), f'{{"r{place}":'
            self.patterns.append(Compiled(each["number"], each["within_us"], keys, tuple(marks), answer))
        self._handle = core.create_ruleset(name, json.dumps(rules))

    def fire(self, earlier: Sequence[str], lasts: Sequence[tuple[Compiled, str]]) -> list[int]:
        """Numbers of the patterns that match; `lasts`: the current event for each candidate, in rule order."""
        core, handle, fired = self._core, self._handle, []
        if earlier:
            self._expect(core.assert_facts(handle, f"[{','.join(earlier)}]"))
        for pattern, last in reversed(lasts):  # durable_rules offers the first rule that has a result: ask upwards
            session = self._expect(core.assert_fact(handle, last))
            result = core.start_action_for_state(handle, session)
            if result:
                if result[1].startswith(pattern.answer):
                    fired.append(pattern.number)
                core.abandon_action(handle, session)
        core.delete_state(handle, None)
        return fired

    def warm(self, keys: int) -> None:
        """Let every pattern fire once; raises RuntimeError when one doesn't.

        A proof, and a need: a new session's result pointers are not set, and `delete_state` frees them. Once a rule
        has fired in the only slot that is ever used they are null.
        """
        same = _keys([1] * keys)
        flags = "".join(mark_text(mark, 0) for each in self.patterns for mark in each.marks[1:])
        earlier = [fact(rank, 0, same + flags) for rank in range(1, MAX_STEPS)]
        lasts = [(each, last_fact(place, each, MAX_STEPS, 0, 0, same)) for place, each in enumerate(self.patterns)]
        fired = self.fire(earlier, lasts)
        if len(fired) != len(self.patterns):
            raise RuntimeError(f"of patterns {[each.number for each in self.patterns]} only {sorted(fired)} can fire")

    @staticmethod
    def _expect(result: tuple[int, int]) -> int:
        code, session = result
        if code:  # 1 not handled, 2 seen before, 3 deferred: each would be a fact that silently does not count
            raise RuntimeError(f"durable_rules did not take a fact, code {code}")
        return session


def fact(rank: int, time_us: int, rest: str) -> str:
    """An earlier event as durable_rules gets it: integers only."""
    return f'{{"id":{rank},"n":{rank},"t":{time_us}{rest}}}'


def last_fact(place: int, pattern: Compiled, rank: int, time_us: int, barrier: int, keys: str) -> str:
    """The current event as `pattern`'s last step: no step may be older than `low`."""
    low_us = max(time_us - pattern.within_us, 0)
    return f'{{"id":{_LAST_ID + place},"n":{rank},"low":{low_us}{keys}{mark_text(pattern.marks[0], barrier)}}}'


def mark_text(mark: Mark, barrier: int) -> str:
    """JSON of what a step's event carries."""
    return f'{mark.text},"{mark.barrier}":{barrier}' if mark.absent else mark.text


class Matcher:
    """All rulesets of one pattern set."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import durable_rules_engine as core

        self._rows = [row_format(spec["flag_bytes"], each["keys"]) for each in spec["entities"]]
        self._rulesets: list[list[Ruleset]] = []
        for number, entity in enumerate(spec["entities"]):
            groups = grouped(entity["patterns"])
            rulesets = [Ruleset(core, f"e{number}g{place}", group) for place, group in enumerate(groups)]
            self._rulesets.append(rulesets)
            for ruleset in rulesets:
                ruleset.warm(entity["keys"])

    def answer(self, question: bytes) -> bytes:
        """Status and fired patterns; a question whose asker has given up costs nothing."""
        deadline, histories = QUESTION.unpack_from(question)
        if time.monotonic() > deadline:
            return LATE
        offset, fired = QUESTION.size, []
        for _ in range(histories):
            entity, facts, asked = HISTORY.unpack_from(question, offset)
            offset += HISTORY.size
            candidates = set(struct.unpack_from(f"<{asked}H", question, offset))
            offset += 2 * asked
            end = offset + facts * self._rows[entity].size
            rows = list(self._rows[entity].iter_unpack(memoryview(question)[offset:end]))
            offset = end
            for ruleset in self._rulesets[entity]:
                chosen = [(place, each) for place, each in enumerate(ruleset.patterns) if each.number in candidates]
                if chosen:
                    fired += ruleset.fire(*posted(rows, chosen))
        return DONE + struct.pack(f"<{len(fired)}H", *fired)


def grouped(patterns: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Patterns in order, in groups that set at most FLAGS_PER_RULESET flags."""
    groups: list[list[dict[str, Any]]] = []
    room = 0
    for each in patterns:
        flags = 2 * len(gaps(each["steps"]))
        if flags > room:
            groups.append([])
            room = FLAGS_PER_RULESET
        groups[-1].append(each)
        room -= flags
    return groups


def posted(rows: Sequence[Any], chosen: Sequence[tuple[int, Compiled]]) -> tuple[list[str], list[tuple[Compiled, str]]]:
    """The JSON facts for one ruleset: earlier events that set one of its flags, and the current one per candidate."""
    *before, (now_us, _, *now_keys) = rows
    events = [(int.from_bytes(flags, "little"), keys) for _, flags, *keys in before]
    texts: list[list[str]] = [[] for _ in before]
    lasts = []
    for place, pattern in chosen:
        barriers = [0] * len(pattern.marks)
        for rank, (flags, keys) in enumerate(events, 1):
            if all(keys[key] for key in pattern.keys):
                for step, mark in enumerate(pattern.marks[1:], 1):
                    if flags & mark.bit:
                        texts[rank - 1].append(mark_text(mark, barriers[step]))
                for step, mark in enumerate(pattern.marks):
                    if flags & mark.absent and all(keys[key] == now_keys[key] for key in pattern.keys):
                        barriers[step] = rank
        lasts.append((pattern, last_fact(place, pattern, len(rows), now_us, barriers[0], _keys(now_keys))))
    earlier = [
        fact(rank, time_us, _keys(keys) + "".join(text))
        for rank, ((time_us, _, *keys), text) in enumerate(zip(before, texts, strict=True), 1)
        if text
    ]
    return earlier, lasts


def _keys(keys: Sequence[int]) -> str:
    return "".join([f',"k{place}":{key}' for place, key in enumerate(keys)])


def _messages() -> Iterator[bytes]:
    """What the parent sends, until it closes its end."""
    buffer = b""
    while chunk := os.read(0, 1 << 16):
        buffer += chunk
        while len(buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
            if len(buffer) < end:
                break
            yield buffer[LENGTH.size : end]
            buffer = buffer[end:]


def _reply(body: bytes) -> None:
    os.write(1, LENGTH.pack(len(body)) + body)


def main() -> None:
    """Serve one parent until it goes; a failure is told and ends the process, so that nothing half-done is used."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent drains first and then closes the socket
    matcher: Matcher | None = None
    try:
        for message in _messages():
            if matcher is None:
                matcher = Matcher(json.loads(message))
                _reply(DONE)
            else:
                _reply(matcher.answer(message))
    except OSError:
        return  # the parent is gone: there is nobody to tell
    except Exception as error:
        _reply(FAILED + f"{type(error).__name__}: {error}".encode())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
