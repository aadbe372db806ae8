"""The methods of `ReviewService`: what each asks of the review desk, by its name in the protos."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine.review.desk import Desk
from engine.service import convert

Method = Callable[[bytes, float], Awaitable[bytes]]


def review_methods(desk_of: Callable[[], Desk], clock_us: Callable[[], int]) -> dict[str, Method]:
    """Method → function from body to body. `desk_of` is asked with each call: an engine that only starts has none."""

    async def list_cases(desk: Desk, asked: Any) -> Any:
        cases, after = await asyncio.to_thread(desk.cases, *convert.list_asked(asked))
        return convert.cases_message(cases, after, clock_us())

    async def get_case(desk: Desk, asked: Any) -> Any:
        return convert.view_message(await desk.view(_id(asked), asked.reviewer), clock_us())

    async def take_case(desk: Desk, asked: Any) -> Any:
        return convert.case_message(await desk.take(asked.reviewer, _id(asked) if asked.id else ""), clock_us())

    async def release_case(desk: Desk, asked: Any) -> Any:
        return convert.case_message(await desk.release(asked.reviewer, _id(asked)), clock_us())

    async def note_case(desk: Desk, asked: Any) -> Any:
        return convert.case_message(await desk.note(asked.reviewer, _id(asked), asked.text), clock_us())

    async def decide_case(desk: Desk, asked: Any) -> Any:
        action, finding = convert.decided_in(asked)
        decided = await desk.decide(asked.reviewer, _id(asked), action, asked.reason, finding)
        return convert.case_message(decided, clock_us())

    async def get_review_stats(desk: Desk, asked: Any) -> Any:
        return convert.stats_message(await asyncio.to_thread(desk.figures, convert.since_us(asked)))

    def method(name: str, answer: Callable[[Desk, Any], Awaitable[Any]]) -> Method:
        async def called(body: bytes, deadline: float) -> bytes:
            asked = convert.parse(convert.REVIEW_METHODS[name][0], body)
            return bytes((await answer(desk_of(), asked)).SerializeToString())

        return called

    answers = (list_cases, get_case, take_case, release_case, note_case, decide_case, get_review_stats)
    return {name: method(name, answer) for name, answer in zip(convert.REVIEW_METHODS, answers, strict=True)}


def _id(asked: Any) -> str:
    return convert.required_id(asked.id, "id")
