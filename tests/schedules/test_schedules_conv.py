"""Convolution schedules against the unscheduled PrimFunc: equal bits over a grid of odd shapes."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tests.support.schedule_nets import (
    AVX2,
    AVX512,
    LANES,
    SSE,
    SSSE3,
    arguments,
    binary_conv,
    check_all,
    check_equal_bits,
    compile_function,
    execute,
    float_conv,
    module,
    scheduled,
)
from tvm_insta import ops
from tvm_insta.ops.bitserial_conv2d_blocked import COUNTS
from tvm_insta.schedules import ConvTiles
from tvm_insta.schedules.base import NotApplicable
from tvm_insta.schedules.generic.backend import GENERIC
from tvm_insta.schedules.generic.conv import choose_tiles
from tvm_insta.schedules.x86 import families as x86

SKYLAKE = tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512"})
LANES[SKYLAKE] = 16

HAS_AVX512 = tvm.target.codegen.llvm_get_system_cpu() and {
    "avx512f",
    "avx512vpopcntdq",
} <= tvm.target.codegen.llvm_get_cpu_features(
    tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu()})
)
avx512_only = pytest.mark.skipif(not HAS_AVX512, reason="this CPU has no AVX-512 VPOPCNTDQ")

# height, width, channels, out, lanes, kernel, stride, dilation, groups
SHAPES = [
    (7, 7, 64, 32, 16, 3, 1, 1, 1),
    (13, 7, 33, 48, 16, 3, 1, 1, 1),
    (7, 1, 1, 4, 4, 3, 2, 1, 1),
    (9, 13, 48, 48, 3, 5, 1, 1, 3),
    (5, 5, 6, 6, 2, 3, 1, 1, 3),  # a group's outputs are one vector
    (5, 5, 6, 6, 3, 3, 1, 1, 3),  # vectors lie across groups
    (4, 6, 8, 8, 8, 3, 1, 1, 8),  # depthwise
    (9, 19, 3, 16, 16, 3, 1, 1, 1),
    (3, 37, 3, 32, 8, 3, 1, 1, 1),  # a prime width beyond the registers
    (15, 15, 3, 16, 1, 7, 2, 1, 1),  # one lane
    (9, 9, 35, 5, 5, 3, 2, 2, 1),
    (1, 1, 64, 40, 8, 1, 1, 1, 1),  # a dense layer
]


@pytest.mark.parametrize("batch", [1, None], ids=["one", "symbolic"])
@pytest.mark.parametrize("target", [SSE, AVX2, pytest.param(AVX512, marks=avx512_only)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_binary_conv(rng, shape, target, batch):
    *sizes, lanes, kernel, stride, dilation, groups = shape
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "groups": groups}
    counts = "bytes" if target is not AVX512 and batch == 1 else "pieces"
    mod = binary_conv(*sizes, lanes=lanes, **attrs, batch=batch, counts=counts)
    assert check_equal_bits(mod, "insta_bconv", rng, target).tiles is not None


# height, width, channels, out, block of the weight, kernel, stride, dilation
NIBBLES = [
    (7, 7, 64, 64, 64, 3, 1, 1),
    (13, 7, 33, 48, 48, 3, 1, 1),
    (9, 13, 6, 16, 16, 5, 2, 1),
    (8, 14, 40, 128, 128, 3, 1, 2),
    (5, 3, 300, 192, 64, 3, 1, 1),  # several parts of a tap
    (3, 64, 24, 96, 96, 1, 1, 1),  # a row of several strips
    (1, 1, 130, 32, 32, 1, 1, 1),  # a dense layer
]


@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("target", [SSSE3, AVX2, pytest.param(AVX512, marks=avx512_only)])
@pytest.mark.parametrize("shape", NIBBLES, ids=str)
def test_nibbles(rng, shape, target, epilogue):
    *sizes, lanes, kernel, stride, dilation = shape
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "epilogue": epilogue}
    if target is AVX512:
        target, attrs["epilogue"] = SKYLAKE, False  # it has fused multiply-adds
    mod = binary_conv(*sizes, lanes=lanes, **attrs, counts="nibbles")
    assert check_equal_bits(mod, "insta_bconv_nibbles", rng, target).tiles is not None


def test_a_look_up_is_two_instructions(rng):
    """The loop is look-ups and additions, without a XOR and without a mask of the weight."""
    _, result, record = scheduled(binary_conv(8, 8, 64, 128, lanes=128, counts="nibbles"), AVX2, 8)
    assert (record.tiles.width_tile, record.tiles.out_tile) == (1, 4)
    lines = compile_function(result, AVX2).mod.inspect_source("asm").splitlines()
    operations = [line.split()[0] for line in lines if line.startswith("\t")]
    lookups = operations.count("vpshufb")
    assert lookups >= 8 * 4  # the nibbles of a word, four vectors
    assert operations.count("vpaddb") >= lookups * 3 // 4  # the first ones have nothing to add to
    first = operations.index("vpshufb")
    loop = operations[first : len(operations) - operations[::-1].index("vpshufb")]
    assert not {"vpxor", "vpand", "vpsrlw"} & set(loop)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("counts", COUNTS)
def test_bit_planes(rng, bits, groups, counts):
    how = {"bits": bits, "groups": groups, "counts": counts}
    lanes = 16 if counts == "nibbles" else 4
    mod = binary_conv(5, 6, 66, 16 * groups, lanes=lanes, **how, batch=None)
    check_equal_bits(mod, "insta_bconv_nibbles" if counts == "nibbles" else "insta_bconv", rng)


@pytest.mark.parametrize("batch", [1, None], ids=["one", "symbolic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_binary_conv_with_epilogue(rng, shape, batch):
    *sizes, lanes, kernel, stride, dilation, groups = shape
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "groups": groups}
    counts = "bytes" if batch is None else "pieces"
    mod = binary_conv(*sizes, lanes=lanes, **attrs, batch=batch, epilogue=True, counts=counts)
    check_equal_bits(mod, "insta_bconv", rng)


@pytest.mark.parametrize("epilogue", [False, True], ids=["bare", "epilogue"])
@pytest.mark.parametrize("batch", [1, None], ids=["one", "symbolic"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float_conv(rng, shape, batch, epilogue):
    *sizes, lanes, kernel, stride, dilation, groups = shape
    attrs = {"kernel": kernel, "stride": stride, "dilation": dilation, "groups": groups}
    padding = kernel // 2 * dilation
    mod = float_conv(*sizes, lanes=lanes, **attrs, padding=padding, batch=batch, epilogue=epilogue)
    check_equal_bits(mod, "insta_fconv", rng)


def test_float_conv_without_padding(rng):
    check_equal_bits(float_conv(8, 9, 5, 24, lanes=8, padding=0), "insta_fconv", rng)


@avx512_only
def test_epilogue_with_fused_multiply_add(rng):
    mod = binary_conv(7, 14, 64, 64, lanes=16, epilogue=True)
    plain, result, _ = scheduled(mod, AVX512, 16)
    arrays = arguments(plain, rng, batch=1)
    expected, got = (execute(f, AVX512, arrays) for f in (plain, result))
    # A fused multiply-add leaves out one rounding: at most 5 operations on values below 2**12 may
    # each differ by half a unit in the last place (2**-13), and the slope (below 8) scales them.
    np.testing.assert_allclose(got, expected, rtol=0, atol=5 * 2.0**-13 * 8)


def test_epilogue_is_one_pass():
    """No loop nest of its own and no buffer but the sums: everything is computed at the tile."""
    mod = binary_conv(14, 14, 64, 64, lanes=16, epilogue=True)
    _, result, _ = scheduled(mod, AVX512, 16)
    text = result.script()
    assert text.count("sblock_alloc_buffer") == 1
    assert text.count("T.parallel") == 1


def test_threads_change_no_bit(rng):
    _, result, _ = scheduled(float_conv(16, 9, 3, 32, lanes=8, epilogue=True), AVX2, 8)
    arrays = arguments(result, rng, batch=1)
    configure = tvm.get_global_func("runtime.config_threadpool")
    outputs = set()
    try:
        for threads in (1, 2, 3):
            configure(1, threads)
            outputs.add(execute(result, AVX2, arrays).tobytes())
    finally:
        configure(1, 1)
    assert len(outputs) == 1


def test_reshape_behind_a_dense_layer(rng):
    """An output that does not lie pixel on pixel gets a pass of its own, not a wrong one."""

    def body(emit, data, weight, bias):
        y = emit(ops.conv2d_blocked(data, weight))
        return emit(relax.op.add(emit(relax.op.reshape(y, [2, 40])), bias))

    specs = [
        ("data", [2, 1, 1, 64], "float32"),
        ("weight", [5, 1, 1, 64, 8], "float32"),
        ("bias", [40], "float32"),
    ]
    assert "insta_fconv" in check_all(module(specs, body), rng)


def test_padding_behind_a_conv(rng):
    """A consumer that pads writes elements which no element of the convolution maps to."""

    def body(emit, data, weight):
        y = emit(ops.conv2d_blocked(data, weight))
        return emit(relax.op.nn.pad(y, [0, 0, 1, 1, 1, 1, 0, 0]))

    specs = [("data", [2, 3, 4, 8], "float32"), ("weight", [2, 1, 1, 8, 4], "float32")]
    assert "insta_fconv" in check_all(module(specs, body), rng)


@pytest.mark.parametrize(
    "tiles",
    [
        ConvTiles(7, 2, 14),
        ConvTiles(14, 1, 1),
        ConvTiles(1, 4, 7),
        ConvTiles(2, 2, 2, unroll_taps=True),
    ],
)
def test_wished_tiles_are_used_and_change_no_integer(rng, tiles):
    mod = binary_conv(14, 14, 64, 32, lanes=8)
    assert check_equal_bits(mod, "insta_bconv", rng, tiles=tiles).tiles == tiles


@pytest.mark.parametrize(
    "tiles", [ConvTiles(width_tile=5), ConvTiles(out_tile=3), ConvTiles(7, 2, 4)]
)
def test_tiles_that_do_not_divide_fall_back_to_the_defaults(tiles):
    mod = binary_conv(14, 14, 64, 32, lanes=8)
    _, _, record = scheduled(mod, AVX2, 8, tiles)
    _, _, default = scheduled(mod, AVX2, 8)
    assert record.rule == "insta_bconv" and record.tiles == default.tiles
    assert "divide" in record.reason


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_tiles_refuse_what_is_no_size(value):
    with pytest.raises(ValueError, match="width_tile"):
        ConvTiles(width_tile=value)


@pytest.mark.parametrize("family", [x86.AVX512, x86.AVX2, x86.SSE, GENERIC])
@pytest.mark.parametrize("rule", ["insta_bconv", "insta_fconv"])
def test_chosen_tiles_fit_and_divide(family, rule):
    budget = family.float_accumulators if rule == "insta_fconv" else family.accumulators
    for width in range(1, 60):
        for out_blocks in (1, 2, 3, 4, 7, 32):
            t = choose_tiles(
                ConvTiles(),
                family,
                rule=rule,
                height=width,
                width=width,
                out_blocks=out_blocks,
                padded=False,
            )
            assert t.width_tile * t.out_tile <= budget
            assert width % t.width_tile == out_blocks % t.out_tile == width % t.row_band == 0


def test_choose_tiles_names_what_does_not_divide():
    with pytest.raises(NotApplicable, match="row_band 5 does not divide 14 rows"):
        choose_tiles(
            ConvTiles(row_band=5),
            x86.SSE,
            rule="insta_bconv",
            height=14,
            width=14,
            out_blocks=4,
            padded=False,
        )


@avx512_only
def test_sums_stay_in_registers():
    """The hot loop of a ResNet-18 layer holds its sums: no vector is stored between popcounts."""
    _, result, _ = scheduled(binary_conv(14, 14, 256, 256, lanes=16), AVX512, 16)
    lines = compile_function(result, AVX512).mod.inspect_source("asm").splitlines()
    counts = [i for i, line in enumerate(lines) if "vpopcntd" in line]
    assert counts
    loop = lines[counts[0] : counts[-1]]
    assert not [x for x in loop if "vmov" in x and x.rstrip().endswith(")")], "a sum was spilled"
