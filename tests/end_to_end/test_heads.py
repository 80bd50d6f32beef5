"""Heads that sort, sample and fold, behind a binary layer; recurrent layers on its levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta


class Binary(nn.Conv2d):
    def forward(self, x):
        sign = torch.where(x >= 0, 1.0, -1.0)
        return F.conv2d(sign, torch.sign(self.weight), self.bias, padding=self.padding)


class Best(nn.Module):
    """The five best of 24 places, and where they are; the bias keeps them apart."""

    def forward(self, x):
        values, indices = (x.flatten(1) + torch.linspace(0, 0.5, x[0].numel())).topk(5, 1)
        return values, indices.float()


class Order(nn.Module):
    def forward(self, x):
        return torch.argsort(x, dim=1, descending=True, stable=True)


class Warp(nn.Module):
    """A spatial transformer: a grid of an image, computed from it."""

    def __init__(self, mode):
        super().__init__()
        self.mode = mode

    def forward(self, x):
        grid = torch.tanh(x[:, :2].permute(0, 2, 3, 1) * 0.1) * 1.2
        return F.grid_sample(x, grid, self.mode, "border", False)


class Fold(nn.Module):
    def forward(self, x):
        return F.fold(F.unfold(x, 3, stride=2, padding=1), x.shape[2:], 3, stride=2, padding=1)


class Sequence(nn.Module):
    """Both directions, two layers, over the rows of an image as a sequence."""

    def __init__(self, kind):
        super().__init__()
        self.layers = kind(16, 6, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.layers(x.mean(3).transpose(1, 2))[0]


HEADS = {
    "topk": Best,
    "argsort": Order,
    "grid_sample": lambda: Warp("bilinear"),
    "grid_sample nearest": lambda: Warp("nearest"),
    "fold": Fold,
    "LSTM": lambda: Sequence(nn.LSTM),
    "GRU": lambda: Sequence(nn.GRU),
    "RNN": lambda: Sequence(nn.RNN),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_give_pytorchs_answers_in_both_forms(head):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Binary(16, 16, 3, padding=1))
    network.append(HEADS[head]()).eval()
    answers = []
    for form in ("c", "vm"):
        artefact = tvm_insta.build(network, torch.randn(1, 3, 6, 5), runtime=form, max_batch=3)
        assert [layer.source.binary for layer in artefact.report.layers[:2]] == [False, True]
        for batch in (3, 1):
            x = torch.randn(batch, 3, 6, 5, generator=torch.Generator().manual_seed(batch))
            with torch.no_grad():
                expected = network(x)
            single = isinstance(expected, torch.Tensor)
            given = artefact(x.numpy())
            pairs = [(given, expected)] if single else list(zip(given, expected, strict=True))
            for ours, theirs in pairs:
                # The binary layer's integers are exact; what follows rounds a few times.
                bound = 4e-6 * max(1.0, float(theirs.abs().max()))
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=bound)
        answers.append([np.asarray(each).tobytes() for each, _ in pairs])
    assert answers[0] == answers[1]
