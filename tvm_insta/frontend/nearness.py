"""Whether tensors are equal but for rounding."""

from __future__ import annotations

import torch


def largest(value: torch.Tensor) -> float:
    """The largest finite magnitude, 0 where no element is finite."""
    wide = value.double()
    finite = wide[torch.isfinite(wide)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def is_near(found: torch.Tensor, expected: torch.Tensor, share: float) -> bool:
    """Whether no element differs by more than a share of the largest one that is expected.

    NaN is equal to NaN. Tensors of other shapes are not near.
    """
    if found.shape != expected.shape:
        return False
    most = share * largest(expected)
    return torch.allclose(found.double(), expected.double(), rtol=0.0, atol=most, equal_nan=True)
