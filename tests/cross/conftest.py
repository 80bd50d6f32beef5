"""The digits network, compiled once for each machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tvm_insta
from tvm_insta import nn
from tvm_insta.compiler import driver
from tvm_insta.runtime.preprocess import load_images

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def digits():
    """Network, 20 real images and PyTorch's logits."""
    network = nn.create("resnet20", "insta", checkpoint="digits")
    how = nn.preprocessing("digits")
    how.pop("classes")
    images = load_images(sorted((EXAMPLES / "digits" / "test").glob("*/*.png"))[::18], how)
    with torch.no_grad():
        return network, images, network(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="session")
def compiled(digits, tmp_path_factory):
    """Compile the network for a machine, once; returns the folder."""
    network, images, _ = digits
    image = torch.from_numpy(images[:1])
    # An export knows no target, and takes longer than all else of a build: one for all machines.
    exported = driver.import_torch(network, [image], max_batch=64, dynamic=True)
    done: dict[str, Path] = {}

    def compile_for(machine):
        if machine.target not in done:
            folder = tmp_path_factory.mktemp(machine.name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(driver, "import_torch", lambda *_, **__: exported)
                tvm_insta.build(
                    network, image, target=machine.target, runtime="c", out_dir=folder, check=False
                )
            done[machine.target] = folder
        return done[machine.target]

    return compile_for
