"""Builds in several threads wait for each other, and leave nothing behind in PyTorch's classes."""

from __future__ import annotations

import builtins
import threading

import numpy as np
import torch
from torch import nn

import tvm_insta

KINDS = (torch.SymInt, torch.SymFloat, torch.SymBool)


class Scaled(nn.Module):
    """Asks for the size of the batch, which tracing watches."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return torch.sign(x.reshape(len(x), -1)) * self.factor


def test_builds_in_two_threads(tmp_path):
    before = [dict(vars(kind)) for kind in KINDS], builtins.len
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    results: dict[int, np.ndarray] = {}

    def build(index: int) -> None:
        artefact = tvm_insta.build(
            Scaled(index + 1.0).eval(), x, "llvm", max_batch=4, out_dir=tmp_path / str(index)
        )
        results[index] = artefact(x.numpy())

    threads = [threading.Thread(target=build, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ([dict(vars(kind)) for kind in KINDS], builtins.len) == before
    signs = np.sign(x.numpy().reshape(1, -1))
    assert {k: v.tobytes() for k, v in results.items()} == {
        index: (signs * np.float32(index + 1)).tobytes() for index in range(4)
    }
