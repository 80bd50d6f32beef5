"""What a module is made of: its layers, and the values between them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.execute import Step, Value, execute
from tvm_insta.frontend.onnx.operators.quantise import materialised
from tvm_insta.frontend.onnx.operators.registry import Codes, Constant
from tvm_insta.frontend.onnx.static import Static


class OnnxLayer(nn.Module):
    """One convolution or product of the file.

    Attributes:
        onnx_name: the node's name.
        step: the node.
        bound_inputs: buffer and value of each input that is a constant.
    """

    def __init__(self, step: Step, constants: Mapping[int, Constant]) -> None:
        super().__init__()
        self.onnx_name = step.node.name
        self.step = step
        self.bound_inputs: dict[int, tuple[str, Constant]] = {}
        for index, value in constants.items():
            name = ("data", "weight", "bias")[index] if index < 3 else f"operand_{index}"
            self.register_buffer(name, value.tensor)
            self.bound_inputs[index] = (name, value)

    def forward(self, *inputs: Tensor) -> Tensor | Codes:
        """Run the node on those of its inputs that are no constants."""
        given = iter(inputs)
        operands: list[Value | None] = []
        for index, name in enumerate(self.step.node.inputs):
            if index in self.bound_inputs:
                operands.append(bound(self, *self.bound_inputs[index]))
            else:
                operands.append(next(given) if name else None)
        (result,) = execute(self.step, operands)
        assert isinstance(result, (Tensor, Codes))
        return result

    def extra_repr(self) -> str:
        """The node in ``print(module)``."""
        return f"{self.step.node.op}, {self.onnx_name!r}"


def bound(module: nn.Module, name: str, value: Constant) -> Constant:
    """A constant whose tensor is the buffer as it is now, which may be a traced one."""
    tensor = getattr(module, name)
    assert isinstance(tensor, Tensor)
    return Constant(value.array, value.element, tensor, value.doubles)


def holds(condition: Value) -> bool:
    """Whether the condition of an If holds.

    Raises:
        ImportModelError: it depends on the numbers of the input.
    """
    if isinstance(condition, (Constant, Static)) and condition.array.size == 1:
        return bool(condition.array.reshape(-1)[0])
    raise ImportModelError(
        "its condition is computed from the input, but only constants and shapes may decide: "
        "export the branch that is needed"
    )


def plain(value: Value | None) -> Tensor:
    """A value as a tensor; raises `ImportModelError` for the shape of an input."""
    if isinstance(value, Codes):
        return materialised(value)
    if isinstance(value, Constant):
        return value.tensor
    if isinstance(value, Static):
        if not value.known:
            raise ImportModelError("an output of the model is the shape of its input")
        return torch.from_numpy(value.values())
    assert isinstance(value, Tensor)
    return value
