"""Where notices go: a webhook and a file. The journal's dispatcher calls them, retries, and forgets what was delivered.

A notice may come again after a crash between delivery and its mark; its id travels with it so that a receiver can tell.
"""

from __future__ import annotations

import errno
import http.client
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit

import orjson

from engine.errors import Unavailable
from engine.settings import Settings, read_secret


class Sink(Protocol):
    """Somewhere that notices are delivered to; blocking, so it runs in a thread or in the keeper's process."""

    def deliver(self, notice: Mapping[str, Any]) -> None:
        """Deliver one notice, whose `id` is its own for ever; raises `Unavailable` unless it surely arrived."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without its body and count as delivered."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse, so that the redirect's own status is the answer."""


class WebhookSink:
    """Posts each notice as JSON with its id as `Idempotency-Key`; any 2xx answer means delivered."""

    def __init__(self, url: str, timeout_s: float, token: bytes = b"") -> None:
        self._url, self._timeout_s = url, timeout_s
        self._where = f"the webhook at {urlsplit(url).hostname}"  # The rest of the address may hold a token.
        self._headers = {"Content-Type": "application/json", "User-Agent": "arbiter"}
        if token:
            self._headers["Authorization"] = f"Bearer {token.decode()}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def deliver(self, notice: Mapping[str, Any]) -> None:
        """Post one notice; see `Sink.deliver`."""
        headers = {**self._headers, "Idempotency-Key": str(notice["id"])}
        request = urllib.request.Request(self._url, orjson.dumps(notice), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                answer.read(65_536)
        except HTTPError as problem:
            problem.close()
            raise Unavailable(f"{self._where} answered {problem.code}") from None
        except (OSError, http.client.HTTPException) as problem:
            raise Unavailable(f"{self._where} can't be reached ({type(problem).__name__})") from None


class FileSink:
    """Appends each notice as one JSON line, on disk before `deliver` returns; one process writes one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def deliver(self, notice: Mapping[str, Any]) -> None:
        """Append one notice; see `Sink.deliver`. The file is opened each time, so that it may be rotated."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                line = orjson.dumps(notice, option=orjson.OPT_APPEND_NEWLINE)
                line = line if _ends_a_line(handle) else b"\n" + line
                if os.write(handle, line) < len(line):
                    raise OSError(errno.ENOSPC, "it was written in part")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as problem:
            raise Unavailable(f"the notices file {self._path} can't be written: {problem.strerror}") from problem


def _ends_a_line(handle: int) -> bool:
    """Whether the file is empty or its last line whole; a crash or a full disk may have cut it."""
    size = os.fstat(handle).st_size
    return size == 0 or os.pread(handle, 1, size - 1) == b"\n"


def open_sinks(settings: Settings) -> dict[str, Sink]:
    """The sinks that the settings ask for, by name; raises `SettingsError` for a token that can't be read."""
    sinks: dict[str, Sink] = {}
    if settings.webhook_url:
        token = read_secret(settings.webhook_token_file) if settings.webhook_token_file else b""
        sinks["webhook"] = WebhookSink(settings.webhook_url, settings.webhook_timeout_s, token)
    if settings.notices_file:
        sinks["file"] = FileSink(settings.notices_file)
    return sinks
