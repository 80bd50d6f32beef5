"""What the passes of this package share: a reshape of a reshape is one reshape."""

from __future__ import annotations

from tvm import relax
from tvm.ir import Call

from tvm_insta.passes.rewriter import Expr, Rewriter, op_name, shape_of

_RESHAPES = ("relax.reshape", "relax.expand_dims")


class MergesReshapes(Rewriter):
    """A rewriter that merges reshapes: statistics and thresholds arrive through several."""

    def merged_reshape(self, call: Call) -> Expr | None:
        """One reshape in place of two; None where ``call`` is no reshape of a reshape."""
        source = self.calls.get(call.args[0]) if op_name(call) in _RESHAPES else None
        if source is None or op_name(source) not in _RESHAPES:
            return None
        return self.emit(relax.op.reshape(source.args[0], shape_of(self.emit(call))))

    def is_call(self, expr: Expr, name: str) -> bool:
        """Whether an expression is the result of an operator."""
        return expr in self.calls and op_name(self.calls[expr]) == name
