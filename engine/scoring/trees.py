"""From XGBoost's own JSON to ONNX: the same trees, the same float32 thresholds, margins from base margin 0.

XGBoost goes left when `value < threshold`, in float32, and by a stored direction when the value is missing: that is
BRANCH_LT with `missing_value_tracks_true`. Sums run in tree order in both. `nodes_hitrates` keeps how much training
weight came through each node, which explanations need and scoring doesn't read.
"""

from __future__ import annotations

import json
from typing import Any

from onnx import TensorProto, helper

from engine.errors import ModelError
from engine.scoring.onnx import DOMAIN, FIXED, INPUT, NODE_PARTS, OPERATOR, OUTPUT, TARGET_PARTS


def export_trees(booster_json: bytes, width: int) -> bytes:
    """The bytes of `model.onnx` for a binary booster saved as JSON (`Booster.save_raw("json")`)."""
    learner = json.loads(booster_json)["learner"]
    if learner["gradient_booster"]["name"] != "gbtree" or float(learner["learner_model_param"]["num_class"]) > 1:
        raise ModelError("only plain boosted trees with one output can be exported")
    nodes: dict[str, list[Any]] = {part: [] for part in NODE_PARTS}
    targets: dict[str, list[Any]] = {part: [] for part in TARGET_PARTS}
    for number, tree in enumerate(learner["gradient_booster"]["model"]["trees"]):
        _add_tree(number, tree, nodes, targets)
    attributes: dict[str, Any] = {f"nodes_{part}": values for part, values in nodes.items()}
    attributes |= {f"target_{part}": values for part, values in targets.items()} | FIXED
    node = helper.make_node(OPERATOR, [INPUT], [OUTPUT], domain=DOMAIN, **attributes)
    return _model(node, width)


def _add_tree(number: int, tree: dict[str, Any], nodes: dict[str, list[Any]], targets: dict[str, list[Any]]) -> None:
    """Append one tree, its nodes numbered breadth first, so that pruned nodes leave no gaps."""
    left, right = tree["left_children"], tree["right_children"]
    order = [0]
    for old in order:
        order += [] if left[old] == -1 else [left[old], right[old]]
    new = {old: position for position, old in enumerate(order)}
    for old in order:
        leaf, value = left[old] == -1, tree["split_conditions"][old]
        weight = tree["sum_hessian"][old]
        row = (number, new[old], 0, 0.0, "LEAF", 0, 0, 0, weight) if leaf else (
            number, new[old], tree["split_indices"][old], value, "BRANCH_LT", new[left[old]], new[right[old]],
            int(tree["default_left"][old]), weight)  # fmt: skip
        for part, item in zip(nodes.values(), row, strict=True):
            part.append(item)
        if leaf:
            for part, item in zip(targets.values(), (number, new[old], 0, value), strict=True):
                part.append(item)


def _model(node: Any, width: int) -> bytes:
    graph = helper.make_graph(
        [node], "margin",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", 1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 3)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="arbiter", ir_version=8)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
