"""Larq Compute Engine: Bi-RealNet-18, the binary ResNet-18 of its zoo, with random weights.

`Interpreter.predict` runs image after image, whatever the batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import Runner, Unavailable, image, missing

_FLAGS: dict[str, dict[str, Any]] = {
    "indirect": {"use_indirect_bgemm": True, "use_xnnpack": True},
    "default": {},
}


def prepare(mode: str, model: str, folder: Path, options: Sequence[str], *, batch: int = 1) -> None:
    """Convert the Keras model."""
    if model != "resnet18":
        raise Unavailable(f"larq-zoo has no binary network like {model}")
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        import larq_compute_engine
        import larq_zoo
    except ImportError as error:
        raise missing(error, "larq") from error
    network = larq_zoo.literature.BiRealNet(input_shape=(224, 224, 3), weights=None)
    (folder / "model.tflite").write_bytes(larq_compute_engine.convert_keras_model(network))


def start(
    mode: str, model: str, folder: Path, threads: int, options: Sequence[str], *, batch: int = 1
) -> tuple[Runner, str]:
    """The interpreter in its default setting or in the one that is fastest on x86."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    content = (folder / "model.tflite").read_bytes()
    interpreter = Interpreter(content, num_threads=threads, **_FLAGS[mode])
    x = image(model, batch=batch, layout="NHWC")
    note = "Bi-RealNet-18" + ", image after image" * (batch > 1)
    return lambda: interpreter.predict(x), note
