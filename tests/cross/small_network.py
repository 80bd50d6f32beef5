"""A network that compiles in a second, for tests of what surrounds the kernels."""

from __future__ import annotations

import torch

SHAPE = (3, 8, 8)


def make():
    """A float convolution and a linear layer, seeded."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 8 * 8, 10),
    )


def arguments(folder):
    """The arguments of ``tvm_insta.compile`` that name this network and the output folder."""
    shape = ",".join(map(str, SHAPE))
    return ["--factory", f"{__file__}:make", "--input-shape", shape, "-o", str(folder)]
