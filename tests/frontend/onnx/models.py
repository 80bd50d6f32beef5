"""Small ONNX models, and their answers by ONNX Runtime and by our module."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tvm_insta.frontend.onnx import load, onnx_module
from tvm_insta.frontend.onnx.batch import rehearse

QONNX = "qonnx.custom_op.general"
LAST = "qonnx.custom_op.channels_last"


def value_info(name, array, batch=None):
    """The declaration of a tensor; ``batch`` replaces its first dimension."""
    shape = list(array.shape)
    if batch is not None:
        shape[0] = batch
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def initialiser(name, value):
    """A constant; arrays and TensorProtos are taken."""
    if isinstance(value, onnx.TensorProto):
        value.name = name
        return value
    return numpy_helper.from_array(np.asarray(value, order="C"), name)


def graph(nodes, inputs, constants=None, outputs=("y",), opset=17, out=TensorProto.FLOAT, **how):
    """A model.

    Args:
        nodes: of `onnx.helper.make_node`.
        inputs: example arrays by name.
        constants: initialisers by name.
        outputs: names, without shapes.
        opset: version of the standard operators.
        out: element type of the outputs, one or a list.
        how: ``batch`` of the inputs in the file, ``ir_version``, ``domains`` by name.
    """
    kinds = out if isinstance(out, list) else [out] * len(outputs)
    made = helper.make_graph(
        nodes,
        "test",
        [value_info(name, array, how.get("batch")) for name, array in inputs.items()],
        [helper.make_tensor_value_info(n, k, None) for n, k in zip(outputs, kinds, strict=True)],
        [initialiser(name, value) for name, value in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d, v) for d, v in how.get("domains", {}).items()]
    return helper.make_model(
        made, opset_imports=imports, ir_version=how.get("ir_version", 8 if opset < 21 else 10)
    )


def by_runtime(model, inputs):
    """What ONNX Runtime computes; its optimisations change results, so they are off."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(inputs))


def by_us(model, inputs):
    """What our module computes, after the rehearsal that every file goes through."""
    module = onnx_module(load(model))
    tensors = [torch.from_numpy(np.asarray(array)) for array in inputs.values()]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    expected = rehearse(module, shapes) if all(shapes) else None
    with torch.no_grad():
        found = module(*tensors)
    found = list(found) if isinstance(found, tuple) else [found]
    if expected is not None:
        assert [tuple(each.shape) for each in found] == expected
    return [each.numpy() for each in found]


def agree(model, inputs, tolerance=1e-5):
    """Our module gives the shapes, types and values of ONNX Runtime.

    The tolerance is relative to the largest value: sums are taken in another order.
    """
    for ours, theirs in zip(by_us(model, inputs), by_runtime(model, inputs), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if theirs.dtype.kind in "iub":
            assert (ours == theirs).all()
        else:
            finite = theirs[np.isfinite(theirs)]
            scale = max(float(np.abs(finite).max()), 1e-3) if finite.size else 1.0
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)
