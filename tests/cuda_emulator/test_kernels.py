"""The kernels of each family, on the emulated device: exact, in every order of threads.

Each family is one compilation by nvcc of all its cases; the batch is symbolic.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
from tvm import te, tirx

from tests.cuda_emulator.harness import require_nvcc
from tests.support.bitserial_cases import (
    KERNEL_CASES,
    blocked_arguments,
    has_runs,
    make,
    problem,
    runs_arguments,
    torch_conv,
)
from tests.support.cuda_kernels import Kernels
from tvm_insta.cuda_emulator import Options, Order
from tvm_insta.ops.bitserial_conv2d_blocked import (
    BitserialConv2dBlocked,
    te_bitserial_conv2d_blocked,
)
from tvm_insta.ops.bitserial_conv2d_runs import BitserialConv2dRuns, te_bitserial_conv2d_runs
from tvm_insta.schedules.cuda.bind import tiles_of
from tvm_insta.target import parse

pytestmark = pytest.mark.slow

SAME = dict(padding=(1, 1, 1, 1))

BINARY = {
    **KERNEL_CASES,
    # More than one block of threads each way, none of them full.
    "many blocks": make((17, 19), (3, 3), **SAME, in_channels=70, out=37, lanes=1),
    # Steps that are whole pairs, in loops, with pixels spread over the banks of shared memory.
    "wide pixels": make((6, 5), (3, 3), **SAME, in_channels=256, out=24),
    "wide pixels stride 2": make((9, 9), (3, 3), **SAME, strides=(2, 2), in_channels=512, out=16),
    "wide point": make((5, 4), (1, 1), in_channels=1024, out=40),
    "one step a tap": make((6, 7), (3, 3), **SAME, in_channels=128, out=16),
    "a column too many": make((9, 9), (1, 1), strides=(4, 5), in_channels=96, out=8),
    "2 bits wide": make((6, 6), (3, 3), **SAME, bits=2, in_channels=256, out=12),
    "a vector": make((1, 1), (1, 1), in_channels=300, out=10, lanes=2),
}
RUNS = {name: case for name, case in BINARY.items() if has_runs(case)}


def symbol(name):
    return "k_" + re.sub(r"\W+", "_", name)


def rng_of(name):
    seed = zlib.crc32(name.encode())
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def binary_function(case, operator, attributes, arguments):
    """A binary convolution with a scale and a residual behind it, for any batch."""
    _, _, data, weight = problem(np.random.default_rng(0), case)
    args, attrs = arguments(case, data, weight)
    batch = tirx.Var("n", "int64")
    tensors = [
        te.placeholder([batch, *a.shape[1:]] if at == 0 else a.shape, str(a.dtype), f"a{at}")
        for at, a in enumerate(args)
    ]
    found = operator(*tensors, attributes(**attrs))
    scale = te.placeholder([found.shape[3]], "float32", "scale")
    residual = te.placeholder(found.shape, "float32", "residual")
    out = te.compute(
        found.shape,
        lambda n, y, x, o: found(n, y, x, o).astype("float32") * scale(o) + residual(n, y, x, o),
        "out",
    )
    return te.create_prim_func([*tensors, scale, residual, out])


def run_binary(kernels, name, case, arguments, batch, options):
    rng = rng_of(name)
    codes, signs, data, weight = problem(rng, case | {"batch": batch})
    args, _ = arguments(case, data, weight)
    expected = torch_conv(codes, signs, case)
    # Quarters: no rounding, so it does not matter whether product and sum are fused.
    scale = (rng.integers(1, 16, expected.shape[3]) / 4).astype(np.float32)
    residual = (rng.integers(-64, 64, expected.shape) / 4).astype(np.float32)
    got = kernels(
        symbol(name),
        *args,
        scale,
        residual,
        np.full(expected.shape, 7, np.float32),
        options=options,
    )
    np.testing.assert_array_equal(got, expected.astype(np.float32) * scale + residual)


def runs_function(case):
    return binary_function(case, te_bitserial_conv2d_runs, BitserialConv2dRuns, runs_arguments)


@pytest.fixture(scope="module")
def matrix(request):
    """The kernels on tensor cores of one architecture."""
    require_nvcc()
    functions = {symbol(name): runs_function(case) for name, case in RUNS.items()}
    return Kernels(functions, request.param)


@pytest.mark.cuda
@pytest.mark.parametrize("matrix", ["sm_80", "sm_120"], indirect=True)
@pytest.mark.parametrize("name", RUNS)
def test_products_of_bits(matrix, name):
    assert (".b1.b1.s32.and.popc" if matrix.arch == "sm_80" else ".s8.s8.s32") in matrix.source
    for order, batch in zip(Order, (1, 3, 1), strict=True):
        run_binary(matrix, name, RUNS[name], runs_arguments, batch, Options(order))


@pytest.fixture(scope="module")
def popcounts():
    """The kernels of a card without such tensor cores, and of layers that these do not take."""
    require_nvcc()
    functions = {
        symbol(name): binary_function(
            case, te_bitserial_conv2d_blocked, BitserialConv2dBlocked, blocked_arguments
        )
        for name, case in BINARY.items()
    }
    return Kernels(functions, "sm_75")


@pytest.mark.cuda
@pytest.mark.parametrize("name", BINARY)
def test_counts_of_bits(popcounts, name):
    for order, batch in zip(Order, (1, 3, 1), strict=True):
        run_binary(popcounts, name, BINARY[name], blocked_arguments, batch, Options(order))


TILED = make((12, 14), (3, 3), **SAME, in_channels=64, out=72)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("arch", "function", "arguments"),
    [
        ("sm_90", runs_function, runs_arguments),
        (
            "sm_75",
            lambda case: binary_function(
                case, te_bitserial_conv2d_blocked, BitserialConv2dBlocked, blocked_arguments
            ),
            blocked_arguments,
        ),
    ],
)
def test_every_tile_gives_the_same_integers(arch, function, arguments):
    """Eight tiles from all over the space, each as it stands."""
    require_nvcc()
    made = function(TILED)
    rule, tiles = tiles_of(made, parse(f"cuda -arch={arch}").tvm)
    assert rule.tiles is not None and len(tiles) > 8 and len(set(tiles)) == len(tiles)
    chosen = {symbol(f"tile {at}"): tiles[at * (len(tiles) - 1) // 7] for at in range(8)}
    kernels = Kernels(dict.fromkeys(chosen, made), arch, chosen)
    for name in chosen:
        run_binary(kernels, name.replace("k_tile_", "tile "), TILED, arguments, 1, Options())
