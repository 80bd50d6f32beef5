"""Arithmetic on shapes gives ONNX Runtime's numbers, each in the element type of the file."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tvm_insta
from tests.frontend.onnx.cases import ints
from tests.frontend.onnx.models import agree, by_runtime, by_us, graph
from tvm_insta.errors import ImportModelError

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
SETTINGS = settings(max_examples=150, deadline=None, derandomize=True, print_blob=True)
FLOATS = {FLOAT: np.float32, DOUBLE: np.float64, HALF: np.float16}


def of_size(nodes, constants, size, result="r", opset=18):
    """A model whose output is ``result`` as floats, computed by ``nodes`` from the height "d"."""
    x = np.zeros((1, 3, size, 5), np.float32)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["d"]),
        *nodes,
        helper.make_node("Cast", [result], ["as_floats"], to=FLOAT),
        helper.make_node("ReduceSum", ["x"], ["zero"], keepdims=0),
        helper.make_node("Add", ["zero", "as_floats"], ["y"]),
    ]
    return graph(nodes, {"x": x}, {"two": np.int64(2), **constants}, opset=opset), {"x": x}


def same_numbers(model, inputs):
    """Ours and ONNX Runtime's, not a bit apart."""
    check_equal(by_us(model, inputs), by_runtime(model, inputs))


def check_equal(found, expected):
    """One result each, of the same shape and bits."""
    (ours,), (theirs,) = found, expected
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


class Chain:
    """Nodes of which each takes the result of the one before."""

    def __init__(self):
        self.nodes, self.constants, self.last = [], {}, "d"

    def add(self, op, *constants, **attributes):
        """A node; ``constants`` are its further inputs."""
        number = len(self.nodes)
        names = [f"c{number}_{i}" for i in range(len(constants))]
        self.constants.update(zip(names, constants, strict=True))
        self.nodes.append(helper.make_node(op, [self.last, *names], [f"n{number}"], **attributes))
        self.last = f"n{number}"


@SETTINGS
@given(st.data())
def test_floats(data):
    """A chain of operators in float32, float64 or float16, and at its end a dimension."""
    draw = data.draw
    kind = draw(st.sampled_from(sorted(FLOATS)))
    chain = Chain()
    chain.add("Cast", to=kind)
    names = ["Mul", "Div", "Add", "Sub", "Max", "Min", "Floor", "Ceil", "Round", "Abs", "Sqrt"]
    for op in draw(st.lists(st.sampled_from(names), min_size=1, max_size=5)):
        if op in ("Floor", "Ceil", "Round", "Abs", "Sqrt"):
            if op == "Sqrt":
                chain.add("Abs")
            chain.add(op)
            continue
        factor = draw(st.integers(1, 99)) / draw(st.sampled_from([10, 100, 7]))
        chain.add(op, FLOATS[kind](factor))
    if draw(st.booleans()):
        chain.add("Cast", to=TensorProto.INT64)
    model, inputs = of_size(chain.nodes, chain.constants, draw(st.integers(1, 300)), chain.last)
    if kind == HALF:  # ONNX Runtime leaves out the rounding between two operators in float16
        check_equal(by_us(model, inputs), ReferenceEvaluator(model).run(None, inputs))
    else:
        same_numbers(model, inputs)


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE])
@pytest.mark.parametrize("rounded", ["Floor", "Ceil"])
def test_every_size_and_usual_factor(kind, rounded):
    """Products near whole numbers, where one rounding more or less is another dimension."""
    for size in range(1, 60):
        chain = Chain()
        chain.add("Cast", to=kind)
        chain.add("Mul", np.arange(1, 40).astype(FLOATS[kind]) / FLOATS[kind](10))
        chain.add("Cast", to=FLOAT)
        chain.add(rounded)
        chain.add("Cast", to=TensorProto.INT64)
        same_numbers(*of_size(chain.nodes, chain.constants, size, chain.last))


def test_sizes_of_a_resize():
    """floor(10 * 0.7) is 7 in float32, and 6 in float64."""
    x = np.arange(100, dtype=np.float32).reshape(1, 1, 10, 10)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Cast", ["hw"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "k"], ["m"]),
        helper.make_node("Floor", ["m"], ["g"]),
        helper.make_node("Cast", ["g"], ["n"], to=TensorProto.INT64),
        helper.make_node("Concat", ["ones", "n"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    constants = {"two": ints(2), "four": ints(4), "k": np.float32(0.7), "ones": ints(1, 1)}
    model = graph(nodes, {"x": x}, constants)
    agree(model, {"x": x})
    artefact = tvm_insta.build_onnx(model)
    np.testing.assert_array_equal(artefact(x), by_runtime(model, {"x": x})[0])


INTEGERS = [TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8]
INTEGERS += [TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32]


@SETTINGS
@given(
    st.integers(-9, 9),
    st.integers(-5, 5).filter(bool),
    st.sampled_from(["div", "mod", "fmod", "fmod of floats"]),
)
def test_divisions(x, y, kind):
    """Towards 0, or with the sign that the attribute says."""
    chain = Chain()
    chain.add("Sub", np.int64(9 - x))
    if kind == "fmod of floats":
        chain.add("Cast", to=FLOAT)
        chain.add("Mod", np.float32(y + 0.3), fmod=1)
    elif kind == "div":
        chain.add("Div", np.int64(y))
    else:
        chain.add("Mod", np.int64(y), fmod=int(kind == "fmod"))
    same_numbers(*of_size(chain.nodes, chain.constants, 9, chain.last))


@pytest.mark.parametrize("to", [*INTEGERS, TensorProto.BOOL])
def test_casts(to):
    """Integers wrap round, floats lose what is behind the point."""
    for number in (-300, -1, 0, 5, 127, 128, 255, 256, 65535, 65536, 70000):
        chain = Chain()
        chain.add("Add", np.int64(number - 9))
        chain.add("Cast", to=to)
        same_numbers(*of_size(chain.nodes, chain.constants, 9, chain.last))
    for number in (0.0, 0.5, 1.99, 99.7):
        chain = Chain()
        chain.add("Cast", to=FLOAT)
        chain.add("Sub", np.float32(9 - number))
        chain.add("Cast", to=to)
        same_numbers(*of_size(chain.nodes, chain.constants, 9, chain.last))


@SETTINGS
@given(
    st.integers(-40, 40),
    st.integers(-40, 40),
    st.integers(-9, 9).filter(bool),
    st.sampled_from([7, 10, 1]),
    st.booleans(),
)
def test_ranges(start, stop, step, parts, computed):
    """As many numbers as ONNX counts, in float32, whether the file holds them or a shape gives."""
    first, last, delta = (np.float32(n) / np.float32(parts) for n in (start, stop, step))
    if math.ceil((last - first) / delta) < 1:
        return
    chain, constants = Chain(), {"first": first, "delta": delta}
    if computed:
        chain.add("Cast", to=FLOAT)
        chain.add("Sub", np.float32(9))
        chain.add("Add", last)
    else:
        constants["last"] = last
    names = ["first", chain.last if computed else "last", "delta"]
    nodes = [*chain.nodes, helper.make_node("Range", names, ["r"])]
    (ours,) = by_us(*of_size(nodes, chain.constants | constants, 9))
    (theirs,) = by_runtime(*of_size(nodes, chain.constants | constants, 9))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)  # it adds step by step


@SETTINGS
@given(st.data())
def test_reductions(data):
    """Of lists and tables, along any axes, with none of them and with an empty list."""
    draw = data.draw
    op = draw(st.sampled_from(["ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"]))
    shape = draw(st.sampled_from([(4,), (2, 2), (1, 4)]))
    axes = draw(st.none() | st.lists(st.integers(-len(shape), len(shape) - 1), max_size=1))
    inputs = ["t"] if axes is None else ["t", "axes"]
    how = {name: draw(st.integers(0, 1)) for name in ("keepdims", "noop_with_empty_axes")}
    nodes = [
        helper.make_node("Reshape", ["s", "shape"], ["t"]),
        helper.make_node(op, inputs, ["r"], **how),
    ]
    same_numbers(*of_size(nodes, {"shape": ints(*shape), "axes": ints(*axes or ())}, 9))


@SETTINGS
@given(
    st.integers(-7, 7),
    st.integers(-7, 7) | st.sampled_from([2**62, -(2**62)]),
    st.integers(-3, 3).filter(bool),
)
def test_slices(start, stop, step):
    """Any start, end and step, beyond both ends too."""
    nodes = [
        helper.make_node("Slice", ["s", "a", "b", "c", "e"], ["t"]),
        helper.make_node("Concat", ["t", "c"], ["r"], axis=0),
    ]
    constants = {"a": ints(start), "b": ints(stop), "c": ints(0), "e": ints(step)}
    same_numbers(*of_size(nodes, constants, 9))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_pieces(count):
    """The last of unequal pieces is smaller."""
    names = [f"piece{i}" for i in range(count)]
    nodes = [
        helper.make_node("Concat", ["s", "s"], ["twice"], axis=0),
        helper.make_node("Split", ["twice"], names, num_outputs=count),
        helper.make_node("Concat", names[::-1], ["r"], axis=0),
    ]
    same_numbers(*of_size(nodes, {}, 9))


@pytest.mark.parametrize("inputs", [["one"], ["one", "none"]])
def test_squeezed_of_every_axis(inputs):
    """Without axes, and with an empty list of them."""
    nodes = [
        helper.make_node("Slice", ["s", "start", "end"], ["one"]),
        helper.make_node("Squeeze", inputs, ["r"]),
    ]
    same_numbers(*of_size(nodes, {"start": ints(2), "end": ints(3), "none": ints()}, 9))


@pytest.mark.parametrize("size", [10, 20, 29, 58, 100])
def test_constants_in_float64_are_folded_there(size):
    """0.29 * 100 is below 29 in float64, and 29 in float32."""
    nodes = [
        helper.make_node("Mul", ["k", "hundred"], ["m"]),
        helper.make_node("Floor", ["m"], ["g"]),
        helper.make_node("Cast", ["d"], ["f"], to=DOUBLE),
        helper.make_node("Mul", ["f", "k"], ["p"]),
        helper.make_node("Floor", ["p"], ["q"]),
        helper.make_node("Add", ["g", "q"], ["r"]),
    ]
    same_numbers(*of_size(nodes, {"k": np.float64(0.29), "hundred": np.float64(100)}, size))


def test_a_constant_that_was_computed_in_float32_is_none_of_float64():
    nodes = [
        helper.make_node("Exp", ["k"], ["e"]),
        helper.make_node("Cast", ["d"], ["f"], to=DOUBLE),
        helper.make_node("Mul", ["f", "e"], ["r"]),
    ]
    with pytest.raises(ImportModelError, match="float64 with a constant that was computed in"):
        by_us(*of_size(nodes, {"k": np.float64(0.29)}, 9))
