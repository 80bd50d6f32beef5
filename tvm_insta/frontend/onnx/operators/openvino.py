"""OpenVINO's quantiser, as NNCF writes it: floats in, floats on a grid out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.qonnx import operand
from tvm_insta.frontend.onnx.operators.registry import Constant, operator

DOMAIN = "org.openvinotoolkit"
_LEVELS = 65536


@operator("FakeQuantize", domains=(DOMAIN,), ignored=("auto_broadcast",))
def fake_quantize(
    x: Tensor,
    input_low: Constant,
    input_high: Constant,
    output_low: Constant,
    output_high: Constant,
    *,
    levels: int,
) -> Tensor:
    """``x`` between two ends, rounded to one of ``levels`` places, and those laid between others.

    Where both ends of the input are one number, what is above it is the upper end of the output.
    """
    if not 2 <= levels <= _LEVELS:
        raise ImportModelError(f"it has {levels} levels, but 2 to {_LEVELS} are taken")
    low, high = operand(x, input_low, "lower end"), operand(x, input_high, "upper end")
    bottom = operand(x, output_low, "lower end of the output")
    top = operand(x, output_high, "upper end of the output")
    if levels == 2 and np.all(input_low.array == input_high.array):
        return torch.where(x > low, top, bottom)
    if not np.all(input_low.array < input_high.array):
        raise ImportModelError("the lower end of its range must be below the upper one")
    places = float(levels - 1)
    inside = torch.clamp(torch.clamp(x, min=low), max=high)  # one end may be a number, one a tensor
    code = torch.round((inside - low) / (high - low) * places)
    result: Tensor = code / places * (top - bottom) + bottom
    return result
