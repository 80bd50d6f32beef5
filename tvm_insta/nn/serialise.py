"""Equal tensors and text as equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch


def to_safetensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Write tensors and text in the safetensors format, equal content as equal bytes.

    The library writes the entries of the metadata in another order each time.

    Args:
        tensors: Contiguous, by name.
        metadata: Text by name.

    Returns:
        The content of a file.
    """
    content: bytes = safetensors.torch.save(dict(tensors), metadata=dict(metadata))
    length = int.from_bytes(content[:8], "little")
    header: Any = json.loads(content[8 : 8 + length])
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
