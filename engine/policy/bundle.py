"""A policy as one immutable thing: its files by name and content, and their digest."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Files = Mapping[str, bytes]
"""Name below the policy's folder → content."""


def policy_files(folder: Path) -> list[Path]:
    """Every file that belongs to a policy, in one order; its tests do not."""
    found = (path for path in folder.rglob("*") if path.suffix in {".yaml", ".csv"})
    return sorted(path for path in found if "tests" not in path.relative_to(folder).parts)


def read_files(folder: Path) -> dict[str, bytes]:
    """The files of a policy's folder as they are now."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in policy_files(folder)}


def digest_of(files: Files, models: Mapping[str, str] | None = None) -> str:
    """BLAKE2b-128, hex, of every file by name and content, and of the digests of the models (event kind → digest).

    With its models it is the digest of a program.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for name in sorted(files):
        hashed.update(name.encode() + b"\0" + hashlib.blake2b(files[name], digest_size=16).digest())
    for kind in sorted(models or ()):
        hashed.update(f"{kind}\0{(models or {})[kind]}".encode())
    return hashed.hexdigest()


@contextmanager
def laid_out(files: Files) -> Iterator[Path]:
    """The files in a folder of their own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="arbiter-policy-") as name:
        for path, content in files.items():
            target = Path(name) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        yield Path(name)
