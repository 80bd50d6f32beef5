"""Shortcuts that are computed in the epilogue that adds them, and those that are not."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn
from tvm import relax

from tests.passes.networks import Halving, agree, calls, execute, phases, without
from tests.passes.test_fuse_consumers import kernels
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.kernels import kernels_of_layers
from tvm_insta.passes.merge_parallel import merge_parallel
from tvm_insta.passes.pipeline import fuse, run_pipeline
from tvm_insta.passes.shortcuts import pool_shortcuts
from tvm_insta.runtime import cpu
from tvm_insta.schedules import BINARY_CONVOLUTIONS
from tvm_insta.target import parse

TOLERANCE = 4e-6
"""Values are below 8, and a handful of float32 operations round them by 2**-22 each at most."""


def image(channels, batch=2):
    return torch.randn(batch, channels, 8, 6, generator=torch.Generator().manual_seed(channels))


def compiled(module, x, target):
    """Run through our passes and schedules; returns what executes the network, and the records."""
    imported = import_torch(module, [x[:1]], max_batch=4, dynamic=True)
    done = run_pipeline(imported, Context(target))
    machine = relax.VirtualMachine(tvm.compile(done.mod, target=target.tvm), tvm.cpu())
    run = machine["main"]
    return lambda images: run(tvm.runtime.tensor(images.numpy())).numpy(), done


@pytest.mark.parametrize(("channels", "branches"), [(32, 2), (7, 3)])
def test_they_are_part_of_the_kernel_that_adds_them(channels, branches):
    module, x = Halving(channels, branches).eval(), image(channels)
    mod, report = phases(module, x)
    assert {"relax.insta.halving_pool", "relax.insta.repeat_channels"} <= set(calls(mod))
    fused, plain = fuse(mod, report, consumers=True), fuse(mod)
    names = kernels(fused)
    assert sum("conv2d" in name for name in names) == 2
    assert not [name for name in names if re.match("halving|repeat|avg_pool|concat", name)]
    assert {"halving_pool", "repeat_channels"} <= set(kernels(plain))
    agree(module, fused, x, TOLERANCE)
    assert execute(fused, x.numpy()).tobytes() == execute(plain, x.numpy()).tobytes()


@pytest.mark.parametrize("name", ["native", "avx2", "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64"])
def test_scheduled_kernels_compute_what_the_network_as_it_stands_computes(name, monkeypatch):
    target = parse(name)
    if cpu.missing(target.needs):
        pytest.skip("this CPU lacks the instructions")
    module, x = Halving(24).eval(), image(24, batch=3)
    run, done = compiled(module, x, target)
    assert sum(record.rule in BINARY_CONVOLUTIONS for record in done.schedules) == 2
    assert not [record for record in done.schedules if record.reason]
    pair = [found for found in kernels_of_layers(done.mod, done.report) if found[0].together]
    assert [layer.macs for layer, _ in pair] == [4 * 3 * 24 * 24] * 2
    (symbols, others) = (symbols for _, symbols in pair)
    assert len(symbols) == 1 and symbols == others
    result = run(x)
    with torch.no_grad():
        np.testing.assert_allclose(result, module(x), rtol=0, atol=TOLERANCE)
    for at in range(3):
        assert run(x[at : at + 1]).tobytes() == result[at : at + 1].tobytes()

    without(monkeypatch, merge_parallel, pool_shortcuts)
    apart, done = compiled(module, x, target)
    assert {"concatenate", "avg_pool2d"} <= {record.function for record in done.schedules}
    assert apart(x).tobytes() == result.tobytes()


SCALAR_LOADS = {"x86_64": r"vgather|insertps|pinsrd", "aarch64": r"\bldr\ts\d"}


@pytest.mark.parametrize("name", ["avx512", "cortex-a72"])
def test_epilogues_load_vectors(name):
    """A channel modulo C is no reason to load one by one, where C is a number of whole vectors."""
    target = parse(name)
    found = {}
    for channels in (64, 24):
        imported = import_torch(
            Halving(channels).eval(), [image(channels)[:1]], max_batch=1, dynamic=False
        )
        done = run_pipeline(imported, Context(target))
        convs = {
            variable: function.with_attr("global_symbol", variable.name_hint)
            for variable, function in done.mod.functions.items()
            if "bitserial_conv2d" in variable.name_hint
        }
        assert len(convs) == 2
        library = tvm.compile(tvm.IRModule(convs), target=target.tvm)
        text = library.mod.inspect_source("asm")
        found[channels] = len(re.findall(SCALAR_LOADS[target.arch], text))
    assert found[64] <= 1, found
    assert found[24] > 8, f"what is counted does occur: {found}"


class Kept(nn.Module):
    """Pools that are no shortcut of a halving block, or more than that."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = Halving(8)

    def forward(self, x):
        pooled = {
            "three": lambda: F.avg_pool2d(x, 3, 2, padding=1),
            "padded": lambda: F.avg_pool2d(x, 2, 2, padding=(0, 1))[:, :, :, 1:],
            "stride": lambda: F.avg_pool2d(x, 2, 1)[:, :, ::2, ::2],
            "ceil": lambda: F.avg_pool2d(x[:, :, :7], 2, ceil_mode=True),
            "max": lambda: F.max_pool2d(x, 2),
            "not added": lambda: torch.tanh(F.avg_pool2d(x, 2)),
        }[self.kind]()
        bits = torch.where(x >= 0, 1.0, -1.0)
        return F.conv2d(bits, self.inner.weights[0], stride=2, padding=1) * 0.125 + pooled


@pytest.mark.parametrize("kind", ["three", "padded", "stride", "ceil", "max", "not added"])
def test_other_pools_stay(kind):
    module, x = Kept(kind).eval(), image(8)
    mod, _ = phases(module, x)
    assert "relax.insta.halving_pool" not in calls(mod)
    assert {"relax.nn.avg_pool2d", "relax.nn.max_pool2d"} & set(calls(mod))
    agree(module, fuse(mod, consumers=True), x, TOLERANCE)


class Twice(Halving):
    """The repeated shortcut is of a tensor that is the result, too; the pool is read twice."""

    def forward(self, x):
        pooled = F.avg_pool2d(x, 2)
        bits = torch.where(pooled >= 0, 1.0, -1.0)
        first = self.norms[0](F.conv2d(bits, self.weights[0], padding=1)) + pooled
        return torch.cat([first, pooled], 1) * 2.0


def test_a_pool_with_two_readers_stays():
    module, x = Twice(8).eval(), image(8)
    mod, report = phases(module, x)
    assert "relax.nn.avg_pool2d" in calls(mod)
    agree(module, fuse(mod, report, consumers=True), x, TOLERANCE)


def test_cuda_computes_shortcuts_in_the_epilogue():
    imported = import_torch(Halving(8).eval(), [image(8)[:1]], max_batch=4, dynamic=True)
    target = parse("cuda -arch=sm_80")
    done = run_pipeline(imported, Context(target))
    functions = {record.function for record in done.schedules}
    assert not {"halving_pool", "repeat_channels"} & functions
    assert not [record for record in done.schedules if record.rule == "unscheduled"]
