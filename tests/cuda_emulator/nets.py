"""A small network for CUDA and for this CPU, which the tests of whole networks run."""

from __future__ import annotations

import numpy as np
import torch

import tvm_insta

TARGET = "cuda -arch=sm_90"
SEED = 7


class Block(torch.nn.Module):
    """A binary layer with a border, a stride, odd channels and everything that is fused behind."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(after, before, 3, 3))
        self.scale = torch.nn.Parameter(torch.rand(after, 1, 1) + 0.5)
        self.threshold = torch.nn.Parameter(torch.randn(1, before, 1, 1) / 4)
        self.slope = torch.nn.PReLU(after)
        self.stride = stride

    def forward(self, x):
        moment = (x**3).mean((2, 3), keepdim=True)
        bits = torch.where(x >= self.threshold + 0.1 * moment, 1.0, -1.0)
        weight = torch.where(self.weight >= 0, 1.0, -1.0)
        y = torch.nn.functional.conv2d(bits, weight, padding=1, stride=self.stride)
        return self.slope(y * self.scale)


class Small(torch.nn.Module):
    """Two binary layers, 5 to 37 to 70 channels, between a float stem and a dense layer."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 5, 3, padding=1)
        self.blocks = torch.nn.Sequential(Block(5, 37, 1), Block(37, 70, 2))
        self.fc = torch.nn.Linear(70, 4)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def build(network, size, max_batch, folder):
    """The network for this CPU and for CUDA, in two folders."""
    example = torch.zeros(1, 3, size, size)
    for name, target in (("cpu", "native"), ("cuda", TARGET)):
        tvm_insta.build(
            network,
            example,
            target=target,
            out_dir=folder / name,
            max_batch=max_batch,
            check=False,
        )


def images(count, size):
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    return rng.standard_normal((count, 3, size, size)).astype(np.float32)
