"""An ONNX graph as an `nn.Module`, which goes the way of every other PyTorch module from there.

Each convolution and product is a child module named after its node, with its constants as buffers.
Shapes are numbers while the module runs, so `torch.export` sees a dynamic batch through them.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.execute import Step, Value, execute
from tvm_insta.frontend.onnx.fold import fold
from tvm_insta.frontend.onnx.graph import Graph, Input
from tvm_insta.frontend.onnx.names import Identifiers
from tvm_insta.frontend.onnx.operators.quantise import materialised
from tvm_insta.frontend.onnx.operators.registry import Codes, Constant
from tvm_insta.frontend.onnx.static import Static
from tvm_insta.frontend.onnx.tensors import numpy_type


class OnnxLayer(nn.Module):
    """One convolution or product of the file.

    Attributes:
        onnx_name: the node's name.
        step: the node.
    """

    def __init__(self, step: Step, constants: Mapping[int, Constant]) -> None:
        super().__init__()
        self.onnx_name = step.node.name
        self.step = step
        self._constants: dict[int, tuple[str, Constant]] = {}
        for index, value in constants.items():
            name = ("data", "weight", "bias")[index] if index < 3 else f"operand_{index}"
            self.register_buffer(name, value.tensor)
            self._constants[index] = (name, value)

    def forward(self, *inputs: Tensor) -> Tensor | Codes:
        """Run the node on those of its inputs that are no constants."""
        given = iter(inputs)
        operands: list[Value | None] = []
        for index, name in enumerate(self.step.node.inputs):
            if index in self._constants:
                operands.append(_bound(self, *self._constants[index]))
            else:
                operands.append(next(given) if name else None)
        (result,) = execute(self.step, operands)
        assert isinstance(result, (Tensor, Codes))
        return result

    def extra_repr(self) -> str:
        """The node in ``print(module)``."""
        return f"{self.step.node.op}, {self.onnx_name!r}"


def _bound(module: nn.Module, name: str, value: Constant) -> Constant:
    """A constant whose tensor is the buffer as it is now, which may be a traced one."""
    tensor = getattr(module, name)
    assert isinstance(tensor, Tensor)
    return Constant(value.array, value.element, tensor)


class OnnxModule(nn.Module):
    """A graph in PyTorch operators; `onnx_module` makes one with named inputs.

    Attributes:
        graph: what was read.
        onnx_names: name of the ONNX node by the name of the child module.
        argument_names: the inputs as arguments of ``forward``, in order.
        output_names: of the file.
        batch: None where shapes are taken as they are; the batch that the file was written for
            where another one is to be read into its shapes.
        notes: sentences for the report.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.batch: int | None = None
        self.notes: tuple[str, ...] = graph.notes
        self.onnx_names: dict[str, str] = {}
        self.argument_names = argument_names(graph.inputs)
        self.output_names = graph.outputs
        folded = fold(graph)
        self._steps = folded.steps
        self._children_of: dict[int, str] = {}
        self._buffer_of: dict[str, tuple[str, Constant]] = {}
        shared: dict[str, Constant] = {}
        identifier = Identifiers([*self.argument_names, *vars(self)])
        for index, step in enumerate(self._steps):
            own = {
                i: folded.constants[name]
                for i, name in enumerate(step.node.inputs)
                if name in folded.constants
            }
            if step.operator.layer:
                child = identifier(step.node.name, "node")
                self.add_module(child, OnnxLayer(step, own))
                self._children_of[index] = child
                self.onnx_names[child] = step.node.name
            else:
                shared.update({step.node.inputs[i]: value for i, value in own.items()})
        shared.update({n: v for n, v in folded.constants.items() if n in graph.outputs})
        for name, value in shared.items():
            buffer = identifier(name, "constant")
            self.register_buffer(buffer, value.tensor)
            self._buffer_of[name] = (buffer, value)
        self._last_use = _last_uses(self._steps, graph)
        self.eval()

    def run(self, inputs: Sequence[Tensor], watch: Any = None) -> Tensor | tuple[Tensor, ...]:
        """Execute the graph.

        Args:
            inputs: one tensor per input.
            watch: called with each step, its operands and its results, where it is given.
        """
        env: dict[str, Value] = dict(
            zip([each.name for each in self.graph.inputs], inputs, strict=True)
        )
        batch = None if self.batch is None else (self.batch, inputs[0].shape[0])
        for name, bound in self._buffer_of.items():
            env[name] = _bound(self, *bound)
        for index, step in enumerate(self._steps):
            layer = self.layer(index)
            if layer is not None:
                operands: list[Value | None] = [
                    env[name]
                    for i, name in enumerate(step.node.inputs)
                    if name and i not in layer._constants
                ]
                results: tuple[Value, ...] = (layer(*map(_plain, operands)),)
            else:
                operands = [env[name] if name else None for name in step.node.inputs]
                results = execute(step, operands, batch)
            if watch is not None:
                watch(step, operands, results)
            for name, value in zip(step.node.outputs, results):  # noqa: B905
                if name:
                    env[name] = value
            for name in self._last_use[index]:
                env.pop(name, None)
        outputs = tuple(_plain(env[name]) for name in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def layer(self, index: int) -> OnnxLayer | None:
        """The child module that executes step ``index``, None for all but layers."""
        child = self._modules.get(self._children_of.get(index, ""))
        return child if isinstance(child, OnnxLayer) else None

    def extra_repr(self) -> str:
        """The inputs in ``print(module)``."""
        return ", ".join(self.argument_names)


def onnx_module(graph: Graph) -> OnnxModule:
    """A module of ``graph`` whose ``forward`` has one named argument per input.

    Raises:
        ImportModelError: a node cannot be understood or computed.
    """
    if not graph.inputs:
        raise ImportModelError("the model has no input, so there is nothing to run")
    forward = _NamedForward(argument_names(graph.inputs))
    made: type[OnnxModule] = type("OnnxModule", (OnnxModule,), {"forward": forward})
    return made(graph)


class _NamedForward:
    """Gives each module a ``forward`` whose signature names the inputs, as torch.export wants it.

    A signature set on a method has "self" in it, and whoever wraps the bound method copies that; so
    this hands out functions, and a module may still be given another ``forward`` for a while.

    Args:
        names: of the arguments.
    """

    def __init__(self, names: Sequence[str]) -> None:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def __get__(self, module: OnnxModule | None, owner: type[OnnxModule]) -> Any:
        if module is None:
            return self
        signature = self.signature

        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor, ...]:
            """Run the network on one tensor per input."""
            return module.run(signature.bind(*args, **kwargs).args)

        forward.__signature__ = signature  # type: ignore[attr-defined]
        return forward


def argument_names(inputs: Sequence[Input]) -> tuple[str, ...]:
    """The names of inputs as Python identifiers."""
    identifier = Identifiers(["self"])
    return tuple(identifier(each.name, "input") for each in inputs)


def input_dtype(each: Input) -> torch.dtype:
    """The type in which the module takes an input: float32 for floats of any width."""
    dtype = numpy_type(each.element, f"input {each.name!r}")
    return torch.bool if dtype.kind == "b" else getattr(torch, dtype.name)


def _plain(value: Value | None) -> Tensor:
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


def _last_uses(steps: Sequence[Step], graph: Graph) -> list[list[str]]:
    """The names that nobody reads after each step."""
    left = Counter(name for step in steps for name in step.node.inputs if name)
    left.update(graph.outputs)
    result = []
    for step in steps:
        done = [name for name in step.node.outputs if name and not left[name]]
        for name in filter(None, step.node.inputs):
            left[name] -= 1
            if not left[name]:
                done.append(name)
        result.append(done)
    return result
