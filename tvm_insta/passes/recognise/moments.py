"""Means of powers over an image become `insta.moments`, quotients `insta.moment_quotient`."""

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
    """Replace E[x^k] over the image, k in 1..4, and quotients, in a channels-last module."""
    return _RecogniseMoments(mod).run()


class _RecogniseMoments(MergesReshapes):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._powers: dict[Expr, tuple[Expr, int]] = {}

    def visit(self, call: Call) -> Expr:
        find = {"relax.mean": self._moment, "relax.divide": self._quotient}
        found = find.get(op_name(call), self.merged_reshape)(call)
        return self.emit(call) if found is None else found

    def _moment(self, call: Call) -> Expr | None:
        data = call.args[0]
        if rank(data) != 4 or call.attrs.axis is None or dtype_of(data) != "float32":
            return None
        if sorted(axis % 4 for axis in ints(call.attrs.axis)) != [1, 2]:
            return None
        base, order = self._power(data)
        if not 1 <= order <= 4:
            return None
        moment = self.emit(ops.moments(base, orders=[order]))
        batch, _, channels = shape_of(moment)
        ones = [1, 1] if call.attrs.keepdims else []
        return self.emit(relax.op.reshape(moment, [batch, *ones, channels]))

    def _quotient(self, call: Call) -> Expr | None:
        """``m_i / (m_j + offset)`` of one tensor's moments, ``[N, C]`` each."""
        top, (bottom, offset) = self._order(call.args[0]), self._with_offset(call.args[1])
        under = self._order(bottom)
        if top is None or under is None or not top[0].same_as(under[0]) or top[1] == under[1]:
            return None
        both = self.emit(ops.moments(top[0], orders=[under[1], top[1]]))
        return self.emit(ops.moment_quotient(both, offset=offset))

    def _with_offset(self, expr: Expr) -> tuple[Expr, float]:
        """Write an expression as ``m + offset`` with one number as offset."""
        if self.is_call(expr, "relax.add"):
            for m, offset in (self.calls[expr].args, reversed(self.calls[expr].args)):
                value = scalar(offset)
                if value is not None:
                    return m, value
        return expr, 0.0

    def _order(self, expr: Expr) -> tuple[Expr, int] | None:
        """Tensor and order of a moment ``[N, C]``."""
        if rank(expr) != 2 or not self.is_call(expr, "relax.reshape"):
            return None
        source = self.calls[expr].args[0]
        if not self.is_call(source, "relax.insta.moments"):
            return None
        moments = self.calls[source]
        return moments.args[0], ints(moments.attrs["orders"])[0]

    def _power(self, expr: Expr) -> tuple[Expr, int]:
        """Write an expression as ``base ** k``.

        Each is found once: in ``y = y * y``, many times, both factors are the same.
        """
        if expr not in self._powers:
            self._powers[expr] = self._found_power(expr)
        return self._powers[expr]

    def _found_power(self, expr: Expr) -> tuple[Expr, int]:
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
