"""Inputs to validate with, where no images are given."""

from __future__ import annotations

import torch

from tvm_insta.errors import InputError
from tvm_insta.runtime.manifest import Manifest


def random_inputs(manifest: Manifest, batch: int, seed: int) -> list[torch.Tensor]:
    """Standard normal inputs of the shapes an artefact takes.

    Raises:
        InputError: an input is not float32.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for tensor in manifest.inputs:
        if tensor.dtype != "float32":
            raise InputError(
                f"input {tensor.name} is {tensor.dtype}, but random inputs are float32: give a file"
            )
        shape = [batch, *(int(dim) for dim in tensor.shape[1:])]
        tensors.append(torch.randn(shape, generator=generator))
    return tensors
