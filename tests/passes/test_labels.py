"""The label of a kernel call: layers and operators, through legalisation, fusion and joining."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.networks import phases, signs
from tvm_insta.passes.kernels import kernels_of_layers
from tvm_insta.passes.labels import Label
from tvm_insta.passes.pipeline import fuse
from tvm_insta.passes.rewriter import op_name


class Twins(nn.Module):
    """Layers with the very same weights: the middle one has another epilogue."""

    def __init__(self):
        super().__init__()
        weight = signs((8, 8, 3, 3), 0)
        self.first, self.second, self.third = (
            nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3)
        )
        for conv in (self.first, self.second, self.third):
            conv.weight = nn.Parameter(weight.clone())

    def forward(self, x):
        x = self.first(torch.sign(x)) * 0.5
        x = F.relu(self.second(torch.sign(x)) * 0.5)
        return self.third(torch.sign(x - 1)) * 0.5


def labels(mod):
    return [
        (str(binding.value.args[0].name_hint), Label.of(binding.value))
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if op_name(binding.value) == "relax.call_tir"
    ]


def test_equal_weights_are_no_equal_layers():
    mod, report = phases(Twins().eval(), torch.randn(2, 8, 6, 6))
    for consumers in (False, True):
        fused = fuse(mod, consumers=consumers)
        kernels = {layer.name: found for layer, found in kernels_of_layers(fused, report)}
        assert set(kernels) == {"first", "second", "third"}
        assert all(len(found) == 1 for found in kernels.values())
        order = [label.layers for _, label in labels(fused) if label.layers]
        assert order == [("first",), ("second",), ("third",)]
        for symbol, label in labels(fused):
            for name in label.layers:
                assert kernels[name] == (symbol,)
                assert "insta.bitserial_conv2d_blocked" in label.operators
            assert ("relu" in symbol) == ("nn.relu" in label.operators)


def test_layers_that_differ_in_their_name_only_share_a_kernel():
    """Code does not depend on names: labels belong to calls."""
    mod, _ = phases(nn.Sequential(Pair(), Pair()).eval(), torch.randn(2, 8, 6, 6))
    found = [(symbol, label) for symbol, label in labels(fuse(mod)) if label.layers]
    assert [label.layers for _, label in found] == [("0.conv",), ("1.conv",)]
    assert len({symbol for symbol, _ in found}) == 1


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.conv.weight = nn.Parameter(signs((8, 8, 3, 3), 1))

    def forward(self, x):
        return self.conv(torch.sign(x)) * 0.5
