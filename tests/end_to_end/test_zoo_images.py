"""Every trained network of the package on all test images, from Python and from C.

TVM_INSTA_CIFAR names a folder of CIFAR-10's test images, a folder for each class.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tvm_insta import zoo
from tvm_insta.runtime.classify import classify
from tvm_insta.runtime.image_folder import image_files
from tvm_insta.runtime.preprocess import load_images
from tvm_insta.validate import validate

CIFAR = os.environ.get("TVM_INSTA_CIFAR", "")
NAMES = [name for name in zoo.checkpoints() if name.endswith("-cifar10")]
EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CIFAR, reason="TVM_INSTA_CIFAR names no folder of test images"),
]


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    return zoo.create(request.param)


@pytest.fixture(scope="module")
def images(network):
    files = [f for folder in sorted(Path(CIFAR).iterdir()) for f in image_files([folder])]
    labels = np.array([network.classes.index(file.parent.name) for file in files])
    return load_images(files, network.preprocessing), labels


@pytest.fixture(scope="module")
def expected(network, images):
    x = torch.from_numpy(images[0])
    with torch.no_grad():
        return torch.cat([network.module(part) for part in x.split(250)]).numpy()


def test_the_accuracy_is_that_of_the_card(network, images, expected):
    found = (expected.argmax(1) == images[1]).mean()
    if len(images[1]) == network.card["test_images"]:
        # Another number of threads adds up in another order, which turns single bits.
        assert abs(found - network.card["accuracy"]) <= 5 / len(images[1])


def logits_in_c(folder: Path, x: np.ndarray, place: Path) -> np.ndarray:
    """What examples/c/plain_c.c prints."""
    program, batch = place / "plain_c", place / "batch.f32"
    command = ["gcc", "-std=c11", "-O2", "-I", folder, EXAMPLES / "plain_c.c", folder / "model.a"]
    subprocess.run([*command, "-lm", "-pthread", "-o", program], check=True)
    batch.write_bytes(x.tobytes())
    text = subprocess.run([program, batch], check=True, capture_output=True, text=True).stdout
    return np.array([line.split()[5:] for line in text.splitlines()], np.float32)


@pytest.mark.parametrize("form", ["vm", "c"])
def test_every_image_gets_pytorchs_class(network, images, expected, form, tmp_path):
    x, _ = images
    module = tvm_insta.build(
        network.module,
        torch.from_numpy(x[:1]),
        target="native",
        max_batch=64,
        out_dir=tmp_path / "net",
        runtime=form,
    ).load()
    ours = classify(module, x)
    other = np.nonzero(ours.argmax(1) != expected.argmax(1))[0]
    assert len(other) <= 1e-3 * len(x)
    for index in other:
        image = torch.from_numpy(x[index : index + 1])
        # Valid: every bit that differs lay within the rounding of its sum, or follows from one.
        found = validate(module, network.module, [image])
        assert not found.failures(), found.failures()
        # PyTorch itself may give another class to an image alone than to the same in a batch.
        assert found.top1 == 1.0 or found.flips + found.free_flips
    if form == "c":
        assert logits_in_c(tmp_path / "net", x, tmp_path).tobytes() == ours.tobytes()
