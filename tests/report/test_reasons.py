"""One network with a layer for each reason to stay float: explain names path, reason and advice."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tvm_insta.frontend import Reason
from tvm_insta.report.advice import ADVICE
from tvm_insta.report.tables import WIDTH

CHANNELS = 24
SEED = 0


def signs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED)).sign()


def staircase(x, values):
    """The value of the highest threshold that x reaches."""
    result = torch.full_like(x, values[0])
    for at, value in enumerate(values[1:]):
        result = torch.where(x >= 0.1 * at, value, result)
    return result


class Layer(nn.Module):
    """A convolution behind `change`."""

    def __init__(self, change, weight=None):
        super().__init__()
        self.change = change
        self.weight = nn.Parameter(signs(CHANNELS, CHANNELS, 3, 3) if weight is None else weight)

    def forward(self, x):
        return F.conv2d(self.change(x), self.weight, padding=1).mean((2, 3))


class Computed(nn.Module):
    def forward(self, x):
        weight = torch.sign(x[0].mean((1, 2)) - 0.1).reshape(1, CHANNELS, 1, 1)
        return F.conv2d(torch.sign(x), weight.repeat(CHANNELS, 1, 1, 1)).mean((2, 3))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, CHANNELS, 3, bias=False)

    def forward(self, x):
        return self.conv(torch.sign(x)[:, None]).mean((2, 3, 4))


SCALES = torch.linspace(0.5, 1.5, CHANNELS).reshape(1, CHANNELS, 1, 1)
LAYERS = {
    Reason.NETWORK_INPUT: lambda: Layer(lambda x: x),
    Reason.REAL_INPUT: lambda: Layer(torch.relu),
    Reason.UNDEFINED_AT_ZERO: lambda: Layer(lambda x: x / x.abs()),
    Reason.INPUT_CHANGED: lambda: Layer(lambda x: torch.softmax(torch.sign(x), 1)),
    Reason.MANY_LEVELS: lambda: Layer(lambda x: torch.round(torch.clamp(x, 0, 1) * 20) / 20),
    Reason.UNEVEN_LEVELS: lambda: Layer(lambda x: staircase(x, (0.0, 1.0, 5.0, 7.3))),
    Reason.CHANNEL_LEVELS: lambda: Layer(lambda x: torch.sign(x) * SCALES),
    Reason.REAL_WEIGHTS: lambda: Layer(
        torch.sign,
        torch.randn(CHANNELS, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(SEED)),
    ),
    Reason.MANY_WEIGHT_LEVELS: lambda: Layer(
        torch.sign,
        torch.tensor([0.0, 1.0, 7.0, 19.0, 30.0])[
            torch.arange(CHANNELS * CHANNELS * 9) * 7 % 5
        ].reshape(CHANNELS, CHANNELS, 3, 3),
    ),
    Reason.INPUT_CHANNEL_SCALES: lambda: Layer(
        torch.sign, signs(CHANNELS, CHANNELS, 3, 3) * SCALES
    ),
    Reason.COMPUTED_WEIGHTS: Computed,
    Reason.DIMENSIONS: Volume,
}


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        for code, make in LAYERS.items():
            self.add_module(code.name.lower(), make())

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    x = torch.randn(1, CHANNELS, 6, 6, generator=torch.Generator().manual_seed(SEED))
    folder = tmp_path_factory.mktemp("everything")
    options = {"out_dir": folder, "max_batch": 1, "check": False}
    return tvm_insta.build(Everything().eval(), x, **options).explain()


def test_every_reason_has_a_layer_and_advice():
    assert set(LAYERS) == set(Reason)
    assert set(ADVICE) == {reason.value for reason in Reason}


@pytest.mark.parametrize("code", Reason, ids=lambda code: code.value)
def test_explain_names_path_reason_and_advice(explained, code):
    path = code.name.lower()
    (row,) = [row for row in explained.layers if row.name.split(".")[0] == path]
    assert row.kind == "float"
    assert code.value in [each.code for each in row.advice], row.reason
    said = " ".join(str(explained).split())
    assert f"{row.name} ({row.op})" in said and row.reason in said
    assert f"{code.value}: {ADVICE[code.value]}" in said


def test_lines_fit_a_terminal(explained):
    assert max(map(len, str(explained).splitlines())) <= WIDTH
