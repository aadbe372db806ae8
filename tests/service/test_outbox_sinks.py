"""Sinks: a notice is delivered whole, or the failure is told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.errors import SettingsError, Unavailable
from engine.service.outbox_sinks import FileSink, WebhookSink, open_sinks
from engine.settings import Settings

NOTICE = {"id": 17, "kind": "NOTIFY", "user": "u1"}


class Receiver(HTTPServer):
    """A webhook's far end, which keeps what came and answers what it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 204
        self.received: list[tuple[str, dict[str, str], Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/hook?token=s3cret"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Keep the request."""
        receiver = self.server
        assert isinstance(receiver, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        receiver.received.append((self.path, dict(self.headers), body))
        self.send_response(receiver.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing on standard error."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running receiver."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_webhook_gets_the_notice_with_its_id_as_key(receiver: Receiver) -> None:
    """The notice comes as JSON, with its id as idempotency key and the token that was configured."""
    WebhookSink(receiver.url, 10, b"abc").deliver(NOTICE)
    ((path, headers, body),) = receiver.received
    assert (path, body) == ("/hook?token=s3cret", NOTICE)
    assert headers["Idempotency-Key"] == "17"
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [302, 400, 404, 500, 503])
def test_any_other_answer_is_a_failure(receiver: Receiver, status: int) -> None:
    """Whatever is not 2xx is no delivery; a redirect is not followed, and the address' token is not told."""
    receiver.status = status
    with pytest.raises(Unavailable, match=f"127.0.0.1 answered {status}") as caught:
        WebhookSink(receiver.url, 10).deliver(NOTICE)
    assert len(receiver.received) == 1
    assert "s3cret" not in str(caught.value)


def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    """No connection is no delivery."""
    with pytest.raises(Unavailable, match="can't be reached"):
        WebhookSink("http://127.0.0.1:9/hook", 10).deliver(NOTICE)


def test_a_file_gets_one_line_a_notice(tmp_path: Path) -> None:
    """Each notice is one JSON line; the file may be rotated away between two, and its folder is made."""
    path = tmp_path / "out" / "notices.jsonl"
    sink = FileSink(path)
    sink.deliver(NOTICE)
    sink.deliver({**NOTICE, "id": 18})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [17, 18]
    path.rename(tmp_path / "old")
    sink.deliver({**NOTICE, "id": 19})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [19]


def test_a_line_that_was_cut_does_not_swallow_the_next(tmp_path: Path) -> None:
    """After a crash in the middle of a line the next notice begins a line of its own."""
    path = tmp_path / "notices.jsonl"
    path.write_text('{"id": 16, "ki')
    FileSink(path).deliver(NOTICE)
    assert json.loads(path.read_text().splitlines()[1]) == NOTICE


def test_a_file_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    """A full disk or a path that is a folder is no delivery."""
    with pytest.raises(Unavailable, match="can't be written"):
        FileSink(tmp_path).deliver(NOTICE)
    with pytest.raises(Unavailable, match="can't be written"):
        FileSink(Path("/dev/full")).deliver(NOTICE)


def test_the_settings_choose_the_sinks(tmp_path: Path) -> None:
    """No setting, no sink; a token file that others can read stops the start."""
    assert open_sinks(Settings()) == {}
    token = tmp_path / "token"
    token.write_text("abc")
    token.chmod(0o600)
    settings = Settings(
        webhook_url="https://example.org/x", webhook_token_file=token, notices_file=tmp_path / "notices.jsonl"
    )
    assert set(open_sinks(settings)) == {"webhook", "file"}
    token.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        open_sinks(settings)
