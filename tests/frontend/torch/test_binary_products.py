"""Products of two binarised tensors: packed whatever their spelling, else a reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tvm_insta

SEED = 11
TOKENS, HEADS, SIZE = 9, 2, 12


def one(x):
    return torch.where(x >= 0, 1.0, -1.0)


def zero_one(x):
    return torch.where(x > 0.25, 1.0, 0.0)


def two_bits(x):
    return torch.round(x.clamp(0, 1) * 3)


def signed_two_bits(x):
    """-2 to 1, as quantisers of two bits give them."""
    return torch.round(x.clamp(-2, 1))


def heads(x):
    """``[N, T, C] -> [N, heads, T, C / heads]``."""
    return x.view(*x.shape[:-1], HEADS, SIZE).permute(0, 2, 1, 3)


def flat(x):
    """``[N, heads, T, C] -> [N * heads, T, C]``."""
    return x.reshape(-1, TOKENS, SIZE)


PACKED = {
    # spelling of q and k, [N, T, C], and of both by heads: bits of the factors
    "transposed": (lambda q, k, qh, kh: one(qh) @ one(kh).transpose(-1, -2), (1, 1)),
    "ternary": (lambda q, k, qh, kh: torch.sign(qh) @ torch.sign(kh).mT, (2, 2)),
    "bmm": (lambda q, k, qh, kh: torch.bmm(one(flat(qh)), one(flat(kh)).transpose(1, 2)), (1, 1)),
    "einsum": (
        lambda q, k, qh, kh: torch.einsum("nhqd,nhkd->nhqk", one(qh), torch.sign(kh)),
        (1, 2),
    ),
    "summed over tokens": (lambda q, k, qh, kh: zero_one(q).transpose(1, 2) @ one(k) * 0.5, (1, 1)),
    "zero or one": (lambda q, k, qh, kh: (zero_one(q) * 0.5) @ zero_one(k).mT, (1, 1)),
    "two bits": (lambda q, k, qh, kh: two_bits(q) @ torch.sign(k).transpose(-1, -2), (2, 2)),
    "a threshold per channel": (
        lambda q, k, qh, kh: one(q).mT @ one(k - torch.linspace(-1, 1, HEADS * SIZE)),
        (1, 1),
    ),
    "a threshold per token": (
        lambda q, k, qh, kh: one(q).mT @ one(k - torch.linspace(-1, 1, TOKENS)[:, None]),
        (1, 1),
    ),
    "one view written twice": (
        lambda q, k, qh, kh: (
            one(heads(q)) @ one(q.view(*q.shape[:-1], HEADS, SIZE)).permute(0, 2, 3, 1)
        ),
        (1, 1),
    ),
    "a computed threshold": (
        lambda q, k, qh, kh: one(q).mT @ one(k - k.amax((1, 2), True) / 4),
        (1, 1),
    ),
    "an offset of one": (lambda q, k, qh, kh: one(q) @ (zero_one(k) + 0.5).mT, (1, 1)),
    "offsets of both": (
        lambda q, k, qh, kh: signed_two_bits(qh) @ (signed_two_bits(kh) * 0.25).mT,
        (2, 2),
    ),
    "an offset of the first, summed over tokens": (
        lambda q, k, qh, kh: (zero_one(q) + 3.0).transpose(1, 2) @ torch.sign(k),
        (1, 2),
    ),
    "offsets and one view": (
        lambda q, k, qh, kh: signed_two_bits(q) @ signed_two_bits(q).mT,
        (2, 2),
    ),
}

FLOAT = {
    "real": (lambda q, k, qh, kh: q @ one(k).mT, "its first factor is real-valued"),
    "both real": (lambda q, k, qh, kh: one(q) @ k.mT, "its second factor is real-valued"),
    "many": (
        lambda q, k, qh, kh: torch.round(q.clamp(0, 1) * 7) @ two_bits(k).mT,
        "6 products of planes",
    ),
    "broadcast": (lambda q, k, qh, kh: one(qh) @ one(kh[:, :1]).mT, "are not packed"),
}


class Products(nn.Module):
    """Every spelling, side by side."""

    def __init__(self, spellings):
        super().__init__()
        self.spellings = spellings

    def forward(self, x):
        q, k = x.chunk(2, -1)
        both = q, k, heads(q), heads(k)
        found = [spelling(*both) for spelling, _ in self.spellings.values()]
        return torch.cat([each.reshape(x.shape[0], -1) for each in found], 1)


@pytest.fixture
def x():
    """Halves, so that zeros and sums on a threshold are frequent."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (3, TOKENS, 2 * HEADS * SIZE)
    return torch.randint(-4, 5, shape, generator=generator) / 2


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_products_are_packed_and_exact(x, runtime):
    network = Products(PACKED).eval()
    artefact = tvm_insta.build(network, x[:1], max_batch=3, runtime=runtime)
    layers = artefact.manifest.layers
    found = [(layer.kind, (layer.bits, layer.weight_bits)) for layer in layers]
    assert found == [("binary", bits) for _, bits in PACKED.values()]
    assert {layer.op for layer in layers} == {"matmul"}
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert (artefact(x.numpy()) == network(x).numpy()).all(), f"seed {SEED}"


def test_others_say_why(x):
    artefact = tvm_insta.build(Products(FLOAT).eval(), x[:1], max_batch=3)
    for layer, (_, reason) in zip(artefact.manifest.layers, FLOAT.values(), strict=True):
        assert layer.kind == "float" and reason in layer.reason
