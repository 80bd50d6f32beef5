"""Files that nobody should trust: absurd, damaged, cyclic, too large, or reaching outside."""

from __future__ import annotations

import io
import pickle
import random
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.onnx.models import QONNX

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
HUGE = 2**40


def info(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


X, Y = info("x", [1, 4, 8, 8]), info("y", None)
WEIGHT = np.ones((4, 4, 3, 3), np.float32)


def tensor(name, value, dtype=np.float32):
    return numpy_helper.from_array(np.array(value, dtype), name)


def raw(name, dims, data=b"", kind=FLOAT):
    made = onnx.TensorProto(name=name, data_type=kind, raw_data=data)
    made.dims.extend(dims)
    return made


def model(nodes, inputs=(X,), outputs=(Y,), constants=(), opset=17, ir=8, **more):
    graph = helper.make_graph(nodes, "g", list(inputs), list(outputs), list(constants))
    imports = [] if opset is None else [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(name, 1) for name in more.pop("domains", ())]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, **more)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def relu(**how):
    return model([node("Relu", ["x"], ["y"])], **how)


def conv(weight=None, **attributes):
    weight = tensor("w", WEIGHT) if weight is None else weight
    return model([node("Conv", ["x", "w"], ["y"], **attributes)], constants=[weight])


def on_constant(op, numbers, then="ReduceMean", **attributes):
    """An operator that makes something huge of a few numbers, and a reader of it."""
    inputs, constants = [], []
    for i, value in enumerate(numbers):
        inputs.append(f"c{i}")
        constants.append(
            tensor(f"c{i}", value, np.float32 if isinstance(value, float) else np.int64)
        )
    nodes = [
        node(op, inputs, ["a"], **attributes),
        node("Cast", ["a"], ["f"], to=FLOAT),
        node(then, ["f"], ["b"]),
        node("Add", ["x", "b"], ["y"]),
    ]
    return model(nodes, constants=constants)


def files():
    """What is not even a model."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    yield "empty", b""
    yield "text", b"hello world\n" * 50
    yield "random", np.random.default_rng(0).bytes(5000)
    yield "zip", archive.getvalue()
    yield "pickle", pickle.dumps({"a": 1})
    good = conv().SerializeToString()
    for percent in (1, 10, 50, 90, 99):
        yield f"truncated {percent}", good[: len(good) * percent // 100]
    yield "name utf-8", relu().SerializeToString().replace(b"Relu", b"\xff\xfe\xfd\xfc")
    yield "no graph", onnx.ModelProto(ir_version=8).SerializeToString()


def _if(depth, result="y"):
    """An If, in one branch of which stands another one, and so on."""
    branches = {}
    for name in ("then", "else"):
        out = f"{result}_{name[0]}"
        plain = depth == 1 or name == "else"
        inner = node("Relu", ["x"], [out]) if plain else _if(depth - 1, out)
        branches[f"{name}_branch"] = helper.make_graph([inner], name, [], [info(out, None)])
    return node("If", ["c"], [result], **branches)


def graphs():
    """Graphs that are none."""
    two = [node("Add", ["x", "b"], ["a"]), node("Add", ["a", "x"], ["b"])]
    yield "cycle", model([*two, node("Relu", ["b"], ["y"])])
    yield "own input", model([node("Add", ["y", "x"], ["y"])])
    yield "unsorted", model([node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])])
    yield "missing weight", model([node("Conv", ["x", "w"], ["y"])])
    yield "missing output", model([node("Relu", ["x"], ["a"])])
    yield "output twice", model([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])])
    yield "input twice", relu(inputs=(X, X))
    yield (
        "weight twice",
        model([node("Conv", ["x", "w"], ["y"])], constants=[tensor("w", WEIGHT)] * 2),
    )
    yield "no inputs", model([node("Relu", ["w"], ["y"])], (), constants=[tensor("w", WEIGHT)])
    yield "no outputs", relu(outputs=())
    yield "unknown operator", model([node("FooBar", ["x"], ["y"])])
    yield "no operator", model([node("", ["x"], ["y"])])
    yield "foreign domain", model([node("Sign", ["x"], ["y"], domain="evil")], domains=("evil",))
    body = [node("F", ["a"], ["b"], domain="l")]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("l", 1)]
    own = helper.make_function("l", "F", ["a"], ["b"], body, imports)
    call = [node("F", ["x"], ["y"], domain="l")]
    yield "recursive function", model(call, functions=[own], domains=("l",))
    functions = [
        helper.make_function(
            "l",
            f"F{i}",
            ["a"],
            ["b"],
            [
                node(f"F{i + 1}", ["a"], ["t"], domain="l"),
                node(f"F{i + 1}", ["t"], ["b"], domain="l"),
            ]
            if i < 40
            else [node("Relu", ["a"], ["b"])],
            imports,
        )
        for i in range(41)
    ]
    bomb = [node("F0", ["x"], ["y"], domain="l")]
    yield "function bomb", model(bomb, functions=functions, domains=("l",))
    body = helper.make_graph(
        [node("Identity", ["ci"], ["co"]), node("Relu", ["xi"], ["xo"])],
        "b",
        [info("i", [], INT64), info("ci", [], TensorProto.BOOL), info("xi", None)],
        [info("co", [], TensorProto.BOOL), info("xo", None)],
    )
    constants = [tensor("m", HUGE, np.int64), tensor("c", True, np.bool_)]
    yield "loop", model([node("Loop", ["m", "c", "x"], ["y"], body=body)], constants=constants)
    many = [_if(1, result=f"o{i}") for i in range(6000)]
    last = node("Identity", ["o5999"], ["y"])
    yield "6000 ifs", model([*many, last], constants=[tensor("c", True, np.bool_)])
    huge = [
        node("ConstantOfShape", ["s"], ["a"]),
        node("ReduceMean", ["a"], ["m"]),
        node("Add", ["x", "m"], ["o"]),
    ]
    branches = {
        f"{name}_branch": helper.make_graph(huge, name, [], [info("o", None)])
        for name in ("then", "else")
    }
    constants = [tensor("c", True, np.bool_), tensor("s", [2**20, 2**20], np.int64)]
    yield "if of something huge", model([node("If", ["c"], ["y"], **branches)], constants=constants)
    chain = [node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(100_000)]
    yield "100000 nodes", model([*chain, node("Identity", ["t100000"], ["y"])])
    many = [tensor(f"w{i}", [0.0]) for i in range(20_000)]
    yield "20000 weights", model([node("Relu", ["x"], ["y"])], constants=many)
    inputs = [X, *(info(f"x{i}", [1]) for i in range(1000))]
    yield "1000 inputs", relu(inputs=inputs)
    yield "long name", model([node("Relu", ["x"], ["y"], name="n" * 10_000)])


def shapes():
    """Shapes and numbers beyond all sense."""
    for name, shape in {
        "huge": [1, 4, HUGE, HUGE],
        "large": [1, 4, HUGE, 8],
        "negative": [1, -4, 8, 8],
        "scalar": [],
        "open": ["n", "c", 8, 8],
        "rank 12": [1] * 12,
        "none": None,
        "many": [1, 2**22, 2**10],
    }.items():
        yield f"shape {name}", relu(inputs=(info("x", shape),))
    yield (
        "huge image",
        model(
            [node("Conv", ["x", "w"], ["y"])],
            (info("x", [1, 4, 2**20, 2**10]),),
            constants=[tensor("w", WEIGHT)],
        ),
    )
    for name, made in {
        "huge": raw("w", [HUGE, 4, 3, 3], b"\0" * 16),
        "overflow": raw("w", [2**33, 2**33, 1, 1], b"\0" * 16),
        "negative": raw("w", [-1, 4, 3, 3], b"\0" * 576),
        "short": raw("w", [4, 4, 3, 3], b"\0" * 100),
        "long": raw("w", [4, 4, 3, 3], b"\0" * 5000),
        "no type": raw("w", [4, 4, 3, 3], b"\0" * 576, 0),
        "type 999": raw("w", [4, 4, 3, 3], b"\0" * 576, 999),
        "text": helper.make_tensor("w", TensorProto.STRING, [1], [b"abc"]),
        "complex": raw("w", [4, 4, 3, 3], b"\0" * 1152, TensorProto.COMPLEX64),
        "no name": raw("", [4, 4, 3, 3], b"\0" * 576),
        "integers": tensor("w", WEIGHT, np.int32),
        "nan": tensor("w", np.full((4, 4, 3, 3), np.nan)),
        "channels": tensor("w", np.ones((4, 7, 3, 3))),
        "empty": tensor("w", np.ones((0, 4, 3, 3))),
        "larger than the image": tensor("w", np.ones((4, 4, 9, 9))),
    }.items():
        yield f"weight {name}", conv(made)
    for name, attributes in {
        "stride 0": {"strides": [0, 0]},
        "stride -1": {"strides": [-1, -1]},
        "dilation 0": {"dilations": [0, 0]},
        "group 0": {"group": 0},
        "group 3": {"group": 3},
        "group -1": {"group": -1},
        "huge pads": {"pads": [HUGE] * 4},
        "negative pads": {"pads": [-20] * 4},
        "two pads": {"pads": [1, 1]},
        "kernel": {"kernel_shape": [5, 5]},
        "auto_pad": {"auto_pad": "FOO"},
        "huge stride": {"strides": [HUGE] * 2},
        "attribute's type": {"strides": "abc"},
        "unknown attribute": {"foo": 1},
    }.items():
        yield f"conv {name}", conv(**attributes)
    yield "conv one input", model([node("Conv", ["x"], ["y"])])
    five = model([node("Conv", ["x", *"wwww"], ["y"])], constants=[tensor("w", WEIGHT)])
    yield "conv five inputs", five
    yield "pool 0", model([node("MaxPool", ["x"], ["y"], kernel_shape=[0, 0])])
    yield "pool none", model([node("MaxPool", ["x"], ["y"])])
    for name, pads in {"huge": HUGE, "negative": -100, "3": None}.items():
        amounts = [0, 0, 1] if pads is None else [0, 0, pads, 0, 0, 0, 0, 0]
        pad = [node("Pad", ["x", "p"], ["y"])]
        yield f"pad {name}", model(pad, constants=[tensor("p", amounts, np.int64)])
    for name, shape in {"wrong": [1, 7], "two -1": [-1, -1], "huge": [2**62, 4]}.items():
        constants = [tensor("s", shape, np.int64)]
        yield f"reshape {name}", model([node("Reshape", ["x", "s"], ["y"])], constants=constants)
    yield (
        "reshape by an input",
        model([node("Reshape", ["x", "s"], ["y"])], (X, info("s", [2], INT64))),
    )
    constants = [tensor("s", [-5, 4, 8, 8], np.int64)]
    yield "expand negative", model([node("Expand", ["x", "s"], ["y"])], constants=constants)


def bombs():
    """Small files that would make huge tensors, or compute for hours."""
    yield "ConstantOfShape", on_constant("ConstantOfShape", [[2**20, 2**20]])
    yield "Expand", on_constant("Expand", [[1.0], [2**20, 2**20]])
    yield "Tile", on_constant("Tile", [[1.0], [HUGE]])
    yield "Range", on_constant("Range", [0, HUGE, 1])
    yield "Range step 0", on_constant("Range", [0, 5, 0])
    yield "Pad", on_constant("Pad", [[1.0], [2**30, 2**30]])
    ones = tensor("c", np.ones(2**13))
    nodes = [
        node("Unsqueeze", ["c", "a0"], ["r"]),
        node("Unsqueeze", ["c", "a1"], ["s"]),
        node("Add", ["r", "s"], ["t0"]),  # [2**13, 2**13]
    ]
    axes = [tensor("a0", [0], np.int64), tensor("a1", [1], np.int64)]
    square = [node("MatMul", [f"t{i}", f"t{i}"], [f"t{i + 1}"]) for i in range(50)]
    last = [node("ReduceMean", ["t50"], ["m"]), node("Add", ["x", "m"], ["y"])]
    yield "products of constants", model([*nodes, *square, *last], constants=[ones, *axes])
    waves = [node("Sin", [f"t{i}"], [f"t{i + 1}"]) for i in range(5000)]
    last = [node("ReduceMean", ["t5000"], ["m"]), node("Add", ["x", "m"], ["y"])]
    yield "waves of constants", model([*nodes, *waves, *last], constants=[ones, *axes])
    doubled = [node("Concat", [f"t{i}"] * 2, [f"t{i + 1}"], axis=0) for i in range(60)]
    last = [node("ReduceMean", ["t60"], ["m"]), node("Add", ["x", "m"], ["y"])]
    yield "doubled constants", model([*nodes, *doubled, *last], constants=[ones, *axes])
    doubled = [
        node("Concat", [f"t{i}" if i else "x"] * 2, [f"t{i + 1}"], axis=1) for i in range(60)
    ]
    yield "doubled inputs", model([*doubled, node("Relu", ["t60"], ["y"])])
    wide = [node("Einsum", ["c", "c", "c"], ["t"], equation="i,j,k->ijk")]
    last = [node("ReduceMean", ["t"], ["m"]), node("Add", ["x", "m"], ["y"])]
    yield "outer product", model([*wide, *last], constants=[ones])


def versions():
    """Versions and types that there are not."""
    for version in (0, -1, 1, 6, 9999, 2**62, None):
        yield f"opset {version}", relu(opset=version)
    for version in (0, 99, 2**60):
        yield f"ir {version}", relu(ir=version)
    for kind in (TensorProto.INT64, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.BOOL):
        identity = [node("Identity", ["x"], ["y"])]
        inputs, outputs = (info("x", [1, 2], kind),), (info("y", None, kind),)
        yield f"input of type {kind}", model(identity, inputs, outputs)
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, [1])
    length = [node("SequenceLength", ["x"], ["y"])]
    yield "sequence", model(length, (sequence,), (info("y", [], INT64),))


def quantisers():
    """QONNX nodes with parameters that make no sense."""
    grid = {
        "scale 0": (0, 0, 2, {}),
        "scale negative": (-1, 0, 2, {}),
        "scale nan": (np.nan, 0, 2, {}),
        "scale inf": (np.inf, 0, 2, {}),
        "0 bits": (1, 0, 0, {}),
        "2.5 bits": (1, 0, 2.5, {}),
        "64 bits": (1, 0, 64, {}),
        "1e9 bits": (1, 0, 1e9, {}),
        "-3 bits": (1, 0, -3, {}),
        "nan bits": (1, 0, np.nan, {}),
        "zero nan": (1, np.nan, 2, {}),
        "mode": (1, 0, 2, {"rounding_mode": "FOO"}),
        "scale's shape": (np.ones(7), 0, 2, {}),
        "scale's rank": (np.ones((1, 1, 1, 1, 1)), 0, np.ones(2), {}),
        "attribute": (1, 0, 2, {"signed": 7}),
    }
    for name, (scale, zero, bits, attributes) in grid.items():
        constants = [tensor("s", scale), tensor("z", zero), tensor("b", bits)]
        how = {"signed": 0, "narrow": 0} | attributes
        quant = node("Quant", ["x", "s", "z", "b"], ["y"], domain=QONNX, **how)
        yield f"quant {name}", model([quant], constants=constants, domains=(QONNX,))
    constants = [tensor("z", 0), tensor("b", 2)]
    nodes = [
        node("ReduceMean", ["x"], ["s"]),
        node("Quant", ["x", "s", "z", "b"], ["y"], domain=QONNX),
    ]
    yield "quant computed scale", model(nodes, constants=constants)
    two = [node("Quant", ["x", "s"], ["y"], domain=QONNX)]
    yield "quant two inputs", model(two, constants=[tensor("s", 1)])
    for name, table in {
        "unsorted": [[3, 1, 2]] * 4,
        "nan": [[np.nan]] * 4,
        "channels": [[1]] * 7,
        "vector": [1, 2],
        "300 levels": [range(300)] * 4,
    }.items():
        threshold = node("MultiThreshold", ["x", "t"], ["y"], domain=QONNX)
        yield (
            f"thresholds {name}",
            model(
                [threshold],
                constants=[tensor("t", [*map(list, table)] if name != "vector" else table)],
            ),
        )


def long_ones():
    """Files that are absurdly long, and still taken: they must not take long either."""
    relus = [node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(9_000)]
    yield "ifs inside ifs", model([_if(20)], constants=[tensor("c", True, np.bool_)])
    yield "9000 nodes", model([*relus, node("Identity", ["t9000"], ["y"])])
    one = tensor("w", np.ones((4, 4, 1, 1)))
    convs = [
        node("Conv", [f"t{i}" if i else "x", "w"], [f"t{i + 1}"], name="forward")
        for i in range(2_000)
    ]
    yield "2000 layers", model([*convs, node("Identity", ["t2000"], ["y"])], constants=[one])


GROUPS = (files, graphs, shapes, bombs, versions, quantisers)


def all_hostile():
    """Every file of this module: name and bytes."""
    for group in GROUPS:
        for name, made in group():
            yield name, made if isinstance(made, bytes) else made.SerializeToString()


def all_long():
    """Long files that are taken: name and bytes."""
    return [(name, made.SerializeToString()) for name, made in long_ones()]


def mutated(data: bytes, seed: int) -> bytes:
    """A copy of a good file with a few bytes, bits or pieces changed."""
    rng = random.Random(seed)
    result = bytearray(data)
    structure = max(len(result) - 4000, 0) if seed % 2 else 0  # weights are most of a file
    for _ in range(rng.choice([1, 2, 5, 20])):
        place = rng.randrange(structure, len(result))
        change = rng.randrange(5)
        if change == 0:
            result[place] = rng.randrange(256)
        elif change == 1:
            result[place] ^= 1 << rng.randrange(8)
        elif change == 2:
            del result[place : place + rng.randrange(1, 40)]
        elif change == 3:
            result[place:place] = result[place : place + rng.randrange(1, 40)]
        else:
            result[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x80\x80\x80\x01"])
        if len(result) < 10:
            break
    return bytes(result)


_NUMBERS = (-1, 0, 1, 2, 3, 7, 255, 2**31, HUGE, 2**63 - 1, -(2**63))


def altered(data: bytes, seed: int) -> bytes:  # noqa: PLR0912  (a branch per kind of change)
    """A copy of a good file that still parses: other numbers, names, operators or connections."""
    rng = random.Random(seed)
    model = onnx.ModelProto.FromString(data)
    nodes, constants = model.graph.node, model.graph.initializer
    names = [name for node in nodes for name in (*node.input, *node.output)]
    for _ in range(rng.choice([1, 1, 2, 4])):
        node = rng.choice(nodes)
        change = rng.randrange(10)
        if change == 0 and node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
            else:
                attribute.i = rng.choice(_NUMBERS)
        elif change == 1 and node.attribute:
            del node.attribute[rng.randrange(len(node.attribute))]
        elif change == 2 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nothing"])
        elif change == 3:
            node.output[0] = rng.choice([*names, ""])
        elif change == 4:
            node.op_type = rng.choice(nodes).op_type
        elif change == 5:
            values = rng.choice(constants)
            if values.dims:
                values.dims[rng.randrange(len(values.dims))] = rng.choice(_NUMBERS)
            else:
                values.dims.append(rng.choice(_NUMBERS))
        elif change == 6:
            dims = model.graph.input[0].type.tensor_type.shape.dim
            dims[rng.randrange(len(dims))].dim_value = rng.choice(_NUMBERS)
        elif change == 7:
            values = rng.choice(constants)
            try:
                array = numpy_helper.to_array(values).copy()
            except (ValueError, TypeError, KeyError):  # altered before
                continue
            if array.size:
                place = rng.randrange(array.size)
                with np.errstate(all="ignore"):
                    number = np.array(rng.choice([*_NUMBERS, 0.5])).astype(array.dtype)
                array.reshape(-1)[place] = number
                values.CopyFrom(numpy_helper.from_array(array, values.name))
        elif change == 8:
            rng.choice(constants).data_type = rng.randrange(30)
        elif len(nodes) > 1:
            index = rng.randrange(len(nodes))
            moved = onnx.NodeProto.FromString(nodes[index].SerializeToString())
            del nodes[index]
            if rng.random() < 0.5:
                nodes.insert(rng.randrange(len(nodes)), moved)
    return model.SerializeToString()
