"""threshold_pack schedules: equal bits to the unscheduled PrimFunc and to numpy, special values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.schedules.test_schedules_conv import avx512_only
from tests.support.schedule_nets import (
    AVX2,
    AVX512,
    LANES,
    SSE,
    check_equal_bits,
    compile_function,
    execute,
    legalise,
    module,
    only_primfunc,
    scheduled,
    symbolic,
)
from tvm_insta import ops
from tvm_insta.schedules import back_end

TARGETS = [SSE, AVX2, pytest.param(AVX512, marks=avx512_only)]
SPECIAL = np.float32([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38])


def pack(
    channels,
    *,
    height=5,
    width=3,
    bits=1,
    groups=1,
    compare="ge",
    pad=(0, 0, 0, 0),
    batch=1,
    per_instance=False,
):
    n = symbolic(batch)
    specs = [
        ("x", [n, height, width, channels], "float32"),
        ("t", [2**bits - 1, n if per_instance else 1, 1, 1, channels], "float32"),
    ]

    def body(emit, x, t):
        attrs = {"bits": bits, "groups": groups, "compare": compare, "pad": list(pad)}
        return emit(ops.threshold_pack(x, t, **attrs))

    return module(specs, body)


@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (1, 0, 2, 3)], ids=["bare", "pad"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("channels", "bits", "groups", "batch", "per_instance"),
    [
        (1, 1, 1, 1, False),
        (33, 2, 1, None, True),
        (48, 1, 3, 2, False),
        (64, 1, 1, None, True),
        (96, 4, 3, 1, False),
        (320, 1, 2, None, False),
    ],
)
def test_pack(rng, channels, bits, groups, batch, per_instance, target, pad):
    mod = pack(channels, bits=bits, groups=groups, batch=batch, per_instance=per_instance, pad=pad)
    check_equal_bits(mod, "insta_pack", rng, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("compare", "numpy_compare"),
    [("ge", np.greater_equal), ("gt", np.greater), ("le", np.less_equal), ("lt", np.less)],
)
def test_special_values(compare, numpy_compare, target):
    """Every pair of special values, with padding: NaN is false, inf - inf does not matter."""
    x, t = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
    channels = 128
    x, t = (np.resize(a, channels) for a in (x, t))
    mod = pack(channels, height=1, width=1, compare=compare, pad=(1, 1, 1, 1))
    _, result, record = scheduled(mod, target, 16)
    assert record.rule == "insta_pack"
    out = np.full((1, 3, 3, 4), 0xDEADBEEF, np.uint32)
    got = execute(result, target, [x.reshape(1, 1, 1, -1), t.reshape(1, 1, 1, 1, -1), out])
    bits = np.packbits(numpy_compare(x, t), bitorder="little").view("<u4")
    expected = np.zeros_like(out)
    expected[0, 1, 1] = bits
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=12, deadline=None)
@given(
    per_group=st.integers(33, 140).filter(lambda count: count % 32),
    groups=st.integers(1, 3),
    bits=st.integers(1, 3),
    flat=st.booleans(),
)
def test_the_last_word_of_a_group(per_group, groups, bits, flat, target):
    """It takes the last 32 channels and drops those of the word before."""
    channels = per_group * groups
    shape = [2, channels] if flat else [2, 3, 2, channels]
    specs = [
        ("x", shape, "float32"),
        ("t", [2**bits - 1, *[1] * (len(shape) - 1), channels], "float32"),
    ]
    mod = module(specs, lambda emit, x, t: emit(ops.threshold_pack(x, t, bits=bits, groups=groups)))
    check_equal_bits(mod, "insta_pack", np.random.default_rng(channels), target)


@pytest.mark.parametrize("bits", [1, 2])
def test_the_last_word_makes_no_scalars_of_the_others(bits):
    specs = [("x", [1, 784], "float32"), ("t", [2**bits - 1, 1, 1], "float32")]
    mod = module(specs, lambda emit, x, t: emit(ops.threshold_pack(x, t, bits=bits)))
    asm = compile_function(scheduled(mod, AVX2, 8)[1], AVX2).mod.inspect_source("asm")
    assert "vcmpleps" in asm and "ucomiss" not in asm and "vcmpless" not in asm


def test_flat_activations(rng):
    specs = [("x", [symbolic(None), 70], "float32"), ("t", [1, 1, 70], "float32")]
    mod = module(specs, lambda emit, x, t: emit(ops.threshold_pack(x, t)))
    check_equal_bits(mod, "insta_pack", rng)


@avx512_only
def test_a_word_is_two_mask_registers():
    _, result, _ = scheduled(pack(64, height=56, width=56), AVX512, 16)
    asm = compile_function(result, AVX512).mod.inspect_source("asm")
    assert "kunpckwd" in asm and "vpsllvd" not in asm


@pytest.mark.parametrize(("channels", "bits"), [(64, 1), (48, 2)])
def test_choices_pack_the_same_bits(rng, channels, bits):
    """Pixels unrolled and rows of a task, with a border; the flags of several bits come along."""
    mod = pack(channels, height=16, width=6, bits=bits, batch=None, pad=(1, 0, 2, 3))
    plain = only_primfunc(legalise(mod))
    listed = back_end(AVX2).space(plain, LANES[AVX2])
    assert len(listed) > 4 and len(set(listed)) == len(listed)
    _, _, record = scheduled(mod, AVX2, LANES[AVX2])
    assert record.tiles in listed
    for tiles in (listed[0], listed[len(listed) // 2], listed[-1]):
        assert check_equal_bits(mod, "insta_pack", rng, tiles=tiles).tiles == tiles
