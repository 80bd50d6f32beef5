"""moments: the oracle against exact sums, the kernel against the oracle, bit for bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, te, tirx

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import reference
from tvm_insta.ops.moments import fuse_products, te_moments

ORDERS = [[3], [1], [1, 2, 3], [4, 2], [2, 1, 3, 4]]


def exact_moment(values, order):
    return float(sum(Fraction(float(v)) ** order for v in values.ravel()) / values.size)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_oracle_against_exact_sums(rng, order):
    x = rng.standard_normal((2, 5, 7, 3), np.float32)
    result = reference.moments(x, [order])
    for n, c in np.ndindex(2, 3):
        # A row's 7 additions and at most 3 products round by 2**-24 each; the rest is in float64.
        bound = (7 + 3 + 1) * 2.0**-24 * exact_moment(np.abs(x[n, :, :, c]), order)
        assert abs(result[n, 0, c] - exact_moment(x[n, :, :, c], order)) <= bound


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 7, 7, 33), (1, 1, 9, 4), (1, 14, 1, 16)])
def test_kernel_is_bit_exact(rng, run_op, shape, orders):
    x = rng.standard_normal(shape, np.float32) * 3
    expected = reference.moments(x, orders)
    assert run_op(ops.moments, x, orders=orders).tobytes() == expected.tobytes()


def test_special_values(run_op):
    """NaN, infinities and overflow come out as IEEE 754 has them."""
    x = np.array([np.nan, np.inf, -np.inf, 1e20, -1e20, 0.0], np.float32)
    x = np.broadcast_to(x, (1, 1, 1, 6)).copy()
    with np.errstate(over="ignore"):
        expected = reference.moments(x, [3])
    np.testing.assert_array_equal(expected.ravel(), [np.nan, np.inf, -np.inf, np.inf, -np.inf, 0.0])
    np.testing.assert_array_equal(run_op(ops.moments, x, orders=[3]), expected)


def test_oracle_of_the_fused_sum(rng):
    """Rounded once: against exact rationals, also where float64 lies halfway."""
    a, b, c = (rng.standard_normal((1, 1, 1, 200), np.float32) for _ in range(3))
    a[..., :3], b[..., :3] = 1 + 2.0**-12, 1 + 2.0**-12  # product 1 + 2**-11 + 2**-24: halfway
    c[..., :3] = [[[[2.0**-60, -(2.0**-60), 0.0]]]]
    got = reference._fma(a, b, c).ravel()
    for at, (p, q, r) in enumerate(zip(a.ravel(), b.ravel(), c.ravel(), strict=True)):
        exact = Fraction(float(p)) * Fraction(float(q)) + Fraction(float(r))
        around = [np.nextafter(got[at], np.float32(s * np.inf)) for s in (-1, 1)]
        error = abs(Fraction(float(got[at])) - exact)
        assert all(error <= abs(Fraction(float(other)) - exact) for other in around)
    assert got[0] == np.float32(1 + 2.0**-11 + 2.0**-23) and got[1] == np.float32(1 + 2.0**-11)


HOST = str(tvm.get_global_func("target.llvm_get_system_cpu")())
TARGETS = {"generic": {"kind": "llvm"}, "host": {"kind": "llvm", "mcpu": HOST}}


def features(target):
    return set(map(str, tvm.target.codegen.llvm_get_cpu_features(tvm.target.Target(target))))


def tile(schedule, unroll_orders):
    n, y, j, c, column = schedule.get_loops(schedule.get_sblock("moment_rows"))
    schedule.reorder(n, y, column, j, c)
    schedule.vectorize(c)
    schedule.parallel(schedule.fuse(n, y))
    if unroll_orders:
        schedule.unroll(j)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("orders", ORDERS)
def test_no_schedule_changes_a_bit(rng, orders, target):
    """Tiles, vectors, threads: the result stays the definition's, rounded as the CPU does it."""
    x = te.placeholder((3, 8, 6, 16), "float32", name="x")
    function = fuse_products(te.create_prim_func([x, te_moments(x, orders)]))
    values = rng.standard_normal((3, 8, 6, 16), np.float32)
    fused = "fma" in features(TARGETS[target])
    expected = reference.moments(values, orders, fused=fused)
    for number in range(3):
        schedule = s_tir.Schedule(function)
        if number:
            tile(schedule, unroll_orders=number == 2)
        out = tvm.runtime.tensor(np.zeros_like(expected))
        library = tvm.compile(schedule.mod, tvm.target.Target(TARGETS[target]))
        library["main"](tvm.runtime.tensor(values), out)
        assert out.numpy().tobytes() == expected.tobytes()


def test_symbolic_batch(rng, build_op, compile_op):
    ty = relax.TensorType([tirx.Var("n", "int64"), 5, 4, 10], "float32")
    function = compile_op(build_op(ops.moments, [ty], orders=[1, 3]))
    for count in (1, 4):
        x = rng.standard_normal((count, 5, 4, 10), np.float32)
        assert function(x).tobytes() == reference.moments(x, [1, 3]).tobytes()


@pytest.mark.parametrize("orders", ORDERS)
def test_the_two_halves_are_the_whole(rng, run_op, orders):
    x = rng.standard_normal((2, 7, 5, 20), np.float32)
    rows = run_op(ops.moment_rows, x, orders=orders)
    assert rows.tobytes() == reference.moment_rows(x, orders).tobytes()
    result = run_op(ops.moment_mean, rows, width=5)
    assert result.tobytes() == run_op(ops.moments, x, orders=orders).tobytes()


@pytest.mark.parametrize(
    ("shape", "orders", "message"),
    [
        ((1, 4, 4, 8), [], "orders is []; pass one or more different integers from 1..4"),
        ((1, 4, 4, 8), [5], "orders is [5]"),
        ((1, 4, 4, 8), [3, 3], "orders is [3, 3]"),
        ((1, 8), [3], "x) has rank 2; pass a tensor of dtype float32 and rank 4"),
    ],
)
def test_errors(infer, shape, orders, message):
    with pytest.raises(OpError) as caught:
        infer(ops.moments, (shape, "float32"), orders=orders)
    assert message in str(caught.value)
    assert str(caught.value).startswith("insta.moments: ")


@pytest.mark.parametrize("offset", [1e-5, 0.0])
@pytest.mark.parametrize("shape", [(1, 2, 16), (3, 2, 5)])
def test_a_quotient_of_two(rng, run_op, shape, offset):
    x = rng.standard_normal(shape, np.float32)
    x[0, 0, 0] = 0.0
    with np.errstate(divide="ignore"):
        expected = reference.moment_quotient(x, offset=offset)
    assert run_op(ops.moment_quotient, x, offset=offset).tobytes() == expected.tobytes()
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(expected, x[:, 1] / (x[:, 0] + np.float32(offset)))


def test_a_quotient_is_of_two(infer):
    with pytest.raises(OpError, match="moments"):
        infer(ops.moment_quotient, ((1, 3, 8), "float32"), offset=0.0)
