"""Phase 2: images are laid out [N, H, W, C], so that a pixel's channels lie side by side in a word.

PyTorch's [N, C, H, W] survives only at the inputs and outputs, and around an operator this pass has
no rule for: such an operator gets its NCHW arguments through a transposition and stays correct.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import (
    Expr,
    Rewriter,
    array,
    const,
    ints,
    op_name,
    rank,
    shape_of,
)

_TO_LAST = (0, 2, 3, 1)
_TO_FIRST = (0, 3, 1, 2)
_AXIS_TO_LAST = (0, 3, 1, 2)  # axis a of NCHW is axis _AXIS_TO_LAST[a] of NHWC

_ELEMENTWISE = frozenset(
    f"relax.{name}"
    for name in (
        "abs acos acosh add asin asinh astype atan atanh bitwise_and bitwise_or bitwise_xor ceil "
        "clip cos cosh divide equal erf exp floor floor_divide floor_mod greater greater_equal "
        "insta.round_half "
        "isfinite isinf isnan less less_equal log logical_and logical_not logical_or maximum "
        "minimum mod multiply negative nn.gelu nn.leakyrelu nn.relu nn.relu6 nn.selu nn.silu "
        "nn.softplus not_equal power round rsqrt sigmoid sign sin sinh sqrt square subtract tan "
        "tanh where zeros_like ones_like"
    ).split()
)
_REDUCTIONS = frozenset(f"relax.{name}" for name in ("mean", "sum", "max", "min", "prod"))


@module_pass("ToNHWC")
def to_nhwc(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Lay images out channels last; float convolutions become ``relax.insta.conv2d``."""
    return _ToNHWC(mod).run()


class _ToNHWC(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.channels_last: set[Expr] = set()  # new variables whose old twin was NCHW
        self.converted: dict[tuple[Expr, bool], Expr] = {}
        self.rules: dict[str, Callable[[Call], Expr | None]] = {
            "relax.insta.convolution": self._convolution,
            "relax.insta.levels": self._levels,
            "relax.nn.max_pool2d": self._pool,
            "relax.nn.avg_pool2d": self._pool,
            "relax.nn.adaptive_avg_pool2d": self._adaptive_pool,
            "relax.concat": self._concat,
            "relax.split": self._split,
            "relax.strided_slice": self._strided_slice,
            "relax.nn.pad": self._pad,
        }

    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        rule = self.rules.get(name)
        if name in _ELEMENTWISE:
            rule = self._elementwise
        elif name in _REDUCTIONS:
            rule = self._reduction
        if rule is not None:
            result = rule(call)
            if result is not None:
                return result
        return self._in_plain_layout(call)

    def finish(self, result: Expr) -> Expr:
        if isinstance(result, relax.Tuple):
            return relax.Tuple([self.plain(field) for field in result.fields])
        return self.plain(result)

    # -- layouts ---------------------------------------------------------------------------------

    def last(self, expr: Expr) -> Expr:
        """The NHWC form of a rank-4 expression."""
        return expr if expr in self.channels_last else self._convert(expr, to_last=True)

    def plain(self, expr: Expr) -> Expr:
        """The form PyTorch gave an expression."""
        return self._convert(expr, to_last=False) if expr in self.channels_last else expr

    def mark(self, expr: Expr) -> Expr:
        """Bind ``expr`` and remember that it is NHWC."""
        var = self.emit(expr)
        self.channels_last.add(var)
        return var

    def _convert(self, expr: Expr, *, to_last: bool) -> Expr:
        value = array(expr)
        order = _TO_LAST if to_last else _TO_FIRST
        if value is not None:
            return const(np.transpose(value, order), str(value.dtype))
        key = (expr, to_last)
        if key not in self.converted:
            shape = shape_of(expr)
            moved = [shape[axis] for axis in order]
            spatial = shape[2:] if to_last else shape[1:3]
            if spatial == [1, 1] or shape[1 if to_last else 3] == 1:  # nothing moves in memory
                self.converted[key] = self.emit(relax.op.reshape(expr, moved))
            else:
                self.converted[key] = self.emit(relax.op.permute_dims(expr, list(order)))
        return self.converted[key]

    def _in_plain_layout(self, call: Call) -> Expr:
        def restore(arg: Expr) -> Expr:
            if isinstance(arg, relax.Tuple):
                return relax.Tuple([restore(field) for field in arg.fields])
            return self.plain(arg)

        return Call(call.op, [restore(arg) for arg in call.args], call.attrs, call.ty_args)

    def _broadcastable(self, expr: Expr) -> Expr:
        """An operand of a rank-4 elementwise operator, brought to NHWC."""
        dims = rank(expr)
        if dims == 4:
            return self.last(expr)
        if dims <= 0:
            return expr
        shape = [1] * (4 - dims) + shape_of(expr)
        value = array(expr)
        if value is not None:
            return self.last(const(value.reshape(shape), str(value.dtype)))
        return self.last(self.emit(relax.op.reshape(expr, shape)))

    # -- rules: each returns the new value, or None where it does not apply -----------------------

    def _elementwise(self, call: Call) -> Expr | None:
        tensors = [arg for arg in call.args if isinstance(arg.ty, relax.TensorType)]
        if max(rank(arg) for arg in tensors) != 4:
            return None
        args = [
            self._broadcastable(arg) if isinstance(arg.ty, relax.TensorType) else arg
            for arg in call.args
        ]
        return self.mark(Call(call.op, args, call.attrs, call.ty_args))

    def _reduction(self, call: Call) -> Expr | None:
        data = call.args[0]
        if rank(data) != 4 or call.attrs.axis is None:
            return None
        axes = sorted(axis % 4 for axis in ints(call.attrs.axis))
        keepdims = bool(call.attrs.keepdims)
        if not keepdims and axes not in ([2, 3], [1, 2, 3], [1]):
            return None
        new_axes = sorted(_AXIS_TO_LAST[axis] for axis in axes)
        make = getattr(relax.op, op_name(call).removeprefix("relax."))
        result = make(self.last(data), axis=new_axes, keepdims=keepdims)
        return self.mark(result) if keepdims else result

    def _convolution(self, call: Call) -> Expr:
        args = [self.last(arg) for arg in call.args]
        return self.mark(ops.conv2d.with_attributes(args, ops.convolution.of(call)))

    def _levels(self, call: Call) -> Expr | None:
        x, *thresholds = call.args
        attributes = ops.levels.of(call)
        if rank(x) != 4 or attributes.layout == "NHWC":
            return None
        args = [self.last(x), *[self._broadcastable(threshold) for threshold in thresholds]]
        return self.mark(ops.levels.with_attributes(args, replace(attributes, layout="NHWC")))

    def _pool(self, call: Call) -> Expr:
        attrs = call.attrs
        make = getattr(relax.op.nn, op_name(call).removeprefix("relax.nn."))
        return self.mark(
            make(
                self.last(call.args[0]),
                ints(attrs.pool_size),
                ints(attrs.strides),
                ints(attrs.padding),
                ints(attrs.dilation),
                bool(attrs.ceil_mode),
                bool(attrs.count_include_pad),
                layout="NHWC",
            )
        )

    def _adaptive_pool(self, call: Call) -> Expr:
        size = call.attrs.output_size
        output = None if size is None else tuple(ints(size))
        data = self.last(call.args[0])
        if output == (1, 1):  # a mean over the image: one code path for both spellings
            return self.mark(relax.op.mean(data, axis=[1, 2], keepdims=True))
        return self.mark(relax.op.nn.adaptive_avg_pool2d(data, output, layout="NHWC"))

    def _concat(self, call: Call) -> Expr | None:
        fields = list(call.args[0].fields)
        if rank(fields[0]) != 4:
            return None
        axis = _AXIS_TO_LAST[int(call.attrs.axis) % 4]
        return self.mark(relax.op.concat([self.last(field) for field in fields], axis=axis))

    def _split(self, call: Call) -> Expr | None:
        data = call.args[0]
        if rank(data) != 4:
            return None
        sections = call.attrs.indices_or_sections
        sections = int(sections) if hasattr(sections, "value") else ints(sections)
        axis = _AXIS_TO_LAST[int(call.attrs.axis) % 4]
        parts = self.emit(relax.op.split(self.last(data), sections, axis=axis))
        fields = [
            self.mark(relax.TupleGetItem(parts, index)) for index in range(len(parts.ty.fields))
        ]
        return relax.Tuple(fields)

    def _strided_slice(self, call: Call) -> Expr | None:
        data, axes = call.args[0], call.args[1]
        if rank(data) != 4 or not isinstance(axes, relax.Tuple):
            return None
        moved = relax.Tuple(
            [tirx.IntImm("int64", _AXIS_TO_LAST[int(axis.value) % 4]) for axis in axes.fields]
        )
        return self.mark(Call(call.op, [self.last(data), moved, *call.args[2:]], call.attrs))

    def _pad(self, call: Call) -> Expr | None:
        data = call.args[0]
        if rank(data) != 4:
            return None
        widths = ints(call.attrs.pad_width)
        pairs = [widths[2 * axis : 2 * axis + 2] for axis in _TO_LAST]
        flat = [width for pair in pairs for width in pair]
        mode, value = str(call.attrs.pad_mode), float(call.attrs.pad_value)
        return self.mark(relax.op.nn.pad(self.last(data), flat, mode, value))
