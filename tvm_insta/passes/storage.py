"""Behind phase 6, `--storage fp16`: images between kernels are stored as float16.

A kernel computes in float32 as before, rounds what it stores (to nearest, ties to even; beyond
65504 to infinity), and widens what it loads. Whoever reads a stored image reads the rounded
numbers, in the kernel that made it too: the moments are those of the rounded numbers, in the order
that `ops.moments` defines, and packed bits are the exact comparisons of rounded numbers. So a
result does not depend on which consumers are fused into a kernel.

Not stored in float16 are: inputs and outputs of the network, what a float convolution reads,
moments, thresholds, and tensors of one pixel.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Call

from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Expr, Rewriter, op_name, variables
from tvm_insta.schedules.generic import fp16_storage as half

Tensor = tuple[Expr, int]
"""The variable of a kernel call, and the number of the call's output."""

_IMAGE = 4  # rank


@module_pass("StoreHalf", when=lambda context: context.storage == "fp16")
def store_half(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Store the images between the kernels of ``main`` as float16.

    ``main`` calls PrimFuncs that are not scheduled yet.
    """
    work = _Storage(mod)
    work.choose()
    return work.run()


class _Storage(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        rest = {var: f for var, f in mod.functions.items() if var.name_hint != "main"}
        self.builder = relax.BlockBuilder(tvm.IRModule(rest, attrs=mod.attrs))
        self.tensors: dict[Expr, Tensor] = {}  # variable -> the output that it holds
        self.half: set[Tensor] = set()
        self.made: dict[Any, Any] = {}

    def choose(self) -> None:
        """Decide which tensors are stored in float16."""
        main, refused = self.mod["main"], set()
        bindings = [binding for block in main.body.blocks for binding in block.bindings]
        for var, value in ((binding.var, binding.value) for binding in bindings):
            if _is_kernel_call(value):
                kernel, args = self.mod[value.args[0]], list(value.args[1].fields)
                for number, ty in enumerate(_outputs(value)):
                    if _is_image(ty) and half.may_be_half(kernel, len(args) + number):
                        self.half.add((var, number))
                if _is_single(value):
                    self.tensors[var] = (var, 0)
                before = half.read_by_float_convolution(kernel)
                refused |= {
                    self.tensors[arg]
                    for at, arg in enumerate(args)
                    if arg in self.tensors and kernel.params[at] in before
                }
            elif isinstance(value, relax.TupleGetItem):
                self.tensors[var] = (value.tuple_value, int(value.index))
            else:
                refused |= {self.tensors[v] for v in variables(value) if v in self.tensors}
        refused |= {self.tensors[v] for v in variables(main.body.body) if v in self.tensors}
        self.half -= refused

    def bind(self, binding: Expr) -> None:
        """Translate one binding; a kernel that stores or loads float16 is called instead."""
        value = self.new(binding.value)
        if _is_kernel_call(binding.value):
            value = self._call(binding.var, binding.value, list(value.args)[1:])
        self.env[binding.var] = self.emit(value) if isinstance(value, Call) else value

    def _call(self, var: Expr, old: Expr, arguments: list[Expr]) -> Expr:
        args, types = list(old.args[1].fields), _outputs(old)
        halves = [at for at, arg in enumerate(args) if self.tensors.get(arg) in self.half]
        stored = [number for number in range(len(types)) if (var, number) in self.half]
        halves += [len(args) + number for number in stored]
        types = [
            relax.TensorType(ty.shape, "float16") if number in stored else ty
            for number, ty in enumerate(types)
        ]
        returned = types[0] if _is_single(old) else relax.TupleType(types)
        return Call(old.op, [self._kernel(old, halves), *arguments], old.attrs, [returned])

    def _kernel(self, call: Expr, halves: list[int]) -> Expr:
        """The kernel of a call, with some parameters in float16."""
        name = call.args[0]
        if not halves:
            return name
        key = (name, tuple(halves))
        if key not in self.made:
            function = half.with_halves(self.mod[name], halves, len(call.args[1].fields))
            function = function.without_attr("global_symbol")
            self.made[key] = self.builder.add_func(function, f"{name.name_hint}_half")
        return self.made[key]


def _is_image(ty: Expr) -> bool:
    """Whether a tensor is of float32 and has more than one pixel in `[N, H, W, C]`."""
    if ty.ndim != _IMAGE or str(ty.dtype.dtype) != "float32":
        return False
    pixels = [int(d) if isinstance(d, tirx.IntImm) else 2 for d in list(ty.shape.values)[1:3]]
    return math.prod(pixels) > 1


def _is_kernel_call(value: Expr) -> bool:
    return op_name(value) == "relax.call_tir"


def _outputs(call: Expr) -> list[Any]:
    """The types of what a kernel call returns."""
    (ty,) = call.ty_args
    return [ty] if _is_single(call) else list(ty.fields)


def _is_single(call: Expr) -> bool:
    return isinstance(call.ty_args[0], relax.TensorType)
