"""Means of powers over an image become `insta.moments`."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.recognise.reshapes import MergesReshapes
from tvm_insta.passes.rewriter import Expr, dtype_of, ints, op_name, rank, scalar, shape_of


@module_pass("RecogniseMoments")
def recognise_moments(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Replace E[x^k] over the image, k in 2..4, in a channels-last module."""
    return _RecogniseMoments(mod).run()


class _RecogniseMoments(MergesReshapes):
    def visit(self, call: Call) -> Expr:
        found = self._moment(call) if op_name(call) == "relax.mean" else self.merged_reshape(call)
        return self.emit(call) if found is None else found

    def _moment(self, call: Call) -> Expr | None:
        data = call.args[0]
        if rank(data) != 4 or call.attrs.axis is None or dtype_of(data) != "float32":
            return None
        if sorted(axis % 4 for axis in ints(call.attrs.axis)) != [1, 2]:
            return None
        base, order = self._power(data)
        if not 2 <= order <= 4:
            return None
        moment = self.emit(ops.moments(base, orders=[order]))
        batch, _, channels = shape_of(moment)
        ones = [1, 1] if call.attrs.keepdims else []
        return self.emit(relax.op.reshape(moment, [batch, *ones, channels]))

    def _power(self, expr: Expr) -> tuple[Expr, int]:
        """Write an expression as ``base ** k``."""
        call = self.calls.get(expr)
        name = op_name(call) if call is not None else ""
        if call is not None and name == "relax.multiply":
            (left, i), (right, j) = self._power(call.args[0]), self._power(call.args[1])
            if left.same_as(right):
                return left, i + j
        elif call is not None and name in ("relax.power", "relax.square"):
            exponent = 2.0 if name == "relax.square" else scalar(call.args[1])
            base, k = self._power(call.args[0])
            if exponent is not None and exponent in (1.0, 2.0, 3.0, 4.0):
                return base, k * int(exponent)
        return expr, 1
