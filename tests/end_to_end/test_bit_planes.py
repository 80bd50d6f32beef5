"""Bit planes of pixels as a first layer's input: scalars lie between the kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta


class BitPlanes(nn.Module):
    """Three bits of each pixel are channels of a binary layer."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(4, 9, 3, 3, generator=generator))

    def forward(self, x):
        code = torch.round(x.clamp(0, 1) * 7)
        planes = torch.cat([torch.floor(code / 2**bit) % 2 for bit in range(3)], 1)
        return F.conv2d(planes, self.weight.sign(), padding=1)


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_bits_of_pixels_are_packed(runtime):
    network = BitPlanes().eval()
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    artefact = tvm_insta.build(network, x[:1], "native", runtime=runtime, max_batch=3)
    assert [layer.kind for layer in artefact.report.layers] == ["binary"]
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert (artefact(x.numpy()) == network(x).numpy()).all()
