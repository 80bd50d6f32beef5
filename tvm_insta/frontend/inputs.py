"""Random inputs of a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

HALVES = (torch.bfloat16, torch.float16)
"""Half precision: what an artefact takes and gives as float32."""


def random_tensors(
    kinds: Iterable[tuple[Sequence[int], torch.dtype]], seed: int = 0
) -> list[torch.Tensor]:
    """One tensor for each (shape, dtype): standard normal float32 numbers, or uint8 bytes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, tuple(shape), generator=generator, dtype=torch.uint8)
        if dtype == torch.uint8
        else torch.randn(tuple(shape), generator=generator)
        for shape, dtype in kinds
    ]


def as_arrays(tensors: Iterable[torch.Tensor]) -> list[npt.NDArray[Any]]:
    """Inputs as an artefact takes them: numbers of half precision as float32."""
    return [
        np.asarray((each.float() if each.dtype in HALVES else each).numpy()) for each in tensors
    ]
