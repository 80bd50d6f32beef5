"""``--preprocess``: how images become the input of a network that does not tell it itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_insta.errors import InputError
from tvm_insta.runtime.image_presets import NONE, PRESETS
from tvm_insta.runtime.preprocess import CHANNELS, KEYS, Preprocessing

HELP = (
    "how images become the input: imagenet, cifar10 (their means and deviations), unit (pixels "
    "divided by 255), none (not known), or a JSON object or file with some of resize, mode, scale, "
    "mean, std, interpolation, layout, classes"
)


@dataclass(frozen=True)
class Described:
    """What ``--preprocess`` says.

    Attributes:
        preprocessing: as the manifest keeps it; None for "none".
        classes: names of the classes; None if not said.
    """

    preprocessing: dict[str, Any] | None
    classes: tuple[str, ...] | None = None


def described(text: str, shape: Sequence[int | str]) -> Described:
    """Read the option.

    Args:
        text: its value, see `HELP`.
        shape: of one input, without the batch: `[C, H, W]`, or `[H, W, C]` where the text is JSON
            that says so.

    Raises:
        InputError: it is none of these, or makes something else than such an input.
        ArtefactError: a value in the JSON is not allowed.
    """
    if text == NONE:
        return Described(None)
    if text in PRESETS:
        values: dict[str, Any] = {
            "mean": list(PRESETS[text].mean),
            "std": list(PRESETS[text].std),
        }
    else:
        values = _from_json(text)
    unknown = sorted(set(values) - KEYS - {"classes"})
    if unknown:
        raise InputError(
            f"got --preprocess with the unknown key {unknown[0]}; keys are "
            f"{', '.join(sorted({*KEYS, 'classes'}))}"
        )
    layout = values.get("layout", Preprocessing.layout)
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        raise InputError(
            f"got --preprocess {text}, but the network takes {_shape(shape)}, which is no image: "
            "leave it away"
        )
    channels, height, width = (shape[2], *shape[:2]) if layout == "NHWC" else shape
    classes = values.pop("classes", None)
    if classes is not None and not _texts(classes):
        raise InputError("got --preprocess with classes that are not a list of names: give names")
    modes = {count: mode for mode, count in CHANNELS.items()}
    if channels not in modes:
        raise InputError(
            f"got --preprocess {text}, but the network takes {_shape(shape)}: images have 1 or 3 "
            f"channels, {'last' if layout == 'NHWC' else 'first'} in the shape"
        )
    defaults = {
        "resize": [height, width],
        "interpolation": Preprocessing.interpolation,
        "mode": modes[int(channels)],
        "scale": Preprocessing.scale,
        "mean": [],
        "std": [],
        "layout": layout,
    }
    whole = {**defaults, **values}
    made = Preprocessing.from_dict(whole)
    if (CHANNELS[made.mode], *made.resize) != (channels, height, width):
        raise InputError(
            f"got --preprocess that makes images of mode {made.mode} and size "
            f"{list(made.resize)}, but the network takes {_shape(shape)}: leave mode and resize "
            "away, or give the network's own"
        )
    return Described(whole, tuple(classes) if classes else None)


def _from_json(text: str) -> dict[str, Any]:
    source = text
    try:
        if not text.lstrip().startswith("{"):
            path = Path(text)
            if not path.is_file():
                raise InputError(
                    f"got --preprocess {text!r}, but it must be one of "
                    f"{', '.join([*PRESETS, NONE])}, a JSON object, or a file with one"
                )
            source = path.read_text(encoding="utf-8")
        found = json.loads(source)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"got --preprocess that is not JSON ({error}): see its help") from error
    if not isinstance(found, dict):
        raise InputError("got --preprocess with JSON that is no object: write {...}")
    return found


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"
