"""Inputs for measurements: of the shapes and dtypes that an artefact takes."""

from __future__ import annotations

import numpy as np

from tvm_insta.errors import InputError
from tvm_insta.runtime.arrays import Array
from tvm_insta.runtime.manifest import Manifest


def random_inputs(manifest: Manifest, batch: int) -> list[Array]:
    """Standard normal numbers, or random bytes where bytes are taken; the same ones every time.

    Raises:
        InputError: the artefact does not take such a batch.
    """
    if not 1 <= batch <= manifest.max_batch:
        raise InputError(f"got batch {batch}, but this artefact takes 1 to {manifest.max_batch}")
    generator = np.random.default_rng(0)
    inputs: list[Array] = []
    for tensor in manifest.inputs:
        shape = [batch, *(int(dim) for dim in tensor.shape[1:])]
        if tensor.dtype == "uint8":
            inputs.append(generator.integers(0, 256, shape, dtype=np.uint8))
        else:
            inputs.append(generator.standard_normal(shape).astype(tensor.dtype))
    return inputs
