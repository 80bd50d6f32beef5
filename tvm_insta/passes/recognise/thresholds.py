"""What makes thresholds of moments becomes `insta.instance_threshold`."""

from __future__ import annotations

import numpy as np
import tvm
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.recognise.reshapes import MergesReshapes
from tvm_insta.passes.report import Report
from tvm_insta.passes.rewriter import Array, Expr, array, const, names, op_name, rank, shape_of


@module_pass("RecogniseThresholds")
def recognise_thresholds(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Replace ``a * m + b`` of moments m, with or without the gate of two matrix products.

    These products are layers of their own no longer: the report loses them.
    """
    return _RecogniseThresholds(mod, context.report).run()


class _RecogniseThresholds(MergesReshapes):
    def __init__(self, mod: tvm.IRModule, report: Report) -> None:
        super().__init__(mod)
        self.report = report
        self.inside: set[str] = set()

    def run(self) -> tvm.IRModule:
        """Products that only thresholds needed are gone afterwards; others are layers still."""
        mod = super().run()
        self.report.absorbed(self.inside - _layers(mod))
        return mod

    def visit(self, call: Call) -> Expr:
        if op_name(call) == "relax.add":
            found = self._instance_threshold(call)
        else:
            found = self.merged_reshape(call)
        return self.emit(call) if found is None else found

    def _instance_threshold(self, call: Call) -> Expr | None:
        """``a * m + b`` on ``[N, C]``, with or without the gate, becomes one small kernel."""
        plain = self._affine(call)
        if plain is not None:
            return self.emit(ops.instance_threshold(*plain))
        for inner, branch in (call.args, reversed(call.args)):
            known = self.calls.get(inner)
            if known is None or op_name(known) != "relax.insta.instance_threshold":
                continue
            if len(known.args) == 3 and self.is_call(branch, "relax.tanh"):
                gate = self._two_layers(self.calls[branch].args[0], known.args[0])
                if gate is not None:
                    return self.emit(ops.instance_threshold(*known.args, *gate))
        return None

    def _affine(self, call: Call) -> tuple[Expr, Expr, Expr] | None:
        for product, shift in (call.args, reversed(call.args)):
            if array(shift) is None or not self.is_call(product, "relax.multiply"):
                continue
            left, right = self.calls[product].args
            m, factor = (right, left) if array(left) is not None else (left, right)
            if array(factor) is None or rank(m) != 2 or not self._is_moment(m):
                continue
            channels = shape_of(m)[1]
            vectors = [_channel_vector(array(value), channels) for value in (factor, shift)]
            if vectors[0] is not None and vectors[1] is not None:
                return m, const(vectors[0]), const(vectors[1])
        return None

    def _two_layers(self, expr: Expr, m: Expr) -> tuple[Expr, ...] | None:
        """(w1, b1, w2, b2) when ``expr`` is ``FC2(relu(FC1(m)))``."""
        second = self._dense_with_bias(expr)
        if second is None or not self.is_call(second[0], "relax.nn.relu"):
            return None
        first = self._dense_with_bias(self.calls[second[0]].args[0])
        if first is None or not first[0].same_as(m):
            return None
        # These products run inside the threshold kernel: they are no layers of their own.
        for product in (first[3], second[3]):
            self.inside.update(names(self.calls[product].attrs["layers"]))
        return (*(const(v) for v in first[1:3]), *(const(v) for v in second[1:3]))

    def _dense_with_bias(self, expr: Expr) -> tuple[Expr, Array, Array, Expr] | None:
        """(input, weight, bias, product) of a matrix product with constants."""
        if not self.is_call(expr, "relax.add"):
            return None
        for product, shift in (self.calls[expr].args, reversed(self.calls[expr].args)):
            bias = array(shift)
            if bias is None or not self.is_call(product, "relax.insta.dense"):
                continue
            data, weight = self.calls[product].args
            value = array(weight)
            if rank(data) != 2 or bias.ndim > 2:
                continue
            if value is not None and value.ndim == 2 and bias.size == value.shape[1]:
                return data, value.T, bias.reshape(-1), product
        return None

    def _is_moment(self, expr: Expr) -> bool:
        if self.is_call(expr, "relax.insta.moment_quotient"):
            return True
        return self.is_call(expr, "relax.reshape") and self.is_call(
            self.calls[expr].args[0], "relax.insta.moments"
        )


def _layers(mod: tvm.IRModule) -> set[str]:
    """The names of the matrix products that `main` computes."""
    found: set[str] = set()
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if op_name(binding.value) == "relax.insta.dense":
                found.update(names(binding.value.attrs["layers"]))
    return found


def _channel_vector(value: Array | None, channels: int) -> Array | None:
    """A constant for each element of ``[N, C]``, as ``[C]``."""
    if value is None or value.size not in (1, channels) or value.ndim > 2:
        return None
    if value.size == channels and value.shape[-1] != channels:
        return None
    return np.broadcast_to(value.reshape(-1), (channels,))
