"""`conv2d_tiles` as scheduled for AMX: bit for bit what the oracle says, and how it fills tiles."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from tests.amx.reach import names_in_bounds
from tests.ops.test_ops_conv2d_tiles import KINDS, problem
from tvm_insta import ops
from tvm_insta.codegen.needs import kernel_needs
from tvm_insta.ops import reference
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import ConvTiles, back_end, schedule_module
from tvm_insta.schedules.x86.amx_shape import (
    NumbersGeometry,
    rows_of_group,
    rows_stored_directly,
)
from tvm_insta.target import parse

SLOW_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

# batch, height, width, channels, out, kernel, strides, padding
SHAPES = [
    (2, 23, 40, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)),  # a stem: 21 of 64 bytes, 42 of 64
    (1, 9, 11, 3, 16, (3, 3), (1, 1), (1, 1, 1, 1)),
    (1, 12, 36, 3, 32, (3, 3), (2, 2), (0, 1, 2, 1)),
    (2, 7, 7, 64, 48, (1, 1), (1, 1), (0, 0, 0, 0)),  # a shortcut; rows end to end in the result
    (1, 14, 14, 33, 32, (1, 1), (2, 2), (0, 0, 0, 0)),  # channels that fill no unit
    (3, 1, 1, 100, 32, (1, 1), (1, 1), (0, 0, 0, 0)),  # a classifier: 1 row of 16
    (1, 5, 20, 17, 32, (2, 5), (1, 1), (1, 0, 0, 2)),
    (1, 6, 5, 1, 16, (5, 5), (1, 1), (2, 2, 2, 2)),  # one channel
]


def module(shape, tiled, attrs, batch=None, epilogue=False):
    """The operator as a function of data and weight; with an epilogue twice its result."""
    first = tvm.tirx.Var("n", "int64") if batch is None else batch
    types = [
        relax.TensorType([first, *shape[1:4]], "float32"),
        relax.TensorType(tiled.shape, str(tiled.dtype)),
    ]
    builder = relax.BlockBuilder()
    params = [relax.Var(name, ty) for name, ty in zip(("data", "weight"), types, strict=True)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit(ops.conv2d_tiles(*params, **attrs))
            if epilogue:
                result = builder.emit(relax.op.add(result, result))
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    return fuse(builder.get())


def machine(mod, target, kind, **wish):
    wished = {var.name_hint: ConvTiles(**wish) for var in mod.functions}
    scheduled, (record,) = schedule_module(mod, target.tvm, lanes=target.lanes, parameters=wished)
    assert (record.rule, record.reason) == ("insta_fconv_tiles", "")
    assert wish.items() <= vars(record.tiles).items()
    assert kernel_needs(scheduled) == ("amx-bf16" if kind == "bf16" else "amx-int8", "amx-tile")
    return relax.VirtualMachine(tvm.compile(scheduled, target.tvm), tvm.cpu())


def geometry(kind, shape):
    _, height, width, channels, out, kernel, strides, padding = shape
    size = 2 if kind == "bf16" else 1
    return NumbersGeometry((height, width), padding, strides, kernel, channels, out, size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_and_products(rng, tiles, target, shape, epilogue, kind):
    data, _, tiled, _, _, attrs = problem(rng, kind, shape)
    expected = reference.conv2d_tiles(data, tiled, **attrs)
    run = machine(module(shape, tiled, attrs, epilogue=epilogue), target, kind)["main"]
    before = tiles.count("products")
    result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, expected * 2 if epilogue else expected)
    if epilogue and before is not None:
        own = geometry(kind, shape)
        done = tiles.count("products") - before
        assert done == shape[0] * own.products_of(rows_of_group(own))


@st.composite
def shapes(draw):
    """A convolution whose kernel fits its padded image."""

    def number(low, high):
        return draw(st.integers(low, high))

    kernel, padding = (number(1, 4), number(1, 5)), tuple(number(0, 3) for _ in range(4))
    height = number(max(kernel[0] - padding[0] - padding[2], 1), 9)
    width = number(max(kernel[1] - padding[1] - padding[3], 1), 40)
    strides = number(1, 2), number(1, 3)
    out = 16 * number(1, 3)
    return number(1, 2), height, width, number(1, 70), out, kernel, strides, padding


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(shape=shapes(), kind=st.sampled_from(tuple(KINDS)), epilogue=st.booleans())
def test_any_shape(rng, tiles, target, shape, kind, epilogue):
    data, _, tiled, _, _, attrs = problem(rng, kind, shape)
    expected = reference.conv2d_tiles(data, tiled, **attrs)
    mod = module(shape, tiled, attrs, batch=shape[0], epilogue=epilogue)
    scheduled, _ = schedule_module(mod, target.tvm, lanes=target.lanes)
    (function,) = [f for f in scheduled.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    names_in_bounds(function, target)
    run = machine(mod, target, kind)["main"]
    result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, expected * 2 if epilogue else expected)


@pytest.mark.parametrize("kind", ["signed", "bf16"])
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_stay_in_their_buffers(rng, target, shape, epilogue, kind):
    _, _, tiled, _, _, attrs = problem(rng, kind, shape)
    mod = module(shape, tiled, attrs, batch=shape[0], epilogue=epilogue)
    scheduled, _ = schedule_module(mod, target.tvm, lanes=target.lanes)
    (function,) = [f for f in scheduled.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    direct = not epilogue and rows_stored_directly(geometry(kind, shape)) > 0
    _, weight, result = function.params
    sums = result.name if direct else "fconv_tiles_sums"
    assert names_in_bounds(function, target) == {"narrow_pad", weight.name, sums}


@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_of_parameters(rng, tiles, target, kind):
    shape = (1, 28, 28, 5, 32, (3, 3), (1, 1), (1, 1, 1, 1))
    data, _, tiled, _, _, attrs = problem(rng, kind, shape)
    expected = reference.conv2d_tiles(data, tiled, **attrs)
    mod = module(shape, tiled, attrs, batch=1, epilogue=True)
    (function,) = [f for f in mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    space = back_end(target.tvm).space(function, target.lanes)
    assert {1, 2, 4} <= {choice.group_rows for choice in space}
    assert all(not choice.expand_ahead for choice in space)
    for choice in space[:: max(len(space) // 4, 1)]:
        run = machine(mod, target, kind, **vars(choice))["main"]
        result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
        np.testing.assert_array_equal(result, expected * 2)


def test_subnormal_numbers_in_tiles(rng, tiles, target):
    """Products on both sides of the smallest normal number: the tiles flush as the oracle does."""
    shape = (1, 4, 5, 7, 16, (3, 3), (1, 1), (1, 1, 1, 1))
    data, _, tiled, _, _, attrs = problem(rng, "bf16", shape)
    data = data * np.float32(2.0**-126)
    expected = reference.conv2d_tiles(data, tiled, **attrs)
    run = machine(module(shape, tiled, attrs, batch=1), target, "bf16")["main"]
    result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, expected)
    smallest = np.abs(expected[expected != 0]).min()
    assert (expected == 0).any() and 2.0**-126 <= smallest < 2.0**-124


def test_numbers_behind_the_image_are_no_nans(rng, tiles, target):
    """The last window's unit goes past the last row: what lies there meets weights of 0.

    The memory of the workspace holds NaNs from the first call when the second takes it.
    """
    big = (1, 40, 40, 3, 16, (3, 3), (1, 1), (1, 1, 1, 1))
    small = (1, 6, 6, 3, 16, (3, 3), (1, 1), (1, 1, 1, 1))
    for shape, fill in ((big, np.float32(np.inf)), (small, None)):
        data, _, tiled, _, _, attrs = problem(rng, "bf16", shape)
        if fill is not None:
            data[:] = fill
        expected = None if fill is not None else reference.conv2d_tiles(data, tiled, **attrs)
        run = machine(module(shape, tiled, attrs, batch=1), target, "bf16")["main"]
        result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
        if expected is not None:
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("kind", "lacks", "numbers"),
    [("bf16", "-amx-bf16", "bfloat16"), ("signed", "-amx-int8", "bytes")],
)
def test_without_tiles_the_operator_is_slow_and_exact(rng, kind, lacks, numbers):
    shape = (1, 5, 6, 5, 32, (2, 2), (2, 1), (0, 1, 2, 1))
    data, _, tiled, _, _, attrs = problem(rng, kind, shape)
    mod = module(shape, tiled, attrs)
    server = parse(f"llvm -mtriple=x86_64-linux-gnu -mcpu=sapphirerapids -mattr={lacks}")
    _, (record,) = schedule_module(mod, server.tvm, lanes=server.lanes)
    assert record.rule == "reduction" and f"no AMX tiles of {numbers}" in record.reason
    plain = parse("llvm -mcpu=x86-64")
    scheduled, _ = schedule_module(mod, plain.tvm, lanes=plain.lanes)
    run = relax.VirtualMachine(tvm.compile(scheduled, plain.tvm), tvm.cpu())["main"]
    result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, reference.conv2d_tiles(data, tiled, **attrs))


def test_how_stems_and_shortcuts_fill_tiles():
    """The 7x7 stem: 7 tiles of 16 pixels a row; a kernel row is 21 or 42 of 64 bytes."""
    stem = (1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3))
    shortcut = (1, 28, 28, 64, 128, (1, 1), (1, 1), (0, 0, 0, 0))
    for kind, shape, share in (
        ("signed", stem, 21 / 64),
        ("bf16", stem, 42 / 64),
        ("signed", shortcut, 1.0),
        ("bf16", shortcut, 1.0),
    ):
        own = geometry(kind, shape)
        height, width = own.out_image
        asked = height * width * own.kernel[0] * own.kernel[1] * own.channels * own.out_channels
        done = own.products_of(rows_of_group(own)) * 16 * 16 * (64 // own.element)
        assert asked / done == pytest.approx(share)
