"""The checkpoint that comes with the package, and the images beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tvm_insta import nn
from tvm_insta.errors import ModelError

IMAGES = Path(__file__).parents[2] / "examples" / "digits" / "test"


def _record() -> dict[str, object]:
    metadata = nn.read_checkpoint(nn.zoo_checkpoints()["digits"]).metadata
    record: dict[str, object] = json.loads(metadata["tvm_insta.training"])
    return record


def test_every_entry_is_there_and_small() -> None:
    for name, path in nn.zoo_checkpoints().items():
        assert path.is_file(), name
        assert path.stat().st_size <= 1.2e6


def test_digits_loads_by_name_only_as_what_it_is() -> None:
    network = nn.create("resnet20", "insta", checkpoint="digits")
    assert network.options == nn.ModelOptions("resnet20", "insta", 10)
    assert not network.training
    with pytest.raises(ModelError, match="variant 'insta', not 'insta_plus'"):
        nn.create("resnet20", "insta_plus", checkpoint="digits")


def test_digits_uses_its_instance_terms() -> None:
    network = nn.create("resnet20", "insta", checkpoint="digits")
    for name, parameter in network.named_parameters():
        if name.endswith((".a", ".g1")):
            assert bool(parameter.any()), name


def test_digits_preprocessing() -> None:
    description = nn.preprocessing("digits")
    assert description["resize"] == [32, 32]
    assert description["classes"] == [str(digit) for digit in range(10)]
    assert description["scale"] == pytest.approx(1 / 255)
    assert _record()["dataset"].startswith("E. Alpaydin")  # type: ignore[attr-defined]


def test_digits_recognises_the_held_out_images() -> None:
    description = nn.preprocessing("digits")
    inputs, labels = [], []
    for path in sorted(IMAGES.glob("*/*.png")):
        with Image.open(path) as image:
            assert image.size == (8, 8) and image.mode == "L"
            large = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
        pixels = np.asarray(large, dtype=np.float32) * description["scale"]
        normalised = (pixels - description["mean"]) / description["std"]
        inputs.append(torch.from_numpy(normalised.astype(np.float32)).permute(2, 0, 1))
        labels.append(int(path.parent.name))
    assert len(inputs) == 360 and set(labels) == set(range(10))
    network = nn.create("resnet20", "insta", checkpoint="digits")
    with torch.no_grad():
        guesses = network(torch.stack(inputs)).argmax(dim=1)
    right = float((guesses == torch.tensor(labels)).double().mean())
    # Another machine may round differently and turn a borderline image: two of 360.
    assert right == pytest.approx(_record()["held_out_accuracy"], abs=2 / 360 + 1e-9)
    assert right > 0.95


def test_images_are_those_of_the_data_set() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    paths = sorted(IMAGES.glob("*/*.png"))
    for path in paths:
        index = int(path.stem)
        assert index >= len(digits.images) - 360
        assert int(path.parent.name) == digits.target[index]
        with Image.open(path) as image:
            pixels = np.asarray(image)
        assert np.array_equal(np.rint(pixels * (16 / 255)), digits.images[index])
