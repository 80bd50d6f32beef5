"""The whole way in one page: PyTorch network -> artefact -> real images, beside PyTorch itself.

    python examples/quickstart.py

The network is a ResNet-20 with instance-aware thresholds, trained on handwritten digits; the images
are the 360 digits it was not trained on (examples/digits/README.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")  # latency of one thread

import numpy as np
import torch

import tvm_insta
from tvm_insta import nn
from tvm_insta.runtime.latency import measure
from tvm_insta.runtime.preprocess import load_images

HERE = Path(__file__).parent


def main() -> int:
    """Compile, classify, compare; returns 0 if the artefact decides as PyTorch does."""
    images = sorted((HERE / "digits" / "test").glob("*/*.png"))
    labels = np.array([int(path.parent.name) for path in images])

    network = nn.create("resnet20", "insta", checkpoint="digits")
    preprocessing = nn.preprocessing("digits")
    preprocessing.pop("classes")
    batch = load_images(images, preprocessing)

    print("compiling resnet20 for this machine ...")
    artefact = tvm_insta.build(
        network, torch.from_numpy(batch[:1]), target="native", max_batch=64, out_dir="build/digits"
    )
    print(f"wrote {artefact.path}/model.so and model.json")

    ours = np.concatenate(
        [artefact(batch[start : start + 64]) for start in range(0, len(batch), 64)]
    )
    with torch.no_grad():
        theirs = network(torch.from_numpy(batch)).numpy()

    for path, logits in list(zip(images, ours, strict=True))[::45]:
        print(f"{path.relative_to(HERE)}: recognised as {logits.argmax()}")
    accuracy, reference = ((x.argmax(1) == labels).mean() for x in (ours, theirs))
    same = (ours.argmax(1) == theirs.argmax(1)).all()
    print(f"{len(images)} real images: accuracy {accuracy:.2%}, PyTorch {reference:.2%}")
    print(f"same class as PyTorch for {'every image' if same else 'NOT every image'}")

    latency = measure(artefact.load())
    print(
        f"latency {latency.median:.3f} ms (median of {latency.repeat} runs, batch 1, one thread, "
        f"{latency.cpu})"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
