"""ONNX Runtime: the float network, or its statically quantised int8 form.

The size of the batch is fixed in the file, and one call runs all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.engines import Runner, Unavailable, calibration, image, input_shape, missing


def prepare(mode: str, model: str, folder: Path, options: Sequence[str], *, batch: int = 1) -> None:
    """Write the model; unsigned activations are what ONNX Runtime advises for x86 with VNNI."""
    onnx_file(mode, model, folder, "QUInt8", batch)


def onnx_file(mode: str, model: str, folder: Path, activations: str, batch: int = 1) -> Path:
    """Export with the batch norms folded; quantise per channel. Returns the file.

    Without ONNX Runtime's own preprocessing most convolutions of a ResNet stay float.

    Args:
        mode: "fp32" or "int8".
        model: a key of `float_models.MODELS`.
        folder: where files are written.
        activations: "QUInt8" or "QInt8", what ONNX Runtime advises for the processor.
        batch: images of a call.

    Raises:
        Unavailable: a package is missing, or the export fails.
    """
    try:
        import onnx  # noqa: F401  (the exporter needs it)
        import onnxruntime  # noqa: F401
        import torch
        from onnxruntime import quantization

        from benchmarks.float_models import MODELS
    except ImportError as error:
        raise missing(error, "onnxruntime") from error
    path = folder / "float.onnx"
    try:
        torch.onnx.export(
            MODELS[model](),
            (torch.zeros(input_shape(model, batch)),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
        )
    except Exception as error:  # the exporter raises whatever its parts raise
        raise Unavailable(f"the ONNX export failed ({str(error).splitlines()[0]})") from error
    if mode == "int8":
        images = iter([{"x": x} for x in calibration(model, batch=batch)])
        methods = {"get_next": lambda _: next(images, None)}
        quantization.shape_inference.quant_pre_process(path, folder / "prepared.onnx")
        quantization.quantize_static(
            folder / "prepared.onnx",
            folder / "int8.onnx",
            type("Reader", (quantization.CalibrationDataReader,), methods)(),
            per_channel=True,
            activation_type=getattr(quantization.QuantType, activations),
            weight_type=quantization.QuantType.QInt8,
        )
        path = folder / "int8.onnx"
    return path


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str], *, batch: int = 1
) -> tuple[Runner, str]:
    """One session with all graph optimisations, which are the default."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    path = folder / ("int8.onnx" if mode == "int8" else "float.onnx")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    feed = {"x": image(model, batch=batch)}
    return lambda: session.run(None, feed), "CPU execution provider"
