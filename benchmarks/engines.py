"""One function per engine: it makes what runs a network once, or says why it cannot be done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.float_models import MODELS

Runner = Callable[[], object]
SHAPE = (1, 3, 224, 224)


class Unavailable(Exception):
    """An engine cannot run here; the message says why."""


def image() -> np.ndarray:
    """The input of every engine, standard normal."""
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def ours(model: str, runtime: str, threads: int) -> Runner:
    """tvm_insta, instance-aware thresholds, float32 stem."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm_insta
    from tvm_insta import nn

    if runtime == "c" and threads > 1:
        raise Unavailable("the plain-C form runs on one thread")
    network = nn.create(model, "insta")
    artefact = tvm_insta.build(network, torch.zeros(SHAPE), target="native", runtime=runtime)
    module, x = artefact.load(), image()
    run: Runner = lambda: (artefact, module(x))[1]  # noqa: E731  (keeps the temporary folder)
    return run


def pytorch(model: str, mode: str, threads: int) -> Runner:
    """PyTorch: eager, compiled, or compiled in bfloat16."""
    torch.set_num_threads(threads)
    network, x = MODELS[model](), torch.from_numpy(image())
    if mode == "bf16":
        network, x = network.bfloat16(), x.bfloat16()
    if mode != "eager":
        network = torch.compile(network)

    def run() -> object:
        with torch.inference_mode():
            return network(x)

    return run


def onnx_runtime(model: str, mode: str, threads: int) -> Runner:
    """ONNX Runtime in float32, or statically quantised to int8 (calibrated on random images)."""
    path = onnx_file(model, mode, Path(tempfile.mkdtemp()), "QUInt8")  # for x86 with VNNI
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"x": image()}
    return lambda: session.run(None, feed)


def onnx_file(model: str, mode: str, folder: Path, activations: str) -> Path:
    """The ONNX file of a float network, or its int8 form.

    Args:
        model: a key of `float_models.MODELS`.
        mode: "fp32" or "int8".
        folder: where files are written.
        activations: "QUInt8" or "QInt8", what ONNX Runtime advises for the processor.

    Raises:
        Unavailable: a package is missing, or the export fails.
    """
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise Unavailable(f"onnxruntime is not installed ({error})") from error
    path = folder / "float.onnx"
    _export_onnx(model, path)
    if mode != "int8":
        return path
    images = iter([{"x": image()}] * 4)
    methods = {"get_next": lambda _: next(images, None)}
    reader = type("Reader", (quantization.CalibrationDataReader,), methods)
    quantised = folder / "int8.onnx"
    kind = getattr(quantization.QuantType, activations)
    quantization.quantize_static(path, quantised, reader(), per_channel=True, activation_type=kind)
    return quantised


def openvino(model: str, mode: str, threads: int) -> Runner:
    """OpenVINO in float32, bfloat16, or int8 through NNCF (calibrated on random images)."""
    try:
        import openvino as ov
    except ImportError as error:
        raise Unavailable(f"openvino is not installed ({error})") from error
    network = ov.convert_model(MODELS[model](), example_input=torch.zeros(SHAPE), input=SHAPE)
    if mode == "int8":
        try:
            import nncf
        except ImportError as error:
            raise Unavailable(f"nncf, which quantises, is not installed ({error})") from error
        network = nncf.quantize(network, nncf.Dataset([image() for _ in range(4)]))
    core = ov.Core()
    if mode == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Unavailable("OpenVINO has no bfloat16 on this processor")
    compiled = core.compile_model(
        network,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if mode == "bf16" else "f32",
        },
    )
    request, x = compiled.create_infer_request(), image()
    return lambda: request.infer([x])


def _export_onnx(model: str, path: Path) -> None:
    try:
        torch.onnx.export(
            MODELS[model](),
            (torch.zeros(SHAPE),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
        )
    except Exception as error:  # the exporter raises whatever its parts raise
        raise Unavailable(f"the ONNX export failed ({str(error).splitlines()[0]})") from error


ENGINES: dict[str, tuple[Callable[[str, str, int], Runner], str]] = {
    "tvm_insta vm (binary)": (ours, "vm"),
    "tvm_insta c (binary)": (ours, "c"),
    "OpenVINO int8": (openvino, "int8"),
    "OpenVINO bf16": (openvino, "bf16"),
    "OpenVINO fp32": (openvino, "fp32"),
    "ONNX Runtime int8": (onnx_runtime, "int8"),
    "ONNX Runtime fp32": (onnx_runtime, "fp32"),
    "PyTorch compiled bf16": (pytorch, "bf16"),
    "PyTorch compiled fp32": (pytorch, "compiled"),
    "PyTorch eager fp32": (pytorch, "eager"),
}
