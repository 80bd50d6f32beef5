"""A network made with Larq and Keras, from the ONNX file that tf2onnx wrote, to real images.

    pip install -e ".[onnx]"
    python examples/larq_file.py

Neither Larq nor TensorFlow is needed (examples/larq/README.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tvm_insta
from tvm_insta.runtime.preprocess import load_images

HERE = Path(__file__).parent
# Keras has the channels last; these pixels were brought to -1 ... 1.
PREPROCESSING = {
    "resize": [8, 8],
    "mode": "L",
    "layout": "NHWC",
    "mean": [0.5],
    "std": [0.5],
    "classes": [str(digit) for digit in range(10)],
}


def main() -> int:
    """Compile, classify, say what became of each layer; returns 0 if the classes are right."""
    artefact = tvm_insta.build_onnx(
        HERE / "larq" / "digits.onnx", target="native", runtime="c", preprocessing=PREPROCESSING
    )
    for layer in artefact.report.layers:
        print(f"{layer.name}: {layer.kind}{f' ({layer.reason})' if layer.reason else ''}")

    images = sorted((HERE / "digits" / "test").glob("*/*.png"))
    labels = np.array([int(path.parent.name) for path in images])
    how = {name: value for name, value in PREPROCESSING.items() if name != "classes"}
    batch = load_images(images, how)
    found = np.concatenate([artefact(batch[i : i + 1]) for i in range(len(batch))]).argmax(1)
    accuracy = float((found == labels).mean())
    print(f"{len(images)} real images: accuracy {accuracy:.2%}")
    return 0 if accuracy > 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
