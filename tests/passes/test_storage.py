"""Which tensors are stored in float16, and that kernels are scheduled as before."""

from __future__ import annotations

import functools

import pytest
import torch
from tvm import relax
from tvm.ir import Call

from tests.passes.networks import phases, tiny_resnet
from tvm_insta.passes.pipeline import fuse
from tvm_insta.passes.storage import store_half
from tvm_insta.schedules import schedule_module
from tvm_insta.target import parse

X = torch.zeros(1, 3, 16, 16)


@functools.cache
def fused(reuse=False):
    mod, report = phases(tiny_resnet(reuse_statistics=reuse), X)
    return fuse(mod, report, consumers=True)


def tensors(mod):
    """(kernel, shape, dtype) of everything that main's kernels return."""
    found = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if not isinstance(binding.value, Call):
                continue
            ty = binding.var.ty
            for each in [ty] if isinstance(ty, relax.TensorType) else ty.fields:
                name = str(binding.value.args[0].name_hint)
                found.append((name, tuple(each.shape.values)[1:], str(each.dtype.dtype)))
    return found


@pytest.mark.parametrize("reuse", [False, True])
def test_images_are_stored_in_half_and_nothing_else(reuse):
    before = fused(reuse)
    after = store_half(before)
    assert len(tensors(before)) == len(tensors(after))
    changed = []
    for (name, shape, old), (new_name, new_shape, new) in zip(
        tensors(before), tensors(after), strict=True
    ):
        assert new_name.removesuffix("_half").rstrip("0123456789") in name
        assert shape == new_shape
        if old != new:
            assert (old, new) == ("float32", "float16") and len(shape) == 3
            changed.append((name, tuple(map(int, shape))))
        elif old == "float32" and len(shape) == 3:
            # sums of rows, thresholds of an instance, and what the stem and the shortcut read
            pixels = int(shape[0]) * int(shape[1])
            kept = ("moment", "transpose", "avg_pool")
            assert pixels == 1 or any(part in name for part in kept), name
    assert {shape for _, shape in changed} == {(16, 16, 32), (8, 8, 32), (4, 4, 64)}
    assert len(changed) >= 6


def test_the_rules_of_the_schedules_are_the_same():
    """Consumers are still fused, and nothing falls back to a slower rule, on any of its targets."""
    mod = fused()
    for target in map(parse, ("avx512", "avx2", "cortex-a53", "cortex-a76")):
        _, old = schedule_module(mod, target.tvm, lanes=target.lanes)
        _, new = schedule_module(store_half(mod), target.tvm, lanes=target.lanes)
        assert sorted((r.rule, r.reason) for r in old) == sorted((r.rule, r.reason) for r in new)
