"""LiteRT (XNNPACK): the int8 network, weights per channel and activations statically quantised.

The size of the batch is fixed when the network is converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.engines import Runner, calibration, image, missing


def prepare(mode: str, model: str, folder: Path, options: Sequence[str], *, batch: int = 1) -> None:
    """Convert with channels last, LiteRT's own layout, and quantise."""
    try:
        import litert_torch
        import torch
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import quantizer, recipe

        from benchmarks.float_models import MODELS
    except ImportError as error:
        raise missing(error, "litert") from error
    network = litert_torch.to_channel_last_io(MODELS[model](), args=[0]).eval()
    images = calibration(model, batch=batch, layout="NHWC")
    path = str(folder / "float.tflite")
    litert_torch.convert(network, (torch.from_numpy(images[0]),)).export(path)
    ((signature, names),) = Interpreter(path).get_signature_list().items()
    maker = quantizer.Quantizer(path)
    maker.load_quantization_recipe(recipe.static_wi8_ai8())
    found = maker.calibrate({signature: [{names["inputs"][0]: x} for x in images]})
    maker.quantize(found).export_model(str(folder / "int8.tflite"), overwrite=True)


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str], *, batch: int = 1
) -> tuple[Runner, str]:
    """The interpreter with its default delegate, XNNPACK; the input is written once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "int8.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    (entry,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    x = image(model, batch=batch, layout="NHWC")
    interpreter.set_tensor(entry["index"], x.astype(entry["dtype"], copy=False))

    def run() -> object:
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run, f"XNNPACK, {entry['dtype'].__name__} in"
