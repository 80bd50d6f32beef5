"""Phase 4: chains of per-channel factors and offsets behind a convolution become one of each.

The weight scale, batch norm and bias of a binary convolution end as ``dot * scale + shift``; a
float convolution takes the factor into its weights and keeps the offset, unless its weights are
integers of a few bits: sums of such products are exact, and what rounds them behind the layer may
count on it. Products are formed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    Rewriter,
    array,
    const,
    op_name,
    rank,
    read_twice,
    shape_of,
)

_FLOAT_LAYERS = ("relax.insta.conv2d", "relax.insta.dense")
_INTEGER_LAYERS = (
    "relax.insta.bitserial_conv2d",
    "relax.insta.bitserial_dense",
)
_FEW_BITS = 8
"""Of the weights of quantised layers. Their products with integers of 8 bits have 16, which leaves
a float32 room for the sum of 256 of the largest."""


@module_pass("FoldScales")
def fold_scales(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Merge constant factors and offsets behind each layer."""
    return _FoldScales(mod).run()


@dataclass(frozen=True)
class _Affine:
    """``source * scale + shift`` per channel (last axis), in float64."""

    source: Expr
    scale: Array
    shift: Array


class _FoldScales(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.affine: dict[Expr, _Affine] = {}
        self.shared = read_twice(mod)

    def bind(self, binding: Expr) -> None:
        super().bind(binding)
        if binding.var in self.shared:  # two readers want this very value: the chain ends here
            self.affine.pop(self.env[binding.var], None)

    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        if name in ("relax.multiply", "relax.divide", "relax.add", "relax.subtract"):
            folded = self._chain(name.removeprefix("relax."), *call.args)
            if folded is not None:
                return folded
        var = self.emit(call)
        if name in _FLOAT_LAYERS or (name == "relax.astype" and self._is_integer_layer(call)):
            channels = shape_of(var)[-1]
            self.affine[var] = _Affine(var, np.ones(channels), np.zeros(channels))
        return var

    def _is_integer_layer(self, call: Call) -> bool:
        source = self.calls.get(call.args[0])
        return source is not None and op_name(source) in _INTEGER_LAYERS

    def _chain(self, name: str, left: Expr, right: Expr) -> Expr | None:
        known, other = self.affine.get(left), right
        if known is None and name in ("multiply", "add"):
            known, other = self.affine.get(right), left
        value = array(other)
        if known is None or value is None:
            return None
        if value.ndim > rank(known.source):  # the result has more dimensions than the layer's
            return None
        channels = known.scale.size
        if value.size not in (1, channels) or (value.size > 1 and value.shape[-1] != channels):
            return None
        vector = np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))
        scale, shift = known.scale, known.shift
        if name == "multiply":
            scale, shift = scale * vector, shift * vector
        elif name == "divide":
            scale, shift = scale / vector, shift / vector
        else:
            shift = shift + vector if name == "add" else shift - vector
        return self._emit_affine(_Affine(known.source, scale, shift))

    def _emit_affine(self, affine: _Affine) -> Expr:
        """Bind the whole chain anew; the earlier, shorter chains die if nobody else reads them."""
        call = self.calls[affine.source]
        result = affine.source
        if (affine.scale != 1).any():
            scaled = self._scaled_weights(call, affine.scale)
            if scaled is None:
                result = self.emit(relax.op.multiply(result, const(affine.scale)))
            else:
                result = self.emit(scaled)
        if (affine.shift != 0).any():
            result = self.emit(relax.op.add(result, const(affine.shift)))
        self.affine[result] = affine
        return result

    def _scaled_weights(self, call: Call, scale: Array) -> Call | None:
        """The same float layer with ``scale`` in its weights."""
        if op_name(call) not in _FLOAT_LAYERS:
            return None
        weight = array(call.args[1])
        if weight is None or (_has_few_bits(weight) and not _are_powers_of_two(scale)):
            return None
        if op_name(call) == "relax.insta.conv2d":
            scale = scale[:, None, None, None]
        return Call(call.op, [call.args[0], const(weight * scale)], call.attrs)


def _has_few_bits(weight: Array) -> bool:
    """Whether all weights are integers of `_FEW_BITS` bits and a sign, times one power of two."""
    largest = float(np.abs(weight).max(initial=0.0))
    if largest == 0 or not np.isfinite(largest):
        return False
    whole = np.ldexp(weight.astype(np.float64), _FEW_BITS - int(np.frexp(largest)[1]))
    return bool((whole == np.rint(whole)).all())


def _are_powers_of_two(scale: Array) -> bool:
    """Whether a product with any of these is exact."""
    return bool((np.abs(np.frexp(scale)[0]) == 0.5).all())
