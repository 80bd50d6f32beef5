"""One image file to 8-bit pixels, whatever kind of pixels the file has.

The pixels are those that a viewer shows: turned as EXIF says, transparent parts over white. Wider
numbers are scaled to 8 bits by the range of their kind, see `_white`.
"""

from __future__ import annotations

import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvm_insta.errors import InputError, one_line

if TYPE_CHECKING:
    from PIL import Image

_WIDE = ("I", "F")  # Pillow's modes of one channel with more than 8 bits begin so
_BITS_PER_SAMPLE = 258  # tag of TIFF


def load_pixels(
    path: Path, mode: str, size: tuple[int, int], interpolation: str
) -> npt.NDArray[np.uint8]:
    """Read an image.

    Args:
        path: a regular file.
        mode: "RGB" or "L".
        size: height and width of the result.
        interpolation: how it is resized, a name of Pillow's.

    Returns:
        `[H, W, C]` uint8.

    Raises:
        InputError: it is no regular file, is empty or damaged, or has values without a range.
    """
    from PIL import Image

    _check_file(path)
    height, width = size
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:
            warnings.simplefilter("ignore")  # of what Pillow could read all the same
            # Given a path, Pillow 13.0 maps TIFF files of one channel, and takes the sides of a
            # turned image for the file's; tests/runtime/test_images.py says when that has gone.
            with Image.open(stream) as image:
                # A palette or an alpha channel has no meaningful average: convert, then resize.
                pixels = as_shown(image, mode)
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling[interpolation.upper()])
        return np.array(pixels, np.uint8).reshape(height, width, -1)
    except InputError:
        raise
    except Exception as error:
        # What a damaged file makes Pillow's readers raise depends on the format and the place.
        raise InputError(
            f"cannot read the image {path} ({one_line(error)}); give a complete PNG, JPEG, PPM or "
            "other file that Pillow reads"
        ) from error


def _check_file(path: Path) -> None:
    """Refuse what is no regular file: opening a FIFO waits for ever, a device never ends."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(
            f"cannot read the image {path} ({error.strerror}); give an existing file"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"cannot read the image {path}: it is no regular file; give an image file")
    if found.st_size == 0:
        raise InputError(f"cannot read the image {path}: it is empty; give a complete file")


def as_shown(image: Image.Image, mode: str) -> Image.Image:
    """The 8-bit pixels of an opened image, as a viewer shows them; training takes the same ones.

    Args:
        image: an image that was opened from a stream and not changed since, but for `draft`.
        mode: "RGB" or "L".

    Raises:
        ValueError: it has pixels that are NaN or infinite; or what Pillow raises for a damaged one.
    """
    from PIL import Image, ImageOps

    bits = _bits(image)
    kind = image.format or ""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(_WIDE):
        values = np.asarray(upright)
        upright = Image.fromarray(_to_bytes(values, bits, kind), "L")
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        colours = upright.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        upright = Image.alpha_composite(white, colours)
    return upright.convert(mode)


def _bits(image: Image.Image) -> int:
    """Bits of a pixel that a TIFF file tells of, else 0."""
    tags: Any = getattr(image, "tag_v2", None) or {}
    found = tags.get(_BITS_PER_SAMPLE, (0,))
    return int(found[0] if isinstance(found, tuple) else found)


def _to_bytes(values: npt.NDArray[Any], bits: int, kind: str) -> npt.NDArray[np.uint8]:
    """Scale one channel of wide numbers to 0 .. 255, rounded."""
    wide = values.astype(np.float64)
    low, high = float(wide.min()), float(wide.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it has pixels that are NaN or infinite")
    black, white = 0.0, _white(values.dtype, low, high, bits, kind)
    if white is None:
        black, white = low, high
    scaled = (wide - black) * (255.0 / (white - black)) if white > black else wide * 0.0
    return np.rint(scaled).astype(np.uint8)


def _white(dtype: np.dtype[Any], low: float, high: float, bits: int, kind: str) -> float | None:
    """The value of white.

    16 bits: 65535, or less where a TIFF file says so (12 bits: 4095). Floats and 32-bit integers
    have no range of their own: it is the smallest of 0 .. 1 (floats), 0 .. 255 and 0 .. 65535 that
    holds all values of the image; None where none does: then the range is that of the values.
    """
    if dtype == np.uint16 or (dtype.kind in "iu" and kind in ("PNG", "PPM", "JPEG2000")):
        return float(2 ** (bits if 8 < bits < 16 else 16) - 1)
    ranges = [1.0] if dtype.kind == "f" else []
    return next((top for top in (*ranges, 255.0, 65535.0) if 0 <= low and high <= top), None)
