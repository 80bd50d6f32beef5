"""Image files to network input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime.image_folder import image_files
from tvm_insta.runtime.preprocess import Preprocessing, load_images

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)  # height 6, width 4
HOW = {"resize": [6, 4], "mode": "RGB", "scale": 0.01, "mean": [1, 2, 3], "std": [2, 4, 8]}


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    Image.fromarray(PIXELS[::-1]).save(tmp_path / "a.ppm")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_scale_mean_std_and_layout(folder):
    expected = (PIXELS.astype("float64") * 0.01 - [1, 2, 3]) / [2, 4, 8]
    got = load_images([folder / "b.png"], {**HOW, "layout": "NHWC"})
    assert got.dtype == np.float32 and got.shape == (1, 6, 4, 3)
    # Three float32 roundings of numbers below 4.
    np.testing.assert_allclose(got[0], expected, atol=1e-6)
    first = load_images([folder / "b.png"], HOW)
    assert first.shape == (1, 3, 6, 4) and first.flags.c_contiguous
    np.testing.assert_array_equal(first[0], got[0].transpose(2, 0, 1))


def test_resize_is_pillows(folder):
    how = {"resize": [9, 7], "mode": "L", "interpolation": "bicubic", "scale": 1.0}
    image = Image.fromarray(PIXELS).convert("L").resize((7, 9), Image.Resampling.BICUBIC)
    got = load_images([folder / "b.png"], how)
    assert got.shape == (1, 1, 9, 7)
    np.testing.assert_array_equal(got[0, 0], np.asarray(image))


def test_folder_in_the_order_of_names(folder):
    files = image_files([folder, folder / "b.png"])
    assert [path.name for path in files] == ["a.ppm", "b.png", "b.png"]
    got = load_images(files, {"resize": [6, 4], "mode": "RGB", "scale": 1.0, "layout": "NHWC"})
    np.testing.assert_array_equal(got, np.stack([PIXELS[::-1], PIXELS, PIXELS]))


def test_unreadable_images_are_named(folder):
    with pytest.raises(InputError, match=r"notes\.txt"):
        load_images([folder / "notes.txt"], HOW)
    data = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.png"):
        load_images([folder / "b.png", folder / "cut.png"], HOW)
    with pytest.raises(InputError, match="got no image"):
        load_images([], HOW)
    with pytest.raises(InputError, match="does not exist"):
        image_files([folder / "gone.png"])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        image_files([folder / "empty"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "CMYK"}, "mode 'CMYK'"),
        ({"interpolation": "magic"}, "interpolation 'magic'"),
        ({"layout": "CHWN"}, "layout 'CHWN'"),
        ({"resize": [8]}, r"resize \[8\]"),
        ({"resize": [0, 8]}, r"resize \[0, 8\]"),
        ({"resize": 8}, "wrong type.*resize is a int, a list"),
        ({"resize": [8, 2**15 + 1]}, "1 to 32768 pixels"),
        ({"resize": [8.5, 8]}, r"resize\[0\] is a float, a int"),
        ({"resize": [True, 8]}, r"resize\[0\] is a bool"),
        ({"mode": ["L"]}, "mode is a list"),
        ({"mean": [1, 2]}, "2 numbers in mean; mode RGB needs 3"),
        ({"std": [1, 0, 1]}, "a 0 in std"),
        ({"std": [1, 1e-60, 1]}, "a 0 in std"),
        ({"mean": [1, 1e39, 1]}, "infinite in float32"),
        ({"scale": 10**400}, "beyond the numbers of float64"),
        ({"scale": True}, "scale is a bool"),
        ({"scale": None}, "scale is a null"),
        ({"scale": "x"}, "wrong type"),
        ({"crop": 1}, "unknown key crop"),
    ],
)
def test_bad_preprocessing(change, message):
    with pytest.raises(ArtefactError, match=message):
        Preprocessing.from_dict({**HOW, **change})


def test_missing_preprocessing():
    with pytest.raises(ArtefactError, match="no key resize"):
        Preprocessing.from_dict({"mode": "L"})
    with pytest.raises(ArtefactError, match="pass an array"):
        Preprocessing.from_dict(None)
