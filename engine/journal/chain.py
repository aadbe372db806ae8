"""How records are chained: each writer's record holds the hash of its one before, so a change anywhere shows.

The personal part enters the hash by a salted digest that outlives it: erasing the part and its salt keeps the chain.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from engine.values import Record

GENESIS = bytes(16)
SALT_BYTES = 12


@dataclass(frozen=True, slots=True)
class Link:
    """What the chain adds to one record."""

    writer: str
    position: int
    """1, 2, 3 … for each writer."""
    salt: bytes
    personal_digest: bytes
    previous: bytes
    hash: bytes


def personal_digest(salt: bytes, personal: bytes) -> bytes:
    """Salted BLAKE2b-128 of the personal part; b"" for a record without one."""
    return hashlib.blake2b(personal, digest_size=16, salt=salt).digest() if personal else b""


def record_hash(previous: bytes, record: Record, known_us: int, writer: str, position: int, personal: bytes) -> bytes:
    """BLAKE2b-128 over everything that must not change, the personal part by its digest."""
    public = hashlib.blake2b(record.public, digest_size=16).digest()
    text = (
        f"{record.kind}\0{record.id}\0{record.event_us}\0{known_us}\0{record.number}\0{record.payment_id}\0"
        f"{writer}\0{position}"
    )
    return hashlib.blake2b(
        b"\0".join((previous, text.encode(), record.digest, public, personal)), digest_size=16
    ).digest()


class Chain:
    """The chain of one writer: makes the next link."""

    def __init__(self, writer: str = "", position: int = 0, last: bytes = GENESIS) -> None:
        self.writer = writer or secrets.token_hex(6)
        self.position, self.last = position, last

    def link(self, record: Record, known_us: int) -> Link:
        """The link for a record that is about to be committed; a rolled-back commit must rewind (`rewind`)."""
        self.position += 1
        salt = secrets.token_bytes(SALT_BYTES) if record.personal else b""
        digest = personal_digest(salt, record.personal)
        hashed = record_hash(self.last, record, known_us, self.writer, self.position, digest)
        link = Link(self.writer, self.position, salt, digest, self.last, hashed)
        self.last = hashed
        return link

    def mark(self) -> tuple[int, bytes]:
        """Where the chain stands, for `rewind`."""
        return self.position, self.last

    def rewind(self, mark: tuple[int, bytes]) -> None:
        """Go back to a mark after a commit that failed."""
        self.position, self.last = mark
