"""The largest inputs of the float layers on sample images, for 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta.passes.context import Context
from tvm_insta.passes.lowering import FUSE, LOWER
from tvm_insta.passes.module_pass import run_passes
from tvm_insta.passes.rewriter import Array, Expr, Rewriter, names, op_name
from tvm_insta.passes.schedule import schedule


def calibrate(mod: tvm.IRModule, samples: Sequence[Array]) -> dict[str, float]:
    """Run the network in float32 on this machine; record the largest input of each float layer.

    Args:
        mod: after `fold_scales`.
        samples: one array per input, ``[images, ...]``.

    Returns:
        The largest magnitude of each layer's input, by its name.
    """
    probe = _Probe(mod)
    probed = probe.run()
    if not probe.inputs:
        return {}
    here = Context(binary="popcount", fuse_consumers=False)
    kernels = run_passes(probed, (*LOWER, *FUSE, schedule), here)
    machine = relax.VirtualMachine(tvm.compile(kernels, here.target.tvm), tvm.cpu())
    largest = np.zeros(len(probe.inputs))
    for index in range(len(samples[0])):
        image = [tvm.runtime.tensor(each[index : index + 1]) for each in samples]
        results = machine["main"](*image)
        largest = np.maximum(largest, [float(result.numpy()) for result in list(results)[1:]])
    return {
        name: float(value)
        for layers, value in zip(probe.layers, largest, strict=True)
        for name in layers
    }


class _Probe(Rewriter):
    """Adds the largest magnitude of each float layer's input to what `main` returns."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.inputs: list[Expr] = []
        self.layers: list[list[str]] = []

    def visit(self, call: Call) -> Expr:
        if op_name(call) in ("relax.insta.conv2d", "relax.insta.dense"):
            self.layers.append(names(call.attrs["layers"]))
            magnitude = self.emit(relax.op.abs(call.args[0]))
            self.inputs.append(self.emit(relax.op.max(magnitude)))
        return call

    def finish(self, result: Expr) -> Expr:
        return relax.Tuple([result, *self.inputs])
