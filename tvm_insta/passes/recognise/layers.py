"""Layers behind level tensors become layers on packed bits."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.errors import ImportModelError
from tvm_insta.ops import packing
from tvm_insta.ops._common import same
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.recognise.levels import Encoding, Levels, binary_weight
from tvm_insta.passes.recognise.reshapes import MergesReshapes
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    array,
    const,
    names,
    op_name,
    rank,
    shape_of,
)


@module_pass("RecogniseLayers")
def recognise_layers(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Pack level tensors; convolutions and products of them are ``relax.insta.bitserial_*``."""
    return _RecogniseLayers(mod).run()


class _RecogniseLayers(MergesReshapes):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.levels: dict[Expr, Levels] = {}
        self.rules = {
            "relax.insta.levels": self._levels,
            "relax.reshape": self._reshape,
            "relax.expand_dims": self._reshape,
            "relax.insta.conv2d": self._conv2d,
            "relax.insta.dense": self._dense,
            "relax.insta.product": self._product,
        }

    def visit(self, call: Call) -> Expr:
        rule = self.rules.get(op_name(call))
        result = rule(call) if rule is not None else None
        return self.emit(call) if result is None else result

    def _levels(self, call: Call) -> Expr:
        var = self.emit(call)
        self.levels[var] = Levels.of(call)
        return var

    def _reshape(self, call: Call) -> Expr:
        """Reshapes are merged; one that gives a level tensor its own shape back is nothing."""
        merged = self.merged_reshape(call)
        result = self.emit(call) if merged is None else merged  # another pass may have merged them
        inner = self.calls[result].args[0]
        return inner if inner in self.levels and _same_shape(inner, result) else result

    def _conv2d(self, call: Call) -> Expr | None:
        data, weight = call.args
        layer = self._binary(data, array(weight))
        if layer is None:
            return None
        levels, signs, scale, encoding = layer
        window = ops.conv2d.of(call)
        result = ops.bitserial_conv2d(
            self._pack(levels, encoding.bits, window.groups),
            const(packing.pack_bits(signs), "uint32"),
            **vars(window),
            in_channels=shape_of(data)[3],
            bits=encoding.bits,
            encoding=encoding.name,
        )
        return self._scaled(result, scale * np.float32(encoding.factor))

    def _dense(self, call: Call) -> Expr | None:
        data, weight = call.args
        value = array(weight)
        layer = self._binary(data, None if value is None else value.T)
        if layer is None or value is None:
            return None
        levels, signs, scale, encoding = layer
        result = ops.bitserial_dense(
            self._pack(levels, encoding.bits, 1),
            const(packing.pack_bits(signs[:, None, None, :])[:, 0, 0, :], "uint32"),
            in_channels=value.shape[0],
            bits=encoding.bits,
            encoding=encoding.name,
            layers=names(call.attrs["layers"]),
        )
        return self._scaled(result, scale * np.float32(encoding.factor))

    def _product(self, call: Call) -> Expr:
        """A product of two level tensors; the front end writes it for no others."""
        sides = [self.levels[side] for side in call.args]
        first, second = (each.encoding() for each in sides)
        assert not isinstance(first, str) and not isinstance(second, str)
        result = ops.bitserial_product(
            self._pack(sides[0], first.bits, 1),
            self._pack(sides[1], second.bits, 1),
            in_channels=shape_of(call.args[0])[3],
            left_bits=first.bits,
            right_bits=second.bits,
            left_encoding=first.name,
            right_encoding=second.name,
            layers=names(call.attrs["layers"]),
        )
        return self._scaled(result, np.array(first.factor * second.factor))

    def _binary(
        self, data: Expr, weight: Array | None
    ) -> tuple[Levels, Array, Array, Encoding] | None:
        """Levels, signs, scales and encoding of a layer that is binary; None for a float one.

        The front end writes `insta.levels` only in front of layers that are binary.
        """
        levels = self.levels.get(data)
        if levels is None:
            return None
        split = None if weight is None else binary_weight(weight)
        encoding = levels.encoding()
        if not isinstance(encoding, str) and encoding.name == "ternary":
            encoding = "three levels"
        if split is None or isinstance(split, str) or isinstance(encoding, str):
            raise ImportModelError(
                f"got a level tensor ({levels.site}) in front of a layer that is not binary "
                f"({split if isinstance(split, str) else encoding}): report this as a fault of the "
                "compiler"
            )
        return (levels, *split, encoding)

    def _pack(self, levels: Levels, bits: int, groups: int) -> Expr:
        dims = rank(levels.x)
        values = [array(threshold) for threshold in levels.thresholds]
        constants = [value for value in values if value is not None]
        if len(constants) == len(values):
            shaped = [v.reshape((1,) * (dims - v.ndim) + v.shape) for v in constants]
            thresholds = const(np.stack(np.broadcast_arrays(*shaped)))
        else:
            parts = []
            for threshold in levels.thresholds:
                shape = shape_of(threshold)
                full = [1] * (dims + 1 - len(shape)) + shape
                reshaped = self.is_call(threshold, "relax.reshape")
                source = self.calls[threshold].args[0] if reshaped else threshold
                parts.append(self.emit(relax.op.reshape(source, full)))
            thresholds = parts[0] if len(parts) == 1 else self.emit(relax.op.concat(parts, axis=0))
        return self.emit(
            ops.threshold_pack(
                levels.x,
                thresholds,
                bits=bits,
                compare=levels.compare,
                nan=levels.nan,
                groups=groups,
                site=levels.site,
            )
        )

    def _scaled(self, result: Expr, scale: Array) -> Expr:
        values = self.emit(relax.op.astype(self.emit(result), "float32"))
        if (scale == 1).all():
            return values
        return self.emit(relax.op.multiply(values, const(scale)))


def _same_shape(one: Expr, other: Expr) -> bool:
    own, given = shape_of(one), shape_of(other)
    return len(own) == len(given) and all(same(a, b) for a, b in zip(own, given, strict=True))
