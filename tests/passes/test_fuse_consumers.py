"""Which kernels are fused, where their bits end, and that nothing is computed otherwise."""

from __future__ import annotations

import math

import pytest
import torch
import tvm
from torch import nn as torch_nn
from tvm import relax

from tests.end_to_end.test_spiking import Spiking
from tests.passes.networks import execute, phases
from tests.support.small import small_resnet
from tvm_insta.passes.labels import PACKS, Label, kernel_calls
from tvm_insta.passes.pipeline import fuse


def kernels(mod):
    """The kernels that main calls, in order."""
    return [
        str(binding.value.args[0].name_hint)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if getattr(getattr(binding.value, "op", None), "name", "") == "relax.call_tir"
    ]


def network(variant, **options):
    model = small_resnet(variant, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".a", ".g1")):  # instance-aware modules start without effect
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, torch.randn(1, 3, 16, 16, generator=generator)


def fused(model, x, **options):
    mod, report = phases(model, x, **options)
    return mod, fuse(mod, report, consumers=True), report


@pytest.mark.parametrize(
    ("variant", "options", "per_block"),
    [
        # conv with the whole epilogue and the packing of the next block
        ("baseline", {}, 1),
        # conv + rows, thresholds, PReLU + rows, thresholds, pack
        ("insta", {}, 5),
        ("insta", {"statistic": "mean"}, 5),
        # conv + rows of the mean, mean, rows around it, threshold, and the same once more
        ("insta", {"statistic": "variance"}, 9),
        # conv + rows, thresholds of both, PReLU + pack
        ("insta", {"reuse_statistics": True}, 3),
    ],
    ids=["baseline", "insta", "mean", "variance", "reuse"],
)
@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch", "batch 1"])
def test_kernels_of_a_block(variant, options, per_block, dynamic):
    model, x = network(variant, **options)
    _, mod, _ = fused(model, x, dynamic=dynamic)
    names = kernels(mod)
    convs = [at for at, name in enumerate(names) if "bitserial_conv2d" in name]
    # Blocks 2 and 3 of the first stage have no shortcut kernels of their own.
    assert convs[2] - convs[1] == per_block, names[convs[1] : convs[2]]
    assert not any(name.startswith("moments") or name.startswith("reshape") for name in names[:-4])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", "insta", "insta_plus"])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch", "batch 1"])
def test_fusing_changes_no_bit(variant, reuse, dynamic):
    if variant == "baseline" and reuse:
        pytest.skip("the baseline has no statistics")
    model, x = network(variant, **({"reuse_statistics": True} if reuse else {}))
    lowered, mod, report = fused(model, x, dynamic=dynamic)
    plain = fuse(lowered)
    # TVM's default pipeline: same TIR blocks, no schedule of ours.
    assert execute(mod, x).tobytes() == execute(plain, x).tobytes()
    assert len(kernels(mod)) < len(kernels(plain))
    assert len(report.packs) == 6  # two stages of three blocks


def test_sites_say_where_the_bits_are():
    model, x = network("insta", select=("stage1",))
    _, mod, report = fused(model, x)
    packing = packing_calls(mod)
    assert sorted(pack.kernel for pack in report.packs) == list(range(len(packing)))
    for pack in report.packs:
        call = packing[pack.kernel]
        assert str(outputs(call)[pack.output].dtype.dtype) == "uint32"
        assert place(call, pack.source).shape.values[3] == pack.channels
        constant = call.args[1].fields[int(pack.threshold.split(":")[1])]
        assert isinstance(constant, tvm.ir.GenericConst) == (pack.thresholds is not None)
    assert {pack.source.split(":")[0] for pack in report.packs} == {"argument", "output"}


def test_sites_follow_the_bits_where_fusion_moves_calls():
    """TVM's FuseOps puts the two images' packs in front of the two vectors'."""
    model, x = Spiking(steps=2).eval(), torch.zeros(1, 3, 8, 8)
    _, mod, report = fused(model, x)
    packing = packing_calls(mod)
    channels = [pack.channels for pack in report.packs]
    assert sorted(channels) == [8, 8, 128, 128]
    assert [pack.kernel for pack in report.packs] != list(range(4))  # what is to be tried
    assert sorted(pack.kernel for pack in report.packs) == list(range(4))
    for pack in report.packs:
        call = packing[pack.kernel]
        words = outputs(call)[pack.output].shape.values[-1]
        assert int(words) == -(-pack.channels // 32)
        own = [int(dim) for dim in place(call, pack.source).shape.values[1:]]
        assert pack.channels in (own[-1], math.prod(own))  # vectors are compared as images lie


def packing_calls(mod):
    """The calls that compare with thresholds, in order."""
    return [call for call in kernel_calls(mod) if not PACKS.isdisjoint(Label.of(call).operators)]


def outputs(call):
    ty = call.ty_args[0]
    return [ty] if isinstance(ty, relax.TensorType) else list(ty.fields)


def place(call, text):
    kind, number = text.split(":")
    return outputs(call)[int(number)] if kind == "output" else call.args[1].fields[int(number)].ty


class Crossed(torch_nn.Module):
    """Two branches, each compared with thresholds that come from the other: neither can wait."""

    def forward(self, x):
        a, b = torch.relu(x + 1), torch.relu(x - 1)
        m_a, m_b = ((t * t * t).mean(dim=(2, 3), keepdim=True) for t in (a, b))
        bits = [torch.where(t >= m, 1.0, -1.0) for t, m in ((a, m_b), (b, m_a))]
        weight = torch.ones(4, 8, 1, 1)
        first, second = (torch.nn.functional.conv2d(bit, weight) for bit in bits)
        return first + 2 * second + a[:, :4] + b[:, :4]


def test_no_circle_of_kernels():
    model = Crossed().eval()
    x = torch.randn(1, 8, 6, 5, generator=torch.Generator().manual_seed(1))
    lowered, mod, _ = fused(model, x)
    assert execute(mod, x).tobytes() == execute(fuse(lowered), x).tobytes()
