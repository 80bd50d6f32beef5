"""One case per operator and kind of attribute: models whose answers ONNX Runtime knows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper

from tests.frontend.onnx.models import graph

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2, 4, 7, 6)) * 2).astype(np.float32)
X[0, 0, 0, :6] = [0, -0.0, 0.5, 1.5, -2.5, 2.5]  # ties of every rounding, and both zeros
FLAT = X.reshape(2, -1)[:, :12]


def floats(*shape, low=None):
    """Random numbers, above ``low`` where it is given."""
    values = RNG.standard_normal(shape).astype(np.float32)
    return values if low is None else np.abs(values) + np.float32(low)


def ints(*values):
    """An int64 vector."""
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """A node on inputs of a model.

    Attributes:
        op: operator.
        id: what is special about it.
        inputs: names: "x" is the input, "" none, others are constants.
        constants: by name.
        attributes: of the node.
        opset: versions at which it must hold.
        data: the input.
        out: element types of the outputs.
    """

    op: str
    id: str = ""
    inputs: tuple[str, ...] = ("x",)
    constants: dict = field(default_factory=dict)
    attributes: dict = field(default_factory=dict)
    opset: int = 17
    data: np.ndarray = field(default_factory=lambda: X)
    out: tuple[int, ...] = (FLOAT,)

    def model(self):
        """The case as a model."""
        outputs = ["y", "z", "w"][: len(self.out)]
        node = helper.make_node(self.op, list(self.inputs), outputs, **self.attributes)
        return graph([node], {"x": self.data}, self.constants, outputs, self.opset, list(self.out))


def unary():
    """Functions of one tensor."""
    names = "Abs Atan Ceil Cos Cosh Elu Erf Exp Floor HardSigmoid Identity LeakyRelu Neg Relu Round"
    names += " Selu Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Tan Tanh Celu ThresholdedRelu"
    names += " Reciprocal Log Asin Acos Acosh Asinh Atanh HardSwish Mish Shrink Gelu"
    small = {"Asin", "Acos", "Atanh"}
    positive = {"Sqrt", "Log", "Reciprocal"}
    newer = {"Mish": 18, "Gelu": 20}
    for name in names.split():
        data = np.clip(X / 4, -0.9, 0.9) if name in small else X
        data = np.abs(X) + np.float32(0.1) if name in positive else data
        data = np.abs(X) + np.float32(1.1) if name == "Acosh" else data
        yield Case(name, data=data, opset=newer.get(name, 17))
    for name, attributes in (
        ("Elu", {"alpha": 0.5}),
        ("LeakyRelu", {"alpha": 0.3}),
        ("Celu", {"alpha": 2.0}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("ThresholdedRelu", {"alpha": 0.7}),
        ("Selu", {"alpha": 1.5, "gamma": 1.1}),
        ("Shrink", {"bias": 0.3, "lambd": 0.6}),
    ):
        yield Case(name, "attributes", attributes=attributes)
    yield Case("Gelu", "tanh", attributes={"approximate": "tanh"}, opset=20)
    yield Case("IsNaN", out=(BOOL,))
    yield Case("IsInf", out=(BOOL,), data=np.array([[np.inf, -np.inf, 1.0]], np.float32))
    yield Case(
        "IsInf",
        "one side",
        attributes={"detect_negative": 0},
        out=(BOOL,),
        data=np.array([[np.inf, -np.inf, 1.0]], np.float32),
    )
    for to in (FLOAT, INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.BOOL):
        yield Case("Cast", f"to {to}", attributes={"to": to}, out=(to,))
    yield Case("CastLike", inputs=("x", "c"), constants={"c": ints(1)}, out=(INT64,))
    for opset in (9, 12, 13):
        yield Case("Dropout", opset=opset)
        mask = FLOAT if opset == 9 else BOOL
        yield Case("Dropout", f"mask {opset}", opset=opset, out=(FLOAT, mask))
    how = {"bias": 1.0, "lambd": 2.0}
    numbers = (X * 3).astype(np.int32)
    yield Case("Shrink", "integers", attributes=how, out=(TensorProto.INT32,), data=numbers)


def binary():
    """Arithmetic with everything that broadcasts."""
    operands = {
        "scalar": np.float32(1.5),
        "one": np.array([1.5], np.float32),
        "channel": floats(4, 1, 1, low=0.5),
        "row": floats(6, low=0.5),
        "larger": floats(3, 2, 4, 7, 6, low=0.5),
        "four ones": np.full((1, 1, 1, 1), 1.5, np.float32),
    }
    for name in ("Add", "Sub", "Mul", "Div", "Greater", "Less", "Equal", "Max", "Min", "Sum"):
        out = (BOOL,) if name in ("Greater", "Less", "Equal") else (FLOAT,)
        for kind, value in operands.items():
            yield Case(name, kind, ("x", "c"), {"c": value}, out=out)
            yield Case(name, f"{kind} first", ("c", "x"), {"c": value}, out=out)
    for name in ("GreaterOrEqual", "LessOrEqual"):
        yield Case(name, "", ("x", "c"), {"c": np.float32(0.5)}, out=(BOOL,))
    yield Case("Sum", "three", ("x", "c", "x"), {"c": floats(6)})
    yield Case("Mean", "three", ("x", "c", "x"), {"c": floats(6)})
    yield Case("Max", "one", ("x",))
    yield Case("Pow", "2", ("x", "c"), {"c": np.float32(2)})
    yield Case("Pow", "int", ("x", "c"), {"c": np.int64(3)})
    yield Case("Pow", "root", ("x", "c"), {"c": np.float32(0.5)}, data=np.abs(X))
    yield Case("Pow", "base", ("c", "x"), {"c": np.float32(2)})
    whole = (X * 3).astype(np.int64)
    for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        constants = {"c": ints(1, 2, 3, 7, -1, 0)}
        yield Case(name, "", ("x", "c"), constants, {}, 18, whole, (INT64,))
    yield Case("BitwiseNot", opset=18, data=whole, out=(INT64,))
    for name, value in (("Div", 3), ("Div", -3), ("Mod", 3), ("Mod", -3), ("Add", 2), ("Mul", 2)):
        constants = {"c": np.int64(value)}
        yield Case(name, f"int {value}", ("x", "c"), constants, data=whole, out=(INT64,))
    for opset in (11, 13):
        yield Case("Mod", f"fmod {opset}", ("x", "c"), {"c": np.float32(1.5)}, {"fmod": 1}, opset)
    for name in ("And", "Or", "Xor"):
        constants = {"c": X[1] > 0}
        yield Case(name, "", ("x", "c"), constants, data=X > 0, out=(BOOL,))
    yield Case("Not", data=X > 0, out=(BOOL,))
    yield Case(
        "Where", "numbers", ("x", "a", "b"), {"a": np.float32(1), "b": np.float32(-1)}, data=X > 0
    )
    yield Case(
        "Where", "tensors", ("x", "a", "b"), {"a": floats(6), "b": floats(4, 1, 1)}, data=X > 0
    )
    yield Case(
        "Where",
        "larger",
        ("x", "a", "b"),
        {"a": floats(3, 2, 4, 7, 6), "b": np.float32(2)},
        data=X > 0,
    )
    yield Case(
        "Where",
        "whole",
        ("x", "a", "b"),
        {"a": np.int64(1), "b": np.int64(0)},
        data=X > 0,
        out=(INT64,),
    )
    for shape in ((4, 1, 1), (1, 4, 1, 1), (1,), (1, 1, 1), (6,), (4, 7, 6), (1, 4, 7, 1)):
        yield Case("PRelu", str(shape), ("x", "s"), {"s": floats(*shape)})
    low, high = {"a": np.float32(-1)}, {"b": np.float32(1)}
    yield Case("Clip", "attributes", attributes={"min": -1.0, "max": 1.0}, opset=9)
    yield Case("Clip", "inputs", ("x", "a", "b"), low | high)
    yield Case("Clip", "low", ("x", "a"), low)
    yield Case("Clip", "high", ("x", "", "b"), high)
    yield Case("Clip", "none")


def layers():
    """Convolutions and products."""
    w = {"w": floats(6, 4, 3, 3)}
    b = {"b": floats(6)}
    xw = ("x", "w")
    yield Case("Conv", "plain", xw, w)
    yield Case("Conv", "bias", ("x", "w", "b"), w | b, {"pads": [1, 1, 1, 1]})
    yield Case("Conv", "uneven pads", xw, w, {"pads": [0, 1, 2, 1]})
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for stride in (1, 2, 3):
            yield Case(
                "Conv", f"{mode} {stride}", xw, w, {"auto_pad": mode, "strides": [stride] * 2}
            )
    for mode in ("SAME_UPPER", "SAME_LOWER"):  # ONNX Runtime pads for a dilation of 1 only
        even = {"w": floats(6, 4, 2, 4)}
        yield Case("Conv", f"{mode} even", xw, even, {"auto_pad": mode, "strides": [2, 2]})
    grouped = {"w": floats(6, 2, 3, 3)}
    yield Case(
        "Conv", "groups", xw, grouped, {"group": 2, "dilations": [2, 1], "pads": [2, 1, 2, 1]}
    )
    yield Case("Conv", "depthwise", xw, {"w": floats(8, 1, 3, 3)}, {"group": 4})
    yield Case("Conv", "kernel_shape", xw, w, {"kernel_shape": [3, 3]})
    yield Case("Conv", "1-D", xw, {"w": floats(6, 4, 3)}, {"pads": [2, 0]}, data=X[..., 0])
    yield Case("Conv", "3-D", xw, {"w": floats(2, 4, 2, 2, 2)}, data=floats(2, 4, 3, 4, 3))
    t = {"w": floats(4, 3, 3, 3)}
    yield Case("ConvTranspose", "plain", xw, t)
    yield Case("ConvTranspose", "bias", ("x", "w", "b"), t | {"b": floats(3)}, {"strides": [2, 2]})
    yield Case("ConvTranspose", "pads", xw, t, {"strides": [2, 3], "pads": [1, 0, 0, 2]})
    yield Case(
        "ConvTranspose",
        "output_padding",
        xw,
        t,
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    )
    yield Case(
        "ConvTranspose", "output_shape", xw, t, {"strides": [2, 2], "output_shape": [14, 12]}
    )
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        yield Case("ConvTranspose", mode, xw, t, {"strides": [2, 2], "auto_pad": mode})
    yield Case(
        "ConvTranspose", "groups", xw, {"w": floats(4, 3, 2, 2)}, {"group": 2, "dilations": [2, 2]}
    )
    yield Case("ConvTranspose", "1-D", xw, {"w": floats(4, 3, 3)}, {"strides": [2]}, data=X[..., 0])
    for opset in (9, 11, 13):
        constants = {"w": floats(5, 12), "c": floats(5)}
        attributes = {"transB": 1}
        yield Case("Gemm", f"transB {opset}", ("x", "w", "c"), constants, attributes, opset, FLAT)
    attributes = {"alpha": 0.5, "beta": 2.0}
    yield Case(
        "Gemm",
        "alpha",
        ("x", "w", "c"),
        {"w": floats(12, 5), "c": floats(1, 5)},
        attributes,
        data=FLAT,
    )
    yield Case("Gemm", "transA", ("x", "w"), {"w": floats(2, 5)}, {"transA": 1}, data=FLAT)
    yield Case("MatMul", "matrix", xw, {"w": floats(12, 5)}, data=FLAT)
    yield Case("MatMul", "stack", xw, {"w": floats(6, 5)})
    yield Case("MatMul", "vector", xw, {"w": floats(6)})
    yield Case("MatMul", "left", ("w", "x"), {"w": floats(3, 7)})
    yield Case("Einsum", "", xw, {"w": floats(6, 5)}, {"equation": "nchw,wk->nkhc"})


def pools():
    """Pools of every padding."""
    plain = {"kernel_shape": [3, 2], "strides": [2, 2]}
    grid = {
        "plain": {},
        "pads": {"pads": [1, 1, 1, 1]},
        "uneven": {"pads": [0, 0, 1, 1]},
        "wide": {"pads": [2, 1, 0, 0]},
        "ceil": {"ceil_mode": 1},
        "ceil pads": {"ceil_mode": 1, "pads": [1, 0, 1, 1]},
        "ceil stride": {"ceil_mode": 1, "strides": [3, 5], "pads": [1, 1, 1, 1]},
        "upper": {"auto_pad": "SAME_UPPER"},
        "lower": {"auto_pad": "SAME_LOWER"},
        "valid": {"auto_pad": "VALID"},
        "stride 1": {"strides": [1, 1]},
    }
    for kind, attributes in grid.items():
        yield Case("MaxPool", kind, attributes=plain | attributes)
        yield Case("AveragePool", kind, attributes=plain | attributes, opset=19)
        counted = plain | attributes | {"count_include_pad": 1}
        yield Case("AveragePool", f"{kind} counted", attributes=counted, opset=19)
    dilated = plain | {"dilations": [2, 3]}
    yield Case("MaxPool", "dilated", attributes=dilated)
    yield Case("AveragePool", "dilated", attributes=dilated, opset=19)
    yield Case("MaxPool", "1-D", attributes={"kernel_shape": [3]}, data=X[..., 0])
    yield Case("AveragePool", "1-D", attributes={"kernel_shape": [3]}, data=X[..., 0])
    yield Case("MaxPool", "3-D", attributes={"kernel_shape": [2, 2, 2]}, data=floats(1, 2, 4, 4, 4))
    for p in (1, 2, 3):
        yield Case("LpPool", f"p {p}", attributes=plain | {"p": p, "pads": [1, 0, 1, 0]})
    yield Case("GlobalAveragePool")
    yield Case("GlobalMaxPool")


def indexed():
    """Elements that are read and written at given places."""
    rows = np.array([[0, 1], [1, -1], [0, 3]])
    yield Case("GatherND", "", ("x", "i"), {"i": rows})
    yield Case("GatherND", "deep", ("x", "i"), {"i": np.array([[[0, 1, 2, 3]], [[1, 0, -1, 5]]])})
    yield Case("ScatterND", "", ("x", "i", "u"), {"i": rows, "u": floats(3, 7, 6)})
    add = {"reduction": "add"}
    yield Case("ScatterND", "add", ("x", "i", "u"), {"i": rows, "u": floats(3, 7, 6)}, add)
    order = np.argsort(floats(2, 4, 7, 6), axis=1)  # no place twice
    scattered = {"i": order, "u": floats(2, 4, 7, 6)}
    for opset in (11, 16, 18):
        yield Case("ScatterElements", f"{opset}", ("x", "i", "u"), scattered, {"axis": 1}, opset)
    negative = scattered | {"i": scattered["i"] - 4}
    yield Case("ScatterElements", "negative", ("x", "i", "u"), negative, {"axis": 1})
    yield Case("ScatterElements", "add", ("x", "i", "u"), scattered, {"axis": 1} | add, 18)
    yield Case("Scatter", "", ("x", "i", "u"), scattered, {"axis": 1}, 9)
    labels = np.array([[0, 2, -1], [1, 3, 0]])
    values = {"d": np.int64(4), "v": np.float32([-1, 2])}
    for axis in (-1, 0, 1):
        yield Case("OneHot", f"{axis}", ("x", "d", "v"), values, {"axis": axis}, data=labels)
    q, k, v = floats(2, 3, 5, 8), floats(2, 3, 6, 8), floats(2, 3, 6, 4)
    qkv = ("x", "k", "v")
    yield Case("Attention", "heads", qkv, {"k": k, "v": v}, {}, 23, q)
    yield Case("Attention", "scale", qkv, {"k": k, "v": v}, {"scale": 0.5}, 23, q)
    square = {"k": floats(2, 3, 5, 8), "v": floats(2, 3, 5, 8)}
    yield Case("Attention", "causal", qkv, square, {"is_causal": 1}, 23, q)
    capped = {"k": k, "v": v, "m": floats(5, 6)}
    yield Case("Attention", "softcap", (*qkv, "m"), capped, {"softcap": 2.0}, 23, q)
    masks = {"number": floats(5, 6), "bool": np.tril(np.ones((5, 6), bool))}
    for kind, mask in masks.items():
        yield Case("Attention", f"mask {kind}", (*qkv, "m"), {"k": k, "v": v, "m": mask}, {}, 23, q)
    flat = {"k": floats(2, 6, 12), "v": floats(2, 6, 6)}
    heads = {"q_num_heads": 3, "kv_num_heads": 3}
    yield Case("Attention", "flat", qkv, flat, heads, 23, floats(2, 5, 12))
    shared = {"k": floats(2, 1, 6, 8), "v": floats(2, 1, 6, 4)}
    yield Case("Attention", "shared", qkv, shared, {}, 23, q)


def normalisations():
    """Normalisations."""
    c = {name: floats(4, low=0.2) for name in "gbmv"}
    five = ("x", "g", "b", "m", "v")
    for opset in (9, 14, 15):
        yield Case("BatchNormalization", f"{opset}", five, c, {"epsilon": 1e-3}, opset)
    yield Case(
        "BatchNormalization", "matrix", five, {n: floats(12, low=0.2) for n in "gbmv"}, data=FLAT
    )
    yield Case("InstanceNormalization", "", ("x", "g", "b"), {n: c[n] for n in "gb"})
    scale = {"g": floats(6), "b": floats(6)}
    yield Case("LayerNormalization", "last", ("x", "g", "b"), scale)
    yield Case(
        "LayerNormalization", "two", ("x", "g"), {"g": floats(7, 6)}, {"axis": 2, "epsilon": 1e-2}
    )
    yield Case(
        "GroupNormalization",
        "21",
        ("x", "g", "b"),
        {n: floats(4) for n in "gb"},
        {"num_groups": 2},
        21,
    )
    yield Case("LRN", "", attributes={"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0})
    yield Case("LpNormalization", "1", attributes={"p": 1, "axis": 1})
    yield Case("LpNormalization", "2")
    yield Case("MeanVarianceNormalization")
    yield Case("RMSNormalization", "", ("x", "g"), {"g": floats(6)}, opset=23)
    for name in ("Softmax", "LogSoftmax", "Hardmax"):
        for opset in (9, 11, 13):
            for axis in (1, 3, None) if opset < 13 else (1, -1, None):
                attributes = {} if axis is None else {"axis": axis}
                yield Case(name, f"{opset} {axis}", attributes=attributes, opset=opset)


def reductions():
    """Reductions; the axes became an input in version 13 (sum) and 18."""
    for name in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
        op = f"Reduce{name}"
        old, new = (11, 13) if name == "Sum" else (13, 18)
        for keep in (0, 1):
            attributes = {"axes": [1, -1], "keepdims": keep}
            yield Case(op, f"attribute {keep}", attributes=attributes, opset=old)
            yield Case(op, f"input {keep}", ("x", "a"), {"a": ints(2, -1)}, {"keepdims": keep}, new)
        yield Case(op, "all", opset=new)
        yield Case(op, "nothing", attributes={"noop_with_empty_axes": 1}, opset=new)
    yield Case("ReduceLogSum", "", attributes={"axes": [1]}, opset=13, data=np.abs(X) + 1)
    tied = np.round(X)
    for name in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            attributes = {"axis": 2, "keepdims": last, "select_last_index": last}
            yield Case(name, f"last {last}", attributes=attributes, data=tied, out=(INT64,))
    both = (FLOAT, INT64)
    yield Case("TopK", "one", ("x", "k"), {"k": ints(1)}, data=tied, out=both)
    yield Case("TopK", "three", ("x", "k"), {"k": ints(3)}, {"axis": 1}, data=tied, out=both)
    yield Case("TopK", "smallest", ("x", "k"), {"k": ints(2)}, {"largest": 0}, out=both)
    yield Case("TopK", "9", attributes={"k": 2}, opset=9, out=both)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            attributes = {"exclusive": exclusive, "reverse": reverse}
            yield Case("CumSum", f"{attributes}", ("x", "a"), {"a": np.int64(-1)}, attributes)


def shapes():
    """Operators that move elements."""
    for shape in ((0, -1), (-1, 6), (2, 4, 42), (0, 0, -1, 1)):
        yield Case("Reshape", str(shape), ("x", "s"), {"s": ints(*shape)})
    for axis in (-1, 0, 1, 2, 4):
        yield Case("Flatten", str(axis), attributes={"axis": axis})
    yield Case("Transpose", "reversed")
    yield Case("Transpose", "last", attributes={"perm": [0, 2, 3, 1]})
    thin = X[:, :1, :, :1]
    yield Case("Squeeze", "all", data=thin)
    yield Case("Squeeze", "of an empty list", ("x", "a"), {"a": ints()}, data=thin)
    yield Case("Squeeze", "11", attributes={"axes": [1, -1]}, opset=11, data=thin)
    yield Case("Squeeze", "13", ("x", "a"), {"a": ints(-1)}, data=thin)
    yield Case("Unsqueeze", "11", attributes={"axes": [0, 5]}, opset=11)
    yield Case("Unsqueeze", "13", ("x", "a"), {"a": ints(-1, 1)})
    yield Case("Concat", "one", attributes={"axis": 1})
    yield Case("Concat", "three", ("x", "c", "x"), {"c": floats(2, 1, 7, 6)}, {"axis": -3})
    two = (FLOAT, FLOAT)
    yield Case("Split", "11", attributes={"axis": 1, "split": [1, 3]}, opset=11, out=two)
    yield Case("Split", "13", ("x", "s"), {"s": ints(1, 3)}, {"axis": 1}, out=two)
    yield Case("Split", "even", attributes={"axis": 2}, opset=13, data=X[:, :, :6], out=two)
    yield Case("Split", "18", attributes={"axis": 2, "num_outputs": 2}, opset=18, out=two)
    yield Case(
        "Slice", "9", attributes={"starts": [1, -3], "ends": [2, 100], "axes": [0, 3]}, opset=9
    )
    far = 2**62
    for begin, end, axes, steps in (
        ((0, 1), (far, -1), (1, 3), (2, 1)),
        ((-1,), (-far,), (3,), (-1,)),
        ((4,), (0,), (3,), (-2,)),
        ((5, 2), (1, far), (3, 2), (-3, 2)),
        ((-3,), (-1,), (-2,), (1,)),
    ):
        constants = {"a": ints(*begin), "b": ints(*end), "c": ints(*axes), "d": ints(*steps)}
        yield Case("Slice", f"{begin} {end} {steps}", ("x", "a", "b", "c", "d"), constants)
    yield Case("Slice", "no axes", ("x", "a", "b"), {"a": ints(0, 1), "b": ints(1, 3)})
    for axis in (0, 1, -1):
        yield Case("Gather", f"axis {axis}", ("x", "i"), {"i": ints(1, 0, -1)}, {"axis": axis})
    yield Case("Gather", "scalar", ("x", "i"), {"i": np.int64(2)}, {"axis": 1})
    yield Case("Gather", "matrix", ("x", "i"), {"i": np.array([[0, 1], [2, 3]])}, {"axis": 1})
    index = np.array([[0, -1, 2]] * 2)
    yield Case("GatherElements", "", ("x", "i"), {"i": index}, {"axis": 1}, data=FLAT)
    for shape in ((1,), (2, 4, 7, 6), (3, 1, 1, 1, 1), (1, 6)):
        yield Case("Expand", str(shape), ("x", "s"), {"s": ints(*shape)})
    yield Case("Expand", "channel", ("x", "s"), {"s": ints(2, 4, 7, 6)}, data=X[:1, :, :1, :1])
    yield Case("Tile", "", ("x", "r"), {"r": ints(1, 2, 1, 3)})
    amounts = ints(0, 1, 2, 1, 0, 0, 1, 3)
    yield Case("Pad", "9", attributes={"pads": amounts.tolist(), "value": 1.5}, opset=9)
    for mode in ("constant", "reflect", "edge"):
        yield Case("Pad", mode, ("x", "p"), {"p": amounts}, {"mode": mode})
    yield Case("Pad", "wrap", ("x", "p"), {"p": amounts}, {"mode": "wrap"}, 19)
    yield Case("Pad", "value", ("x", "p", "v"), {"p": amounts, "v": np.float32(-1)})
    yield Case(
        "Pad", "axes", ("x", "p", "", "a"), {"p": ints(1, 0, 2, 1), "a": ints(-1, 1)}, opset=18
    )
    yield Case("Pad", "negative", ("x", "p"), {"p": ints(0, 0, -1, 2, 0, 0, -2, -1)})
    for mode in ("DCR", "CRD"):
        data = floats(2, 8, 3, 2)
        yield Case("DepthToSpace", mode, attributes={"blocksize": 2, "mode": mode}, data=data)
    yield Case("SpaceToDepth", "", attributes={"blocksize": 2}, data=floats(2, 3, 4, 6))
    for upper in (0, 1):
        yield Case("Trilu", str(upper), ("x", "k"), {"k": np.int64(1)}, {"upper": upper})
    for k in (-1, 0, 2):
        yield Case("EyeLike", str(k), attributes={"k": k}, data=floats(3, 4))
    yield Case("EyeLike", "type", attributes={"dtype": INT64}, out=(INT64,), data=floats(3, 3))
    yield Case("Shape", "", out=(INT64,))
    yield Case("Shape", "part", attributes={"start": 1, "end": -1}, out=(INT64,))
    yield Case("Size", "", out=(INT64,))
    for kind in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            attributes = {"coordinate_transformation_mode": kind, "nearest_mode": nearest}
            constants = {"s": np.array([1, 1, 2, 1.5], np.float32)}
            yield Case("Resize", f"{kind} {nearest}", ("x", "", "s"), constants, attributes)
            attributes = dict(attributes)
            constants = {"s": ints(2, 4, 3, 13)}
            yield Case(
                "Resize", f"{kind} {nearest} sizes", ("x", "", "", "s"), constants, attributes
            )
        for mode in ("linear", "cubic"):
            attributes = {"coordinate_transformation_mode": kind, "mode": mode}
            constants = {"s": np.array([1, 1, 2, 1.5], np.float32)}
            yield Case("Resize", f"{kind} {mode}", ("x", "", "s"), constants, attributes)
            constants = {"s": ints(2, 4, 3, 13)}
            yield Case("Resize", f"{kind} {mode} sizes", ("x", "", "", "s"), constants, attributes)
    attributes = {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}
    constants = {"s": np.array([1, 1, 2, 1.5], np.float32)}
    yield Case("Resize", "cubic outside", ("x", "", "s"), constants, attributes)
    constants = {"s": np.array([1, 1, 2, 3], np.float32)}
    yield Case("Upsample", "linear", ("x", "s"), constants, {"mode": "linear"}, 9)
    yield Case(
        "Resize",
        "10",
        ("x", "s"),
        {"s": np.array([1, 1, 2, 3], np.float32)},
        {"mode": "nearest"},
        10,
    )
    yield Case(
        "Upsample",
        "9",
        ("x", "s"),
        {"s": np.array([1, 1, 2, 3], np.float32)},
        {"mode": "nearest"},
        9,
    )


def quantisers():
    """Quantised tensors of the standard."""
    point = {"u": np.uint8(3), "s": np.int8(-2)}
    for kind, zero in point.items():
        for opset in (10, 13, 19):
            constants = {"s": np.float32(0.1), "z": zero}
            out = (TensorProto.UINT8 if kind == "u" else TensorProto.INT8,)
            yield Case(
                "QuantizeLinear", f"{kind} {opset}", ("x", "s", "z"), constants, {}, opset, out=out
            )
    yield Case(
        "QuantizeLinear",
        "no zero point",
        ("x", "s"),
        {"s": np.float32(0.1)},
        out=(TensorProto.UINT8,),
    )
    constants = {"s": floats(4, low=0.1), "z": np.array([0, 1, -1, 5], np.int8)}
    yield Case(
        "QuantizeLinear",
        "channel",
        ("x", "s", "z"),
        constants,
        {"axis": 1},
        out=(TensorProto.INT8,),
    )
    codes = RNG.integers(-128, 128, (2, 4, 3), dtype=np.int8)
    yield Case("DequantizeLinear", "channel", ("x", "s", "z"), constants, {"axis": 1}, data=codes)
    yield Case("DequantizeLinear", "no zero point", ("x", "s"), {"s": np.float32(0.5)}, data=codes)
    blocked = {"s": floats(2, 2, 3, low=0.1)}
    yield Case(
        "DequantizeLinear", "blocks", ("x", "s"), blocked, {"axis": 1, "block_size": 2}, 21, codes
    )
    out = (TensorProto.UINT8, FLOAT, TensorProto.UINT8)
    yield Case("DynamicQuantizeLinear", "", out=out)
    left = RNG.integers(0, 255, (2, 5), dtype=np.uint8)
    right = RNG.integers(-128, 128, (5, 3), dtype=np.int8)
    constants = {"w": right, "a": np.uint8(7), "b": np.int8(-3)}
    yield Case(
        "MatMulInteger", "", ("x", "w", "a", "b"), constants, data=left, out=(TensorProto.INT32,)
    )


def quantised_layers():
    """Layers of integers."""
    x = RNG.integers(0, 256, (2, 3, 6, 5), dtype=np.uint8)
    w = RNG.integers(-128, 128, (4, 3, 3, 3), dtype=np.int8)
    points = {"xz": np.uint8(120), "wz": np.zeros(4, np.int8), "yz": np.uint8(128)}
    scales = {"xs": np.float32(0.02), "ws": floats(4, low=0.01) / 50, "ys": np.float32(0.1)}
    constants = points | scales | {"w": w, "b": RNG.integers(-99, 99, 4).astype(np.int32)}
    inputs = ("x", "xs", "xz", "w", "ws", "wz", "ys", "yz")
    pads = {"pads": [1, 0, 1, 2]}
    out = (TensorProto.UINT8,)
    yield Case("QLinearConv", "channel", inputs, constants, pads, data=x, out=out)
    yield Case(
        "QLinearConv", "bias", (*inputs, "b"), constants, {"strides": [2, 1]}, data=x, out=out
    )
    constants = {"w": w, "xz": np.uint8(7)}
    attributes = {"dilations": [2, 1], "pads": [1, 1, 1, 1]}
    out = (TensorProto.INT32,)
    yield Case("ConvInteger", "", ("x", "w", "xz"), constants, attributes, data=x, out=out)
    right = RNG.integers(-128, 128, (5, 3), dtype=np.int8)
    constants = points | scales | {"w": right, "ws": np.float32(0.03), "wz": np.int8(4)}
    yield Case("QLinearMatMul", "", inputs, constants, data=x[:, 0], out=(TensorProto.UINT8,))
    pool = {"kernel_shape": [3, 2], "pads": [1, 1, 0, 0], "ceil_mode": 1, "strides": [2, 2]}
    yield Case("MaxPool", "bytes", attributes=pool, data=x, out=(TensorProto.UINT8,))
    yield Case("MaxPool", "signed", attributes=pool, data=w, out=(TensorProto.INT8,))


def sampled():
    """Images read at the places of a grid, some of them outside."""
    grid = {"g": np.clip(floats(2, 3, 5, 2), -1.4, 1.4)}
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border"):
            for aligned in (0, 1):
                how = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
                yield Case("GridSample", f"{mode} {padding} {aligned}", ("x", "g"), grid, how)
    yield Case("GridSample", "20", ("x", "g"), grid, {"mode": "linear"}, 20)


def recurrent():
    """LSTM, GRU and RNN: directions, states, biases, activations."""
    steps, batch, size, hidden = 5, 2, 3, 4
    data = floats(steps, batch, size)
    functions = {"RNN": ["Relu"], "GRU": ["Softsign", "Relu"], "LSTM": ["Sigmoid", "Relu", "Tanh"]}
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        out = (FLOAT,) * (3 if op == "LSTM" else 2)
        names = ["x", "u", "r", "b", "", "h"] + (["c"] if op == "LSTM" else [])
        for direction, count in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
            rows = gates * hidden
            given = {"u": floats(count, rows, size), "r": floats(count, rows, hidden)}
            biases = {"b": floats(count, 2 * rows)}
            states = {name: floats(count, batch, hidden) for name in names[5:]}
            how = {"hidden_size": hidden, "direction": direction}
            yield Case(op, direction, ("x", "u", "r"), given, how, data=data, out=out)
            whole = given | biases | states
            yield Case(op, f"{direction} states", tuple(names), whole, how, data=data, out=out)
            chosen = how | {"activations": functions[op] * count}
            yield Case(
                op, f"{direction} functions", ("x", "u", "r", "b"), given | biases, chosen,
                data=data, out=out,
            )  # fmt: skip
            if op == "GRU":
                first = how | {"linear_before_reset": 1}
                for inputs, values in ((("x", "u", "r"), given), (tuple(names), whole)):
                    yield Case(op, f"{direction} {len(inputs)} after", inputs, values, first,
                               data=data, out=out)  # fmt: skip
            if op == "LSTM":
                holes = whole | {"p": floats(count, 3 * hidden)}
                yield Case(op, f"{direction} peepholes", (*names, "p"), holes, how,
                           data=data, out=out)  # fmt: skip


GROUPS = (
    unary,
    binary,
    layers,
    pools,
    indexed,
    normalisations,
    reductions,
    shapes,
    quantisers,
    quantised_layers,
    recurrent,
    sampled,
)
CASES = [case for group in GROUPS for case in group()]
