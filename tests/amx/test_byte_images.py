"""Images that arrive as +-1 bytes: no loop in the convolution makes them, and the integers stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
import tvm_ffi
from tvm import s_tir, tirx

from tests.amx.reach import names_in_bounds, reach
from tests.amx.test_kernels import (
    FORMS,
    SHAPES,
    convolution,
    layer_of,
    machine,
    problem,
    scheduled_for,
)
from tvm_insta import nn
from tvm_insta.frontend import import_torch
from tvm_insta.ops import packing, reference
from tvm_insta.ops.bitserial_conv2d_signs import spare_rows
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.schedules import back_end
from tvm_insta.schedules.x86.amx_shape import rows_of_group, rows_stored_directly


def as_bytes(data, shape, geometry):
    """The padded image of a problem as `threshold_signs` writes it, and the attributes with it.

    Where no sum may depend on a byte it holds 77: behind the image, and behind the last channel.
    """
    _, _, width, channels, _, kernel, strides, padding = shape
    top, left, bottom, right = padding
    spare = spare_rows(width + left + right, kernel[1], strides[1], channels)
    signs = packing.unpack_codes(data, channels, 1, 1).astype(np.int8) * 2 - 1
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    behind = ((0, 0), (0, spare), (0, 0), (0, -channels % 32))
    image = np.pad(np.pad(signs, around), behind, constant_values=77)
    return image, {**geometry, "padding": [0] * 4, "image": "bytes", "spare": spare}


def loops_and_blocks(function):
    """How many loops of a function run in parallel, and the names of its blocks."""
    loops, blocks = [], []
    tvm_ffi.structural_walk(function.body, (tirx.For, loops.append))
    tvm_ffi.structural_walk(function.body, (s_tir.SBlock, blocks.append))
    parallel = sum(loop.kind == tirx.ForKind.PARALLEL for loop in loops)
    return parallel, {str(block.name_hint) for block in blocks}


def kernels(mod):
    return [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_of_the_oracle(rng, tiles, target, shape, epilogue, form):
    weights, ahead = FORMS[form]
    data, tiled, expected, geometry = problem(rng, shape, weights)
    image, geometry = as_bytes(data, shape, geometry)
    mod = convolution(image.shape[1:], "int8", tiled, geometry, epilogue=epilogue)
    run = machine(mod, target, expand_ahead=ahead)["main"]
    before = tiles.count("products")
    result = run(*map(tvm.runtime.tensor, (image, tiled))).numpy()
    np.testing.assert_array_equal(result, expected * (2 if epilogue else 1))
    np.testing.assert_array_equal(
        reference.bitserial_conv2d_signs(image, tiled, **geometry), expected
    )
    layer = layer_of(shape)
    rows = (not epilogue and rows_stored_directly(layer)) or rows_of_group(layer)
    done = None if before is None else tiles.count("products") - before
    assert done in (None, shape[0] * layer.products_of(rows))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_stay_in_the_image_they_are_given(rng, target, shape, epilogue, form):
    """Whatever rows a group has. No loop of the kernel makes the image."""
    weights, ahead = FORMS[form]
    data, tiled, _, geometry = problem(rng, shape, weights)
    image, geometry = as_bytes(data, shape, geometry)
    mod = convolution(image.shape[1:], "int8", tiled, geometry, batch=shape[0], epilogue=epilogue)
    (plain,) = kernels(mod)
    rows = {tiles.group_rows for tiles in back_end(target.tvm).space(plain, target.lanes)}
    assert 0 in rows
    for group in rows:
        (function,) = kernels(scheduled_for(mod, target, expand_ahead=ahead, group_rows=group))
        direct = not epilogue and rows_stored_directly(layer_of(shape)) > 0
        given, weight, result = function.params
        assert names_in_bounds(function, target) == {
            given.name,
            weight.name if weights == "bytes" else "bconv_weights",
            result.name if direct else "bconv_sums",
        }
        parallel, blocks = loops_and_blocks(function)
        assert parallel <= 1 and "bconv_signs" not in blocks


def test_the_rows_behind_the_image_are_read(rng, target):
    """Without them the last tile of one row of seven pixels would end behind the array."""
    shape = (1, 1, 7, 64, 32, (1, 1), (1, 1), (0, 0, 0, 0))
    data, tiled, _, geometry = problem(rng, shape, "bytes")
    image, geometry = as_bytes(data, shape, geometry)
    assert geometry["spare"] == 2
    mod = convolution(image.shape[1:], "int8", tiled, geometry, batch=1, epilogue=True)
    (function,) = kernels(scheduled_for(mod, target))
    (last,) = {last for buffer, _, last in reach(function) if buffer.same_as(function.params[0])}
    assert 7 * 64 * 2 <= last < 7 * 64 * 3


@pytest.mark.parametrize(
    ("variant", "reuse", "written"),
    [
        ("baseline", None, {"insta_bconv_signs", "insta_fconv"}),
        ("insta", False, {"insta_pack"}),
        ("insta", True, {"insta_pack", "sweep"}),
    ],
    ids=["constant", "instance", "reused"],
)
def test_kernels_of_a_network(target, variant, reuse, written):
    """Comparisons alone, and behind sums in tiles, float convolutions and element-wise code."""
    network = nn.create("resnet20", variant, seed=3, reuse_statistics=reuse)
    example = torch.zeros(1, 3, 32, 32)
    imported = import_torch(network, [example], max_batch=4, dynamic=True)
    compiled = run_pipeline(imported, Context(target, binary="amx"))
    assert not [record for record in compiled.schedules if record.reason]
    found = {record.function: record.rule for record in compiled.schedules}
    tiled = [name for name, rule in found.items() if rule == "insta_bconv_signs"]
    writers = [name for name in found if "threshold_signs" in name]
    assert len(tiled) >= 5 and not any("threshold_pack" in name for name in found)
    for name in tiled:
        parallel, blocks = loops_and_blocks(compiled.mod[name])
        assert parallel == 1 and "bconv_signs" not in blocks
    assert {found[name] for name in writers} == written
    for name in writers:  # bytes are written by the loop that is there, and the border in front
        parallel, blocks = loops_and_blocks(compiled.mod[name])
        assert parallel == 1 and "threshold_signs" in blocks and "signs_pad" not in blocks
