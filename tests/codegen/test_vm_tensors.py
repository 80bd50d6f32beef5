"""The tensors of the vm form: what is written over, what is made once, and the same numbers."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, te, tirx

from tests.support import artefact_nets as nets
from tvm_insta import runtime
from tvm_insta.codegen import relax_vm
from tvm_insta.codegen.in_place import _proved
from tvm_insta.codegen.program import extract
from tvm_insta.codegen.vm_tensors import _agreed
from tvm_insta.target import parse

SHAPE = (4, 8, 16)


def multiply(factor: int):
    return lambda builder, x: builder.emit(relax.op.multiply(x, relax.const(np.float32(factor))))


def chain(length: int):
    """So many different element-wise kernels, each of which reads the one before."""

    def make(batch):
        def body(builder, x):
            for factor in range(2, length + 2):
                x = multiply(factor)(builder, x)
                x = builder.emit(relax.op.add(x, relax.const(np.float32(factor))))
            return builder.emit(relax.op.sum(x, [1, 2]))

        return nets.network(batch, body, shape=SHAPE, fuse=False)

    return make


def chain_numpy(length: int, x: np.ndarray) -> np.ndarray:
    for factor in range(2, length + 2):
        x = x * factor + factor
    return x.sum((1, 2))


def images(batch: int, seed: int = nets.SEED) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-9, 9, (batch, *SHAPE)).astype("float32")


def test_any_batch_is_proved():
    n = tirx.Var("n", "int64")

    def kernel(function):
        a = te.placeholder((n, 6, 8), "float32", name="a")
        return te.create_prim_func([a, te.compute((n, 6, 8), lambda *i: function(a, *i))])

    assert list(_proved(kernel(lambda a, *i: a(*i) + 1.0))) == [(0, 1)]
    assert list(_proved(kernel(lambda a, n, i, j: a(n, 5 - i, j)))) == []
    m = tirx.Var("m", "int64")
    a = te.placeholder((n, 6), "float32", name="a")
    first = te.compute((m, 6), lambda i, j: a(i, j) + 1.0)
    assert list(_proved(te.create_prim_func([a, first]))) == []


def test_a_chain_is_written_over_itself(tmp_path):
    make = chain(4)
    mod = make(None)
    program = extract(mod)
    agreed = _agreed(program, mod)
    inner = [call.symbol for call in program.calls[1:-1]]
    assert set(agreed) == set(inner) - {program.calls[0].symbol}, agreed
    module = runtime.load(nets.write_artefact(tmp_path, "vm", make=make))
    for batch in (1, 3, 8):
        x = images(batch)
        np.testing.assert_array_equal(module(x), chain_numpy(4, x))
    entries = module.trace(images(2))
    for before, after in itertools.pairwise(entries):
        np.testing.assert_array_equal(after.inputs[0], before.output)


def test_a_kernel_whose_calls_do_not_agree_is_left(tmp_path):
    """The first result is read again: the kernel that reads it may not write over it."""

    def make(batch):
        def body(builder, x):
            first = builder.emit(relax.op.add(x, x))
            second = builder.emit(relax.op.add(first, first))
            third = builder.emit(relax.op.add(second, first))
            return builder.emit(relax.op.sum(builder.emit(relax.op.add(third, x)), [1, 2]))

        return nets.network(batch, body, shape=SHAPE, fuse=False)

    mod = make(None)
    program = extract(mod)
    assert len({call.symbol for call in program.calls}) == 2 and not _agreed(program, mod)
    module = runtime.load(nets.write_artefact(tmp_path, "vm", make=make))
    x = images(5)
    np.testing.assert_array_equal(module(x), (7 * x).sum((1, 2)))


def builtins(make) -> int:
    """How often the virtual machine calls functions of its own."""
    executable = relax_vm.build_executable(make(None), parse(nets.NATIVE))
    return executable.as_text().count("call  vm.builtin.")


def test_a_longer_network_makes_no_more_tensors():
    assert builtins(chain(20)) == builtins(chain(3))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_same_numbers_whatever_reads_what(data, tmp_path_factory):
    """Kernels of one or two arguments, any value read again by any later kernel."""
    steps = []
    for number in range(data.draw(st.integers(2, 9))):
        kind = data.draw(st.sampled_from(["scale", "add", "relu"]))
        read = [data.draw(st.integers(max(-3, -number - 1), -1)) for _ in range(2)]
        steps.append((kind, data.draw(st.integers(2, 4)), *read))

    def make(batch):
        def body(builder, x):
            values = [x]
            for kind, factor, a, b in steps:
                one, two = values[a], values[b]
                if kind == "scale":
                    values.append(multiply(factor)(builder, one))
                elif kind == "add":
                    values.append(builder.emit(relax.op.add(one, two)))
                else:
                    values.append(builder.emit(relax.op.nn.relu(one)))
            return builder.emit(relax.op.sum(values[-1], [1, 2]))

        return nets.network(batch, body, shape=SHAPE, fuse=False)

    folder = nets.write_artefact(tmp_path_factory.mktemp("net"), "vm", make=make)
    module = runtime.load(folder)
    for batch in (1, 4):
        x = images(batch, seed=data.draw(st.integers(0, 99)))
        values = [x]
        for kind, factor, a, b in steps:
            one, two = values[a], values[b]
            values.append(
                {"scale": one * factor, "add": one + two, "relu": np.maximum(one, 0)}[kind]
            )
        np.testing.assert_array_equal(module(x), values[-1].sum((1, 2)))
        for entry in module.trace(x):
            one = entry.inputs[0]
            if entry.symbol.startswith("relu"):
                np.testing.assert_array_equal(entry.output, np.maximum(one, 0))
            elif entry.symbol.startswith("add"):
                np.testing.assert_array_equal(entry.output, one + entry.inputs[1])
