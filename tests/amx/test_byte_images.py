"""Images that arrive as +-1 bytes: no loop in the convolution makes them, and the integers stay."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tests.amx.reach import names_in_bounds
from tests.amx.test_kernels import FORMS, SHAPES, layer_of, machine, problem, scheduled_for
from tvm_insta import ops
from tvm_insta.ops import packing, reference
from tvm_insta.ops.bitserial_conv2d_signs import spare_rows
from tvm_insta.passes.pipeline import fuse
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


def module(shape, image, tiled, geometry, batch=None, epilogue=False):
    """The operator as a function of image and weight; with an epilogue twice its result."""
    first = tirx.Var("n", "int64") if batch is None else batch
    types = [
        relax.TensorType([first, *image.shape[1:]], "int8"),
        relax.TensorType(tiled.shape, str(tiled.dtype)),
    ]
    builder = relax.BlockBuilder()
    params = [relax.Var(name, ty) for name, ty in zip(("data", "weight"), types, strict=True)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit(ops.bitserial_conv2d_signs(*params, **geometry))
            if epilogue:
                result = builder.emit(relax.op.add(result, result))
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    return fuse(builder.get())


def parallel_loops(function):
    """How many loops of a function run in parallel."""
    found = []

    tvm_ffi.structural_walk(function.body, (tirx.For, found.append))
    return sum(loop.kind == tirx.ForKind.PARALLEL for loop in found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_of_the_oracle(rng, tiles, target, shape, epilogue, form):
    weights, ahead = FORMS[form]
    data, tiled, expected, geometry = problem(rng, shape, weights)
    image, geometry = as_bytes(data, shape, geometry)
    mod = module(shape, image, tiled, geometry, epilogue=epilogue)
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
    weights, ahead = FORMS[form]
    data, tiled, _, geometry = problem(rng, shape, weights)
    image, geometry = as_bytes(data, shape, geometry)
    mod = module(shape, image, tiled, geometry, batch=shape[0], epilogue=epilogue)
    rows = layer_of(shape).out_image[0]
    wishes = [{}] if epilogue else [{}]
    for wish in wishes:
        scheduled = scheduled_for(mod, target, expand_ahead=ahead, **wish)
        (function,) = [f for f in scheduled.functions.values() if isinstance(f, tirx.PrimFunc)]
        direct = not epilogue and rows_stored_directly(layer_of(shape)) > 0
        given, weight, result = function.params
        assert names_in_bounds(function, target) == {
            given.name,
            weight.name if weights == "bytes" else "bconv_weights",
            result.name if direct else "bconv_sums",
        }
        assert parallel_loops(function) == (1 if rows else 0)
