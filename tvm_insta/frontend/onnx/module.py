"""An ONNX graph as an `nn.Module`, which goes the way of every other PyTorch module from there.

Each convolution and product is a child module named after its node, with its constants as buffers.
Shapes are numbers while the module runs, so `torch.export` sees a dynamic batch through them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.execute import Step, Value, execute, explained
from tvm_insta.frontend.onnx.fold import Budget, fold
from tvm_insta.frontend.onnx.graph import Graph, Initialiser, Input
from tvm_insta.frontend.onnx.layer import OnnxLayer, bound, holds, plain
from tvm_insta.frontend.onnx.names import Identifiers
from tvm_insta.frontend.onnx.operators.registry import Constant
from tvm_insta.frontend.onnx.tensors import torch_type

Watch = Callable[[Step, list[Value | None], tuple[Value, ...], OnnxLayer | None], None]
"""Called with each step, its operands and results, and its child module if it is a layer."""


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

    def __init__(self, graph: Graph, budget: Budget | None = None) -> None:
        super().__init__()
        budget = Budget() if budget is None else budget
        self.graph = graph
        self.batch: int | None = None
        self.notes: tuple[str, ...] = graph.notes
        self.onnx_names: dict[str, str] = {}
        self.argument_names = argument_names(graph.inputs)
        self.output_names = graph.outputs
        folded = fold(graph, budget)
        self._steps = folded.steps
        self._children_of: dict[int, str] = {}
        self._buffer_of: dict[str, tuple[str, Constant]] = {}
        self._branches_of: dict[int, tuple[str, ...]] = {}
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
            elif step.node.branches:
                self._branches_of[index] = self._add_branches(step, own, identifier, budget)
                if 0 in own:
                    shared[step.node.inputs[0]] = own[0]
            else:
                shared.update({step.node.inputs[i]: value for i, value in own.items()})
        shared.update({n: v for n, v in folded.constants.items() if n in graph.outputs})
        for name, value in shared.items():
            buffer = identifier(name, "constant")
            self.register_buffer(buffer, value.tensor)
            self._buffer_of[name] = (buffer, value)
        self._last_use = _last_uses(self._steps, graph)
        self.eval()

    def _add_branches(
        self, step: Step, own: Mapping[int, Constant], identifier: Identifiers, budget: Budget
    ) -> tuple[str, ...]:
        """Child modules of an If, "" for one whose condition never holds."""
        known = {
            step.node.inputs[i]: Initialiser(value.array, value.element, value.doubles)
            for i, value in own.items()
            if i
        }
        condition = bool(own[0].array.reshape(-1)[0]) if 0 in own and own[0].array.size else None
        names = []
        for branch, chosen in zip(step.node.branches, (True, False), strict=True):
            if condition not in (None, chosen):
                names.append("")
                continue
            rest = tuple(each for each in branch.inputs if each.name not in known)
            constants = {**branch.initialisers, **known}
            with explained(step.node):
                module = OnnxModule(
                    dataclasses.replace(branch, inputs=rest, initialisers=constants), budget
                )
            child = identifier(f"{step.node.name}/{'then' if chosen else 'else'}", "branch")
            self.add_module(child, module)
            self.onnx_names.update(
                {f"{child}.{name}": node for name, node in module.onnx_names.items()}
            )
            names.append(child)
        return tuple(names)

    def run(
        self, inputs: Sequence[Tensor], watch: Watch | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Execute the graph.

        Args:
            inputs: one tensor per input.
            watch: is told of each step, where it is given; what goes wrong in one is then said.

        Raises:
            ImportModelError: with ``watch``: a node does not fit its inputs.
        """
        batch = None if self.batch is None else (self.batch, inputs[0].shape[0])
        outputs = tuple(map(plain, self._execute(inputs, batch, watch)))
        return outputs[0] if len(outputs) == 1 else outputs

    def _execute(
        self, inputs: Sequence[Value], batch: tuple[int, int] | None, watch: Watch | None
    ) -> tuple[Value, ...]:
        env: dict[str, Value] = dict(
            zip([each.name for each in self.graph.inputs], inputs, strict=True)
        )
        for name, found in self._buffer_of.items():
            env[name] = bound(self, *found)
        for index, step in enumerate(self._steps):
            with nullcontext() if watch is None else explained(step.node):
                results = self._step(index, step, env, batch, watch)
            for name, value in zip(step.node.outputs, results):  # noqa: B905
                if name:
                    env[name] = value
            for name in self._last_use[index]:
                env.pop(name, None)
        return tuple(env[name] for name in self.graph.outputs)

    def _step(
        self,
        index: int,
        step: Step,
        env: Mapping[str, Value],
        batch: tuple[int, int] | None,
        watch: Watch | None,
    ) -> tuple[Value, ...]:
        if step.node.branches:
            condition = env[step.node.inputs[0]]
            names = self._branches_of[index]
            branch = self._modules.get(names[0 if holds(condition) else 1])
            assert isinstance(branch, OnnxModule)
            captured = [env[each.name] for each in branch.graph.inputs]
            return branch._execute(captured, batch, watch)
        layer = self.layer(index)
        if layer is None:
            operands = [env[name] if name else None for name in step.node.inputs]
            results = execute(step, operands, batch)
        else:
            operands = [
                env[name]
                for i, name in enumerate(step.node.inputs)
                if name and i not in layer.bound_inputs
            ]
            results = (layer(*map(plain, operands)),)
        if watch is not None:
            watch(step, operands, results, layer)
        return results

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
    return torch_type(each.element, f"input {each.name!r}")


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
