"""What should not be learnt from: a leak stops the training, a constant is told."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import ModelError
from engine.scoring.train import train
from tests.conftest import ROOT

from .conftest import FEATURES, shop_config, shop_table


def _with(name: str, values: object) -> pa.Table:
    return shop_table().append_column(name, pa.array(values))


def _label() -> np.ndarray:
    return shop_table().column("label").to_numpy(zero_copy_only=False)


LEAKS = {
    "a copy of the label": lambda label, random: label * 1.0,
    "its opposite, nearly": lambda label, random: np.where(label, 0.0, 1.0) + random.random(len(label)) * 0.9,
    "there for fraud only": lambda label, random: [1.0 if fraud else None for fraud in label],
    "missing for fraud only": lambda label, random: [None if fraud else value for fraud, value in
                                                    zip(label, random.random(len(label)), strict=True)],
}  # fmt: skip


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_stops_the_training(what):
    """A feature that alone tells fraud, in either direction or by being missing, is named with its AUC."""
    table = _with("leaky", LEAKS[what](_label(), np.random.default_rng(3)))
    with pytest.raises(ModelError, match=r"alone tells fraud: leaky \(AUC (0\.99|1\.0)\d+\)\..* under `trusted:`"):
        train(table, shop_config(features=(*FEATURES, "leaky")))


def test_a_trusted_feature_may_tell_all():
    """Whoever names it takes the responsibility, and the training goes on."""
    table = _with("leaky", _label() * 1.0)
    trained = train(table, shop_config(features=(*FEATURES, "leaky"), trusted=("leaky",)))
    assert trained.manifest.test.metrics["auc"] == 1.0


def test_honest_features_are_no_leaks(trained):
    """The shop's own features order fraud, but not alone to 0.99."""
    assert trained.manifest.test.metrics["auc"] > 0.75


@pytest.mark.parametrize("values", [[5.0] * 6_000, [None] * 6_000, [True] * 6_000])
def test_a_constant_feature_is_told(values):
    """One value everywhere, or none: the training goes on and says that nothing was learnt from it."""
    trained = train(_with("same", values), shop_config(features=(*FEATURES, "same")))
    assert trained.remarks[0] == "the same in every row, so nothing was learnt from it: same"
    assert "calibration" in trained.remarks[1]


def test_a_value_that_is_missing_now_and_then_is_no_constant(trained):
    """The amount is missing in some rows; nothing is said of it."""
    assert [remark for remark in trained.remarks if "same in every row" in remark] == []


def test_all_of_one_class_is_told():
    """Without fraud, or with nothing else, training is refused with the counts."""
    table = shop_table()
    for value, fraud in ((False, "0 of them fraud"), (True, r"(\d+) of them fraud")):
        column = pa.array([value] * len(table))
        one = table.set_column(table.column_names.index("label"), "label", column)
        with pytest.raises(ModelError, match=rf"{fraud}; both classes are needed"):
            train(one, shop_config())


_SAVE = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.small_model import make_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    make_model(Path(sys.argv[2]), "1")
except Exception as problem:
    print(type(problem).__name__, problem)
"""


@pytest.mark.parametrize("room", [500, 6_000])
def test_no_room_while_saving(room, tmp_path):
    """The kernel refuses to write on, at the first file or at a later one: clear words, and no folder is left."""
    done = subprocess.run(
        [sys.executable, "-c", _SAVE, str(ROOT), str(tmp_path), str(room)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ModelError"), done.stdout + done.stderr
    assert "can't be written: File too large; nothing was left behind" in done.stdout
    assert list((tmp_path / "small").iterdir()) == []
