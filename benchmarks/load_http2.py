"""Just enough HTTP/2 for unary gRPC calls over one connection, so that the load generator is never the bottleneck.

A grpc.aio client costs as much CPU a call as the empty server does. This one sends what gRPC's own client sends (the
headers by their table indices from the second call on), answers pings and settings, and keeps to the server's window.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_SMALL_INDEXED = b"\x83\x86"
"""`:method: POST` and `:scheme: http`, both in HTTP/2's own table."""
_BUFFER_BYTES = 262_144


class LoadError(Exception):
    """The server broke a connection, or said what this client doesn't know."""


class Connection:
    """One connection; calls are told apart by the tag that the caller gives them."""

    def __init__(self, port: int, path: str, timeout: str = "2S") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._out = bytearray(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 2, 0)))
        self._out += _frame(_WINDOW, 0, 0, struct.pack(">I", 2**30))
        self._headers = _SMALL_INDEXED + _new_headers(path, timeout)
        self._stream, self._room, self._in = 1, 65_535, b""
        self._tags: dict[int, int] = {}
        self._replies: dict[int, bytes] = {}
        self._held: deque[tuple[int, bytes]] = deque()

    def call(self, tag: int, body: bytes) -> None:
        """Begin a call; `flush` sends it. Held back while the server's window is used up."""
        if self._held or self._room < len(body) + 5:
            self._held.append((tag, body))
            return
        self._room -= len(body) + 5
        self._tags[self._stream] = tag
        self._out += _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        self._out += _frame(_DATA, _END_STREAM, self._stream, struct.pack(">BI", 0, len(body)) + body)
        self._stream += 2
        self._headers = _KNOWN_HEADERS

    def flush(self) -> bool:
        """Send what the socket takes; whether something is left."""
        if self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return True
            del self._out[:sent]
        return bool(self._out)

    def receive(self) -> Iterator[tuple[int, bytes | None]]:
        """(tag, reply body) of each call that has ended; None for one that failed."""
        try:
            data = self._in + self.socket.recv(_BUFFER_BYTES)
        except BlockingIOError:
            return
        at, end = 0, len(data)
        if end == len(self._in):
            raise LoadError("the server closed the connection")
        while end - at >= 9:
            size = int.from_bytes(data[at : at + 3])
            if end - at - 9 < size:
                break
            kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9])
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == _DATA:
                self._replies[stream] = self._replies.get(stream, b"") + payload
            elif (kind == _HEADERS and flags & _END_STREAM) or kind == _RESET:
                tag, reply = self._tags.pop(stream, None), self._replies.pop(stream, None)
                if tag is not None:  # A call that failed may be reset after its trailers.
                    yield tag, reply[5:] if reply is not None and kind == _HEADERS else None
            elif kind != _HEADERS:
                self._control(kind, flags, stream, payload)
        self._in = data[at:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._out += _frame(kind, _ACK, 0, payload if kind == _PING else b"")
        elif kind == _WINDOW and stream == 0:
            self._room += int.from_bytes(payload)
            held, self._held = self._held, deque()
            for tag, body in held:
                self.call(tag, body)
        elif kind == _GOAWAY:
            raise LoadError(f"the server went away: {payload[8:].decode(errors='replace')}")

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """A string as HPACK writes it without Huffman; all of ours are shorter than 127 bytes."""
    return bytes((len(value),)) + value.encode()


def _new_headers(path: str, timeout: str) -> bytes:
    """The first call's headers, each entered into the connection's table."""
    return (
        b"\x44" + _text(path) + b"\x41" + _text("127.0.0.1") + b"\x40" + _text("te") + _text("trailers")
        + b"\x5f" + _text("application/grpc") + b"\x40" + _text("grpc-timeout") + _text(timeout)
        + b"\x7a" + _text("benchmark")
    )  # fmt: skip


_KNOWN_HEADERS = _SMALL_INDEXED + bytes(0x80 | index for index in (67, 66, 65, 64, 63, 62))
"""The same six from the table, where the newest entry is number 62."""
