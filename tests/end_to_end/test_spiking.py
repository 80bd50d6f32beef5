"""Spiking networks: neurons that keep a potential over steps in forward, unrolled by tracing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta

SEED = 5


class Neurons(nn.Module):
    """Leaky neurons; what they keep is set back at the begin of forward."""

    def __init__(self, *, hard):
        super().__init__()
        self.hard, self.potential = hard, 0.0

    def forward(self, x):
        v = self.potential + (x - self.potential) / 2
        spikes = (v - 1 > 0).float()
        self.potential = v * (1 - spikes) if self.hard else v - spikes
        return spikes


class Spiking(nn.Module):
    """Images of spikes and vectors of spikes: the steps mix kernels that pack either."""

    def __init__(self, steps=3):
        super().__init__()
        self.steps, self.stem = steps, nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = Neurons(hard=True), Neurons(hard=False)
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        self.first.potential = self.second.potential = 0.0
        x, result = self.stem(x) * 3, 0.0
        for _ in range(self.steps):
            y = F.conv2d(self.first(x), self.conv.weight.sign(), padding=1)
            y = F.max_pool2d(self.second(self.norm(y)), 2).flatten(1)
            result = result + F.linear(y, self.head.weight.sign(), self.head.bias)
        return result / self.steps


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(SEED)
    return Spiking().eval()


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_a_spiking_network_is_packed_and_valid(network, runtime):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(SEED + 1))
    artefact = tvm_insta.build(network, x[:1], "native", runtime=runtime, max_batch=4)
    assert artefact.manifest.options["checked"] == "passed"
    kinds = {layer.name: layer.kind for layer in artefact.report.layers}
    assert kinds.pop("stem") == "float" and set(kinds.values()) == {"binary"} and len(kinds) == 6
    # The potential is computed where the epilogue reads it; no kernel falls back.
    assert not [record for record in artefact.report.schedules if record.reason]
    with torch.no_grad():
        # Sums of integers; the stem's rounding turns no spike of these images round.
        torch.testing.assert_close(
            torch.from_numpy(artefact(x.numpy())), network(x), rtol=1e-5, atol=1e-5
        )
