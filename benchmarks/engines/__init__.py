"""The engines that `benchmarks.peers` runs: one file per family, `run_<family>.py`.

Each has two functions. `prepare(mode, model, folder, options, batch=...)` converts, quantises or
compiles a network for batches of that size into `folder`, once. `start(mode, model, folder,
threads, options, batch=...)` loads it, in a fresh process for every measurement, and returns what
runs one batch and a note on how it runs. What is timed is the same for all: from a batch that is in
memory, aligned and in the engine's own layout, to outputs of all images that Python can read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Runner = Callable[[], object]

MODELS = ("resnet18", "mobilenet_v1", "resnet20")
_SIDES = {"resnet18": 224, "mobilenet_v1": 224, "resnet20": 32}
_INSTALL = "install benchmarks/requirements-{}.txt and name its interpreter with --python {}=PATH"


class Unavailable(Exception):
    """An engine cannot run here; the message says why."""


@dataclass(frozen=True)
class Engine:
    """One row of the table.

    Attributes:
        name: as shown.
        family: a key of `FAMILIES`; its engines share an interpreter.
        mode: what the family's file knows the engine by.
        options: `KEY=VALUE` words of compile options, for ours.
        least_batch: smaller batches are not asked of it and give no row.
    """

    name: str
    family: str
    mode: str
    options: tuple[str, ...] = ()
    least_batch: int = 1


FAMILIES = {
    "ours": ("apache-tvm", "tvm-insta", "torch"),
    "openvino": ("openvino", "nncf", "torch"),
    "onnxruntime": ("onnxruntime", "onnx", "torch"),
    "litert": ("ai-edge-litert", "litert-torch", "ai-edge-quantizer", "torch"),
    "torch": ("torch",),
    "larq": ("larq-compute-engine", "larq", "larq-zoo", "tensorflow"),
}
"""The families and the distributions whose versions are recorded."""

PEERS = (
    Engine("OpenVINO int8", "openvino", "int8"),
    Engine("OpenVINO int8, throughput", "openvino", "int8 throughput", least_batch=2),
    Engine("OpenVINO int8, rest f32", "openvino", "int8 f32"),
    Engine("OpenVINO default", "openvino", "default"),
    Engine("OpenVINO bf16", "openvino", "bf16"),
    Engine("OpenVINO fp32", "openvino", "fp32"),
    Engine("LiteRT int8", "litert", "int8"),
    Engine("ONNX Runtime int8", "onnxruntime", "int8"),
    Engine("ONNX Runtime fp32", "onnxruntime", "fp32"),
    Engine("torch.compile bf16", "torch", "bf16"),
    Engine("torch.compile fp32", "torch", "fp32"),
    Engine("PyTorch eager fp32", "torch", "eager"),
    Engine("Larq CE, indirect BGEMM + XNNPACK (binary)", "larq", "indirect"),
    Engine("Larq CE, default (binary)", "larq", "default"),
)
OURS = "tvm_insta"
"""How the names of our engines begin."""


def missing(error: ImportError, family: str) -> Unavailable:
    """What to say when a library of the family cannot be imported."""
    requirements = family if family in ("litert", "larq") else "peers"
    return Unavailable(f"{error}: {_INSTALL.format(requirements, family)}")


def input_shape(model: str, batch: int = 1) -> tuple[int, int, int, int]:
    """`[batch, 3, H, W]` of a network."""
    return (batch, 3, _SIDES[model], _SIDES[model])


def aligned(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A writable copy in C order at an address of 64 bytes, which no engine needs to copy again."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def image(
    model: str, seed: int = 0, *, batch: int = 1, layout: str = "NCHW"
) -> npt.NDArray[np.generic]:
    """Standard normal images, float32, `[batch, 3, H, W]` or `[batch, H, W, 3]`."""
    shape = input_shape(model, batch)
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return aligned(values if layout == "NCHW" else values.transpose(0, 2, 3, 1))


def calibration(
    model: str, *, batch: int = 1, layout: str = "NCHW"
) -> list[npt.NDArray[np.generic]]:
    """The random batches that int8 networks are calibrated on: speed needs no better ones."""
    return [image(model, seed, batch=batch, layout=layout) for seed in range(1, 5)]
