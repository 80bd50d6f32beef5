"""What goes into a network: pixels in place of numbers, and samples to calibrate with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tvm_insta.compiler.options import RANDOM, CompileOptions
from tvm_insta.errors import InstaError
from tvm_insta.frontend import ByteInput, random_tensors
from tvm_insta.runtime.image_folder import image_set
from tvm_insta.runtime.preprocess import CHANNELS, Preprocessing, load_images

_log = logging.getLogger(__name__)

_SAMPLES = 64  # images that calibration looks at, at most
_RANDOM_SAMPLES = 8


def samples(
    options: CompileOptions,
    preprocessing: Mapping[str, Any] | None,
    example_inputs: Sequence[torch.Tensor],
) -> list[Any]:
    """Inputs to calibrate with, one array per input, ``[images, ...]``; none but for stem "int8".

    Raises:
        InstaError: it is not known how images become inputs, or there are none.
    """
    if options.stem != "int8":
        return []
    if options.calibrate == RANDOM:
        return random_samples(example_inputs)
    if preprocessing is None or len(example_inputs) != 1:
        raise InstaError(
            "got stem 'int8', but it is not known how images become this network's input: say it "
            "with --preprocess, or, from Python, build(..., preprocessing={...})"
        )
    found = image_set([Path(str(options.calibrate))])
    for note in found.notes:
        _log.warning("calibrate: %s", note)
    files = found.files
    count = min(_SAMPLES, len(files))
    chosen = [files[i * len(files) // count] for i in range(count)]  # evenly, from every class
    dtype = "uint8" if options.input == "uint8" else "float32"
    return [load_images(chosen, dict(preprocessing), dtype)]


def random_samples(example_inputs: Sequence[torch.Tensor]) -> list[Any]:
    """Inputs to calibrate with that say nothing of real ones: enough for timing."""
    kinds = [((_RANDOM_SAMPLES, *t.shape[1:]), t.dtype) for t in example_inputs]
    return [tensor.numpy() for tensor in random_tensors(kinds)]


def take_bytes(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    preprocessing: Mapping[str, Any] | None,
) -> tuple[nn.Module, list[torch.Tensor]]:
    """The network with its normalisation in front, and an example input of it: uint8 pixels.

    Raises:
        InstaError: it is not known how images become inputs, or the network takes no images.
    """
    if preprocessing is None:
        raise InstaError(
            "got input 'uint8', but it is not known how this network's images are normalised: "
            "say it with --preprocess, or, from Python, build(..., preprocessing={...}), or use "
            "input float32"
        )
    how = Preprocessing.from_dict(dict(preprocessing))
    axis = 1 if how.layout == "NCHW" else 3
    channels, shapes = CHANNELS[how.mode], [list(tensor.shape) for tensor in example_inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][axis] != channels:
        raise InstaError(
            f"got input 'uint8' and example inputs of the shapes {shapes}, but the preprocessing "
            f"makes one image of layout {how.layout} with {channels} channels: use input float32"
        )
    wrapped = ByteInput(module, scale=how.scale, mean=how.mean, std=how.std, channel_axis=axis)
    wrapped.training = module.training
    return wrapped, [torch.zeros(shapes[0], dtype=torch.uint8)]
