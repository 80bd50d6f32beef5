"""The whole way in one page: PyTorch network -> artefact -> real images, beside PyTorch itself.

    python examples/quickstart.py [FOLDER]

The network is a ResNet-20 with instance-aware thresholds, trained on CIFAR-10. FOLDER has an image
folder for each class: CIFAR-10's test images, if you have them, else 20 photographs of the same ten
classes (examples/photos/README.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")  # latency of one thread

import numpy as np
import torch

import tvm_insta
from tvm_insta import zoo
from tvm_insta.runtime.classify import classify
from tvm_insta.runtime.image_folder import image_files
from tvm_insta.runtime.latency import measure
from tvm_insta.runtime.preprocess import load_images

PHOTOS = Path(__file__).parent / "photos"
SHOWN = 20


def main(folder: Path = PHOTOS) -> int:
    """Compile, classify, compare; returns 0 if the artefact decides as PyTorch does."""
    trained = zoo.create("resnet20-insta-cifar10")
    files = image_files([folder / name for name in trained.classes if (folder / name).is_dir()])
    labels = np.array([trained.classes.index(file.parent.name) for file in files])
    batch = load_images(files, trained.preprocessing)

    print("compiling resnet20 for this machine ...")
    artefact = tvm_insta.build(
        trained.module,
        torch.from_numpy(batch[:1]),
        target="native",
        max_batch=64,
        out_dir="build/quickstart",
    )
    print(f"wrote {artefact.path}/model.so and model.json")

    module = artefact.load()
    ours = classify(module, batch)
    with torch.no_grad():
        parts = torch.from_numpy(batch).split(250)
        theirs = torch.cat([trained.module(part) for part in parts]).numpy()

    for file, logits in list(zip(files, ours, strict=True))[:: -(-len(files) // SHOWN)]:
        print(f"{file.relative_to(folder)}: recognised as {trained.classes[logits.argmax()]}")
    accuracy, reference = ((x.argmax(1) == labels).mean() for x in (ours, theirs))
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    print(f"{len(files)} images: {accuracy:.2%} recognised, by PyTorch {reference:.2%}")
    print(f"the same class as PyTorch for {same} of {len(files)}")

    latency = measure(module)
    print(
        f"latency {latency.median:.3f} ms (median of {latency.repeat} runs, batch 1, one thread, "
        f"{latency.cpu})"
    )
    # Of thousands of images, one may have a bit so close to its threshold that rounding turns it.
    return 0 if same >= 0.999 * len(files) else 1


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
