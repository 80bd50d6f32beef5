"""CUDA's float kernels and kernels of channels: the CPU's bits, in every order of threads.

All are one compilation by nvcc. The CPU runs the same functions without a schedule.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from tests.cuda_emulator.harness import require_nvcc
from tests.support.cuda_kernels import Kernels
from tvm_insta.cuda_emulator import Options, Order
from tvm_insta.ops._common import extent
from tvm_insta.ops._window import GroupedWindow
from tvm_insta.ops.conv2d import te_conv2d
from tvm_insta.ops.instance_threshold import te_instance_threshold
from tvm_insta.ops.moments import fuse_products, te_moments
from tvm_insta.ops.threshold_pack import ThresholdPack, te_threshold_pack
from tvm_insta.schedules.cuda.bind import tiles_of
from tvm_insta.target import parse

ARCH = "sm_90"


@dataclass(frozen=True)
class Case:
    """A function of images of any batch, and the family that has to schedule it."""

    family: str
    image: tuple[int, int, int]  # height, width, channels
    out: int = 0
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    lanes: int = 1
    orders: tuple[int, ...] = (3,)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)


SAME = dict(kernel=(3, 3), padding=(1, 1, 1, 1))

CASES = {
    "stem": Case("float", (19, 21, 3), 16, (7, 7), (2, 2), (3, 3, 3, 3), 8),
    "3x3": Case("float", (6, 8, 20), 24, **SAME, lanes=8),
    "3x3 deep": Case("float", (6, 6, 128), 8, **SAME, lanes=4),
    "lopsided": Case("float", (5, 7, 5), 7, (2, 3), (2, 1), (0, 2, 1, 0)),
    "shortcut": Case("float", (7, 7, 64), 128, lanes=8),
    "shortcut stride 2": Case("float", (8, 6, 32), 37, strides=(2, 2)),
    "dense": Case("float", (1, 1, 512), 1000, lanes=8),
    "dense odd": Case("float", (1, 1, 37), 10, lanes=2),
    "channels": Case("channels", (9, 11, 64), pad=(1, 1, 1, 1)),
    "odd channels": Case("channels", (5, 4, 37), orders=(1, 3), pad=(1, 0, 0, 2)),
    "few channels": Case("channels", (7, 3, 5)),
    "one row": Case("channels", (1, 8, 33), pad=(1, 1, 1, 1)),
    "one pixel": Case("channels", (1, 1, 70)),
    "a large image": Case("channels", (40, 41, 32)),
}
LARGE = {"a large image"}  # whose packing is a kernel of its own


def placeholder(shape, dtype, name):
    return te.placeholder([extent(size) for size in shape], dtype, name)


def symbol(name):
    return "k_" + re.sub(r"\W+", "_", name)


def float_function(case):
    batch = tirx.Var("n", "int64")
    data = placeholder([batch, *case.image], "float32", "data")
    blocks = case.out // case.lanes
    weight = placeholder([blocks, *case.kernel, case.image[2], case.lanes], "float32", "weight")
    how = GroupedWindow(strides=case.strides, padding=case.padding)
    bias = placeholder([case.out], "float32", "bias")
    sums = te_conv2d(data, weight, how)
    out = te.compute(sums.shape, lambda n, y, x, o: sums(n, y, x, o) + bias(o), "out")
    return te.create_prim_func([data, weight, bias, out])


def channel_function(case, name):
    """Moments, a threshold, an activation of it, moments of that, thresholds and packed bits."""
    batch = tirx.Var("n", "int64")
    x = placeholder([batch, *case.image], "float32", "x")
    channels, last = case.image[2], len(case.orders) - 1
    a, b = (placeholder([channels], "float32", each) for each in "ab")

    def threshold(data, each):
        moments = te_moments(data, case.orders)
        one = te.compute(
            [batch, extent(channels)], lambda n, c: moments(n, last, c), f"moment_{each}"
        )
        return te_instance_threshold(one, a, b)

    first = threshold(x, "before")
    y = te.compute(
        x.shape,
        lambda n, h, w, c: tirx.Select(
            x(n, h, w, c) - first(n, c) > 0, x(n, h, w, c), x(n, h, w, c) * 0.25
        ),
        "y",
    )
    second = threshold(y, "behind")
    shape = [extent(1), batch, extent(1), extent(1), extent(channels)]
    levels = te.compute(shape, lambda _, n, h, w, c: second(n, c), "levels")
    outputs = [levels, y]
    if name not in LARGE:
        outputs.append(te_threshold_pack(y, levels, ThresholdPack(pad=case.pad)))
    return fuse_products(te.create_prim_func([x, a, b, *outputs]))


def function_of(name):
    case = CASES[name]
    return float_function(case) if case.family == "float" else channel_function(case, name)


def arguments(name, batch):
    """Inputs and rooms for outputs."""
    case, seed = CASES[name], zlib.crc32(name.encode())
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *case.image), dtype=np.float32)
    if case.family == "float":
        shape = (case.out // case.lanes, *case.kernel, case.image[2], case.lanes)
        top, left, bottom, right = case.padding
        size = [
            (full - taps) // stride + 1
            for full, taps, stride in zip(
                (case.image[0] + top + bottom, case.image[1] + left + right),
                case.kernel,
                case.strides,
                strict=True,
            )
        ]
        weight = rng.standard_normal(shape, dtype=np.float32)
        bias = rng.standard_normal(case.out, dtype=np.float32)
        return [x, weight, bias], [np.zeros((batch, *size, case.out), np.float32)]
    height, width, channels = case.image
    # By a power of two, so that it does not matter whether product and sum are fused.
    own = [2.0 ** rng.integers(-3, 2, channels), rng.standard_normal(channels)]
    own = [each.astype(np.float32) for each in own]
    outputs = [np.zeros((1, batch, 1, 1, channels), np.float32), np.zeros_like(x)]
    if name not in LARGE:
        top, left, bottom, right = case.pad
        image = (height + top + bottom, width + left + right, -(-channels // 32))
        outputs.append(np.full((batch, *image), 7, np.uint32))
    return [x, *own], outputs


@pytest.fixture(scope="module")
def functions():
    return {symbol(name): function_of(name) for name in CASES}


@pytest.fixture(scope="module")
def kernels(functions):
    require_nvcc()
    return Kernels(functions, ARCH)


@pytest.fixture(scope="module")
def on_cpu(functions):
    target = parse("native").tvm
    features = set(map(str, tvm.target.codegen.llvm_get_cpu_features(target)))
    if not features & {"fma", "neon"}:
        pytest.skip("this CPU has no fused multiply-add: its bits are not those of a card")
    named = {name: each.with_attr("global_symbol", name) for name, each in functions.items()}
    return tvm.compile(tvm.IRModule(named), target=target)


@pytest.mark.parametrize("name", CASES)
def test_the_family_of_a_function(functions, name):
    rule, tiles = tiles_of(functions[symbol(name)], parse(f"cuda -arch={ARCH}").tvm)
    assert rule.name == CASES[name].family and tiles
    if name in LARGE:
        assert tiles[0].channels == 8  # more blocks of threads


@pytest.mark.cuda
@pytest.mark.parametrize("name", CASES)
def test_the_bits_of_the_cpu(kernels, on_cpu, name):
    for order, batch in zip(Order, (1, 3, 1), strict=True):
        inputs, outputs = arguments(name, batch)
        want = [tvm.runtime.tensor(array) for array in (*inputs, *outputs)]
        on_cpu[symbol(name)](*want)
        found = kernels.all(symbol(name), *inputs, *outputs, options=Options(order))
        for got, expected in zip(found[len(inputs) :], want[len(inputs) :], strict=True):
            assert got.tobytes() == expected.numpy().tobytes()


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["3x3 deep", "dense", "odd channels", "a large image"])
def test_every_tile_gives_the_same_bits(functions, on_cpu, name):
    require_nvcc()
    made = functions[symbol(name)]
    _, tiles = tiles_of(made, parse(f"cuda -arch={ARCH}").tvm)
    assert len(set(tiles)) == len(tiles)
    chosen = {f"tile{at}": tile for at, tile in enumerate(tiles[:: max(1, len(tiles) // 4)])}
    kernels = Kernels(dict.fromkeys(chosen, made), ARCH, chosen)
    inputs, outputs = arguments(name, 1)
    want = [tvm.runtime.tensor(array) for array in (*inputs, *outputs)]
    on_cpu[symbol(name)](*want)
    for each, tile in chosen.items():
        found = kernels.all(each, *inputs, *outputs)
        for got, expected in zip(found[len(inputs) :], want[len(inputs) :], strict=True):
            assert got.tobytes() == expected.numpy().tobytes(), tile
