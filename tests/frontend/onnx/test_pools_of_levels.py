"""Pools of signs in ONNX files, however they pad: the layers behind them are packed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import tvm_insta
from tests.frontend.onnx.models import by_runtime, graph

SEED = 9
RNG = np.random.default_rng(SEED)
X = (RNG.integers(-6, 7, (3, 4, 7, 6)) / 4).astype(np.float32)
WEIGHT = RNG.choice(np.float32([-1, 1]), (5, 4, 2, 2))
K2, K23, K22D = [2, 2], [2, 3], {"kernel_shape": [2, 2], "dilations": [2, 1]}
POOLS = {
    # operator, attributes, bits of the layer behind it
    "behind": ("MaxPool", {"kernel_shape": K2, "pads": [0, 0, 1, 1]}, 2),
    "before": ("MaxPool", {"kernel_shape": K23, "pads": [1, 2, 0, 0], "strides": [2, 1]}, 2),
    "same_upper": ("MaxPool", {"kernel_shape": K23, "auto_pad": "SAME_UPPER"}, 2),
    "same_lower": ("MaxPool", {"kernel_shape": K2, "auto_pad": "SAME_LOWER"}, 2),
    "rounded_up": ("MaxPool", {"kernel_shape": K2, "strides": K2, "ceil_mode": 1}, 2),
    "dilated": ("MaxPool", K22D | {"pads": [0, 0, 1, 1]}, 2),
    "mean": ("AveragePool", {"kernel_shape": K2}, 4),
    "mean_same": ("AveragePool", {"kernel_shape": [1, 2], "auto_pad": "SAME_UPPER"}, 4),
    "mean_counted": (
        "AveragePool",
        {"kernel_shape": K2, "pads": [0, 0, 1, 1], "count_include_pad": 1},
        4,
    ),
    "mean_of_channels": ("ReduceMean", {"axes": [1], "keepdims": 1}, 4),
    "sum_of_rows": ("ReduceSum", {}, 3),
}


def network():
    """Signs, a pool and a layer for each of `POOLS`, flattened and concatenated."""
    nodes = [
        helper.make_node("Sign", ["x"], ["s"]),
        helper.make_node("Split", ["s", "p"], ["u", "v"], axis=2),
    ]
    constants = {"w": WEIGHT, "p": np.array([5, 2], np.int64), "w1": WEIGHT[:, :1].copy()}
    constants["rows"] = np.array([2], np.int64)
    for at, (name, (op, attributes, _)) in enumerate(POOLS.items()):
        reads = ["v", "rows"] if op == "ReduceSum" else ["s"]
        weight = "w1" if op == "ReduceMean" else "w"
        pads = [1, 1, 1, 1]
        nodes += [
            helper.make_node(op, reads, [f"p{at}"], **attributes),
            helper.make_node("Conv", [f"p{at}", weight], [f"c{at}"], name, pads=pads),
            helper.make_node("Flatten", [f"c{at}"], [f"f{at}"]),
        ]
    flat = [f"f{at}" for at in range(len(POOLS))]
    nodes.append(helper.make_node("Concat", flat, ["y"], axis=1))
    return graph(nodes, {"x": X}, constants, opset=17, batch="N")


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_layers_behind_pools_of_signs_are_packed(runtime):
    model = network()
    artefact = tvm_insta.build_onnx(model, max_batch=3, runtime=runtime)
    layers = artefact.manifest.layers
    assert {layer.name: layer.bits for layer in layers} == {
        name: bits for name, (_, _, bits) in POOLS.items()
    }
    assert artefact.manifest.options["checked"] == "passed"
    # Every mean is one of 1, 2 or 4 numbers: sums of quarters are exact in any order.
    assert (artefact(X) == by_runtime(model, {"x": X})[0]).all(), f"seed {SEED}"
