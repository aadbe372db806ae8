"""Who is who: values of entities are normalised, then become keyed hashes; a raw email or card is never a key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

_DOTLESS = frozenset({"gmail.com", "googlemail.com"})
"""Providers that deliver a mailbox with and without dots alike."""


def normalise_email(value: str) -> str:
    """Lower case, without +tag, and without dots where the provider ignores them."""
    local, _, domain = value.strip().lower().rpartition("@")
    local = local.partition("+")[0]
    return f"{local.replace('.', '') if domain in _DOTLESS else local}@{domain}"


_NORMALISE: dict[str, Callable[[str], str]] = {"email": normalise_email, "ip": str.lower}


@dataclass(frozen=True)
class Identity:
    """Makes profile keys: one key-id byte, then the keyed BLAKE2b-128 of entity kind and normalised value."""

    secret: bytes
    key_id: int = 1
    _seeds: dict[str, hashlib.blake2b] = field(default_factory=dict, repr=False)

    def key(self, entity: str, value: str) -> bytes:
        """17 bytes; equal for equal people, useless without the secret."""
        seed = self._seeds.get(entity)
        if seed is None:
            seed = self._seeds[entity] = hashlib.blake2b(entity.encode() + b"\0", key=self.secret, digest_size=16)
        hashed = seed.copy()
        normalise = _NORMALISE.get(entity)
        hashed.update((normalise(value) if normalise else value).encode())
        return bytes((self.key_id,)) + hashed.digest()
