"""OpenVINO: the float network, or its int8 form through NNCF.

A batch is one request on one stream that has all the threads (the hint LATENCY): the counterpart of
a call of the other engines. `int8 throughput` is what OpenVINO advises where many images wait: a
network for one image, as many streams as OpenVINO chooses for these threads (the hint THROUGHPUT),
and one asynchronous request per image. A run starts all requests of a batch and ends with the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.engines import Runner, Unavailable, calibration, image, input_shape, missing

# Precision of what is not quantised; None leaves the choice to OpenVINO: bf16 on a processor with
# AMX or AVX-512 BF16, else f32.
_HINTS = {
    "int8": None,
    "int8 throughput": None,
    "int8 f32": "f32",
    "default": None,
    "bf16": "bf16",
    "fp32": "f32",
}


def prepare(mode: str, model: str, folder: Path, options: Sequence[str], *, batch: int = 1) -> None:
    """Convert; quantise with NNCF's defaults, which count images one by one; set the batch."""
    try:
        import openvino as ov
        import torch

        from benchmarks.float_models import MODELS

        if mode.startswith("int8"):
            import nncf
    except ImportError as error:
        raise missing(error, "openvino") from error
    shape = input_shape(model)
    network = ov.convert_model(MODELS[model](), example_input=torch.zeros(shape), input=shape)
    if mode.startswith("int8"):
        network = nncf.quantize(network, nncf.Dataset(calibration(model)))
    if not _throughput(mode):
        network.reshape(input_shape(model, batch))
    ov.save_model(network, folder / "model.xml", compress_to_fp16=False)


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str], *, batch: int = 1
) -> tuple[Runner, str]:
    """Compile for latency or for throughput; the inputs' memory is shared, not copied."""
    import openvino as ov

    core = ov.Core()
    hint = _HINTS[mode]
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unavailable("OpenVINO has no bfloat16 on this processor")
    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "THROUGHPUT" if _throughput(mode) else "LATENCY",
    }
    if hint is not None:
        config["INFERENCE_PRECISION_HINT"] = hint
    compiled = core.compile_model(str(folder / "model.xml"), "CPU", config)
    images = image(model, batch=batch)
    note = f"precision hint {compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()}"
    if not _throughput(mode):
        return _Requests(ov, compiled, [images]).one, note
    streams = compiled.get_property("NUM_STREAMS")
    note += f", {batch} requests, {streams} stream{'s' * (streams > 1)}"
    return _Requests(ov, compiled, [one[np.newaxis] for one in images]).together, note


def _throughput(mode: str) -> bool:
    return mode.endswith(" throughput")


class _Requests:
    """One request per array, each with its input in place.

    A request keeps no reference to the memory that its input shares: the tensors do.
    """

    def __init__(self, ov: Any, compiled: Any, arrays: Sequence[npt.NDArray[np.generic]]) -> None:
        self.tensors = [ov.Tensor(array, shared_memory=True) for array in arrays]
        self.requests = [compiled.create_infer_request() for _ in arrays]
        for request, tensor in zip(self.requests, self.tensors, strict=True):
            request.set_input_tensor(tensor)

    def one(self) -> object:
        """Run the only request."""
        (request,) = self.requests
        request.infer()
        return request.get_output_tensor().data

    def together(self) -> list[object]:
        """Start all and wait for all; OpenVINO queues those that find no free stream."""
        for request in self.requests:
            request.start_async()
        for request in self.requests:
            request.wait()
        return [request.get_output_tensor().data for request in self.requests]
