"""The largest inputs of the float layers on sample images, for 8-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta.passes.rewriter import Array, Expr, Rewriter, op_name, rank

Prepare = Callable[[tvm.IRModule], tvm.IRModule]


def calibrate(
    mod: tvm.IRModule,
    samples: Sequence[Array],
    prepare: Prepare,
    target: tvm.target.Target,
) -> tuple[float, ...]:
    """Run the network and record the largest magnitude of each float layer's input.

    Args:
        mod: after `fold_scales`.
        samples: one array per input, ``[images, ...]``.
        prepare: the rest of the pipeline, in float32, for this machine.
        target: this machine.

    Returns:
        One number per layer, in the order of the layers.
    """
    probe = _Probe(mod)
    probed = probe.run()
    if not probe.inputs:
        return ()
    machine = relax.VirtualMachine(tvm.compile(prepare(probed), target), tvm.cpu())
    largest = np.zeros(len(probe.inputs))
    for index in range(len(samples[0])):
        image = [tvm.runtime.tensor(each[index : index + 1]) for each in samples]
        results = machine["main"](*image)
        largest = np.maximum(largest, [float(result.numpy()) for result in list(results)[1:]])
    return tuple(map(float, largest))


class _Probe(Rewriter):
    """Adds the largest magnitude of each float layer's input to what `main` returns."""

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.inputs: list[Expr] = []

    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        if name == "relax.insta.conv2d" or (name == "relax.matmul" and rank(call.args[1]) == 2):
            magnitude = self.emit(relax.op.abs(call.args[0]))
            self.inputs.append(self.emit(relax.op.max(magnitude)))
        return call

    def finish(self, result: Expr) -> Expr:
        return relax.Tuple([result, *self.inputs])
