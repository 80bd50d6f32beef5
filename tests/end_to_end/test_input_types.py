"""Inputs that are no floats: truths, bytes, signed bytes and indices of tables."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta

WEIGHT = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
TABLE = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))


class Of(nn.Module):
    """A binary layer of 32 levels that a function makes of the input."""

    def __init__(self, levels):
        super().__init__()
        self.weight, self.table = nn.Parameter(WEIGHT), nn.Parameter(TABLE)
        self.levels = levels

    def forward(self, x):
        return F.linear(self.levels(self, x), self.weight.sign())


# name: (what makes levels of the input, type, numbers from and below)
CASES = {
    "truths": (lambda _, x: x.float() * 2 - 1, torch.bool, (0, 2)),
    "bits of bytes": (
        lambda _, x: torch.stack([(x[:, :4] >> at) & 1 for at in range(8)], 2).flatten(1).float(),
        torch.uint8,
        (0, 256),
    ),
    "pairs of bits": (
        lambda _, x: torch.stack([(x[:, :8] >> at) & 3 for at in (0, 2, 4, 6)], 2).flatten(1) / 2,
        torch.uint8,
        (0, 256),
    ),
    "signed bytes": (lambda _, x: torch.where(x >= 0, 1.0, -1.0), torch.int8, (-128, 128)),
    "a table of signs": (lambda m, x: F.embedding(x[:, 0], m.table.sign()), torch.int64, (0, 20)),
    "a table": (lambda m, x: F.embedding(x[:, 0], m.table).sign(), torch.int64, (0, 20)),
    "a table of short indices": (
        lambda m, x: F.embedding(x[:, 0], m.table.sign()),
        torch.int32,
        (0, 20),
    ),
}


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize("example", ["zeros", "random"])
@pytest.mark.parametrize("name", CASES)
def test_layer_of_an_input(name, example, runtime):
    levels, dtype, (low, high) = CASES[name]
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(low, high, (5, 32), generator=generator).to(dtype)
    shown = x[:1] if example == "random" else torch.zeros_like(x[:1])
    network = Of(levels).eval()
    artefact = tvm_insta.build(network, shown, max_batch=5, runtime=runtime)
    assert [layer.kind for layer in artefact.report.layers] == ["binary"]
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert (artefact(x.numpy()) == network(x).numpy()).all()
