"""CUDA's schedules: tiles, and what a scheduled function is. Results: tests/cuda_emulator."""

from __future__ import annotations

import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import te, tirx
from tvm.s_tir.schedule import Schedule

from tvm_insta.schedules.base import NotApplicable
from tvm_insta.schedules.cuda.bind import bind
from tvm_insta.schedules.cuda.float_tiles import FloatShape, float_space
from tvm_insta.schedules.cuda.matrix import Unit, matrix_space, refused, shared_bytes, unit_of
from tvm_insta.schedules.cuda.popcount import SHARED_BYTES, Shape, choose_tile
from tvm_insta.schedules.variants import PackedLayer, RefusedMatrix
from tvm_insta.target import parse

shapes = st.builds(
    Shape,
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    channels=st.integers(1, 64).map(lambda n: 4 * n),
    block=st.sampled_from((1, 2, 4)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    words=st.integers(1, 64),
    stride=st.integers(1, 3),
)


@given(shapes)
def test_tiles_divide_the_shape_and_fit(shape):
    try:
        tile = choose_tile(shape)
    except NotApplicable:
        smallest = choose_tile(Shape(**{**vars(shape), "words": 1, "kernel": (1, 1)}))
        assert smallest.threads >= 1  # it was the memory that did not suffice
        return
    assert shape.height % tile.rows == 0
    assert shape.width % (tile.columns * tile.pixels) == 0
    assert shape.channels % (tile.groups * tile.channels) == 0
    assert tile.threads <= 1024
    assert shape.shared_bytes(tile) <= SHARED_BYTES


@pytest.mark.parametrize(
    ("height", "channels", "words", "threads"),
    [(56, 64, 2, 112), (28, 128, 4, 112), (14, 256, 8, 112), (7, 512, 16, 56)],
)
def test_tiles_of_resnet18(height, channels, words, threads):
    """Whole warps or nearly, and the weights of all input channels at once."""
    tile = choose_tile(Shape(height, height, channels, 4, (3, 3), words, 1))
    assert tile.threads == threads


def elementwise(symbolic):
    n = tirx.Var("n", "int64") if symbolic else 3
    a = te.placeholder((n, 5, 7), "float32", "a")
    b = te.compute(a.shape, lambda *i: a(*i) * tirx.const(2.0, "float32"), "b")
    c = te.compute(a.shape, lambda *i: b(*i) + tirx.const(1.0, "float32"), "c")
    return te.create_prim_func([a, c])


@pytest.mark.parametrize("symbolic", [False, True])
def test_one_kernel_for_a_chain_of_steps(symbolic):
    bound = bind(elementwise(symbolic), parse("cuda -arch=sm_90").tvm)
    assert bound.attrs["tirx.is_scheduled"]
    schedule = Schedule(tvm.IRModule({"main": bound}))
    (block,) = schedule.get_child_blocks(schedule.get_sblock("root"))
    tags = [schedule.get(loop).thread_binding.thread_tag for loop in schedule.get_loops(block)]
    batch = ["blockIdx.y"] if symbolic else []
    assert tags == [*batch, "blockIdx.x", "threadIdx.x"]


layers = st.builds(
    PackedLayer,
    image=st.tuples(st.integers(1, 130), st.integers(1, 130)),
    out_channels=st.integers(1, 300),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    words=st.integers(1, 64),
    bits=st.integers(1, 4),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)


@given(layers)
def test_tiles_of_tensor_cores_fit(layer):
    space = matrix_space(layer)
    assert len(set(space)) == len(space)
    assert (refused(layer, Unit.BITS) is None) == bool(space)
    for tile in space:
        assert shared_bytes(layer, tile) <= SHARED_BYTES
        assert tile.threads <= 1024 and tile.sums <= 64
        assert tile.pixels <= 16 * tile.pixel_pieces * tile.pixel_warps
        # Every warp has pixels and channels of its own.
        assert tile.pixels > 16 * tile.pixel_pieces * (tile.pixel_warps - 1)
        assert layer.out_channels > tile.channels - 8 * tile.channel_pieces


@pytest.mark.parametrize(
    ("arch", "unit"),
    [
        ("sm_75", None),
        ("sm_80", Unit.BITS),
        ("sm_87", Unit.BITS),
        ("sm_90", Unit.BITS),
        ("sm_100", Unit.BYTES),
        ("sm_120", Unit.BYTES),
    ],
)
def test_units_of_cards(arch, unit):
    assert unit_of(parse(f"cuda -arch={arch}").tvm) is unit


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"groups": 2}, RefusedMatrix.GROUPS),
        ({"dilation": (1, 2)}, RefusedMatrix.DILATION),
        ({"kernel": (7, 7), "words": 600}, RefusedMatrix.MEMORY),
    ],
)
def test_layers_that_tensor_cores_do_not_compute(changes, why):
    layer = PackedLayer(
        **{"image": (8, 8), "out_channels": 8, "kernel": (3, 3), "words": 2} | changes
    )
    assert refused(layer, Unit.BITS) is refused(layer, Unit.BYTES) is why
    assert refused(layer, None) is RefusedMatrix.NO_UNIT


float_shapes = st.builds(
    FloatShape,
    image=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    channels=st.integers(1, 32).map(lambda n: 8 * n),
    block=st.sampled_from((1, 2, 4, 8)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    depth=st.integers(1, 300),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)


@given(float_shapes)
def test_tiles_of_float_layers_divide_the_shape_and_fit(shape):
    space = float_space(shape)
    assert len(set(space)) == len(space)
    for tile in space:
        assert shape.image[0] % tile.rows == shape.image[1] % (tile.columns * tile.pixels) == 0
        assert shape.channels % (tile.groups * tile.channels) == 0
        assert not tile.depth or shape.depth % tile.depth == 0
        assert shape.shared_bytes(tile) <= SHARED_BYTES and tile.threads <= 1024
