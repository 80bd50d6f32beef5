"""MobileNet blocks whose parallel convolutions are one kernel: forms, threads, manifest."""

from __future__ import annotations

import pytest
import torch
from torch import nn as torch_nn

import tvm_insta
from tests.passes.networks import without
from tvm_insta import nn, runtime
from tvm_insta.nn.blocks import LayerFactory, MobileNetBlock
from tvm_insta.passes.merge_parallel import NOTE, merge_parallel
from tvm_insta.passes.shortcuts import pool_shortcuts
from tvm_insta.validate import validate

SEED = 5
SHAPE = (16, 12, 12)


class Blocks(torch_nn.Module):
    """Three blocks: channels double, the image halves, both."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(SEED)
        options = nn.ModelOptions("mobilenet_v1", "insta", 10, reuse_statistics=True)
        factory = LayerFactory(options)
        self.wider = MobileNetBlock(factory, "wider", 16, 32, 1)
        self.smaller = MobileNetBlock(factory, "smaller", 32, 32, 2)
        self.both = MobileNetBlock(factory, "both", 32, 64, 2)
        for parameter in self.parameters():
            if parameter.dim() == 1:  # thresholds, slopes and batch norms start as the same number
                parameter.data += 0.1 * torch.randn(parameter.shape)

    def forward(self, x):
        statistic = None
        for block in (self.wider, self.smaller, self.both):
            x, statistic = block(x, statistic)
        return x.mean(dim=(2, 3))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(SEED))


@pytest.mark.slow
def test_forms_and_threads_give_the_bytes_of_the_network_with_branches(
    images, tmp_path, monkeypatch
):
    network = Blocks().eval()
    for form in ("vm", "c"):
        tvm_insta.build(network, images, "native", runtime=form, out_dir=tmp_path / form)
    one = runtime.load(tmp_path / "vm", threads=1)
    expected = one(images.numpy())
    findings = validate(one, network, [images])
    assert findings.failures() == []
    assert findings.bits > 0
    for form in ("vm", "c"):
        loaded = runtime.load(tmp_path / form, threads=3)
        assert loaded(images.numpy()).tobytes() == expected.tobytes()
        for at in range(3):
            alone = loaded(images[at : at + 1].numpy())
            assert alone.tobytes() == expected[at : at + 1].tobytes()

    kernels = [kernel.symbol for kernel in one.manifest.kernels]
    assert not [name for name in kernels if "concat" in name or "pool" in name]
    alone = [name for name in kernels if name.startswith(("moment_rows", "repeat"))]
    assert alone == ["moment_rows"], "of the input, which no kernel makes"
    layers = {layer.name: layer for layer in one.manifest.layers if layer.kind == "binary"}
    assert set(layers) == {
        *(f"{block}.conv1" for block in ("wider", "smaller", "both")),
        *("wider.conv2.0", "wider.conv2.1", "smaller.conv2.0", "both.conv2.0", "both.conv2.1"),
    }
    for block, out, macs in (("wider", 16, 12 * 12 * 16 * 16), ("both", 32, 3 * 3 * 32 * 32)):
        pair = [layers[f"{block}.conv2.{at}"] for at in (0, 1)]
        assert pair[0].calls == pair[1].calls != ()
        assert all(layer.macs == macs and NOTE in layer.notes for layer in pair)
        assert all(layer.weight == (out, 1, 1, out) for layer in pair)
    assert layers["smaller.conv2.0"].notes == ()

    without(monkeypatch, merge_parallel, pool_shortcuts)
    apart = tvm_insta.build(network, images, "native")
    assert apart(images.numpy()).tobytes() == expected.tobytes()
