"""A model folder: written whole or not at all, loaded as it was made or not at all."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ModelError
from engine.scoring import folder as folders
from engine.scoring.folder import write_model
from engine.scoring.manifest import digest
from engine.scoring.model import load_model
from engine.scoring.parity import read_parity

from .conftest import FEATURES


def test_a_folder_loads_as_it_was_made(folder, trained):
    """Features, event kind and scores of a loaded model are those of the training."""
    model = load_model(folder, FEATURES)
    assert (model.features, model.event_kind, model.manifest) == (FEATURES, "payment", trained.manifest)
    stored, margins = read_parity(trained.parity, FEATURES)
    scored = [model.score(row) for row in stored]
    assert [margin for margin, _ in scored] == margins
    assert all(0 < score < 1 for _, score in scored)


def test_one_by_one_and_all_at_once_give_the_same_scores(folder):
    """Margins and probabilities of a table are bit for bit those of its rows."""
    model = load_model(folder)
    rows = np.random.default_rng(7).lognormal(2, 1, (2_000, 3))
    margins, scores = model.scores(rows)
    assert list(zip(margins.tolist(), scores.tolist(), strict=True)) == [model.score(row) for row in rows.tolist()]


@pytest.mark.parametrize("name", ["manifest.yaml", "model.onnx", "parity.csv"])
def test_a_missing_file_is_refused(folder, name):
    """Each of the three files is needed, and named when it is not there."""
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.onnx", "parity.csv"])
def test_a_changed_file_is_refused(folder, name):
    """One flipped byte is found by the digest."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name}: sha256 is"):
        load_model(folder)


def test_the_model_of_another_folder_is_refused(folder, trained, tmp_path):
    """Right files of the wrong model don't load."""
    other = replace(trained, manifest=replace(trained.manifest, version="2", model_digest="0" * 64))
    with pytest.raises(ModelError, match="of another model"):
        load_model(write_model(tmp_path, other))


def test_parity_rows_with_another_margin_are_refused(trained, tmp_path):
    """A runtime that sums otherwise would be found by the stored rows."""
    head, first, *rest = trained.parity.decode().splitlines()
    wrong = "\n".join([head, first.rsplit(",", 1)[0] + ",0.125", *rest, ""]).encode()
    other = replace(trained, parity=wrong, manifest=replace(trained.manifest, parity_digest=digest(wrong)))
    with pytest.raises(ModelError, match="1 of 40 parity rows"):
        load_model(write_model(tmp_path, other))


def test_other_features_or_definitions_are_refused(trained, tmp_path):
    """Names in another order, and the same names with another meaning, are refused at load."""
    told = replace(trained, manifest=replace(trained.manifest, definitions_digest="known"))
    folder = write_model(tmp_path, told)
    assert load_model(folder, FEATURES, "known").features == FEATURES
    with pytest.raises(ModelError, match="another order"):
        load_model(folder, FEATURES[::-1])
    with pytest.raises(ModelError, match="same names, other meaning"):
        load_model(folder, FEATURES, "other")


def test_a_new_calibration_is_a_new_digest(folder, trained, tmp_path):
    """The digest names trees and calibration together."""
    fit = replace(trained.manifest.calibration, parameters={"slope": 1.0, "intercept": 0.0})
    other = write_model(tmp_path, replace(trained, manifest=replace(trained.manifest, version="2", calibration=fit)))
    assert load_model(folder).digest != load_model(other).digest


def test_a_version_is_never_overwritten(folder, trained):
    """Writing the same version again is refused, and the first stays."""
    before = (folder / "manifest.yaml").read_bytes()
    with pytest.raises(ModelError, match="a version is never changed"):
        write_model(folder.parent.parent, trained)
    assert (folder / "manifest.yaml").read_bytes() == before


@pytest.mark.parametrize("version", ["../x", "a/b", "..", ".", "", "a b"])
def test_a_version_can_not_leave_its_place(trained, tmp_path, version):
    """Names that are paths are refused."""
    with pytest.raises(ModelError, match="letters, digits"):
        write_model(tmp_path, replace(trained, manifest=replace(trained.manifest, version=version)))


def test_a_full_disk_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    """When writing fails half-way no folder is left, hidden or not."""
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders.os, "fsync", full)
    with pytest.raises(ModelError, match="No space left on device"):
        write_model(tmp_path, trained)
    assert list((tmp_path / "shop").iterdir()) == []


def test_serving_brings_in_no_training_library():
    """Importing what serves a model loads neither xgboost nor scikit-learn nor pandas."""
    code = "import sys, engine.scoring.model; print(*sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded
    assert not loaded & {"xgboost", "sklearn", "scipy", "pandas", "pyarrow"}
