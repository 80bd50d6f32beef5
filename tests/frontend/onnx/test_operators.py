"""Every operator gives what ONNX Runtime gives, on a grid of its attributes and versions."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.onnx.cases import CASES, X, floats, ints
from tests.frontend.onnx.models import LAST, QONNX, agree, by_runtime, by_us, graph
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.load import OLDEST_OPSET
from tvm_insta.frontend.onnx.operators import find, names

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PLACES = ["half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners"]
WITHOUT_CASE = {
    "Constant",  # test_constants
    "ConstantOfShape",  # test_made_tensors
    "If",  # test_conditions
    "Range",  # test_made_tensors
    "Swish",  # test_swish
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case.id}")
def test_operator(case):
    agree(case.model(), {"x": case.data})


def test_every_operator_has_a_case():
    assert set(names()) == {case.op for case in CASES} | WITHOUT_CASE


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: f"{case.op} {case.id}")
def test_constants_are_computed_by_the_same_code(case):
    """The same node on a constant is folded, and gives the same."""
    model = case.model()
    model.graph.initializer.append(numpy_helper.from_array(case.data, "x"))
    del model.graph.input[:]
    inputs = {"unused": np.zeros((1, 2), np.float32)}
    model.graph.input.append(helper.make_tensor_value_info("unused", FLOAT, [1, 2]))
    agree(model, inputs)


REFUSED_ATTRIBUTES = {
    ("Constant", "sparse_value"),
    ("Constant", "value_string"),
    ("Constant", "value_strings"),
}


def schemas():
    """The schemas of our operators at every version that a file may use."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and find("", schema.name) is not None:
            newest = (
                onnx.defs.get_schema(schema.name, OLDEST_OPSET, "") if _at(schema.name) else None
            )
            if newest is None or schema.since_version >= newest.since_version:
                yield schema


def _at(name):
    try:
        onnx.defs.get_schema(name, OLDEST_OPSET, "")
    except onnx.defs.SchemaError:
        return False
    return True


def test_no_attribute_of_the_standard_is_unknown():
    """At no version does an operator have an attribute or input that its function does not know."""
    for schema in schemas():
        entry = find("", schema.name)
        for name, attribute in schema.attributes.items():
            if (schema.name, name) in REFUSED_ATTRIBUTES:
                continue
            what = f"{schema.name}-{schema.since_version} {name}"
            assert name in {*entry.attributes, *entry.ignored}, what
            if name not in entry.attributes or not attribute.default_value.type:
                continue
            ours = entry.attributes[name][1]
            theirs = helper.get_attribute_value(attribute.default_value)
            theirs = theirs.decode() if isinstance(theirs, bytes) else theirs
            if ours is None or ours == ():  # the function finds the default by the version
                continue
            assert ours is not inspect.Parameter.empty, what
            theirs = tuple(theirs) if isinstance(theirs, list) else theirs
            assert ours == pytest.approx(theirs) if isinstance(ours, float) else ours == theirs, (
                what
            )
        if entry.variadic is None:
            assert schema.max_input <= len(entry.inputs), schema.name


@pytest.mark.parametrize(
    "value",
    [
        {"value": numpy_helper.from_array(np.float32([[2, 3]]))},
        {"value_float": 2.5},
        {"value_floats": [1.0, 2.0]},
        {"value": helper.make_tensor("", TensorProto.FLOAT16, [1], [1.5])},
        {"value": helper.make_tensor("", TensorProto.DOUBLE, [1], [1.5])},
    ],
    ids=lambda value: f"{next(iter(value))}",
)
def test_constants(value):
    nodes = [
        helper.make_node("Constant", [], ["c"], **value),
        helper.make_node("Cast", ["c"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    agree(graph(nodes, {"x": X[..., :2]}), {"x": X[..., :2]})


def test_integer_constants():
    nodes = [
        helper.make_node("Constant", [], ["s"], value_ints=[0, -1]),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    agree(graph(nodes, {"x": X}), {"x": X})


def test_made_tensors():
    """Tensors of computed shapes: ConstantOfShape of the batch, Range of a constant."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node(
            "ConstantOfShape", ["s"], ["c"], value=numpy_helper.from_array(np.float32([2]))
        ),
        helper.make_node("Range", ["a", "b", "d"], ["r"]),
        helper.make_node("Cast", ["r"], ["rf"], to=FLOAT),
        helper.make_node("Add", ["c", "rf"], ["t"]),
        helper.make_node("Mul", ["x", "t"], ["y"]),
    ]
    constants = {"a": np.int64(1), "b": np.int64(7), "d": np.int64(1)}
    agree(graph(nodes, {"x": X}, constants), {"x": X})


def test_swish():
    model = graph([helper.make_node("Swish", ["x"], ["y"], alpha=1.5)], {"x": X}, opset=24)
    expected = X / (1 + np.exp(-1.5 * X))
    np.testing.assert_allclose(by_us(model, {"x": X})[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "right", "causal"), [(1, 2, 0), (2, -1, 0), (-1, 1, 1), (0, 0, 0)]
)
def test_attention_of_a_window(left, right, causal):
    """Version 25, which ONNX Runtime lacks: a query sees the keys that are near enough."""
    if onnx.defs.onnx_opset_version() < 25:
        pytest.skip("this onnx does not know version 25")
    q, k, v = floats(1, 2, 5, 8), floats(1, 2, 6, 8), floats(1, 2, 6, 3)
    how = {"left_window_size": left, "right_window_size": right, "is_causal": causal}
    node = helper.make_node("Attention", ["x", "k", "v"], ["y"], **how)
    model = graph([node], {"x": q}, {"k": k, "v": v}, opset=25, ir_version=11)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(np.float32(8))
    for i in range(5):
        for j in range(6):
            near = (left < 0 or j >= i - left) and (right < 0 or j <= i + right)
            if not near or (causal and j > i):
                scores[..., i, j] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(by_us(model, {"x": q})[0], expected, atol=1e-5)


def test_space_to_depth_of_version_28():
    """Its mode CRD is the inverse of DepthToSpace's."""
    if onnx.defs.onnx_opset_version() < 28:
        pytest.skip("this onnx does not know version 28")
    data = floats(2, 3, 4, 6)
    nodes = [
        helper.make_node("SpaceToDepth", ["x"], ["d"], blocksize=2, mode="CRD"),
        helper.make_node("DepthToSpace", ["d"], ["y"], blocksize=2, mode="CRD"),
    ]
    model = graph(nodes, {"x": data}, opset=28, ir_version=13)
    assert (by_us(model, {"x": data})[0] == data).all()


def test_everything_that_is_padded_with_a_number():
    """Of bytes and booleans as of floats."""
    for data, number, kind in (
        (np.abs(X * 20).astype(np.uint8), np.uint8(200), TensorProto.UINT8),
        ((X * 20).astype(np.int8), np.int8(-7), TensorProto.INT8),
        ((X * 20).astype(np.int32), np.int32(-7), TensorProto.INT32),
        (X > 0, np.array(True), TensorProto.BOOL),
        (X, np.float32([2.5]), FLOAT),
    ):
        node = helper.make_node("Pad", ["x", "p", "v"], ["y"])
        constants = {"p": ints(0, 0, 1, 2, 0, 0, 2, 0), "v": number}
        agree(graph([node], {"x": data}, constants, out=kind), {"x": data})


OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_version(opset):
    """One small network of operators whose form did not change, at every version."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "h", "o"], ["y"], transB=1),
    ]
    constants = {"w": floats(6, 4, 3, 3), "h": floats(5, 54), "o": floats(5)}
    constants |= {name: floats(6, low=0.5) for name in "gbmv"}
    agree(graph(nodes, {"x": X}, constants, opset=opset), {"x": X})


@pytest.mark.parametrize("bits", ["INT4", "UINT4", "INT2", "UINT2"])
def test_weights_of_few_bits(bits):
    """Weights of 2 and 4 bits; ONNX Runtime has no such convolution, so the sum is ours."""
    if not hasattr(TensorProto, bits):
        pytest.skip(f"this onnx does not know {bits}")
    low, high = {"INT4": (-8, 7), "UINT4": (0, 15), "INT2": (-2, 1), "UINT2": (0, 3)}[bits]
    codes = np.random.default_rng(0).integers(low, high + 1, (5, 12))
    packed = helper.make_tensor(
        "w", getattr(TensorProto, bits), (5, 12), codes.reshape(-1).tolist()
    )
    scale = floats(5, low=0.1)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0),
        helper.make_node("Gemm", ["x", "f"], ["y"], transB=1),
    ]
    opset = 25 if bits.endswith("2") else 21
    x = floats(2, 12)
    model = graph(nodes, {"x": x}, {"w": packed, "s": scale}, opset=opset, ir_version=13)
    expected = x @ (codes * scale[:, None]).astype(np.float32).T
    np.testing.assert_allclose(by_us(model, {"x": x})[0], expected, atol=1e-4)


# -- properties ----------------------------------------------------------------------------------

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, print_blob=True)


@SETTINGS
@given(st.data())
def test_convolutions(data):
    """Any kernel, stride, dilation, pads and groups."""
    draw = data.draw
    groups = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    rank = len(kernel)
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    pads = draw(st.lists(st.integers(0, 3), min_size=2 * rank, max_size=2 * rank))
    image = [
        (k - 1) * d + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilations, strict=True)
    ]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.standard_normal((2, groups * 2, *image)).astype(np.float32)
    w = rng.standard_normal((groups * 3, 2, *kernel)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=strides, dilations=dilations, pads=pads, group=groups
    )
    agree(graph([node], {"x": x}, {"w": w}), {"x": x})


@SETTINGS
@given(st.data())
def test_lengths_of_transposed_convolutions(data):
    """Any output_shape and output_padding that a convolution could have made its input of."""
    draw = data.draw
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size, dilation = draw(st.integers(1, 6)), draw(st.integers(1, 2))
    full = (size - 1) * stride + (kernel - 1) * dilation + 1
    wanted = draw(st.integers(max(full - 4, 1), full + stride - 1))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.standard_normal((2, 2, size)).astype(np.float32)
    constants = {"w": rng.standard_normal((2, 3, kernel)).astype(np.float32)}
    constants["b"] = rng.standard_normal(3).astype(np.float32)
    how = {"strides": [stride], "dilations": [dilation], "output_shape": [wanted]}
    how["auto_pad"] = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **how)
    model = graph([node], {"x": x}, constants)
    try:
        by_runtime(model, {"x": x})
    except Exception:  # it takes no padding as large as its window
        return
    agree(model, {"x": x})


@SETTINGS
@given(st.data())
def test_pools(data):
    """Any kernel, stride, dilation, pads and ceil_mode, of both kinds of pools."""
    draw = data.draw
    kernel = draw(st.lists(st.integers(1, 4), min_size=2, max_size=2))
    strides = draw(st.lists(st.integers(1, 4), min_size=2, max_size=2))
    dilations = draw(st.lists(st.integers(1, 2), min_size=2, max_size=2))
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]  # ONNX Runtime takes no more
    image = [
        (k - 1) * d + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilations, strict=True)
    ]
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    attributes = {"ceil_mode": draw(st.integers(0, 1))}
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x = rng.standard_normal((2, 3, *image)).astype(np.float32)
    node = helper.make_node(
        op,
        ["x"],
        ["y"],
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        **attributes,
    )
    agree(graph([node], {"x": x}, opset=19), {"x": x})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("by", ["scales", "sizes"])
@settings(max_examples=60, deadline=None, derandomize=True, print_blob=True)
@given(st.data())
def test_resizes(by, place, data):
    """Any length from any other: which elements are taken is a matter of the last bit."""
    draw = data.draw
    size, width = draw(st.integers(1, 24)), draw(st.integers(1, 5))
    mode = draw(st.sampled_from(["nearest", "nearest", "linear", "cubic"]))
    how = {"mode": mode, "coordinate_transformation_mode": place}
    if mode == "nearest":
        how["nearest_mode"] = draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil"]))
        how["nearest_mode"] = draw(st.sampled_from([how["nearest_mode"], "floor", "ceil"]))
    factor = np.float32(draw(st.integers(1, 39))) / np.float32(draw(st.sampled_from([10, 7, 3])))
    if by == "scales":
        shape = np.float32([1, 1, factor, draw(st.sampled_from([1, 1.1, 2]))])
        if np.float32(size) * factor < 1:
            return
    else:
        shape = ints(1, 2, draw(st.integers(1, 30)), draw(st.integers(1, 6)))
    x = np.arange(2 * size * width, dtype=np.float32).reshape(1, 2, size, width) ** 1.5
    inputs = ["x", "", "s"] if by == "scales" else ["x", "", "", "s"]
    node = helper.make_node("Resize", inputs, ["y"], **how)
    agree(graph([node], {"x": x}, {"s": shape}, opset=19), {"x": x})


@pytest.mark.parametrize("by", ["scales", "sizes"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resizes_with_channels_last(mode, by):
    """Rows are axis 1 then; the batch alone keeps its size."""
    x = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3) ** 1.5
    constants = {"s": np.float32([1, 2, 1.5, 1]) if by == "scales" else ints(2, 10, 6, 3)}
    inputs = ["x", "", "s"] if by == "scales" else ["x", "", "", "s"]
    node = helper.make_node("Resize", inputs, ["y"], mode=mode)
    agree(graph([node], {"x": x}, constants, opset=19), {"x": x})
    if by == "scales":
        batch = graph([node], {"x": x}, {"s": np.float32([2, 1, 1, 1])}, opset=19)
        with pytest.raises(ImportModelError, match="resizes the batch"):
            by_us(batch, {"x": x})


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op", "opset"), [("Resize", 10), ("Upsample", 9)])
def test_resizes_of_old_versions(op, opset, mode):
    """The second input is the scales; the element above is taken where an axis becomes shorter."""
    for size in (3, 7, 10, 23):
        x = np.arange(2 * size * 4, dtype=np.float32).reshape(1, 2, size, 4) ** 1.5
        for factor in (0.34, 0.5, 0.6, 0.7, 0.9, 1.1, 1.3, 1.9, 2.3):
            if op == "Upsample" and factor < 1:
                continue
            scales = np.float32([1, 1, factor, 1])
            node = helper.make_node(op, ["x", "s"], ["y"], mode=mode)
            agree(graph([node], {"x": x}, {"s": scales}, opset=opset), {"x": x})


@SETTINGS
@given(st.data())
def test_slices(data):
    """Any start, end and step, beyond both ends too."""
    draw = data.draw
    bound = st.integers(-12, 12) | st.sampled_from([2**31, 2**62, -(2**62)])
    start, end = draw(bound), draw(bound)
    step = draw(st.integers(-3, 3).filter(bool))
    axis = draw(st.integers(-4, 3))
    constants = {"a": ints(start), "b": ints(end), "c": ints(axis), "d": ints(step)}
    node = helper.make_node("Slice", ["x", "a", "b", "c", "d"], ["y"])
    model = graph([node], {"x": X}, constants)
    if 0 in _sliced(X, start, end, axis, step).shape:
        return  # an empty tensor is no activation
    agree(model, {"x": X})


def _sliced(x, start, end, axis, step):
    index = [slice(None)] * x.ndim
    start = max(start, -x.shape[axis]) if step < 0 else start  # ONNX takes the first element then
    below = step < 0 and end < -x.shape[axis]
    index[axis] = slice(start, None if below else end, step)
    return x[tuple(index)]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            helper.make_node(
                "Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="tf_crop_and_resize"
            ),
            "only 'half_pixel'",
        ),
        (
            helper.make_node("BatchNormalization", ["x", *"vvvv"], ["y"], training_mode=1),
            "training",
        ),
        (helper.make_node("Pad", ["x", "p"], ["y"], mode="sideways"), "only 'constant'"),
        (helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]), "second output"),
        (helper.make_node("Transpose", ["x"], ["y"], perm=[0, 1, 1, 2]), "no order"),
        (helper.make_node("Concat", ["x", "x"], ["y"], axis=7), "axis 7"),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)
def test_what_is_not_taken_is_said(node, message):
    constants = {"s": np.float32([1, 1, 2, 2]), "v": floats(4, low=1.0), "p": ints(*[1] * 8)}
    outputs = list(node.output)
    kinds = [FLOAT, INT64][: len(outputs)]
    with pytest.raises(ImportModelError, match=message) as caught:
        by_us(graph([node], {"x": X}, constants, outputs, out=kinds), {"x": X})
    assert str(caught.value).startswith(f"node 'y' ({node.op_type})")


@pytest.mark.parametrize(
    ("part", "domain"),
    [
        ("operators", ""),
        ("qonnx", QONNX),
        ("openvino", "org.openvinotoolkit"),
        ("channels last", LAST),
    ],
)
def test_the_documentation_lists_every_operator(part, domain):
    text = (Path(__file__).parents[3] / "docs" / "onnx.md").read_text("utf-8")
    listed = text.split(f"<!-- {part} -->")[1].split("<!-- end -->")[0]
    assert listed.replace("\n", " ").strip().split(", ") == names(domain)
