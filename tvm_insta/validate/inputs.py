"""Inputs to validate with: tensors, files that are read one by one, or random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from tvm_insta.errors import InputError
from tvm_insta.frontend import random_tensors
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.preprocess import Preprocessing, load_images


class Images(Protocol):
    """Any number of images, one of which is in memory at a time."""

    def __len__(self) -> int:
        """How many there are."""

    def one(self, index: int) -> list[torch.Tensor]:
        """Each input of one image, ``[1, ...]``."""


class Tensors:
    """Images that are in memory.

    Args:
        inputs: one tensor per input, ``[images, ...]``.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        """How many there are."""
        return int(self._inputs[0].shape[0])

    def one(self, index: int) -> list[torch.Tensor]:
        """See `Images.one`."""
        return [tensor[index : index + 1] for tensor in self._inputs]


class Files:
    """Image files, each of which is read when it is needed.

    Args:
        paths: of images.
        how: the preprocessing.
        dtype: of the network's input.
    """

    def __init__(self, paths: Sequence[Path], how: Preprocessing, dtype: str) -> None:
        self._paths, self._how, self._dtype = paths, how, dtype

    def __len__(self) -> int:
        """How many there are."""
        return len(self._paths)

    def one(self, index: int) -> list[torch.Tensor]:
        """See `Images.one`.

        Raises:
            InputError: the file cannot be read.
        """
        return [torch.from_numpy(load_images([self._paths[index]], self._how, self._dtype))]


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
