"""Inputs to validate with, where no images are given."""

from __future__ import annotations

import torch

from tvm_insta.errors import InputError
from tvm_insta.frontend import random_tensors
from tvm_insta.runtime.manifest import Manifest


def random_inputs(manifest: Manifest, batch: int, seed: int) -> list[torch.Tensor]:
    """Inputs of the shapes an artefact takes: standard normal numbers, or random bytes.

    Raises:
        InputError: an input is neither float32 nor uint8.
    """
    kinds = []
    for tensor in manifest.inputs:
        if tensor.dtype not in ("float32", "uint8"):
            raise InputError(
                f"input {tensor.name} is {tensor.dtype}, but random inputs are float32 or uint8: "
                "give a file"
            )
        shape = [batch, *(int(dim) for dim in tensor.shape[1:])]
        kinds.append((shape, getattr(torch, tensor.dtype)))
    return random_tensors(kinds, seed)
