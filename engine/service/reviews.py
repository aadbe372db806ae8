"""The methods of `ReviewService`: what each asks of the review desk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from engine.review.desk import Desk
from engine.service import convert
from engine.values import ReviewCase


class ReviewMethods:
    """The seven methods as functions from body to body."""

    def __init__(self, desk: Callable[[], Desk], clock_us: Callable[[], int]) -> None:
        """`desk` is asked for with the first call: an engine that only starts has none."""
        self._desk, self._clock_us = desk, clock_us

    async def list_cases(self, body: bytes, deadline: float) -> bytes:
        """See `ListCases` in the protos."""
        asked = convert.list_asked(_parse("ListCases", body))
        cases, after = await asyncio.to_thread(self._desk().cases, *asked)
        reply = cast(Any, convert.REVIEW_METHODS["ListCases"][1])
        return cast(bytes, reply(cases=map(self._message, cases), next=after).SerializeToString())

    async def get_case(self, body: bytes, deadline: float) -> bytes:
        """See `GetCase` in the protos."""
        request = _parse("GetCase", body)
        view = await self._desk().view(convert.required_id(request.id, "id"), request.reviewer)
        return convert.view_message(view, self._clock_us()).SerializeToString()

    async def take_case(self, body: bytes, deadline: float) -> bytes:
        """See `TakeCase` in the protos."""
        request = _parse("TakeCase", body)
        case_id = convert.required_id(request.id, "id") if request.id else ""
        return self._bytes(await self._desk().take(request.reviewer, case_id))

    async def release_case(self, body: bytes, deadline: float) -> bytes:
        """See `ReleaseCase` in the protos."""
        request = _parse("ReleaseCase", body)
        return self._bytes(await self._desk().release(request.reviewer, convert.required_id(request.id, "id")))

    async def note_case(self, body: bytes, deadline: float) -> bytes:
        """See `NoteCase` in the protos."""
        request = _parse("NoteCase", body)
        case_id = convert.required_id(request.id, "id")
        return self._bytes(await self._desk().note(request.reviewer, case_id, request.text))

    async def decide_case(self, body: bytes, deadline: float) -> bytes:
        """See `DecideCase` in the protos."""
        request = _parse("DecideCase", body)
        case_id, (action, finding) = convert.required_id(request.id, "id"), convert.decided_in(request)
        return self._bytes(await self._desk().decide(request.reviewer, case_id, action, request.reason, finding))

    async def get_review_stats(self, body: bytes, deadline: float) -> bytes:
        """See `GetReviewStats` in the protos."""
        since_us = convert.since_us(_parse("GetReviewStats", body))
        figures = await asyncio.to_thread(self._desk().figures, since_us)
        return convert.stats_message(figures).SerializeToString()

    def _message(self, case: ReviewCase) -> Any:
        return convert.case_message(case, self._clock_us())

    def _bytes(self, case: ReviewCase) -> bytes:
        return cast(bytes, self._message(case).SerializeToString())


def _parse(name: str, body: bytes) -> Any:
    return convert.parse(convert.REVIEW_METHODS[name][0], body)
