"""Phase 3: level tensors in front of layers become packed bits, statistics become moments.

The front end has found the level tensors: it writes `insta.levels` in front of layers whose
activations have few values and whose weights are +-1 times one scale per output channel.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.errors import ImportModelError
from tvm_insta.ops import packing
from tvm_insta.ops._common import same
from tvm_insta.passes.levels import Encoding, Levels, binary_weight
from tvm_insta.passes.report import Report
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    Rewriter,
    array,
    const,
    dtype_of,
    ints,
    names,
    op_name,
    rank,
    scalar,
    shape_of,
)


def recognise(mod: tvm.IRModule, report: Report) -> tvm.IRModule:
    """Replace level tensors and layers by packed bits, and statistics by ``insta.moments``.

    Args:
        mod: channels-last module, from `to_nhwc`.
        report: loses the layers that become part of a threshold.
    """
    return _Recognise(mod, report).run()


class _Recognise(Rewriter):
    def __init__(self, mod: tvm.IRModule, report: Report) -> None:
        super().__init__(mod)
        self.report = report
        self.levels: dict[Expr, Levels] = {}
        self.rules = {
            "relax.insta.levels": self._levels,
            "relax.add": self._instance_threshold,
            "relax.mean": self._moment,
            "relax.reshape": self._reshape,
            "relax.expand_dims": self._reshape,
            "relax.insta.conv2d": self._conv2d,
            "relax.insta.dense": self._dense,
            "relax.insta.product": self._product,
        }

    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        rule = self.rules.get(name)
        result = rule(call) if rule is not None else None
        return self.emit(call) if result is None else result

    # -- levels ----------------------------------------------------------------------------------

    def _levels(self, call: Call) -> Expr:
        x, *thresholds = call.args
        var = self.emit(call)
        attrs = call.attrs
        self.levels[var] = Levels(
            x,
            str(attrs["compare"]),
            tuple(thresholds),
            float(attrs["base"]),
            float(attrs["step"]),
            int(attrs["nan"]),
            str(attrs["site"]),
        )
        return var

    def _reshape(self, call: Call) -> Expr | None:
        """A reshape of a reshape is one reshape: thresholds arrive through several."""
        source = self.calls.get(call.args[0])
        if source is None or op_name(source) not in ("relax.reshape", "relax.expand_dims"):
            return None
        inner = source.args[0]
        shape = shape_of(self.emit(call))
        if inner in self.levels and self._same_shape(inner, shape):
            return inner
        return self.emit(relax.op.reshape(inner, shape))

    def _same_shape(self, expr: Expr, shape: list[Expr]) -> bool:
        own = shape_of(expr)
        return len(own) == len(shape) and all(same(a, b) for a, b in zip(own, shape, strict=True))

    # -- statistics ------------------------------------------------------------------------------

    def _moment(self, call: Call) -> Expr | None:
        """E[x^k] over the image, k in 2..4, becomes ``relax.insta.moments``."""
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

    def _instance_threshold(self, call: Call) -> Expr | None:
        """``a * m + b`` on ``[N, C]``, with or without the gate, becomes one small kernel."""
        plain = self._affine(call)
        if plain is not None:
            return self.emit(ops.instance_threshold(*plain))
        for inner, branch in (call.args, reversed(call.args)):
            known = self.calls.get(inner)
            if known is None or op_name(known) != "relax.insta.instance_threshold":
                continue
            if len(known.args) == 3 and self._is_call(branch, "relax.tanh"):
                gate = self._two_layers(self.calls[branch].args[0], known.args[0])
                if gate is not None:
                    return self.emit(ops.instance_threshold(*known.args, *gate))
        return None

    def _affine(self, call: Call) -> tuple[Expr, Expr, Expr] | None:
        for product, shift in (call.args, reversed(call.args)):
            if array(shift) is None or not self._is_call(product, "relax.multiply"):
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
        if second is None or not self._is_call(second[0], "relax.nn.relu"):
            return None
        first = self._dense_with_bias(self.calls[second[0]].args[0])
        if first is None or not first[0].same_as(m):
            return None
        # These products run inside the threshold kernel: they are no layers of their own.
        for product in (first[3], second[3]):
            self.report.absorbed(names(self.calls[product].attrs["layers"]))
        return (*(const(v) for v in first[1:3]), *(const(v) for v in second[1:3]))

    def _dense_with_bias(self, expr: Expr) -> tuple[Expr, Array, Array, Expr] | None:
        """(input, weight, bias, product) of a matrix product with constants."""
        if not self._is_call(expr, "relax.add"):
            return None
        for product, shift in (self.calls[expr].args, reversed(self.calls[expr].args)):
            bias = array(shift)
            if bias is None or not self._is_call(product, "relax.insta.dense"):
                continue
            data, weight = self.calls[product].args
            value = array(weight)
            if value is not None and value.ndim == 2 and bias.size == value.shape[1]:
                return data, value.T, bias.reshape(-1), product
        return None

    def _is_call(self, expr: Expr, name: str) -> bool:
        return expr in self.calls and op_name(self.calls[expr]) == name

    def _is_moment(self, expr: Expr) -> bool:
        return self._is_call(expr, "relax.reshape") and self._is_call(
            self.calls[expr].args[0], "relax.insta.moments"
        )

    # -- convolutions and products ---------------------------------------------------------------

    def _conv2d(self, call: Call) -> Expr | None:
        data, weight = call.args
        layer = self._binary(data, array(weight))
        if layer is None:
            return None
        levels, signs, scale, encoding = layer
        groups = int(call.attrs["groups"])
        result = ops.bitserial_conv2d(
            self._pack(levels, encoding.bits, groups),
            const(packing.pack_bits(signs), "uint32"),
            strides=ints(call.attrs["strides"]),
            padding=ints(call.attrs["padding"]),
            dilation=ints(call.attrs["dilation"]),
            groups=groups,
            in_channels=shape_of(data)[3],
            bits=encoding.bits,
            encoding=encoding.name,
            layers=names(call.attrs["layers"]),
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
                reshaped = self._is_call(threshold, "relax.reshape")
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


def _channel_vector(value: Array | None, channels: int) -> Array | None:
    if value is None or value.size not in (1, channels):
        return None
    if value.size == channels and value.shape[-1] != channels:
        return None
    return np.broadcast_to(value.reshape(-1), (channels,))
