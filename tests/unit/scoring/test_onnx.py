"""What is loaded as a model, and what is refused before it runs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import ModelError
from engine.scoring import onnx as ensemble
from engine.scoring.onnx import Model

from .conftest import FEATURES


@pytest.fixture(scope="module")
def model(trained) -> Model:
    """The shop's model."""
    return Model(trained.onnx, FEATURES)


def _rows(count: int) -> np.ndarray:
    random = np.random.default_rng(5)
    rows = np.column_stack([random.lognormal(3, 1, count), random.integers(0, 9, count), random.random(count) < 0.3])
    rows[random.random(rows.shape) < 0.1] = np.nan
    return rows


def test_one_row_and_many_give_the_same_bits(model):
    """A row alone has the margin that it has among others."""
    rows = _rows(500)
    assert [model.margin(row) for row in rows.tolist()] == model.margins(rows).tolist()


def test_none_and_nan_are_missing(model):
    """Both ways to say that a value is missing give the same margin, other than zero does."""
    assert model.margin([None, 3, True]) == model.margin([float("nan"), 3.0, 1.0])
    assert model.margin([None, 3, True]) != model.margin([0.0, 3, True])


def test_no_rows_give_no_margins(model):
    """An empty table is not an error."""
    assert model.margins(np.empty((0, 3))).tolist() == []


@pytest.mark.parametrize(("values", "said"), [
    ([1.0, 2.0], "takes 3 features, not 2"), ([1.0, 2.0, 3.0, 4.0], "not 4"),
    ([1.0, "2", 3.0], "card.count_1d is a str"), ([1.0, None, [2]], "device.is_new is a list"),
])  # fmt: skip
def test_a_row_that_does_not_fit_names_the_feature(model, values, said):
    """A wrong number of values, or what is no number, is refused by name."""
    with pytest.raises(ModelError, match=said):
        model.margin(values)


def test_a_number_beyond_float32_is_above_every_threshold(model):
    """Too large a number scores like infinity, alone and among others."""
    wanted = model.margin([float("inf"), 2, 1])
    assert model.margin([1e39, 2, 1]) == wanted
    assert model.margins([[1e39, 2, 1]]).tolist() == [wanted]


def test_a_table_of_another_width_is_refused(model):
    """Rows of a wrong width never reach the trees."""
    with pytest.raises(ModelError, match="rows of 3 features"):
        model.margins(np.zeros((5, 2)))


def test_threads_do_not_disturb_each_other(model):
    """Four threads that score different rows at once each get the margins of their own rows."""
    rows = _rows(400)
    wanted = model.margins(rows).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(model.margin, rows.tolist())) == wanted


def _changed(data: bytes, change) -> bytes:
    proto = onnx.load_model_from_string(data)
    change(proto)
    return proto.SerializeToString()


def _attribute(proto, name):
    return next(a for a in proto.graph.node[0].attribute if a.name == name)


def _set(name, kind, index, value):
    def change(proto):
        getattr(_attribute(proto, name), kind)[index] = value

    return change


def _external(proto):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    proto.graph.initializer.append(tensor)


CHANGES = {
    "another operator": (lambda p: p.graph.node.append(helper.make_node("Abs", ["margin"], ["x"])), "Abs"),
    "a custom operator": (lambda p: setattr(p.graph.node[0], "domain", "evil"), "evil.TreeEnsembleRegressor"),
    "external data": (_external, "weights"),
    "no node": (lambda p: p.graph.ClearField("node"), "found nothing"),
    "another output": (lambda p: setattr(p.graph.output[0], "name", "probability"), "one output 'margin'"),
    "another input": (lambda p: setattr(p.graph.input[0], "name", "x"), "takes 'x'"),
    "double input": (lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE), "float"),
    "another width": (
        lambda p: setattr(p.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 4), "rows × 3"),
    "a sigmoid after": (lambda p: setattr(_attribute(p, "post_transform"), "s", b"LOGISTIC"), "post_transform"),
    "a base value": (_set("base_values", "floats", 0, 0.5), "base_values"),
    "an unknown part": (lambda p: setattr(_attribute(p, "nodes_values"), "name", "nodes_costs"), "nodes_costs"),
    "NaN weight": (_set("nodes_hitrates", "floats", 0, float("nan")), "not sound"),
    "a negative weight": (_set("nodes_hitrates", "floats", 0, -1.0), "not sound"),
    "parts of unequal length": (lambda p: _attribute(p, "nodes_modes").strings.pop(), "differ in length"),
    "NaN in a leaf": (_set("target_weights", "floats", 0, float("nan")), "not sound"),
    "NaN threshold": (_set("nodes_values", "floats", 0, float("nan")), "not sound"),
    "a feature out of range": (_set("nodes_featureids", "ints", 0, 3), "not sound"),
    "a child out of range": (_set("nodes_truenodeids", "ints", 0, 10**6), "not sound"),
    "a negative child": (_set("nodes_truenodeids", "ints", 0, -1), "not sound"),
    "a cycle": (_set("nodes_truenodeids", "ints", 0, 0), "not sound"),
    "a node with two parents": (_set("nodes_truenodeids", "ints", 0, 2), "not sound"),
    "another comparison": (_set("nodes_modes", "strings", 0, b"BRANCH_LEQ"), "not sound"),
    "a second target": (_set("target_ids", "ints", 0, 1), "not sound"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_foreign_or_broken_graph_is_refused_before_it_runs(trained, what):
    """Whatever is not exactly one sound tree ensemble is a ModelError that says why."""
    change, said = CHANGES[what]
    with pytest.raises(ModelError, match=said):
        ensemble.check_graph(_changed(trained.onnx, change), 3)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x08\x08" * 50])
def test_bytes_that_are_no_model_are_refused(data):
    """A file of another kind is a ModelError too."""
    with pytest.raises(ModelError):
        Model(data, FEATURES)


def test_a_cut_off_model_is_refused(trained):
    """Half a file is not a smaller model."""
    with pytest.raises(ModelError, match="cut off"):
        Model(trained.onnx[: len(trained.onnx) // 2], FEATURES)


def test_an_oversized_model_is_refused(monkeypatch, trained):
    """A file above the limit is refused before it is parsed."""
    monkeypatch.setattr(ensemble, "MAX_BYTES", 1_000)
    with pytest.raises(ModelError, match="at most 1,000"):
        Model(trained.onnx, FEATURES)
