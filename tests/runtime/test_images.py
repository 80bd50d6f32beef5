"""Image files of every kind of pixels, and what is no image."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvm_insta.errors import InputError
from tvm_insta.runtime.images import load_pixels

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.dstack([RAMP, RAMP[::-1], RAMP.T])


def load(path, mode="L", size=(16, 16)):
    return load_pixels(path, mode, size, "bilinear")


def grey(path):
    return load(path)[..., 0]


WIDE = {
    "16-bit png": (RAMP * np.uint16(257), "png"),
    "16-bit tiff": (RAMP * np.uint16(257), "tif"),
    "16-bit tiff, big-endian": ((RAMP * np.uint16(257)).astype(">u2"), "tif"),
    "floats of 0 to 1": ((RAMP / 255).astype(np.float32), "tif"),
    "floats of 0 to 255": (RAMP.astype(np.float32), "tif"),
    "floats of 0 to 65535": (RAMP.astype(np.float32) * 257, "tif"),
    "other floats": (RAMP.astype(np.float32) * 1000 - 50_000, "tif"),
    "32-bit integers of 8 bits": (RAMP.astype(np.int32), "tif"),
    "32-bit integers of 16 bits": (RAMP.astype(np.int32) * 257, "tif"),
    "32-bit integers": (RAMP.astype(np.int32) * 2**23, "tif"),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_numbers_are_scaled_to_their_range(name, tmp_path):
    values, ending = WIDE[name]
    path = tmp_path / f"x.{ending}"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(grey(path), RAMP)
    np.testing.assert_array_equal(load(path, "RGB"), np.dstack([RAMP] * 3))


def test_a_dark_16_bit_image_stays_dark(tmp_path):
    for ending in ("png", "tif"):
        path = tmp_path / f"x.{ending}"
        Image.fromarray(RAMP.astype(np.uint16)).save(path)  # the brightest pixel is 255 of 65535
        assert grey(path).max() == 1


def test_16_bit_graymap(tmp_path):
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 16 16 65535\n" + (RAMP * np.uint16(257)).astype(">u2").tobytes())
    np.testing.assert_array_equal(grey(path), RAMP)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_without_a_range(bad, tmp_path):
    values = RAMP.astype(np.float32)
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif \(it has pixels that are NaN or infinite\)"):
        grey(tmp_path / "x.tif")


def test_an_even_float_image(tmp_path):
    Image.fromarray(np.full((16, 16), -3.0, np.float32)).save(tmp_path / "x.tif")
    assert not grey(tmp_path / "x.tif").any()


# Where EXIF's orientation says that the first row and column of the file are, as a transformation
# of the upright image into what the file stores.
ORIENTATIONS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: np.rot90,
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


def turned(orientation, upright, path):
    """Store an image so that EXIF's orientation turns it upright."""
    image = Image.fromarray(np.ascontiguousarray(ORIENTATIONS[orientation](upright)))
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_orientation(orientation, ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    turned(orientation, COLOURS[:12], path)
    np.testing.assert_array_equal(load(path, "RGB", (12, 16)), COLOURS[:12])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("factor", [np.uint8(1), np.uint16(257)], ids=["8 bits", "16 bits"])
def test_orientation_of_grey(orientation, ending, factor, tmp_path):
    path = tmp_path / f"x.{ending}"
    turned(orientation, RAMP[:12] * factor, path)
    np.testing.assert_array_equal(load(path, "L", (12, 16))[..., 0], RAMP[:12])


def test_canary_of_pillows_maps(tmp_path):
    """`load_pixels` opens files itself because of this; it can go when no release has it."""
    turned(6, RAMP[:12], tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        mapped = np.asarray(image)
    if np.array_equal(mapped, ORIENTATIONS[6](RAMP[:12])):
        pytest.skip("this Pillow does not turn TIFF images by itself")
    assert not np.array_equal(mapped, RAMP[:12]), "Pillow reads turned TIFF files well again"


def test_transparent_parts_lie_over_white(tmp_path):
    alpha = np.where(RAMP < 128, 0, 255).astype(np.uint8)
    shown = np.where(alpha[..., None] == 0, 255, COLOURS)
    Image.fromarray(np.dstack([COLOURS, alpha])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(load(tmp_path / "rgba.png", "RGB"), shown)
    Image.fromarray(np.dstack([RAMP, alpha])).save(tmp_path / "la.png")
    np.testing.assert_array_equal(grey(tmp_path / "la.png"), np.where(alpha == 0, 255, RAMP))
    half = np.full_like(RAMP, 128)
    Image.fromarray(np.dstack([np.zeros_like(COLOURS), half])).save(tmp_path / "half.png")
    assert (load(tmp_path / "half.png", "RGB") == 127).all()


def test_palettes(tmp_path):
    image = Image.fromarray(RAMP % 4, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    for ending in ("png", "gif"):
        image.save(tmp_path / f"x.{ending}")
        np.testing.assert_array_equal(load(tmp_path / f"x.{ending}", "RGB"), palette[RAMP % 4])
        image.save(tmp_path / f"t.{ending}", transparency=3)
        shown = np.where((RAMP % 4 == 3)[..., None], 255, palette[RAMP % 4])
        np.testing.assert_array_equal(load(tmp_path / f"t.{ending}", "RGB"), shown)


def test_black_and_white_and_cmyk(tmp_path):
    Image.fromarray(RAMP > 99).save(tmp_path / "x.png")
    np.testing.assert_array_equal(grey(tmp_path / "x.png"), np.where(RAMP > 99, 255, 0))
    for ending in ("tif", "jpg"):
        Image.fromarray(RAMP).convert("RGB").convert("CMYK").save(tmp_path / f"x.{ending}")
        # JPEG loses up to a few steps.
        assert np.abs(grey(tmp_path / f"x.{ending}").astype(int) - RAMP).max() <= 3


def test_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")  # reading it would wait for a writer, for ever
    for path in (tmp_path / "fifo.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            load(path)
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"link\.png \(No such file"):
        load(tmp_path / "link.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match="is empty"):
        load(tmp_path / "empty.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM"])
def test_damaged_anywhere(kind, tmp_path):
    """Whatever bytes a file has, there are pixels or one sentence."""
    whole = io.BytesIO()
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x112] = 6
    image.save(whole, kind, **({} if kind in ("GIF", "BMP", "PPM") else {"exif": exif}))
    rng = np.random.default_rng(sum(map(ord, kind)))
    path = tmp_path / "x"
    for trial in range(60):
        data = bytearray(whole.getvalue())
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(0, min(len(data), 200))] = rng.integers(0, 256)
        if trial % 3 == 0:
            del data[rng.integers(0, len(data)) :]
        path.write_bytes(data)
        try:
            assert load(path, "RGB").shape == (16, 16, 3)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
