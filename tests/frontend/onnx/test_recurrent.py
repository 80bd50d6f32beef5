"""Recurrent networks from ONNX files, compiled: both forms, batches, and what is refused."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import tvm_insta
from tests.frontend.onnx.cases import floats, ints
from tests.frontend.onnx.models import graph
from tvm_insta.errors import ImportModelError

STEPS, SIZE, HIDDEN = 6, 5, 4
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def model(op, direction="bidirectional", *, layers=1, constants=None, inputs=(), **attributes):
    """What exporters write for ``batch_first=True``: transpositions around, layers behind."""
    count = 2 if direction == "bidirectional" else 1
    example = floats(1, STEPS, SIZE)
    nodes = [helper.make_node("Transpose", ["x"], ["t0"], perm=[1, 0, 2])]
    weights = {"s": ints(0, 0, -1)} | (constants or {})
    size = SIZE
    for at in range(layers):
        rows, now, after = GATES[op] * HIDDEN, f"t{at}", f"t{at + 1}"
        weights |= {f"u{at}": floats(count, rows, size), f"r{at}": floats(count, rows, HIDDEN)}
        weights |= {f"b{at}": floats(count, 2 * rows)}
        names = [now, *(f"{name}{at}" for name in "urb"), *inputs]
        how = {"direction": direction, "hidden_size": HIDDEN, **attributes}
        nodes += [
            helper.make_node(op, names, [f"y{at}"], name=f"layer{at}", **how),
            helper.make_node("Transpose", [f"y{at}"], [f"p{at}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"p{at}", "s"], [after]),
        ]
        size = count * HIDDEN
    nodes.append(helper.make_node("Transpose", [after], ["y"], perm=[1, 0, 2]))
    return graph(nodes, {"x": example}, weights, batch="batch")


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("layers", [1, 2])
def test_compiled_sequences_are_onnx_runtimes(op, layers):
    file = model(op, "bidirectional" if layers == 2 else "reverse", layers=layers)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    answers = []
    for form in ("c", "vm"):
        artefact = tvm_insta.build_onnx(file, runtime=form, max_batch=4)
        for batch in (1, 3):
            x = floats(batch, STEPS, SIZE)
            (expected,) = session.run(None, {"x": x})
            # A function that is good to 4e-6, in up to twelve steps behind each other.
            np.testing.assert_allclose(artefact(x), expected, rtol=0, atol=5e-5)
        answers.append(artefact(np.ones((2, STEPS, SIZE), np.float32)).tobytes())
    assert answers[0] == answers[1]


REFUSED = {
    "several lengths": dict(inputs=["n"], constants={"n": np.int32([STEPS - 1])}),
    "clips its gates": dict(clip=1.0),
    "only Sigmoid, Tanh": dict(activations=["HardSigmoid", "Tanh", "Tanh"], direction="forward"),
    "without parameters": dict(activation_alpha=[0.5]),
    "gates are one": dict(input_forget=1),
    "one of initial_h and initial_c": dict(inputs=["", "h"], constants={"h": floats(2, 1, HIDDEN)}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_refused(said):
    with pytest.raises(ImportModelError, match=f"layer0.*{said}"):
        tvm_insta.build_onnx(model("LSTM", **REFUSED[said]), max_batch=1, check=False)


def test_a_length_is_needed():
    file = model("LSTM")
    file.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
    with pytest.raises(ImportModelError, match=r"--input-shape"):
        tvm_insta.build_onnx(file, max_batch=1)
    assert file.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
