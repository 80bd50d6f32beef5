from __future__ import annotations

import pytest
import torch

from tvm_insta import nn
from tvm_insta.errors import ModelError


def test_resnet18_counts() -> None:
    counts = nn.count(nn.create("resnet18", "baseline"))
    # ReActNet's published count, to its four digits.
    assert round(counts.binary_macs / 1e9, 3) == 1.676
    assert sum(layer.binary for layer in counts.layers) == 16
    stages = [layer.output_shape for layer in counts.layers if layer.binary]
    assert stages[::4] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    # One stage-1 layer by hand.
    assert counts.layers[1].macs == 56 * 56 * 64 * 64 * 9
    # 3x3 weights: stage 1 keeps 64 channels, each later stage doubles once and keeps three times.
    expected = 9 * (4 * 64**2 + sum(c * c // 2 + 3 * c * c for c in (128, 256, 512)))
    assert counts.binary_parameters == expected


def test_mobilenet_counts() -> None:
    counts = nn.count(nn.create("mobilenet_v1", "baseline"))
    # ReActNet-A's published counts, to their four digits.
    assert round(counts.binary_macs / 1e9, 3) == 4.817
    assert round(counts.float_macs / 1e8, 4) == 0.1186
    # 13 3x3, and 13 1x1 with a second one where the channels double.
    assert sum(layer.binary for layer in counts.layers) == 13 + 13 + 5


@pytest.mark.parametrize("model", nn.MODELS)
def test_instance_aware_variants_cost_no_binary_work(model: str) -> None:
    base, insta, plus = (nn.count(nn.create(model, variant)) for variant in nn.VARIANTS)
    assert base.binary_macs == insta.binary_macs == plus.binary_macs
    assert base.float_macs == insta.float_macs < plus.float_macs
    network = nn.create(model, "insta")
    terms = sum(p.numel() for name, p in network.named_parameters() if name.endswith((".a", ".g1")))
    assert insta.float_parameters - base.float_parameters == terms


def test_parameters_and_bytes_by_hand() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 9, 1, bias=False),  # 27 float
        nn.RSign(9),  # 9
        nn.BinaryConv2d(9, 5, 3, groups=1),  # 405 bits, 5 scales
        torch.nn.Flatten(),
        nn.BinaryLinear(20, 3),  # 60 bits, 3 scales
        torch.nn.Linear(3, 2),  # 8
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counts = nn.count(model, (3, 2, 2))
    assert counts.binary_parameters == 465
    assert counts.float_parameters == 27 + 9 + 5 + 3 + 8
    assert counts.binary_macs == 4 * 405 + 60
    assert counts.float_macs == 4 * 27 + 6
    assert model.training and all(not m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_foreign_module_needs_a_shape() -> None:
    with pytest.raises(ModelError, match="give shape"):
        nn.count(torch.nn.Linear(3, 2))
