"""Part of phase 4: parallel binary convolutions side by side become one.

    concat(f1(conv(x, w1)), f2(conv(x, w2)), ...)  ->  f(conv(x, [w1, w2, ...]))

where f1, f2, ... are the same element-wise operators in the same order, and their other operands
are constants, which are put side by side too, or one and the same tensor, which is repeated: a
shortcut that every branch adds. Each output element is computed by the very operations that
computed it before. The bits are read once, and there is nothing left to copy.

What does not fit stays as it is: other strides, an intermediate value that somebody else reads, a
shortcut of its own for each branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tvm
import tvm_ffi
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.report import Report
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    Rewriter,
    array,
    const,
    dtype_of,
    op_name,
    rank,
    read_twice,
    shape_of,
)

_CONV = "relax.insta.bitserial_conv2d"
_RANK = 4

_ELEMENTWISE = {
    f"relax.{name}"
    for name in (
        "add",
        "astype",
        "divide",
        "maximum",
        "minimum",
        "multiply",
        "negative",
        "nn.relu",
        "subtract",
    )
}

NOTE = "computed in one kernel with the convolutions beside it"


@module_pass("MergeParallel")
def merge_parallel(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Merge parallel binary convolutions with constant weights; their layers get a note."""
    return _MergeParallel(mod, context.report).run()


class _MergeParallel(Rewriter):
    def __init__(self, mod: tvm.IRModule, report: Report) -> None:
        super().__init__(mod)
        self.twice = read_twice(mod)
        self.shared: set[Expr] = set()  # what `twice` became
        self.report = report

    def bind(self, binding: Expr) -> None:
        super().bind(binding)
        if binding.var in self.twice:
            self.shared.add(self.env[binding.var])

    def visit(self, call: Call) -> Expr:
        if op_name(call) == "relax.concat":
            merged = self._merge(list(call.args[0].fields), int(call.attrs.axis))
            if merged is not None:
                return merged
        return call

    def _merge(self, branches: list[Expr], axis: int) -> Expr | None:
        """The result of one convolution for all branches, None where they do not fit."""
        if len(branches) < 2 or len(set(branches)) < len(branches):
            return None
        if rank(branches[0]) != 4 or axis not in (3, -1):
            return None
        chains = [self._chain(branch) for branch in branches]
        if any(len(chain) != len(chains[0]) or not chain for chain in chains):
            return None
        convs, *steps = zip(*chains, strict=True)
        channels = [shape_of(conv)[3] for conv in convs]
        weight = self._side_by_side(convs)
        if weight is None:
            return None
        operands = [self._operands(step, channels) for step in steps]
        if any(found is None for found in operands):
            return None

        first = self.calls[convs[0]]
        result = self.emit(self._merged(first, weight, convs))
        for step, found in zip(steps, operands, strict=True):
            call = self.calls[step[0]]
            args = [
                result if operand is None else self._emitted(operand) for operand in found or ()
            ]
            result = self.emit(Call(call.op, args, call.attrs, call.ty_args))
        return result

    def _chain(self, var: Expr) -> list[Expr]:
        """From a binary convolution to `var`, each value read only by the next; else empty."""
        chain: list[Expr] = []
        while var in self.calls and var not in self.shared:
            chain.insert(0, var)
            call = self.calls[var]
            if op_name(call) == _CONV:
                return chain
            before = [arg for arg in call.args if arg in self.calls and arg not in self.shared]
            if op_name(call) not in _ELEMENTWISE or len(before) != 1:
                break
            (var,) = before
        return []

    def _side_by_side(self, convs: Sequence[Expr]) -> Array | None:
        """The weights of all convolutions as one; None where these differ in anything else."""
        calls = [self.calls[conv] for conv in convs]
        first, weights = calls[0], [array(call.args[1]) for call in calls]
        if any(weight is None for weight in weights) or int(first.attrs["groups"]) != 1:
            return None
        shapes = [weight.shape[1:] for weight in weights if weight is not None]
        same = all(
            call.args[0].same_as(first.args[0])
            and shape == shapes[0]
            and _same_attributes(call, first)
            for call, shape in zip(calls, shapes, strict=True)
        )
        return np.concatenate(weights) if same else None  # type: ignore[arg-type]

    def _operands(self, step: Sequence[Expr], channels: Sequence[int]) -> list[Expr] | None:
        """The arguments of one operator for all branches, None for what it is applied to.

        Each is an expression, or (tensor, how often it is repeated). The whole is None where the
        branches differ in more than constants.
        """
        calls = [self.calls[var] for var in step]
        first = calls[0]
        if any(
            call.op != first.op
            or len(call.args) != len(first.args)
            or not tvm_ffi.structural_equal(call.attrs, first.attrs)
            for call in calls
        ):
            return None
        found: list[Expr] = []
        for args in zip(*(call.args for call in calls), strict=True):
            if all(arg in self.calls and arg not in self.shared for arg in args):
                found.append(None)
                continue
            operand = self._operand(args, channels)
            if operand is None:
                return None
            found.append(operand)
        return found

    def _operand(self, args: Sequence[Expr], channels: Sequence[int]) -> Expr | None:
        values = [array(arg) for arg in args]
        if all(value is not None for value in values):
            vectors = [
                np.broadcast_to(value.reshape(-1), (count,))
                for value, count in zip(values, channels, strict=True)
                if value is not None
                and value.ndim <= _RANK
                and (value.size == 1 or value.size == value.shape[-1] == count)
            ]
            dtype = str(vectors[0].dtype) if vectors else ""
            return const(np.concatenate(vectors), dtype) if len(vectors) == len(values) else None
        tensor = args[0]
        if not all(arg.same_as(tensor) for arg in args) or rank(tensor) != 4:
            return None
        if shape_of(tensor)[3] == 1:
            return tensor
        whole = all(shape_of(tensor)[3] == count for count in channels)
        return (tensor, len(args)) if whole and dtype_of(tensor) == "float32" else None

    def _emitted(self, operand: Expr) -> Expr:
        if not isinstance(operand, tuple):
            return operand
        tensor, times = operand
        return self.emit(ops.repeat_channels(tensor, times=times))

    def _merged(self, first: Call, weight: Array, convs: Sequence[Expr]) -> Call:
        """The convolution of all branches."""
        each = [ops.bitserial_conv2d.of(self.calls[conv]) for conv in convs]
        layers = [name for one in each for name in one.layers]
        for layer in self.report.named(layers):
            layer.notes += (NOTE,)
            layer.together = tuple(layers)
        args = [first.args[0], const(weight, "uint32")]
        return ops.bitserial_conv2d.with_attributes(args, replace(each[0], layers=layers))


def _same_attributes(one: Call, other: Call) -> bool:
    """Whether two convolutions differ in their names only."""
    keys = [key for key in one.attrs.keys() if key != "layers"]
    return all(tvm_ffi.structural_equal(one.attrs[key], other.attrs[key]) for key in keys)
