"""OpenVINO: the float network, or its int8 form through NNCF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import Runner, Unavailable, calibration, image, input_shape, missing

# Precision of what is not quantised; None leaves the choice to OpenVINO: bf16 on a processor with
# AMX or AVX-512 BF16, else f32.
_HINTS = {"int8": None, "int8 f32": "f32", "default": None, "bf16": "bf16", "fp32": "f32"}


def prepare(mode: str, model: str, folder: Path, options: Sequence[str]) -> None:
    """Convert; quantise with NNCF's defaults."""
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
    ov.save_model(network, folder / "model.xml", compress_to_fp16=False)


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str]
) -> tuple[Runner, str]:
    """One stream, for latency; the input's memory is shared, not copied."""
    import openvino as ov

    core = ov.Core()
    hint = _HINTS[mode]
    if hint == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unavailable("OpenVINO has no bfloat16 on this processor")
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    if hint is not None:
        config["INFERENCE_PRECISION_HINT"] = hint
    compiled = core.compile_model(str(folder / "model.xml"), "CPU", config)
    request = compiled.create_infer_request()
    tensor = ov.Tensor(image(model), shared_memory=True)
    request.set_input_tensor(tensor)
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    # A request keeps no reference to the memory that its input shares: the tensor does.
    def run(tensor: object = tensor) -> object:
        request.infer()
        return request.get_output_tensor().data

    return run, f"precision hint {chosen}"
