"""What serving code uses: a model folder, checked and loaded, that turns feature values into a score.

    model = load_model(Path("models/payment/1"), expected_features=layout.names)
    margin, score = model.score(values)

See `docs/models.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.scoring import onnx as ensemble
from engine.scoring import parity
from engine.scoring.calibrate import Calibration, calibration
from engine.scoring.manifest import MAX_BYTES, Manifest, check_features, digest, read_bounded, read_manifest


@dataclass(frozen=True, slots=True)
class ScoringModel:
    """A model that is ready to score. Safe to call from several threads at once."""

    manifest: Manifest
    model: ensemble.Model
    calibration: Calibration
    digest: str
    """sha256 of `manifest.yaml`, hex: names trees, feature order and calibration at once."""

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names in the order of `values`."""
        return self.manifest.features

    @property
    def name(self) -> str:
        """`payment/1`: how the policy names it."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def event_kind(self) -> str:
        """The event kind that the score is about."""
        return self.manifest.event_kind

    def score(self, values: Sequence[float | None]) -> tuple[float, float]:
        """(margin, probability of fraud 0..1) of one row; NaN and None are missing, what is no number a ModelError."""
        margin = self.model.margin(values)
        return margin, self.calibration.score(margin)

    def scores(self, matrix: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(margins, probabilities) of many rows, each with the very bits of `score`."""
        margins = self.model.margins(matrix)
        return margins, self.calibration.scores(margins)


def load_model(
    folder: Path, expected_features: Sequence[str] | None = None, expected_definitions: str = ""
) -> ScoringModel:
    """Load `models/<name>/<version>/`; ModelError for whatever is corrupt, foreign, oversized or does not fit.

    `expected_features` are the names that will be given, in order; `expected_definitions` is the digest of their
    definitions. Either is checked when it is told (and, the digest, when the manifest knows it).
    """
    raw = read_bounded(folder / "manifest.yaml", MAX_BYTES)
    manifest = read_manifest(raw, str(folder / "manifest.yaml"))
    if expected_features is not None:
        check_features(manifest, expected_features)
    known = manifest.definitions_digest
    if expected_definitions and known and expected_definitions != known:
        raise ModelError(
            f"model {manifest.name} {manifest.version} was trained on feature definitions {known}, in use are "
            f"{expected_definitions}: same names, other meaning. Train it again."
        )
    data = verified(folder / "model.onnx", ensemble.MAX_BYTES, manifest.model_digest)
    model = ensemble.Model(data, manifest.features)
    parity.check_parity(model, verified(folder / "parity.csv", parity.MAX_BYTES, manifest.parity_digest))
    fitted = calibration(manifest.calibration.kind, manifest.calibration.parameters)
    return ScoringModel(manifest, model, fitted, digest(raw))


def verified(path: Path, max_bytes: int, wanted: str) -> bytes:
    """The bytes of a file whose digest the manifest names."""
    data = read_bounded(path, max_bytes)
    if digest(data) != wanted:
        raise ModelError(
            f"{path}: sha256 is {digest(data)}, the manifest says {wanted}; the file is corrupt or of another model"
        )
    return data
