"""threshold_signs schedules: the bytes of the unscheduled PrimFunc and of numpy, in vectors."""

from __future__ import annotations

import numpy as np
import pytest

from tests.schedules.test_schedules_conv import avx512_only
from tests.schedules.test_schedules_pack import SPECIAL, TARGETS
from tests.support.schedule_nets import (
    AVX2,
    AVX512,
    LANES,
    arguments,
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
from tvm_insta.ops import reference
from tvm_insta.schedules import back_end


def signs(
    channels,
    *,
    height=5,
    width=3,
    pad=(0, 0, 0, 0),
    batch=1,
    per_instance=False,
    compare="ge",
    nan=0,
):
    n = symbolic(batch)
    specs = [
        ("x", [n, height, width, channels], "float32"),
        ("t", [1, n if per_instance else 1, 1, 1, channels], "float32"),
    ]

    def body(emit, x, t):
        return emit(ops.threshold_signs(x, t, compare=compare, pad=list(pad), nan=nan))

    return module(specs, body)


@pytest.mark.parametrize("pad", [(0, 0, 0, 0), (1, 0, 2, 3)], ids=["bare", "pad"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("channels", "batch", "per_instance"),
    [(4, 1, False), (36, None, True), (48, 2, False), (64, None, True), (96, 1, False)],
)
def test_bytes(rng, channels, batch, per_instance, target, pad):
    mod = signs(channels, batch=batch, per_instance=per_instance, pad=pad)
    check_equal_bits(mod, "insta_pack", rng, target)


@pytest.mark.parametrize("nan", [0, 1])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("compare", ["ge", "gt", "le", "lt"])
def test_special_values(compare, target, nan):
    """Every pair of special values; every byte is written, those around the image too."""
    x, t = (a.ravel() for a in np.meshgrid(SPECIAL, SPECIAL))
    x, t = np.resize(x, (1, 1, 1, 112)), np.resize(t, (1, 1, 1, 1, 112))
    mod = signs(112, height=1, width=1, compare=compare, pad=(1, 1, 2, 1), nan=nan)
    _, result, record = scheduled(mod, target, 16)
    assert record.rule == "insta_pack"
    got = execute(result, target, [x, t, np.full((1, 4, 3, 128), 77, np.int8)])
    expected = reference.threshold_signs(x, t, compare=compare, pad=(1, 1, 2, 1), nan=nan)
    np.testing.assert_array_equal(got, expected)


@avx512_only
def test_16_channels_are_one_comparison_one_blend_and_one_store():
    _, result, _ = scheduled(signs(128, height=56, width=56), AVX512, 16)
    lines = compile_function(result, AVX512).mod.inspect_source("asm").splitlines()
    compares, blends = (sum(name in line for line in lines) for name in ("vcmpleps", "vpblendmb"))
    assert compares == blends > 0
    assert not any("kunpck" in line or "kmov" in line for line in lines)  # no mask is moved


def test_choices_write_the_same_bytes(rng):
    mod = signs(48, height=16, width=6, batch=None, pad=(1, 0, 2, 3))
    listed = back_end(AVX2).space(only_primfunc(legalise(mod)), LANES[AVX2])
    assert len(listed) > 4 and len(set(listed)) == len(listed)
    for tiles in (listed[0], listed[len(listed) // 2], listed[-1]):
        assert check_equal_bits(mod, "insta_pack", rng, tiles=tiles).tiles == tiles


def test_channels_that_are_no_vectors(rng):
    """Another rule takes them, and the bytes are the same."""
    plain, result, record = scheduled(signs(33), AVX2, LANES[AVX2])
    assert record.rule == "elementwise"
    assert record.reason == "33 channels are no vectors of bytes"
    arrays = arguments(plain, rng, batch=1)
    expected = execute(plain, AVX2, arrays)
    assert execute(result, AVX2, arrays).tobytes() == expected.tobytes()
