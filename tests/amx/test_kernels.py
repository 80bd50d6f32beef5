"""`bitserial_conv2d_signs` as scheduled for AMX: integer by integer, and how it fills tiles."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tests.amx.reach import names_in_bounds
from tvm_insta import ops
from tvm_insta.codegen.needs import kernel_needs
from tvm_insta.ops import packing, reference
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import BinaryLayer, ConvTiles, back_end, schedule_module
from tvm_insta.schedules.x86.amx_cost import geometry
from tvm_insta.schedules.x86.amx_shape import Geometry, rows_of_group, rows_stored_directly
from tvm_insta.target import parse

# batch, height, width, channels, out, kernel, strides, padding
SHAPES = [
    (1, 8, 6, 64, 32, (3, 3), (1, 1), (1, 1, 1, 1)),
    (2, 7, 7, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)),  # rows end to end, two images
    (1, 14, 14, 32, 48, (3, 3), (1, 1), (1, 1, 1, 1)),  # 3 x 1 tiles; a run that ends in a unit
    (1, 6, 17, 128, 32, (3, 3), (1, 1), (1, 1, 1, 1)),  # a last tile that is moved back
    (2, 8, 8, 64, 32, (3, 3), (2, 2), (1, 1, 1, 1)),
    (1, 9, 40, 16, 16, (3, 3), (1, 2), (1, 1, 1, 1)),
    (1, 5, 4, 16, 16, (3, 3), (2, 1), (0, 1, 2, 1)),
    (2, 4, 9, 40, 48, (3, 3), (1, 1), (0, 1, 2, 3)),  # lopsided, channels beyond a word
    (1, 3, 3, 96, 32, (1, 1), (1, 1), (0, 0, 0, 0)),
    (2, 7, 7, 64, 48, (1, 1), (1, 1), (0, 0, 0, 0)),  # rows that lie end to end in the result
    (1, 2, 20, 64, 32, (3, 3), (1, 1), (1, 1, 1, 1)),  # rows that do not
    (1, 6, 34, 36, 32, (1, 1), (2, 2), (0, 0, 0, 0)),
    (1, 5, 5, 4, 16, (5, 5), (1, 1), (2, 2, 2, 2)),  # wider than the image
    (3, 1, 1, 64, 32, (3, 3), (1, 1), (1, 1, 1, 1)),  # one pixel, all else padding
    (1, 1, 33, 60, 32, (1, 7), (1, 1), (0, 3, 0, 3)),
    (1, 20, 1, 64, 16, (7, 1), (2, 1), (3, 0, 3, 0)),
    (1, 4, 4, 100, 32, (6, 2), (1, 1), (3, 0, 2, 1)),
    (1, 5, 5, 512, 16, (3, 3), (1, 1), (1, 1, 1, 1)),  # 72 tiles of weights, through a ring of 16
]


WEIGHTS = ("bits", "bytes")
# What the weight holds, and how many tiles of it are expanded ahead of their use.
FORMS = {"bits": ("bits", 0), "bits ahead": ("bits", 3), "bytes": ("bytes", 0)}


def problem(rng, shape, weights="bits"):
    batch, height, width, channels, out, kernel, strides, padding = shape
    codes = rng.integers(0, 2, (batch, height, width, channels))
    signs = rng.choice([-1, 1], (out, *kernel, channels))
    geometry = {
        "strides": strides,
        "padding": padding,
        "in_channels": channels,
        "kernel_width": kernel[1],
    }
    data, weight = packing.pack_codes(codes, 1), packing.pack_weight(signs)
    window = {key: geometry[key] for key in ("strides", "padding", "in_channels")}
    expected = reference.bitserial_conv2d(data, weight, **window)
    tiled = packing.tile_weight(weight, channels)
    if weights == "bytes":
        tiled = packing.tile_bytes(tiled, channels, kernel[1])
    return data, tiled, expected, {**geometry, "weights": weights}


def module(shape, tiled, geometry, batch=None, epilogue=False):
    """The operator as a function of data and weight; with an epilogue twice its result."""
    words = -(-shape[3] // 32)
    return convolution((*shape[1:3], words), "uint32", tiled, geometry, batch, epilogue)


def convolution(image, dtype, tiled, geometry, batch=None, epilogue=False):
    """The same for an image of any shape and type."""
    first = tirx.Var("n", "int64") if batch is None else batch
    types = [
        relax.TensorType([first, *image], dtype),
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


def scheduled_for(mod, target, **wish):
    """The module scheduled with certain parameters, which are those that are used."""
    wished = {var.name_hint: ConvTiles(**wish) for var in mod.functions}
    scheduled, (record,) = schedule_module(mod, target.tvm, lanes=target.lanes, parameters=wished)
    assert (record.rule, record.reason) == ("insta_bconv_signs", "")
    assert wish.items() <= vars(record.tiles).items()
    return scheduled


def machine(mod, target, **wish):
    scheduled = scheduled_for(mod, target, **wish)
    assert kernel_needs(scheduled) == ("amx-int8", "amx-tile")
    return relax.VirtualMachine(tvm.compile(scheduled, target.tvm), tvm.cpu())


def layer_of(shape):
    _, height, width, channels, out, kernel, strides, padding = shape
    return Geometry((height, width), padding, strides, kernel, channels, out)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_integers_of_the_oracle(rng, tiles, target, shape, epilogue, form):
    weights, ahead = FORMS[form]
    data, tiled, expected, geometry = problem(rng, shape, weights)
    mod = module(shape, tiled, geometry, epilogue=epilogue)
    run = machine(mod, target, expand_ahead=ahead)["main"]
    before = tiles.count("products")
    result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, expected * (2 if epilogue else 1))
    if before is None:
        return
    layer = layer_of(shape)
    rows = (not epilogue and rows_stored_directly(layer)) or rows_of_group(layer)
    # What the geometry says of a layer is what was executed, with 16 rows in every product.
    assert tiles.count("products") - before == shape[0] * layer.products_of(rows)
    assert tiles.count("full_products") == tiles.count("products")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_stay_in_their_buffers(rng, target, shape, epilogue, form):
    """Nothing else would notice: the memory behind an array is there, and its sums are not read."""
    weights, ahead = FORMS[form]
    _, tiled, _, geometry = problem(rng, shape, weights)
    mod = module(shape, tiled, geometry, batch=shape[0], epilogue=epilogue)
    scheduled = scheduled_for(mod, target, expand_ahead=ahead)
    (function,) = [f for f in scheduled.functions.values() if isinstance(f, tirx.PrimFunc)]
    direct = not epilogue and rows_stored_directly(layer_of(shape)) > 0
    _, weight, result = function.params
    assert names_in_bounds(function, target) == {
        "bconv_signs",
        weight.name if weights == "bytes" else "bconv_weights",
        result.name if direct else "bconv_sums",
    }


@pytest.mark.parametrize(
    ("weights", "wish", "reason"),
    [
        ("bytes", {"expand_ahead": 3}, "expand_ahead 3 is for weights that are bits, and below 16"),
        ("bits", {"expand_ahead": 16}, "expand_ahead 16 is for weights that are bits, and belo"),
        ("bits", {"group_rows": 3}, "group_rows 3 of 8 do not fit tiles or the cache"),
    ],
)
def test_parameters_that_do_not_fit(rng, target, weights, wish, reason):
    """The default is taken, and the reason is recorded."""
    _, tiled, _, geometry = problem(rng, SHAPES[0], weights)
    mod = module(SHAPES[0], tiled, geometry)
    wished = {var.name_hint: ConvTiles(**wish) for var in mod.functions}
    _, (record,) = schedule_module(mod, target.tvm, lanes=target.lanes, parameters=wished)
    assert (record.tiles.expand_ahead, record.tiles.group_rows) == (0, 0)
    assert reason in record.reason


def space_of(mod, target):
    (function,) = [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]
    return back_end(target.tvm).space(function, target.lanes)


def test_weights_ahead_are_a_choice_of_bits_only(rng, target):
    for weights, choices in (("bits", {0, 3}), ("bytes", {0})):
        _, tiled, _, geometry = problem(rng, SHAPES[0], weights)
        space = space_of(module(SHAPES[0], tiled, geometry), target)
        assert {tiles.expand_ahead for tiles in space} == choices


@pytest.mark.parametrize(
    ("side", "channels", "rows"),
    [
        (56, 64, {1, 2}),  # 4 by rule, which are 15 tiles; 4 and 8 of 16
        (28, 128, {1, 2, 4}),  # 7 by rule
        (14, 32, {1, 7, 14}),  # 2 by rule
        (7, 64, set()),  # all 7 by rule; 1 row is a tile of 7 pixels
    ],
)
def test_rows_of_groups_that_cost_few_more_products(rng, target, side, channels, rows):
    shape = (1, side, side, channels, 32, (3, 3), (1, 1), (1, 1, 1, 1))
    _, tiled, _, geometry = problem(rng, shape, "bytes")
    mod = module(shape, tiled, geometry, epilogue=True)
    assert {tiles.group_rows for tiles in space_of(mod, target)} == {0} | rows
    # Where tiles are stored to the result, and where a stride keeps rows apart, there is no choice.
    bare = space_of(module(shape, tiled, geometry), target)
    assert side < 16 or {tiles.group_rows for tiles in bare} == {0}


@pytest.mark.parametrize(("weights", "ahead"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_integers_with_other_groups_of_rows(rng, tiles, target, rows, weights, ahead):
    shape = (1, 28, 28, 64, 32, (3, 3), (1, 1), (1, 1, 1, 1))
    data, tiled, expected, geometry = problem(rng, shape, weights)
    mod = module(shape, tiled, geometry, epilogue=True)
    run = machine(mod, target, group_rows=rows, expand_ahead=ahead)["main"]
    before = tiles.count("products")
    result = run(*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, expected * 2)
    done = None if before is None else tiles.count("products") - before
    assert done in (None, layer_of(shape).products_of(rows))


def test_every_thread_configures_its_own_tiles(rng, tiles, target):
    shape = (2, 14, 14, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1))
    data, tiled, expected, geometry = problem(rng, shape)
    run = machine(module(shape, tiled, geometry), target)["main"]
    results = []

    def once():
        results.append(run(*map(tvm.runtime.tensor, (data, tiled))).numpy())

    for _ in range(2):
        thread = threading.Thread(target=once)
        thread.start()
        thread.join()
    assert len(results) == 2
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[6], SHAPES[7]], ids=str)
def test_without_tiles_the_operator_is_slow_and_exact(rng, shape, weights):
    data, tiled, expected, geometry = problem(rng, shape, weights)
    plain = parse("llvm -mcpu=x86-64")
    mod, (record,) = schedule_module(module(shape, tiled, geometry), plain.tvm, lanes=plain.lanes)
    assert record.rule == "reduction" and "no AMX tiles" in record.reason
    vm = relax.VirtualMachine(tvm.compile(mod, plain.tvm), tvm.cpu())
    result = vm["main"](*map(tvm.runtime.tensor, (data, tiled))).numpy()
    np.testing.assert_array_equal(result, expected)
    oracle = reference.bitserial_conv2d_signs(data, tiled, **geometry)
    np.testing.assert_array_equal(oracle, expected)


def layer(side, channels, out, kernel=3, stride=1, plain=True):
    pad = kernel // 2
    return BinaryLayer((side, side), channels, out, (kernel,) * 2, (stride,) * 2, (pad,) * 4, plain)


SERVER = parse("llvm -mcpu=sapphirerapids").tvm


@pytest.mark.parametrize(
    ("chosen", "case"),
    [
        (True, layer(28, 128, 128)),
        (False, layer(7, 512, 512)),
        (False, layer(28, 128, 128, plain=False)),
        (False, layer(28, 128, 24)),
        (False, layer(28, 130, 32)),
    ],
)
def test_which_layers_take_tiles(chosen, case):
    assert back_end(SERVER).uses_tiles()(case) is chosen
    assert back_end(SERVER).uses_tiles("popcount")(case) is False
    fits = case.plain and case.out_channels % 16 == 0 and case.channels % 4 == 0
    assert back_end(SERVER).uses_tiles("amx")(case) is fits
    assert back_end(parse("llvm -mcpu=icelake-server").tvm).uses_tiles("amx") is None
    no_avx512 = parse("llvm -mcpu=haswell -mattr=+amx-int8,+amx-tile").tvm
    assert back_end(no_avx512).uses_tiles("amx") is None


def test_how_many_products_a_layer_takes():
    """Of 15 tiles, 4 rows of 56 pixels; of 13, 7 rows of 28; of 2, 2 of 14; of 4, 7 rows of 7."""
    for side, share in ((56, 224 / 240), (28, 196 / 208), (14, 28 / 32), (7, 49 / 64)):
        shape = geometry(layer(side, 3584 // side, 3584 // side))
        asked = side**2 * 9 * (3584 // side) ** 2
        done = shape.products_of(rows_of_group(shape)) * 16 * 16 * 64
        assert asked / done == pytest.approx(share)
