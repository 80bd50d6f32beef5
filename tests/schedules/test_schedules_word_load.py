"""Words of narrow numbers are loaded at once, and codes are made in vectors."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from tests.support.schedule_nets import legalise, module
from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.schedules import schedule_module
from tvm_insta.schedules.generic.word_load import words_at_once
from tvm_insta.target import parse

# Channels, kernel, stride: neighbouring pixels share a part of their words in the first two.
SHAPES = [(3, 3, 1), (5, 3, 1), (3, 7, 2), (16, 1, 1)]


def scheduled(kind, shape):
    channels, kernel, stride = shape
    target = parse("llvm -mcpu=znver4")
    weight = np.ones((32, kernel, kernel, channels), np.float32)
    packed, _, _ = packing.narrow_weight(weight, kind, 16)
    specs = [
        ("data", [1, 16, 16, channels], "float32"),
        ("weight", packed.shape, str(packed.dtype)),
    ]
    how = {"kind": kind, "kernel_width": kernel, "scale": 9.0}
    how |= {"strides": [stride] * 2, "padding": [kernel // 2] * 4}
    mod = legalise(
        module(specs, lambda emit, data, weight: emit(ops.conv2d_narrow(data, weight, **how)))
    )
    mod, (record,) = schedule_module(mod, target.tvm, lanes=target.lanes)
    assert (record.rule, record.reason) == ("insta_fconv", "")
    (function,) = (f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    built = tirx.build(function.with_attr("global_symbol", "kernel"), target=target.tvm)
    return function, built.inspect_source("ll")


@pytest.mark.parametrize("kind", ["bf16", "int8"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_word_is_one_load(kind, shape):
    function, _ = scheduled(kind, shape)
    text = function.script()
    assert "T.insta_word(narrow_pad[" in text and "<<" not in text


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_are_made_in_vectors(shape):
    _, llvm = scheduled("int8", shape)
    assert "@llvm.nearbyint.v16f32(" in llvm
    assert "gather" not in llvm and "@llvm.nearbyint.f32(" not in llvm


def joined(dtype, positions, shifts):
    """``out[0] = data[positions[0]] << shifts[0] | ...`` and what `words_at_once` makes of it."""
    data = tirx.decl_buffer((16,), dtype, "data")
    out = tirx.decl_buffer((1,), "uint32", "out")
    word = tirx.const(0, "uint32")
    for position, shift in zip(positions, shifts, strict=True):
        number = tirx.BufferLoad(data, [position]).astype("uint32")
        word = word | (number << tirx.const(shift, "uint32"))
    function = tirx.PrimFunc([data, out], tirx.BufferStore(out, word, [0]))
    return "insta_word" in words_at_once(function).script()


@pytest.mark.parametrize(
    ("dtype", "positions", "shifts", "loaded"),
    [
        ("uint8", (4, 5, 6, 7), (0, 8, 16, 24), True),
        ("uint8", (7, 6, 5, 4), (24, 16, 8, 0), True),
        ("uint16", (3, 4), (0, 16), True),
        ("uint8", (7, 6, 5, 4), (0, 8, 16, 24), False),  # big-endian
        ("uint8", (4, 5, 7, 6), (0, 8, 16, 24), False),
        ("uint8", (4, 6, 8, 10), (0, 8, 16, 24), False),
        ("uint8", (4, 5), (0, 16), False),  # bytes with gaps between them
        ("uint8", (4, 5, 6), (0, 8, 16), False),
        ("uint16", (3, 4), (16, 0), False),
    ],
)
def test_only_neighbours_in_order_are_a_word(dtype, positions, shifts, loaded):
    assert joined(dtype, positions, shifts) == loaded
