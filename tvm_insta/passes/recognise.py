"""Phase 3: comparisons, sums of comparisons and constant signs become packed bits.

Nothing here depends on who wrote the PyTorch module. A comparison of a float tensor with anything
that broadcasts against it is a threshold; a convolution or product is binary when its input is made
of such levels and its weights have one magnitude per output channel. Everything else stays float,
and the report says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.passes.levels import MIRRORED, Encoding, Levels, binary_weight
from tvm_insta.passes.report import Layer, Report
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    Rewriter,
    array,
    const,
    dtype_of,
    ints,
    op_name,
    rank,
    read_twice,
    scalar,
    shape_of,
)

_COMPARE = {
    "relax.greater_equal": "ge",
    "relax.greater": "gt",
    "relax.less_equal": "le",
    "relax.less": "lt",
}
_SIGN_NOTE = "torch.sign(0) is 0, but a bit has no third value: an input of exactly 0 gives +1"


def recognise(mod: tvm.IRModule, report: Report, layer_names: Sequence[str]) -> tvm.IRModule:
    """Replace binary patterns by ``relax.insta.*`` and fill ``report``.

    Args:
        mod: channels-last module, from `to_nhwc`.
        report: receives one layer per convolution and product.
        layer_names: names in the order of execution; generic names are given if the count differs.
    """
    return _Recognise(mod, report, layer_names).run()


class _Recognise(Rewriter):
    def __init__(self, mod: tvm.IRModule, report: Report, layer_names: Sequence[str]) -> None:
        super().__init__(mod)
        self.report = report
        self.layer_names = list(layer_names)
        self.levels: dict[Expr, Levels] = {}
        self.read_twice = read_twice(mod)
        self.shared: set[Expr] = set()  # new variables that more than one expression reads
        self.comparisons: dict[Expr, tuple[Expr, str, Expr]] = {}
        self.layer_of: dict[Expr, Layer] = {}
        self.rules = {
            "relax.where": self._where,
            "relax.astype": self._astype,
            "relax.sign": self._sign,
            "relax.negative": self._negative,
            "relax.add": self._arithmetic,
            "relax.subtract": self._arithmetic,
            "relax.multiply": self._arithmetic,
            "relax.divide": self._arithmetic,
            "relax.mean": self._moment,
            "relax.reshape": self._reshape,
            "relax.expand_dims": self._reshape,
            "relax.insta.conv2d": self._conv2d,
            "relax.matmul": self._matmul,
        }

    def bind(self, binding: Expr) -> None:
        super().bind(binding)
        if binding.var in self.read_twice:
            self.shared.add(self.env[binding.var])

    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        if name in _COMPARE:
            var = self.emit(call)
            self.comparisons[var] = self._comparison(_COMPARE[name], *call.args)
            return var
        rule = self.rules.get(name)
        result = rule(call) if rule is not None else None
        return self.emit(call) if result is None else result

    def _known(self, call: Call, levels: Levels | None) -> Expr:
        """Bind ``call`` and remember its levels; unused float forms are removed as dead code."""
        var = self.emit(call)
        if levels is not None:
            self.levels[var] = levels
        return var

    # -- thresholds ------------------------------------------------------------------------------

    def _comparison(self, compare: str, left: Expr, right: Expr) -> tuple[Expr, str, Expr]:
        if array(left) is not None or _elements(left) < _elements(right):
            left, right, compare = right, left, MIRRORED[compare]
        moved = self._threshold_moved(left) if scalar(right) == 0.0 else None
        return (left, compare, right) if moved is None else (*moved[:1], compare, moved[1])

    def _threshold_moved(self, x: Expr) -> tuple[Expr, Expr] | None:
        """Write ``u + c >= 0`` as ``u >= -c``, and ``u - c >= 0`` as ``u >= c``.

        This is exact: a rounded sum has the sign of the true one, and is 0 only where it is 0. A
        sum that somebody else reads is needed anyway, and stays what is compared.
        """
        call = self.calls.get(x)
        if call is None or x in self.shared or op_name(call) not in ("relax.add", "relax.subtract"):
            return None
        left, right = call.args
        subtract = op_name(call) == "relax.subtract"
        if not subtract and _elements(left) < _elements(right):
            left, right = right, left
        if shape_of(left) != shape_of(x) or _elements(right) >= _elements(x):
            return None
        if subtract:
            return left, right
        value = array(right)
        return left, (const(-value) if value is not None else self.emit(relax.op.negative(right)))

    def _where(self, call: Call) -> Expr | None:
        high, low = scalar(call.args[1]), scalar(call.args[2])
        compared = self.comparisons.get(call.args[0])
        if compared is None or high is None or low is None:
            return None
        x, compare, threshold = compared
        if shape_of(x) != shape_of(call.args[0]) or dtype_of(x) != "float32":
            return None
        return self._known(call, Levels.of(x, compare, threshold, high, low))

    def _astype(self, call: Call) -> Expr | None:
        compared = self.comparisons.get(call.args[0])
        if compared is not None and str(call.attrs.dtype) == "float32":
            x, compare, threshold = compared
            if dtype_of(x) == "float32" and shape_of(x) == shape_of(call.args[0]):
                return self._known(call, Levels.of(x, compare, threshold, 1.0, 0.0))
        return None

    def _sign(self, call: Call) -> Expr | None:
        x = call.args[0]
        if dtype_of(x) != "float32":
            return None
        moved = self._threshold_moved(x)
        x, threshold = moved if moved is not None else (x, const(0.0))
        return self._known(call, Levels(x, "ge", (threshold,), -1.0, 2.0, (_SIGN_NOTE,)))

    def _negative(self, call: Call) -> Expr | None:
        levels = self.levels.get(call.args[0])
        return None if levels is None else self._known(call, levels.scaled(-1.0))

    def _arithmetic(self, call: Call) -> Expr | None:
        name = op_name(call).removeprefix("relax.")
        if name == "add":
            for rule in (self._straight_through, self._instance_threshold):
                special = rule(call)
                if special is not None:
                    return special
        left, right = call.args
        if left not in self.levels and name in ("add", "multiply"):
            left, right = right, left
        if left not in self.levels or (scalar(right) is None and right not in self.levels):
            return None
        return self._known(call, self._combined(name, self.levels[left], right))

    def _combined(self, name: str, known: Levels, other: Expr) -> Levels | None:
        """The levels of ``known <name> other``, None where they are not levels any more."""
        value = scalar(other)
        if value is None:
            levels = self.levels[other] if name == "add" else self.levels[other].scaled(-1.0)
            return known.plus(levels) if levels and name in ("add", "subtract") else None
        if name in ("add", "subtract"):
            return known.shifted(value if name == "add" else -value)
        if name == "divide":
            return known.scaled(1.0 / value) if value else None
        return known.scaled(value)

    def _straight_through(self, call: Call) -> Expr | None:
        """``(hard - soft) + soft`` is ``hard``: the usual spelling of a straight-through estimator.

        The sum differs from ``hard`` by float rounding; the levels meant are the exact ones.
        """
        for difference, soft in (call.args, reversed(call.args)):
            if self._is_call(difference, "relax.subtract"):
                hard, subtracted = self.calls[difference].args
                if subtracted.same_as(soft) and hard in self.levels:
                    return hard
        return None

    def _reshape(self, call: Call) -> Expr | None:
        """A reshape of a reshape is one reshape: thresholds arrive through several."""
        source = self.calls.get(call.args[0])
        if source is None or op_name(source) not in ("relax.reshape", "relax.expand_dims"):
            return None
        shape = shape_of(self.emit(call))
        return self.emit(relax.op.reshape(source.args[0], shape))

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
            self.report.layers.remove(self.layer_of[product])
        return (*(const(v) for v in first[1:3]), *(const(v) for v in second[1:3]))

    def _dense_with_bias(self, expr: Expr) -> tuple[Expr, Array, Array, Expr] | None:
        """(input, weight, bias, product) of a matrix product with constants."""
        if not self._is_call(expr, "relax.add"):
            return None
        for product, shift in (self.calls[expr].args, reversed(self.calls[expr].args)):
            bias = array(shift)
            if bias is None or not self._is_call(product, "relax.matmul"):
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
        value = array(weight)
        groups = int(call.attrs["groups"])
        output = self.emit(call)
        split, encoding, reason = self._binary(data, value)
        elements = math.prod(shape_of(output)[1:])
        macs = elements * math.prod(shape_of(weight)[1:])
        layer = self._layer("conv2d", reason, macs, weight, output)
        if split is None or encoding is None:
            return output
        levels = self.levels[data]
        packed = self._pack(levels, encoding.bits, groups)
        signs, scale = split
        channels = shape_of(data)[3]
        result = ops.bitserial_conv2d(
            packed,
            const(packing.pack_bits(signs), "uint32"),
            strides=ints(call.attrs["strides"]),
            padding=ints(call.attrs["padding"]),
            dilation=ints(call.attrs["dilation"]),
            groups=groups,
            in_channels=channels,
            bits=encoding.bits,
            encoding=encoding.name,
        )
        layer.bits, layer.notes = encoding.bits, levels.notes
        return self._scaled(result, scale * np.float32(encoding.factor))

    def _matmul(self, call: Call) -> Expr | None:
        data, weight = call.args
        value = array(weight)
        if rank(data) != 2 or rank(weight) != 2:
            return None
        output = self.emit(call)
        split, encoding, reason = self._binary(data, None if value is None else value.T)
        layer = self._layer("dense", reason, math.prod(shape_of(weight)), weight, output)
        if value is not None:
            layer.weight_shape = layer.weight_shape[::-1]
        if split is None or encoding is None:
            return output
        levels = self.levels[data]
        signs, scale = split
        result = ops.bitserial_dense(
            self._pack(levels, encoding.bits, 1),
            const(packing.pack_bits(signs[:, None, None, :])[:, 0, 0, :], "uint32"),
            in_channels=value.shape[0] if value is not None else 0,
            bits=encoding.bits,
            encoding=encoding.name,
        )
        layer.bits, layer.notes = encoding.bits, levels.notes
        return self._scaled(result, scale * np.float32(encoding.factor))

    def _binary(
        self, data: Expr, weight: Array | None
    ) -> tuple[tuple[Array, Array] | None, Encoding | None, str]:
        """(signs and scales, encoding, "") or (None, None, reason)."""
        if weight is None:
            return None, None, "its weights are computed from the input"
        levels = self.levels.get(data)
        split = binary_weight(weight)
        if levels is None:
            reason = self._why_real(data)
            return None, None, reason if isinstance(split, tuple) else f"{split}; {reason}"
        if isinstance(split, str):
            return None, None, split
        encoding = levels.encoding()
        if isinstance(encoding, str):
            return None, None, encoding
        return split, encoding, ""

    def _why_real(self, data: Expr) -> str:
        call = self.calls.get(data)
        if call is None:
            return "its input is the network's input"
        name = op_name(call)
        arguments = [arg for arg in call.args if arg in self.levels]
        if arguments:
            return f"its input was binarised and then changed by {name}"
        return f"its input is real-valued (the result of {name})"

    def _layer(self, op: str, reason: str, macs: int, weight: Expr, output: Expr) -> Layer:
        name = self.layer_names.pop(0) if self.layer_names else f"layer_{len(self.report.layers)}"
        layer = Layer(
            name=name,
            op=op,
            kind="float" if reason else "binary",
            reason=reason,
            macs=int(macs),
            weight_shape=tuple(int(dim) for dim in shape_of(weight)),
            output_shape=tuple(int(dim) for dim in shape_of(output)[1:]),
        )
        self.report.layers.append(layer)
        self.layer_of[output] = layer
        return layer

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
                levels.x, thresholds, bits=bits, compare=levels.compare, groups=groups
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


def _elements(expr: Expr) -> float:
    """Size of a tensor, a symbolic batch counting as large as it may be."""
    return math.prod(dim if isinstance(dim, int) else 1 << 20 for dim in shape_of(expr))
