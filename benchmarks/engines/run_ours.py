"""tvm_insta: the binary network with instance-aware thresholds, in the form `mode` ("c", "vm")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common import compile_options
from benchmarks.engines import Runner, aligned, input_shape

if TYPE_CHECKING:
    from tvm_insta.runtime import Module


def prepare(mode: str, model: str, folder: Path, options: Sequence[str]) -> None:
    """Compile for this machine, or as the `KEY=VALUE` words of `options` say."""
    build(model, folder, {"runtime": mode, **compile_options(options)}, variant="insta")


def build(model: str, folder: Path, options: dict[str, Any], **network: Any) -> None:
    """Compile a network of `tvm_insta.nn` into `folder`; `network` is passed to `nn.create`."""
    import torch

    import tvm_insta
    from tvm_insta import nn

    chosen = {"target": "native", **options}
    example = torch.zeros(input_shape(model))
    tvm_insta.build(nn.create(model, **network), example, out_dir=folder, **chosen)


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str]
) -> tuple[Runner, str]:
    """Load the artefact; TVM_NUM_THREADS is set already."""
    import tvm_insta

    module = tvm_insta.load(folder, threads=threads)
    x = sample(module)
    needs = set(module.manifest.needs)
    widest = next((f for f in ("amx-int8", "avx512f", "avx2") if f in needs), "baseline")
    return lambda: module(x), f"compiled for {widest}"


def sample(module: Module) -> Any:
    """A random image as the artefact takes it: standard normal, or the whole range of integers."""
    (info,) = module.manifest.inputs
    shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
    generator, dtype = np.random.default_rng(0), np.dtype(info.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return aligned(generator.integers(limits.min, limits.max, shape, dtype, endpoint=True))
    return aligned(generator.standard_normal(shape).astype(dtype))
