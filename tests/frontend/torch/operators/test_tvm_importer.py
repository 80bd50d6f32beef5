"""Canaries: what TVM 0.27's own torch importer gets wrong, and why it is not used.

Each fails when TVM mends its importer; then the operator's own converter may go.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

Function = Callable[[torch.Tensor], torch.Tensor]


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[x > 0] = 1.0
    return y


WRONG: dict[str, Function] = {
    "alpha is dropped": lambda x: torch.add(x, x, alpha=2.5),
    "divisor_override is dropped": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "selu has wrong constants": F.selu,
    "clamp with crossed bounds": lambda x: x.clamp(1.0, -1.0),
    "integers times a fraction": lambda x: (x * 4).int() * 0.5,
    "integers compared with a fraction": lambda x: ((x * 4).int() < 0.5).float(),
    "a negative index reads out of bounds": lambda x: x[:, -1],
    "two indices": lambda x: x[:, [0, 1], [2, 3]],
    "squeeze drops the batch": lambda x: x.mean((2, 3), keepdim=True).squeeze(),
    "nearest by a fraction": lambda x: F.interpolate(x, scale_factor=1.7),
    "bilinear by a fraction": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "antialiasing is ignored": lambda x: F.interpolate(
        x, size=(3, 2), mode="bilinear", antialias=True
    ),
    "any of floats": lambda x: x.any(1),
}
"""Cases that compile and give other numbers, shapes or types."""

MISSING: dict[str, Function] = {
    "amax": lambda x: x.amax((2, 3)),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, 2),
    "group norm without weights": lambda x: F.group_norm(x, 4),
    "instance norm": F.instance_norm,
    "rrelu": F.rrelu,
    "circular padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "assignment under a mask": _assigned,
    "copysign": lambda x: torch.copysign(torch.ones_like(x), x),
    "a negative dimension": lambda x: x.narrow(-1, -3, 2),
    "parts of several types": lambda x: torch.cat([x, x.int()], 1),
    "comparison of booleans": lambda x: ((x > 0) == (x < 1)).float(),
    "sigmoid of integers": lambda x: x.int().sigmoid(),
    "unbiased variance of all": lambda x: x / x.var(),
    "im2col": lambda x: F.unfold(x, 3),
}
"""Cases at which it fails, most of them with a TypeError or an internal error."""


class _Module(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _by_tvm(function: Function, x: torch.Tensor) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=8)
        program = torch.export.export(_Module(function).eval(), (x,), dynamic_shapes=({0: batch},))
        mod = from_exported_program(program, unwrap_unit_return_tuple=True)
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x.numpy())).numpy()  # type: ignore[no-any-return]


def _image() -> torch.Tensor:
    return torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", WRONG)
def test_tvm_still_computes_something_else(name: str) -> None:
    x = _image()
    ours, theirs = _by_tvm(WRONG[name], x), WRONG[name](x).numpy()
    same = ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert not same or not np.allclose(ours, theirs, rtol=1e-5, atol=1e-6), (
        f"TVM {tvm.__version__} has mended this: see whether the converter can go"
    )


@pytest.mark.parametrize("name", MISSING)
def test_tvm_still_fails(name: str) -> None:
    with pytest.raises(Exception):  # noqa: B017 (many unrelated types)
        _by_tvm(MISSING[name], _image())
