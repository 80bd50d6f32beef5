"""Products written with einsum, a constant on the left, or as an unfolded convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta

SPELLINGS = {
    "einsum over positions": lambda x, w: torch.einsum("nchw,oc->nohw", x, w),
    "einsum to the last": lambda x, w: torch.einsum("nchw,oc->nhwo", x, w),
    "constant on the left": lambda x, w: w @ x.flatten(2),
    "one matrix for all": lambda x, w: torch.matmul(w[None], x.flatten(2)),
    "of vectors": lambda x, w: x.flatten(2).transpose(1, 2) @ w.t(),
    "tensordot": lambda x, w: torch.tensordot(x, w, dims=([1], [1])),
    "addmm": lambda x, w: torch.addmm(w[0, :8], x[:, :, 0, 0], w.t()),
    "addmm with factors": lambda x, w: torch.addmm(
        w[0, :8], x[:, :, 0, 0], w.t(), beta=0.5, alpha=2
    ),
    "addmm beta 0": lambda x, w: torch.addmm(w[0, :8], x[:, :, 0, 0], w.t(), beta=0),
    "linear of an image": lambda x, w: F.linear(x.permute(0, 2, 3, 1), w),
}


class Product(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 12, generator=generator))
        self.spelling = spelling

    def forward(self, x):
        return self.spelling(torch.sign(x), self.weight.sign()).flatten(1)


class Unfolded(nn.Module):
    """A convolution as the product of its weights and the unfolded image."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 12, 3, 3, generator=generator))

    def forward(self, x):
        columns = F.unfold(torch.sign(x), 3, padding=1)
        return (self.weight.sign().flatten(1) @ columns).flatten(1)


class Windows(Unfolded):
    """The same, from views of the image's windows."""

    def forward(self, x):
        image = F.pad(torch.sign(x), (1, 1, 1, 1))
        windows = image.unfold(2, 3, 1).unfold(3, 3, 1)
        return torch.einsum("bchwij,ocij->bohw", windows, self.weight.sign()).flatten(1)


CONVOLUTIONS = {"unfolded": Unfolded, "windows": Windows}


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize("spelling", [*SPELLINGS, *CONVOLUTIONS])
def test_products_are_packed(spelling, runtime):
    network = CONVOLUTIONS.get(spelling, lambda: Product(SPELLINGS[spelling]))()
    x = torch.randn(3, 12, 4, 5, generator=torch.Generator().manual_seed(1))
    artefact = tvm_insta.build(network.eval(), x[:1], max_batch=3, runtime=runtime)
    assert [(layer.name, layer.kind) for layer in artefact.manifest.layers] == [
        ("weight", "binary")
    ]
    with torch.no_grad():
        assert (artefact(x.numpy()) == network(x).numpy()).all()
