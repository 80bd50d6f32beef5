"""The choices of a convolution are applied as they stand, and scheduling changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax

from tests.support.schedule_nets import (
    AVX512,
    LANES,
    SSE,
    legalise,
    module,
    only_primfunc,
    symbolic,
)
from tvm_insta import ops
from tvm_insta.schedules import ConvTiles, back_end, schedule_module


def convolution(width: int = 6, height: int = 4, out: int = 32, batch: int | None = 1):
    """A float convolution with a bias; its input is padded by the kernel."""
    specs = [
        ("data", [symbolic(batch), height, width, 3], "float32"),
        ("weight", [out // 16, 3, 3, 3, 16], "float32"),
        ("bias", [out], "float32"),
    ]
    return module(
        specs,
        lambda emit, data, weight, bias: emit(
            relax.op.add(emit(ops.conv2d_blocked(data, weight, padding=[1, 1, 1, 1])), bias)
        ),
    )


def test_choices_are_distinct_and_hold_the_default():
    plain = legalise(convolution())
    listed = back_end(AVX512).space(only_primfunc(plain), 16)
    assert len(set(listed)) == len(listed)
    _, (record,) = schedule_module(plain, AVX512, lanes=16)
    assert record.tiles in listed
    # 4 divisors of 6 by 2 of 2 (6 x 2 is within twice 14 registers) by 3 of 4 rows by 2.
    assert len(listed) == 4 * 2 * 3 * 2


def test_every_choice_is_applied_as_it_stands():
    plain = legalise(convolution())
    ((name, function),) = [
        (v.name_hint, f) for v, f in plain.functions.items() if isinstance(f, tvm.tirx.PrimFunc)
    ]
    for tiles in back_end(AVX512).space(function, 16):
        _, (record,) = schedule_module(plain, AVX512, lanes=16, parameters={name: tiles})
        assert (record.tiles, record.reason) == (tiles, "")


def test_a_budget_limits_the_choices():
    """SSE has 12 float registers: 64 channels are 4 vectors, and 12 pixels by 4 are over twice."""
    listed = back_end(SSE).space(only_primfunc(legalise(convolution(12, out=64))), LANES[SSE])
    largest = max(tiles.width_tile * tiles.out_tile for tiles in listed)
    assert largest == 24


def test_functions_without_parameters_have_no_choices():
    mod = module([("x", [1, 4, 4, 32], "float32")], lambda emit, x: emit(relax.op.nn.relu(x)))
    assert back_end(AVX512).space(only_primfunc(legalise(mod)), 16) == []


def test_a_symbolic_batch_does_not_change_the_choices():
    one, any_batch = (only_primfunc(legalise(convolution(batch=b))) for b in (1, None))
    chosen = back_end(AVX512)
    assert chosen.space(one, 16) == chosen.space(any_batch, 16)


@pytest.mark.parametrize("tiles", [ConvTiles(), ConvTiles(2, 1, 2, True), ConvTiles(5, 1, 1)])
def test_scheduling_leaves_its_module_alone(tiles):
    """TVM 0.27 would change the body in place that a copied function shares with the original.

    The last tiles do not fit: the second attempt must start from an untouched function.
    """
    plain = legalise(convolution())
    (name,) = [v.name_hint for v, f in plain.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    before = tvm.ir.load_json(tvm.ir.save_json(plain))
    first, records = schedule_module(plain, AVX512, lanes=16, parameters={name: tiles})
    assert tvm_ffi.structural_equal(plain, before)
    again, _ = schedule_module(plain, AVX512, lanes=16, parameters={name: tiles})
    assert tvm_ffi.structural_equal(first, again)
    assert records[0].rule == "insta_fconv"
    assert bool(records[0].reason) == (tiles.width_tile == 5)


def test_all_choices_compute_the_same_bits(rng):
    """Every choice of a float convolution keeps the order of its sums."""
    plain = legalise(convolution())
    ((name, function),) = [
        (v.name_hint, f) for v, f in plain.functions.items() if isinstance(f, tvm.tirx.PrimFunc)
    ]
    arrays = [
        rng.standard_normal([int(d) for d in p.shape]).astype(np.float32) for p in function.params
    ]
    listed = back_end(SSE).space(function, LANES[SSE])
    found = set()
    for tiles in listed[:: max(1, len(listed) // 8)]:
        scheduled, _ = schedule_module(plain, SSE, lanes=4, parameters={name: tiles})
        kernel = scheduled[name].with_attr("global_symbol", "main")
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        tvm.compile(tvm.IRModule({"main": kernel}), target=SSE)["main"](*tensors)
        found.add(tensors[-1].numpy().tobytes())
    assert len(found) == 1
