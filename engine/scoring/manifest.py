"""What a model is, learnt from, is worth and is for: `manifest.yaml` beside `model.onnx`.

It is the model card and the contract at load: digests, feature order and base margin must fit, or the model is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import ModelError
from engine.scoring.codec import Span, decode, encode

FORMAT = 1
MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Week:
    """Maturity of the labels of one UTC week of events, at the cut-off."""

    week: str
    """Its Monday, YYYY-MM-DD."""
    rows: int
    known: int
    """Rows whose label was known at the cut-off; the rest was left out."""
    fraud: int


@dataclass(frozen=True, slots=True)
class Classes:
    """How many rows of the training window had which label at the cut-off."""

    fraud: int
    good: int
    immature: int
    """Labelled later than the cut-off."""
    other: int
    """Neither fraud nor good: disputes, abuse, our own declines."""


@dataclass(frozen=True, slots=True)
class Booster:
    """XGBoost's parameters. The defaults were chosen on eight earlier weeks of the Handbook data (`docs/models.md`)."""

    max_depth: int = 4
    learning_rate: float = 0.1
    rounds: int = 150
    """Trees; with early stopping, at most."""
    max_bin: int = 1024
    """Split candidates a feature. 256, XGBoost's own default, costs 0.03 of average precision there."""
    min_child_weight: float = 1.0
    subsample: float = 1.0
    colsample: float = 1.0
    """Share of the features drawn for each tree."""
    l2: float = 1.0
    early_stopping_rounds: int = 0
    """0 = a fixed number of trees. Else stop when average precision on the last fifth (by time) of the training rows
    has not risen for so many, and train again on all of them with the number found."""


@dataclass(frozen=True, slots=True)
class Validated:
    """What one candidate was worth on the validation blocks, and on the test window where there is one."""

    name: str
    mean: dict[str, float]
    """Metric → its mean over the blocks."""
    spread: dict[str, float]
    """Metric → its standard deviation over the blocks."""
    test: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selected:
    """What one way of choosing features kept."""

    method: str
    features: tuple[str, ...]
    average_precision: float
    """Mean over the validation blocks with these alone."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """How the booster's parameters were found."""

    trials: int
    pruned: int
    ended_by: str
    """`trials`, or `minutes`: then the same search may end elsewhere on another machine."""
    average_precision: float
    """Mean over the validation blocks; the trees' number is chosen on the same, so the test is the judge."""


@dataclass(frozen=True, slots=True)
class Training:
    """What the model learnt from, and how."""

    window: Span
    cut_off: str
    """ISO time; labels known later were not seen."""
    delay_days: float
    label: str
    """The definition of fraud and good, in words."""
    classes: Classes
    maturity: tuple[Week, ...]
    data_digest: str
    """sha256 of the rows used: features, labels, times."""
    seed: int
    rounds: int
    """Trees in the ensemble."""
    booster: Booster
    monotone: dict[str, int] = field(default_factory=dict)
    """Feature → 1 (risk never falls as it grows) or -1."""
    libraries: dict[str, str] = field(default_factory=dict)
    split: str = "time"
    """`random`: validated on rows drawn by chance, which flatters."""
    good_share: float = 1.0
    """Share of the good rows that was learnt from, weighted by its inverse."""
    validated: tuple[Validated, ...] = ()
    """XGBoost first, then the baselines."""
    selections: tuple[Selected, ...] = ()
    selected_by: str = ""
    """The selection that the features come from."""
    tuned: Tuned | None = None


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """How a margin becomes a probability (`engine.scoring.calibrate`), and what that was fitted on."""

    kind: str
    parameters: dict[str, float]
    method: str
    """`slice`: on a later mature window; `prequential`: on the validation blocks, each scored by a model of earlier
    rows; `out_of_fold`: on training rows, each scored by a model that never saw it."""
    window: Span
    rows: int
    fraud: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """A proposal for `policy.yaml`, with what it gave on the calibration rows; it decides nothing by itself."""

    name: str
    from_score: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class Test:
    """What the model was worth on later rows that it never saw."""

    window: Span
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Metric → its 95 % interval, from cards drawn again and again."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one model."""

    name: str
    version: str
    event_kind: str
    """The event kind that it scores."""
    model_digest: str
    """sha256 of `model.onnx`, hex."""
    parity_digest: str
    """sha256 of `parity.csv`, hex."""
    features: tuple[str, ...]
    """In the order of the model's input."""
    features_digest: str
    """sha256 over `features`."""
    base_margin: float
    """Always 0: what XGBoost adds to the sum of the trees."""
    training: Training
    calibration: CalibrationRecord
    definitions_digest: str = ""
    """Digest of the feature definitions at training; empty when they were not told."""
    test: Test | None = None
    thresholds: tuple[Threshold, ...] = ()
    intended_use: str = ""
    limits: tuple[str, ...] = ()
    format: int = FORMAT


def digest(data: bytes) -> str:
    """sha256 as hex."""
    return hashlib.sha256(data).hexdigest()


def features_digest(features: Sequence[str]) -> str:
    """Digest of the names in their order."""
    return digest("\n".join(features).encode())


def write_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.yaml`; equal manifests give equal bytes."""
    return encode(manifest)


def read_manifest(data: bytes, file: str) -> Manifest:
    """Read and check a manifest; ModelError names every mistake with its place in `file`."""
    manifest = decode(Manifest, data, file)
    if manifest.format != FORMAT:
        raise ModelError(f"{file}: format {manifest.format} is not known here; this version reads format {FORMAT}")
    if manifest.base_margin != 0.0:
        raise ModelError(f"{file}: base_margin is {manifest.base_margin}; models are exported with base margin 0")
    if manifest.features_digest != features_digest(manifest.features):
        raise ModelError(f"{file}: features_digest does not fit the features listed; the manifest was edited")
    return manifest


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a model's file; ModelError when it can't be read or is larger than `max_bytes`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; a model folder has manifest.yaml, model.onnx "
                         "and parity.csv, as `arbiter train` writes them") from error  # fmt: skip
    if len(data) > max_bytes:
        raise ModelError(f"{path}: larger than {max_bytes:,} bytes; a model of this service is smaller")
    return data


def check_features(manifest: Manifest, expected: Sequence[str]) -> None:
    """ModelError unless the model wants exactly `expected`, in that order; the message names what differs."""
    wanted, given = list(manifest.features), list(expected)
    if wanted == given:
        return
    missing, extra = [f for f in wanted if f not in given], [f for f in given if f not in wanted]
    parts = [f"{what} {', '.join(names)}" for what, names in (
        ("the model wants", missing), ("the policy gives besides", extra)) if names]  # fmt: skip
    told = "; ".join(parts) or "the same names stand in another order"
    raise ModelError(
        f"model {manifest.name} {manifest.version} does not fit the features in use: {told}. Train it again, "
        "or activate the policy that it was trained with."
    )
