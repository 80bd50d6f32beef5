"""Phase 1: constants are computed, batch normalisation becomes one multiplication and one addition.

PyTorch's inference batch norm is y = x * alpha + beta with alpha = gamma / sqrt(var + eps) and
beta = bias - mean * alpha; both are computed here in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta.errors import ImportModelError
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Array, Expr, Rewriter, array, const, ints, op_name, rank


@module_pass("Simplify")
def simplify(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Fold what is constant, replace batch norm, merge equal expressions."""
    return _Simplify(mod).run()


class _Simplify(Rewriter):
    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        if name == "relax.nn.batch_norm":
            return self._batch_norm(call)
        if name == "relax.nn.dropout":
            return relax.Tuple([call.args[0], call.args[0]])
        folded = _fold(name, call)
        return call if folded is None else folded

    def _batch_norm(self, call: Call) -> Expr:
        data, *parameters = call.args
        values = [array(parameter) for parameter in parameters]
        if any(value is None for value in values) or bool(call.attrs.training):
            raise ImportModelError(
                "got a batch normalisation that computes its own statistics, but only inference "
                "batch norm with stored statistics can be compiled: call module.eval() first"
            )
        gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
        alpha = gamma / np.sqrt(variance + float(call.attrs.epsilon))
        shape = [1] * rank(data)
        shape[int(call.attrs.axis)] = -1
        scaled = self.emit(relax.op.multiply(data, const(alpha.reshape(shape))))
        shifted = self.emit(relax.op.add(scaled, const((beta - mean * alpha).reshape(shape))))
        return relax.Tuple([shifted, *parameters[2:4]])


def _fold(name: str, call: Call) -> Expr | None:
    """The constant that a call on constants gives, for the few operators an importer leaves."""
    values = [array(arg) for arg in call.args]
    if not values or values[0] is None:
        return None
    value: Array = values[0]
    result: Any = None
    if name == "relax.permute_dims":
        axes = call.attrs.axes
        result = np.transpose(value, None if axes is None else ints(axes))
    elif name == "relax.expand_dims":
        result = np.expand_dims(value, tuple(ints(call.attrs.axis)))
    elif name == "relax.reshape" and all(hasattr(d, "value") for d in call.args[1].values):
        result = value.reshape([int(dim) for dim in call.args[1].values])
    elif name == "relax.squeeze":
        axes = call.attrs.axis
        result = np.squeeze(value, None if axes is None else tuple(ints(axes)))
    elif name == "relax.astype":
        result = value.astype(str(call.attrs.dtype))
    elif name == "relax.negative":
        result = -value
    return None if result is None else const(result, str(result.dtype))
