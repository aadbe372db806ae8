"""Writes a model folder whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ModelError
from engine.scoring.manifest import Manifest, write_manifest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """All files of a model folder, in memory, and what should be said of them."""

    manifest: Manifest
    onnx: bytes
    parity: bytes
    report: str
    remarks: tuple[str, ...] = ()


def write_model(root: Path, trained: TrainedModel) -> Path:
    """Write `root/<name>/<version>/` and return it; ModelError if that version exists or the disk refuses."""
    manifest = trained.manifest
    folder = root / manifest.name / manifest.version
    if not all(_NAME.fullmatch(part) for part in (manifest.name, manifest.version)):
        raise ModelError(f"{manifest.name}/{manifest.version}: name and version are made of letters, digits, . - and _")
    if folder.exists():
        raise ModelError(f"{folder} exists; a version is never changed. Give the new model another version.")
    files = {"model.onnx": trained.onnx, "parity.csv": trained.parity, "report.html": trained.report.encode(),
             "manifest.yaml": write_manifest(manifest)}  # fmt: skip
    files = {name: data for name, data in files.items() if data}
    try:
        _write_whole(folder, files)
    except OSError as error:
        raise ModelError(f"{folder} can't be written: {error.strerror or error}; nothing was left behind") from error
    return folder


def _write_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """Files go to a hidden folder beside the target, reach the disk, and appear under the name in one rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        for name, data in files.items():
            with (hidden / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        hidden.chmod(0o755)
        hidden.rename(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
