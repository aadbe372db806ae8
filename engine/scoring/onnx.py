"""The one place that knows onnxruntime: a tree ensemble in ONNX, checked before it runs, giving raw margins.

A file is refused unless it is exactly one TreeEnsembleRegressor of the shape that `engine.scoring.trees` writes: no
other operator, no external data, no weights outside the trees, every tree sound. onnxruntime trusts its input: a cycle
or a wrong child index would be a hang or a read out of bounds.

Margins of one thread are bit-equal to XGBoost's (proven for each model when it is made, and again at load).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from engine.errors import ModelError

INPUT, OUTPUT, DOMAIN, OPERATOR = "features", "margin", "ai.onnx.ml", "TreeEnsembleRegressor"
MAX_BYTES = 64_000_000
VERSIONS = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
NODE_PARTS = ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
               "missing_value_tracks_true", "hitrates")  # fmt: skip
TARGET_PARTS = ("treeids", "nodeids", "ids", "weights")
FIXED: dict[str, Any] = {"n_targets": 1, "aggregate_function": b"SUM", "post_transform": b"NONE", "base_values": [0.0]}

Floats = npt.NDArray[np.float64]


class Model:
    """A loaded ensemble of `width` features. Safe to call from several threads at once."""

    def __init__(self, data: bytes, features: Sequence[str]) -> None:
        """Check and load the bytes of `model.onnx`; ModelError says what is wrong with them."""
        check_graph(data, len(features))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # more threads sum in another order, and cost more than they bring
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise ModelError(f"onnxruntime can't load the model: {error}") from error
        self.features, self.data = tuple(features), data
        self._run = session.run
        self._outputs = [OUTPUT]
        self._pack = struct.Struct(f"{len(features)}f").pack
        self._shape = (1, len(features))

    def margin(self, values: Sequence[float | None]) -> float:
        """The raw margin (log-odds) of one row of feature values in order; NaN and None are missing.

        A value beyond float32 counts as infinite: above (or below) every threshold.
        """
        try:
            packed = self._pack(*values)  # much faster than filling an array from a list
        except struct.error:
            packed = self._pack(*self._checked(values))
        row: npt.NDArray[np.float32] = np.ndarray(self._shape, np.float32, packed)
        margin: float = self._run(self._outputs, {INPUT: row})[0].item()
        return margin

    def margins(self, matrix: npt.ArrayLike) -> Floats:
        """The raw margins of many rows, one row a line, each with the very bits of `margin`."""
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(matrix, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self._shape[1]:
            raise ModelError(f"the model takes rows of {self._shape[1]} features, not an array of shape {rows.shape}")
        if not len(rows):
            return np.empty(0)
        margins: Floats = self._run(self._outputs, {INPUT: rows})[0][:, 0].astype(np.float64)
        return margins

    def _checked(self, values: Sequence[Any]) -> list[float]:
        """The slow way: None becomes NaN, and what is no number is named."""
        if len(values) != len(self.features):
            raise ModelError(f"the model takes {len(self.features)} features, not {len(values)}")
        for name, value in zip(self.features, values, strict=True):
            if value is not None and not isinstance(value, int | float | np.number):
                raise ModelError(f"feature {name} is a {type(value).__name__}; the model takes numbers")
        return [np.nan if value is None else float(value) for value in values]


Parts = dict[str, npt.NDArray[Any]]


def check_graph(data: bytes, width: int) -> tuple[Parts, Parts]:
    """Nodes and leaves by part; ModelError unless `data` is one sound tree ensemble over `width` features."""
    if len(data) > MAX_BYTES:
        raise ModelError(f"model.onnx has {len(data):,} bytes; at most {MAX_BYTES:,} are loaded")
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's decode error, which only the service's edge may name
        raise ModelError("model.onnx is not an ONNX file, or is cut off") from error
    node = _only_node(proto)
    _check_ends(proto.graph, width)
    return _check_trees({a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}, width)


def _only_node(proto: Any) -> Any:
    graph = proto.graph
    beside = [what for what, there in (
        ("functions", proto.functions), ("training graphs", proto.training_info),
        ("weights", graph.initializer), ("sparse weights", graph.sparse_initializer),
    ) if len(there)]  # fmt: skip
    names = [f"{node.domain or 'ai.onnx'}.{node.op_type}" for node in graph.node]
    if beside or names != [f"{DOMAIN}.{OPERATOR}"]:
        found = ", ".join([*names[:5], *beside]) or "nothing"
        raise ModelError(f"model.onnx must hold one {OPERATOR} and nothing else; found {found}")
    return graph.node[0]


def _check_ends(graph: Any, width: int) -> None:
    """One float input of rows × width, wired to the one output."""
    node, single = graph.node[0], len(graph.input) == len(graph.output) == 1
    if not single or list(node.input) != [INPUT] or list(node.output) != [OUTPUT] or graph.output[0].name != OUTPUT:
        raise ModelError(f"model.onnx must have one input {INPUT!r} and one output {OUTPUT!r}")
    tensor = graph.input[0].type.tensor_type
    dimensions = [d.dim_value for d in tensor.shape.dim]
    if graph.input[0].name != INPUT or tensor.elem_type != onnx.TensorProto.FLOAT or dimensions[1:] != [width]:
        raise ModelError(
            f"model.onnx takes {graph.input[0].name!r} of shape {dimensions}; wanted {INPUT!r}, float, rows × {width}"
        )


def _check_trees(given: dict[str, Any], width: int) -> tuple[Parts, Parts]:
    known = {f"nodes_{p}" for p in NODE_PARTS} | {f"target_{p}" for p in TARGET_PARTS} | set(FIXED)
    if set(given) != known:
        raise ModelError(
            f"model.onnx: unexpected or missing parts of the trees: {', '.join(sorted(set(given) ^ known))}"
        )
    for name, wanted in FIXED.items():
        if given[name] != wanted:
            raise ModelError(f"model.onnx: {name} is {given[name]}; margins are exported with {wanted}")
    nodes = {part: np.asarray(given[f"nodes_{part}"]) for part in NODE_PARTS}
    targets = {part: np.asarray(given[f"target_{part}"]) for part in TARGET_PARTS}
    for parts in (nodes, targets):
        if len({len(part) for part in parts.values()}) != 1:
            raise ModelError("model.onnx: the parts of the trees differ in length")
    _check_nodes(nodes, targets, width)
    return nodes, targets


def _check_nodes(nodes: Parts, targets: Parts, width: int) -> None:
    """Every tree is a tree, its nodes numbered breadth first as `engine.scoring.trees` does, each leaf with one weight.

    Then the inner node of rank r (from 0) has the children 2r + 1 and 2r + 2, and each child comes after its parent:
    all nodes are reached, once each, and no walk goes round.
    """
    trees, ids, leaf = nodes["treeids"], nodes["nodeids"], nodes["modes"] == b"LEAF"
    inner, roots = ~leaf, np.flatnonzero(np.diff(trees, prepend=-1))
    sizes = np.diff(roots, append=len(trees))
    before = np.cumsum(inner) - inner
    left = 2 * (before - np.repeat(before[roots], sizes)) + 1
    sound = (
        len(trees) > 0
        and np.array_equal(trees, np.repeat(np.arange(len(roots)), sizes))
        and np.array_equal(ids, np.arange(len(ids)) - np.repeat(roots, sizes))
        and bool(np.all(leaf | (nodes["modes"] == b"BRANCH_LT")))
        and np.array_equal(sizes, 2 * np.add.reduceat(inner, roots, dtype=np.int64) + 1)
        and np.array_equal(nodes["truenodeids"][inner], left[inner])
        and np.array_equal(nodes["falsenodeids"][inner], left[inner] + 1)
        and bool(np.all(left[inner] > ids[inner]))
        and bool(np.all((nodes["featureids"] >= 0) & (nodes["featureids"] < width)))
        and bool(np.all(np.isfinite(nodes["values"])) and np.all(np.isfinite(targets["weights"])))
        and bool(np.all(np.isfinite(nodes["hitrates"]) & (nodes["hitrates"] >= 0)))
        and np.array_equal(targets["treeids"], trees[leaf])
        and np.array_equal(targets["nodeids"], ids[leaf])
        and not np.any(targets["ids"])
    )
    if not sound:
        raise ModelError("model.onnx: a tree is not sound (node order, mode, feature, weight or child index)")
