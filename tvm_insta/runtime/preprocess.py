"""Image files to the network's input, as the manifest's `preprocessing` says.

`{"resize": [height, width], "interpolation": "bilinear", "mode": "RGB" | "L", "scale": 0.00392,
"mean": [...], "std": [...], "layout": "NCHW" | "NHWC"}`: a pixel p of channel c becomes
(p * scale - mean[c]) / std[c], in float32. Only `resize` and `mode` are required.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvm_insta.errors import ArtefactError, InputError, one_line
from tvm_insta.runtime.images import load_pixels
from tvm_insta.runtime.schema import SchemaError, from_json

if TYPE_CHECKING:
    from tvm_insta.runtime.entries import TensorInfo

CHANNELS = {"RGB": 3, "L": 1}
MOST_PIXELS = 2**15
"""Of a side of an image after resizing."""
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_LAYOUTS = ("NCHW", "NHWC")
KEYS = {"resize", "interpolation", "mode", "scale", "mean", "std", "layout"}


@dataclass(frozen=True)
class Preprocessing:
    """The manifest's preprocessing, checked."""

    resize: tuple[int, int]
    """Height and width in pixels."""
    mode: str
    interpolation: str = "bilinear"
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        if self.mode not in CHANNELS:
            raise ArtefactError(f"preprocessing has mode {self.mode!r}; allowed are RGB and L")
        if self.interpolation not in _INTERPOLATIONS:
            raise ArtefactError(
                f"preprocessing has interpolation {self.interpolation!r}; allowed are "
                f"{', '.join(_INTERPOLATIONS)}"
            )
        if self.layout not in _LAYOUTS:
            raise ArtefactError(
                f"preprocessing has layout {self.layout!r}; allowed are NCHW and NHWC"
            )
        if len(self.resize) != 2 or not all(1 <= side <= MOST_PIXELS for side in self.resize):
            raise ArtefactError(
                f"preprocessing has resize {list(self.resize)}; it must be [height, width], 1 to "
                f"{MOST_PIXELS} pixels"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values and len(values) != CHANNELS[self.mode]:
                raise ArtefactError(
                    f"preprocessing has {len(values)} numbers in {name}; mode {self.mode} needs "
                    f"{CHANNELS[self.mode]}"
                )
        with np.errstate(over="ignore", under="ignore"):
            numbers = np.array([self.scale, *self.mean, *self.std]).astype(np.float32)
        if not np.isfinite(numbers).all():
            raise ArtefactError("preprocessing has a number that is NaN or infinite in float32")
        if not numbers[1 + len(self.mean) :].all():
            raise ArtefactError(
                "preprocessing has a 0 in std, in float32; the pixels are divided by it"
            )

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> Preprocessing:
        """Check the manifest's dictionary.

        Raises:
            ArtefactError: if there is none, or it lacks a key, has an unknown one or a bad value.
        """
        if data is None:
            raise ArtefactError(
                "the artefact does not say how images become its input; say it with --preprocess "
                "(of the run command, or of compile), or pass an array instead"
            )
        unknown = sorted(set(data) - KEYS)
        missing = sorted({"resize", "mode"} - set(data))
        if unknown or missing:
            what = f"the unknown key {unknown[0]}" if unknown else f"no key {missing[0]}"
            raise ArtefactError(f"preprocessing has {what}; keys are {', '.join(sorted(KEYS))}")
        # Written in Python a tuple is as good as a list; "mean": None says that there is none.
        plain = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in data.items()
            if value is not None or key not in ("mean", "std")
        }
        try:
            return from_json(cls, plain)
        except SchemaError as error:
            raise ArtefactError(
                f"preprocessing holds a value of the wrong type ({one_line(error)})"
            ) from error


def for_input(data: dict[str, Any] | None, info: TensorInfo) -> Preprocessing:
    """Check the manifest's dictionary, and that what it makes is the input.

    Args:
        data: `Manifest.preprocessing`.
        info: the only input of the artefact.

    Raises:
        ArtefactError: as `Preprocessing.from_dict`; or it makes images of another shape.
    """
    how = Preprocessing.from_dict(data)
    channels = CHANNELS[how.mode]
    made = (channels, *how.resize) if how.layout == "NCHW" else (*how.resize, channels)
    if info.shape[1:] != made:
        raise ArtefactError(
            f"preprocessing makes images {list(made)}, but the network takes "
            f"{list(info.shape[1:])}: compile the model with a --preprocess that fits"
        )
    return how


def load_images(
    paths: Sequence[str | Path],
    preprocessing: Preprocessing | dict[str, Any] | None,
    dtype: str = "float32",
) -> npt.NDArray[Any]:
    """Read images into one batch.

    Args:
        paths: image files, all of them.
        preprocessing: the manifest's dictionary, or the checked form of it.
        dtype: "float32", or "uint8" for the pixels themselves: of the same size and layout, but
            neither scaled nor shifted.

    Returns:
        `[N, C, H, W]` (layout NCHW) or `[N, H, W, C]` (NHWC) of `dtype`.

    Raises:
        InputError: naming the file that cannot be read.
    """
    if not isinstance(preprocessing, Preprocessing):
        preprocessing = Preprocessing.from_dict(preprocessing)
    if not paths:
        raise InputError("got no image; give at least one file")
    if dtype not in ("float32", "uint8"):
        raise InputError(f"got dtype {dtype!r}, but images become float32 or uint8")
    how = (preprocessing.mode, preprocessing.resize, preprocessing.interpolation)
    channels_first = preprocessing.layout == "NCHW"
    sizes, channels = preprocessing.resize, CHANNELS[preprocessing.mode]
    shape = (channels, *sizes) if channels_first else (*sizes, channels)
    images = np.empty((len(paths), *shape), dtype)
    for image, path in zip(images, paths, strict=True):  # one at a time: there may be many
        pixels = load_pixels(Path(path), *how)
        values = normalise(pixels, preprocessing) if dtype == "float32" else pixels
        image[...] = values.transpose(2, 0, 1) if channels_first else values
    return images


def image_batches(
    paths: Sequence[str | Path], preprocessing: Preprocessing, dtype: str, size: int
) -> Iterator[npt.NDArray[Any]]:
    """Read images into batches, the next when it is asked for: all of them may not fit.

    Args:
        paths: as of `load_images`, as are the results.
        preprocessing: the manifest's, checked.
        dtype: "float32" or "uint8".
        size: images of a batch; the last may have fewer.
    """
    for first in range(0, len(paths), size):
        yield load_images(paths[first : first + size], preprocessing, dtype)


def normalise(pixels: npt.NDArray[np.uint8], how: Preprocessing) -> npt.NDArray[np.float32]:
    """Scale and shift pixels `[..., C]` uint8; every step is rounded to float32.

    A network compiled with uint8 input computes the same bits.
    """
    values: npt.NDArray[np.float32] = pixels.astype(np.float32) * np.float32(how.scale)
    if how.mean:
        values -= np.asarray(how.mean, np.float32)
    if how.std:
        values /= np.asarray(how.std, np.float32)
    return values
