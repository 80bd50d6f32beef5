"""Moments, pools, reductions and element-wise functions: the schedule keeps every bit."""

from __future__ import annotations

import pytest
from tvm import relax

from tests.support.schedule_nets import (
    AVX2,
    SSE,
    check_all,
    check_equal_bits,
    module,
    scheduled,
    symbolic,
)
from tvm_insta import ops

NN, OP = relax.op.nn, relax.op


def unary(shape, function):
    return module([("x", shape, "float32")], lambda emit, x: emit(function(x)))


@pytest.mark.parametrize("target", [SSE, AVX2])
@pytest.mark.parametrize("orders", [[3], [1, 2, 3], [4, 1]], ids=str)
@pytest.mark.parametrize("shape", [(1, 9, 7, 64), (None, 13, 1, 33), (2, 1, 13, 1), (1, 3, 3, 48)])
def test_moments(rng, shape, orders, target):
    shape = [symbolic(shape[0]), *shape[1:]]
    mod = unary(shape, lambda x: ops.moments(x, orders=orders))
    check_equal_bits(mod, "moments", rng, target)


POOLS = {
    "max 3x3 s2": lambda x: NN.max_pool2d(x, (3, 3), (2, 2), (1, 1, 1, 1), layout="NHWC"),
    "avg 2x2": lambda x: NN.avg_pool2d(x, (2, 2), (2, 2), layout="NHWC"),
    "avg 3x3 padded": lambda x: NN.avg_pool2d(x, (3, 3), (2, 2), (1, 1, 1, 1), layout="NHWC"),
}


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("shape", [(1, 12, 12, 64), (None, 7, 13, 33), (2, 5, 4, 3)])
def test_pool(rng, shape, pool):
    mod = unary([symbolic(shape[0]), *shape[1:]], POOLS[pool])
    check_equal_bits(mod, "pool", rng)


@pytest.mark.parametrize("shape", [(1, 7, 7, 512), (None, 3, 5, 33), (3, 1, 1, 1)])
def test_global_mean(rng, shape):
    mod = unary([symbolic(shape[0]), *shape[1:]], lambda x: OP.mean(x, [1, 2]))
    check_equal_bits(mod, "reduction", rng)


def test_global_mean_sums_run_over_channels_in_lanes():
    _, result, _ = scheduled(unary([1, 7, 7, 512], lambda x: OP.mean(x, [1, 2])), AVX2, 8)
    assert "T.vectorized(T.int64(8))" in result.script()


@pytest.mark.parametrize("rows", [1, 3, None])
def test_softmax(rng, rows):
    assert "reduction" in check_all(unary([symbolic(rows), 10], NN.softmax), rng)


@pytest.mark.parametrize("batch", [2, None], ids=["two", "symbolic"])
@pytest.mark.parametrize(("channels", "hidden"), [(64, 4), (33, 3), (1, 1)])
def test_instance_threshold(rng, channels, hidden, batch):
    sizes = {"m": [symbolic(batch), channels], "a": [channels], "b": [channels]}
    sizes |= {"w1": [hidden, channels], "b1": [hidden], "w2": [channels, hidden], "b2": [channels]}
    specs = [(name, shape, "float32") for name, shape in sizes.items()]
    plus = module(specs, lambda emit, *args: emit(ops.instance_threshold(*args)))
    check_all(plus, rng)
    check_all(module(specs[:3], lambda emit, *args: emit(ops.instance_threshold(*args))), rng)


@pytest.mark.parametrize("shape", [(1, 8, 8, 64), (None, 5, 3, 33), (1, 1, 1, 1), (2, 300, 7, 3)])
def test_elementwise(rng, shape):
    shape = [symbolic(shape[0]), *shape[1:]]
    specs = [("x", shape, "float32"), ("y", shape, "float32"), ("c", [shape[3]], "float32")]

    def body(emit, x, y, c):
        return emit(NN.relu(emit(OP.add(emit(OP.multiply(x, c)), y))))

    check_equal_bits(module(specs, body), "elementwise", rng)


def test_layout_change(rng):
    mod = unary([symbolic(None), 3, 9, 11], lambda x: OP.permute_dims(x, [0, 2, 3, 1]))
    check_equal_bits(mod, "elementwise", rng)
