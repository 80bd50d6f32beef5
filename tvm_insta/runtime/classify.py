"""Logits of any number of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_insta.runtime.module import Module


def classify(module: Module, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Logits ``[N, classes]`` for any number of images, in batches the artefact allows."""
    step = module.manifest.max_batch
    parts = [module(batch[start : start + step]) for start in range(0, len(batch), step)]
    return np.concatenate(parts)
