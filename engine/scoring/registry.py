"""The models folder as a registry: which versions there are, and which of them have been retired.

Nothing is ever deleted: decisions of the past are explained and made again with the model that made them. A retired
version has a file `retired` beside its manifest that says when and why; removing that file brings it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError, NotFound
from engine.scoring.manifest import MAX_BYTES, Manifest, read_bounded, read_manifest

RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Version:
    """One folder of the registry."""

    name: str
    """`payment/1`."""
    folder: Path
    manifest: Manifest | None
    """None when it can't be read."""
    problem: str
    """Why not."""
    retired: str
    """When and why it was retired; empty for one in service."""


def versions(models: Path) -> Iterator[Version]:
    """Every version, by name and then by number; folders in the making are left out."""
    folders = [path for path in models.glob("*/*") if path.is_dir() and not path.name.startswith(".")]
    for folder in sorted(folders, key=lambda path: (path.parent.name, len(path.name), path.name)):
        name = f"{folder.parent.name}/{folder.name}"
        try:
            manifest, problem = read_manifest(read_bounded(folder / "manifest.yaml", MAX_BYTES), "manifest.yaml"), ""
        except ModelError as error:
            manifest, problem = None, str(error)
        yield Version(name, folder, manifest, problem, retired(folder))


def find(models: Path, name: str) -> Path:
    """The folder of `payment/1`; NotFound names those that are there."""
    known = [version.name for version in versions(models)]
    if name not in known:
        raise NotFound(f"there is no model {name!r} in {models}; there are: {', '.join(known) or 'none'}")
    return models / name


def retired(folder: Path) -> str:
    """When and why a version was retired; empty for one in service."""
    try:
        return (folder / RETIRED).read_text().strip()
    except FileNotFoundError:
        return ""


def check_in_service(folder: Path) -> None:
    """ModelError when a version was retired."""
    if words := retired(folder):
        raise ModelError(
            f"model {folder.parent.name}/{folder.name} was retired: {words}. Name another version in policy.yaml, or "
            f"remove {folder / RETIRED} to bring it back"
        )


def retire(folder: Path, words: str) -> None:
    """Mark a version as retired, durably; the first words stay."""
    draft = folder / f".{RETIRED}.{os.getpid()}"
    try:
        with draft.open("x") as stream:
            stream.write(words + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if not retired(folder):
            draft.rename(folder / RETIRED)
    except OSError as error:
        raise ModelError(f"{folder} can't be written: {error.strerror or error}; nothing was changed") from error
    finally:
        draft.unlink(missing_ok=True)
