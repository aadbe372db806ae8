"""The manifest: model card and contract at load."""

from dataclasses import replace

import pytest

from engine.errors import ModelError
from engine.scoring.manifest import check_features, read_bounded, read_manifest, write_manifest


def test_what_is_written_is_read_again(trained):
    """A manifest comes back equal, and the same manifest is always the same bytes."""
    data = write_manifest(trained.manifest)
    assert read_manifest(data, "manifest.yaml") == trained.manifest
    assert write_manifest(read_manifest(data, "manifest.yaml")) == data


def test_an_unknown_key_is_refused_with_its_place(trained):
    """A key that no version knows is named with file and line."""
    data = write_manifest(trained.manifest).replace(b"event_kind:", b"event_knid:")
    with pytest.raises(ModelError) as caught:
        read_manifest(data, "manifest.yaml")
    assert "manifest.yaml:3:1: error[E111]: unknown key `event_knid`" in str(caught.value)
    assert "did you mean `event_kind`?" in str(caught.value)


@pytest.mark.parametrize(("change", "said"), [
    ({"format": 2}, "format 2 is not known"),
    ({"base_margin": 0.5}, "base_margin is 0.5"),
    ({"features": ("other",)}, "features_digest does not fit"),
])  # fmt: skip
def test_a_manifest_that_does_not_fit_itself_is_refused(trained, change, said):
    """Another format, another base margin or edited features are refused in clear words."""
    with pytest.raises(ModelError, match=said):
        read_manifest(write_manifest(replace(trained.manifest, **change)), "manifest.yaml")


@pytest.mark.parametrize(("expected", "said"), [
    (["txn.amount", "card.count_1d"], "the model wants device.is_new"),
    (["txn.amount", "card.count_1d", "device.is_new", "user.age"], "the policy gives besides user.age"),
    (["card.count_1d", "txn.amount", "device.is_new"], "another order"),
])  # fmt: skip
def test_other_features_are_refused_by_name(trained, expected, said):
    """The message says which feature is missing, is too many, or that only the order differs."""
    with pytest.raises(ModelError, match=said):
        check_features(trained.manifest, expected)


def test_files_are_read_up_to_their_limit(tmp_path):
    """A file above its limit is refused without being read whole; a missing one says what a model folder holds."""
    (tmp_path / "big").write_bytes(b"x" * 101)
    assert len(read_bounded(tmp_path / "big", 101)) == 101
    with pytest.raises(ModelError, match="larger than 100 bytes"):
        read_bounded(tmp_path / "big", 100)
    with pytest.raises(ModelError, match=r"manifest\.yaml, model\.onnx"):
        read_bounded(tmp_path / "none", 100)
