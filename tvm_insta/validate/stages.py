"""``--verify-stages``: the module is executed after every phase and compared with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tvm
from torch import nn
from tvm import relax

from tvm_insta.codegen.needs import kernel_needs
from tvm_insta.codegen.relax_vm import build_executable
from tvm_insta.errors import ValidationError
from tvm_insta.frontend import as_arrays, join_outputs, random_tensors, trace_and_fold
from tvm_insta.runtime import amx, cpu
from tvm_insta.target import InstaTarget, parse

LIMIT = 0.05
"""Largest difference from PyTorch, relative to the largest output. Every phase computes the same
function; but float sums change their order from phase to phase, and a bit that flips for it moves
the activations behind it. A wrong phase is off by the whole of the output."""

_FUSED = ("fuse", "schedule")


class StageVerifier:
    """Called after each phase; raises where a phase changed the function.

    Attributes:
        differences: phase name -> largest difference relative to the largest output.
    """

    def __init__(
        self, module: nn.Module, example_inputs: Sequence[torch.Tensor], target: InstaTarget
    ) -> None:
        kinds = [((1, *t.shape[1:]), t.dtype) for t in example_inputs]
        drawn = zip(random_tensors(kinds), example_inputs, strict=True)
        self.inputs = [tensor.to(example.dtype) for tensor, example in drawn]
        # The graph that is compiled: of the module in eval mode, whatever mode it is in.
        graph = trace_and_fold(module, self.inputs, max_batch=2, dynamic=True)
        join_outputs(graph)
        with torch.no_grad():
            found = graph(*self.inputs)
            (self.expected,) = as_arrays([found[0] if isinstance(found, tuple) else found])
        self.target = target
        self.host = parse("llvm")
        self.differences: dict[str, float] = {}

    def __call__(self, number: int, name: str, mod: tvm.IRModule) -> None:
        """Execute ``mod`` and compare.

        Raises:
            ValidationError: the difference is above `LIMIT`.
        """
        needs = kernel_needs(mod)
        if name == "schedule" and (not self.target.is_native or cpu.missing(needs)):
            print(f"verify {number} {name}: skipped, {self.target.text} does not run here")
            return
        amx.ask_permission(needs)
        output = self._execute(name, mod)
        scale = max(float(np.abs(self.expected).max()), 1e-30)
        difference = float(np.abs(output - self.expected).max()) / scale
        self.differences[name] = difference
        print(f"verify {number} {name}: differs from PyTorch by {difference:.1e} of the largest")
        if not difference <= LIMIT:
            raise ValidationError(
                f"phase {number} ({name}) changed the network: its output differs from PyTorch's "
                f"by {difference:.2e} of the largest, allowed is {LIMIT}; --dump-ir shows the "
                "module before and after"
            )

    def _execute(self, name: str, mod: tvm.IRModule) -> npt.NDArray[Any]:
        arrays = as_arrays(self.inputs)
        target = self.target if name == "schedule" else self.host
        if name in _FUSED:
            executable = build_executable(mod, target)
        else:
            executable = tvm.compile(mod, target=target.tvm)
        machine = relax.VirtualMachine(executable, tvm.cpu())
        result = machine["main"](*[tvm.runtime.tensor(array) for array in arrays])
        output: npt.NDArray[Any] = result.numpy()
        return output
