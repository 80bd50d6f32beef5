"""The description of how an image becomes a network's input.

It is data, not code: the runtime, which knows no PyTorch, carries it out. Keys: "resize" [height,
width]; "interpolation" (PIL's name); "mode" (PIL's name); "scale", by which 8-bit values are
multiplied; then "mean" is subtracted and the result divided by "std", per channel; "layout";
"classes", one name per logit, or an empty list where the classes have no names.
"""

from __future__ import annotations

import json
import math
from typing import Any

from tvm_insta.errors import ModelError
from tvm_insta.nn.options import input_shape
from tvm_insta.runtime.image_presets import IMAGENET

KEYS = ("resize", "interpolation", "mode", "scale", "mean", "std", "layout", "classes")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def model_preprocessing(model: str) -> dict[str, Any]:
    """Describe the customary preprocessing of a model that has no trained weights.

    Args:
        model: One of `MODELS`.

    Returns:
        The description: resized to the model's input size, with ImageNet's mean and deviation for
        the 224x224 models, and values mapped to -1 .. 1 for the others.
    """
    _, height, width = input_shape(model)
    imagenet = height == 224
    return {
        "resize": [height, width],
        "interpolation": "bilinear",
        "mode": "RGB",
        "scale": 1 / 255,
        "mean": list(IMAGENET.mean) if imagenet else [0.5] * 3,
        "std": list(IMAGENET.std) if imagenet else [0.5] * 3,
        "layout": "NCHW",
        "classes": [],
    }


def parse_preprocessing(text: str, where: str) -> dict[str, Any]:
    """Read and check a description.

    Args:
        text: JSON.
        where: What it belongs to, for the message.

    Returns:
        The description.

    Raises:
        ModelError: It is not JSON, a key is missing or unknown, or a value is not allowed.
    """
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise ModelError(f"preprocessing of {where} is not JSON: {error}") from error
    if not isinstance(found, dict) or set(found) != set(KEYS):
        raise ModelError(
            f"preprocessing of {where} must be an object with the keys {', '.join(KEYS)}"
        )
    checks = {
        "resize": _numbers(found["resize"], 2) and all(n >= 1 for n in found["resize"]),
        "interpolation": found["interpolation"] in INTERPOLATIONS,
        "mode": found["mode"] == "RGB",
        "scale": _numbers([found["scale"]], 1) and found["scale"] > 0,
        "mean": _numbers(found["mean"], 3),
        "std": _numbers(found["std"], 3) and all(n > 0 for n in found["std"]),
        "layout": found["layout"] == "NCHW",
        "classes": isinstance(found["classes"], list)
        and all(isinstance(name, str) for name in found["classes"]),
    }
    for key, good in checks.items():
        if not good:
            raise ModelError(f"preprocessing of {where} has {key} = {found[key]!r}: not allowed")
    return found


def _numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(
            isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)
            for n in value
        )
    )
