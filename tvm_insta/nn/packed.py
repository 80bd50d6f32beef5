"""Packed checkpoints: a binary weight is one bit, and one scale for each filter.

`<layer>.weight` of a binary layer is stored as `<layer>.weight_bits`, uint8
`[O, ceil(C / groups * K * K / 8)]`: bit 1 is a weight >= 0, numbered in the order of the weight
`[O, C / groups, K, K]`, the first in the lowest bit of a byte; and `<layer>.weight_scale`, float32
`[O]`, the mean of |W| over the filter. All other tensors stay as they are. Reading gives
`W = +-scale`, whose sign and mean |W| are those of the weight that was packed (the mean to within
rounding), so that the network computes the same function; it cannot be trained further.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tvm_insta.errors import ModelError
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.conv import BinaryConv2d, BinaryLinear

PACKED_KEY = "tvm_insta.packed"


def pack(model: BinaryNetwork) -> tuple[dict[str, torch.Tensor], str]:
    """Pack the parameters and buffers of a network.

    Args:
        model: A network whose weights are binary.

    Returns:
        Tensors by name, and the shapes of the packed weights as JSON, for the metadata entry
        `PACKED_KEY`.
    """
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    shapes: dict[str, list[int]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BinaryConv2d | BinaryLinear):
            weight = tensors.pop(f"{name}.weight")
            shapes[f"{name}.weight"] = list(weight.shape)
            bits = (weight >= 0).flatten(1).numpy()
            packed = np.packbits(bits, axis=1, bitorder="little")
            tensors[f"{name}.weight_bits"] = torch.from_numpy(packed)
            tensors[f"{name}.weight_scale"] = module.scale().float().contiguous()
    return tensors, json.dumps(shapes, sort_keys=True)


def unpack(tensors: Mapping[str, torch.Tensor], described: str, where: str) -> dict[str, Any]:
    """Give the tensors of a network back.

    Args:
        tensors: Of `pack`.
        described: The shapes, of `pack`.
        where: What the tensors belong to, for the message.

    Returns:
        Tensors by name, as in the state dict of the network.

    Raises:
        ModelError: Bits or scales are missing or of another shape than described.
    """
    result = dict(tensors)
    try:
        shapes: dict[str, list[int]] = json.loads(described)
        for name, shape in shapes.items():
            bits, scale = result.pop(f"{name}_bits"), result.pop(f"{name}_scale")
            count = int(np.prod(shape[1:]))
            if scale.shape != (shape[0],) or bits.shape != (shape[0], -(-count // 8)):
                raise ValueError(f"{name} has bits {list(bits.shape)} for weights {shape}")
            ones = np.unpackbits(bits.numpy(), axis=1, count=count, bitorder="little")
            signs = torch.from_numpy(ones.astype(np.float32)) * 2 - 1
            result[name] = (signs * scale.unsqueeze(1)).view(shape)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(
            f"checkpoint {where} has damaged packed weights ({error}): take another copy of it"
        ) from error
    return result
