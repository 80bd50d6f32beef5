"""tvm_insta: the binary network with instance-aware thresholds, in the form `mode` ("c", "vm").

A batch of more than one image is compiled with `max_batch` of that size, unless a compile option
names another; one image is compiled with the default. The vm form runs a batch in passes of as
many images as stay in a cache, the plain-C form image after image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import compile_options
from benchmarks.engines import Runner, Unavailable, aligned, input_shape

if TYPE_CHECKING:
    from tvm_insta.runtime import Module


def prepare(mode: str, model: str, folder: Path, options: Sequence[str], *, batch: int = 1) -> None:
    """Compile for this machine, or as the `KEY=VALUE` words of `options` say.

    Raises:
        Unavailable: the options' `max_batch` is smaller than the batch.
    """
    own = {"max_batch": batch} if batch > 1 else {}
    chosen = {"runtime": mode, **own, **compile_options(options)}
    most = chosen.get("max_batch", batch)
    if most < batch:
        raise Unavailable(f"compiled with max_batch={most}, it takes no batch of {batch}")
    build(model, folder, chosen, variant="insta")


def build(model: str, folder: Path, options: dict[str, Any], **network: Any) -> None:
    """Compile a network of `tvm_insta.nn` into `folder`; `network` is passed to `nn.create`."""
    import torch

    import tvm_insta
    from tvm_insta import nn

    chosen = {"target": "native", **options}
    example = torch.zeros(input_shape(model))
    tvm_insta.build(nn.create(model, **network), example, out_dir=folder, **chosen)


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str], *, batch: int = 1
) -> tuple[Runner, str]:
    """Load the artefact; TVM_NUM_THREADS is set already."""
    import tvm_insta

    module = tvm_insta.load(folder, threads=threads)
    x = sample(module, batch)
    needs = set(module.manifest.needs)
    widest = next((f for f in ("amx-int8", "avx512f", "avx2") if f in needs), "baseline")
    note = f"compiled for {widest}" + ", image after image" * (mode == "c" and batch > 1)
    return lambda: module(x), note


def sample(module: Module, batch: int = 1) -> Any:
    """Random images as the artefact takes them: standard normal, or the whole range of integers."""
    (info,) = module.manifest.inputs
    shape = (batch, *(dim for dim in info.shape[1:] if isinstance(dim, int)))
    generator, dtype = np.random.default_rng(0), np.dtype(info.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return aligned(generator.integers(limits.min, limits.max, shape, dtype, endpoint=True))
    return aligned(generator.standard_normal(shape).astype(dtype))
