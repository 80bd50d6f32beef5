"""The images that calibration looks at."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from tvm_insta.compiler.model_inputs import samples
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InputError, InstaError

HOW = {"resize": [8, 8], "mode": "L", "scale": 1.0}
EXAMPLE = [torch.zeros(1, 1, 8, 8)]


def calibrated(folder):
    (found,) = samples(CompileOptions(stem="int8", calibrate=str(folder)), HOW, EXAMPLE)
    return found


def grey(value, dtype=np.uint8):
    return Image.fromarray(np.full((8, 8), value, dtype))


def test_images_beside_folders_count_and_wide_ones_are_scaled(tmp_path, caplog):
    for name, image in {
        "a.png": grey(10),
        "cat/b.png": grey(20 * 257, np.uint16),
        "dog/c.tif": grey(30 / 255, np.float32),
        ".hidden/d.png": grey(99),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        found = calibrated(tmp_path)
    assert found.shape == (3, 1, 8, 8)
    assert sorted(image.max() for image in found) == [10, 20, 30]
    assert "1 image lies in" in caplog.text


def test_what_is_no_image_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(InputError, match="no regular file"):
        calibrated(tmp_path)
    options = CompileOptions(stem="int8", calibrate=str(tmp_path))
    with pytest.raises(InstaError, match="--preprocess"):
        samples(options, None, EXAMPLE)
