"""Which kernels may write their output over an argument that nobody reads again.

That is safe where an element of the argument is read only to compute the very element of the output
that takes its place, and every element is computed once. It is proved on the scheduled kernel:

1. one statement writes the output, and that statement does not read it; what else reads it (sums of
   its rows, packed bits) reads what was written, in the same memory or in another;
2. the argument is read nowhere but in that statement's value, at the indices that are written;
3. no two iterations write the same element: there are as many iterations as elements.

Then no iteration, on whatever thread, reads what another one writes.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from tvm_insta.codegen.program import Program, Ref


@dataclass(frozen=True)
class Overwrite:
    """A kernel call that writes output number `output` over its argument number `argument`."""

    argument: int
    output: int


def choose(
    program: Program, functions: Mapping[str, tirx.PrimFunc]
) -> tuple[Overwrite | None, ...]:
    """For each call of `program`, what it writes over what, or None.

    Only what a kernel computed is overwritten: neither inputs and constants, which belong to
    others, nor what is read again; and the network's output has memory of its own.
    """
    proved = {symbol: tuple(_proved(function)) for symbol, function in functions.items()}
    last = program.last_reads()
    chosen: list[Overwrite | None] = []
    for at, call in enumerate(program.calls):
        found = None
        for parameter, number in proved[call.symbol]:
            if parameter >= len(call.args) or number < len(call.args):
                continue
            ref, output = call.args[parameter], call.outputs[number - len(call.args)]
            if (
                ref.kind == "value"
                and last[ref] == at
                and call.args.count(ref) == 1
                and program.result not in (ref, Ref("value", output))
            ):
                found = Overwrite(parameter, number - len(call.args))
                break
        chosen.append(found)
    return tuple(chosen)


def overwriting(
    func: tirx.PrimFunc, over: Overwrite, arguments: int, *, keep: bool = False
) -> tirx.PrimFunc:
    """The kernel, which takes so many arguments, with one parameter for both.

    One variable stands for both in the code too: so no compiler takes them for separate memory.
    The output's parameter is gone, or with `keep` there and not used.
    """
    output = arguments + over.output
    old, new = func.params[output], func.params[over.argument]
    body = tvm_ffi.structural_map(
        func.body, [(tirx.Var, lambda var: new if var.same_as(old) else var)]
    )
    params = [param for number, param in enumerate(func.params) if keep or number != output]
    return tirx.PrimFunc(params, body, func.ret_type, attrs=func.attrs)


def _proved(func: tirx.PrimFunc) -> Iterator[tuple[int, int]]:
    """Pairs of parameter numbers: the first may be overwritten by the second."""
    params = list(func.params)
    if not all(tirx.buffer.is_buffer_var(param) for param in params):
        return
    if _passes_addresses(func, params):
        return
    stores = _collect(func.body, tirx.BufferStore)
    loads = _collect(func.body, tvm.ir.TensorLoad)
    for number, output in enumerate(params):
        writes = [store for store in stores if store.buffer.same_as(output)]
        if len(writes) != 1:
            continue
        inside = _collect(writes[0].value, tvm.ir.TensorLoad)
        if any(load.source.same_as(output) for load in inside):
            continue
        if not _each_once(func, writes[0]):
            continue
        for other, argument in enumerate(params):
            own = [load for load in inside if load.source.same_as(argument)]
            if (
                own
                and len(own) == sum(load.source.same_as(argument) for load in loads)
                and not any(store.buffer.same_as(argument) for store in stores)
                and _same_kind(argument, output)
                and all(_same_indices(load.indices, writes[0].indices) for load in own)
            ):
                yield other, number


def _passes_addresses(func: tirx.PrimFunc, params: list[tirx.Var]) -> bool:
    """Whether a parameter may be reached in other ways than by loads and stores of it."""
    for call in _collect(func.body, tvm.ir.Call):
        passed = [arg for arg in call.args if isinstance(arg, tirx.Var)]
        if str(getattr(call.op, "name", "")) in ("tirx.address_of", "tirx.tvm_access_ptr"):
            passed += _collect(call, tirx.Var)
            passed += [load.source for load in _collect(call, tvm.ir.TensorLoad)]
        if any(arg.same_as(p) for arg in passed for p in params):
            return True
    return any(list(block.match_buffers) for block in _collect(func.body, s_tir.SBlock))


def _each_once(func: tirx.PrimFunc, store: tirx.BufferStore) -> bool:
    """Whether the store stands alone in a block, and no two iterations write the same element.

    Its indices are the axes of the block; a kernel writes all of its output, so with as many
    iterations as there are elements, each is written once.
    """
    realised = _collect(func.body, s_tir.SBlockRealize)
    own = [each for each in realised if each.block.body.same_as(store)]
    if len(own) != 1 or own[0].block.init is not None:
        return False
    name = own[0].block.name_hint
    if sum(each.block.name_hint == name for each in realised) != 1:
        return False
    if not (isinstance(own[0].predicate, tirx.IntImm) and int(own[0].predicate) == 1):
        return False
    axes = own[0].block.iter_vars
    indices = [index for index in store.indices if not isinstance(index, tirx.IntImm)]
    used = [axis for axis in axes if any(axis.var.same_as(index) for index in indices)]
    schedule = s_tir.Schedule(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}))
    block = schedule.get_sblock(name)
    loops = [schedule.get(loop).extent for loop in schedule.get_loops(block)]
    return (
        len(used) == len(indices)
        and _as_many(loops, [axis.dom.extent for axis in used])
        and _as_many(loops, list(store.buffer.shape))
        and schedule.state._get_cached_flags(schedule.get_sref(block)).affine_binding
    )


def _as_many(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether the products of extents are equal, for any batch where they are symbolic."""
    one = tirx.const(1, "int64")
    products = [
        functools.reduce(operator.mul, (extent.astype("int64") for extent in extents), one)
        for extents in (some, others)
    ]
    return bool(tvm.sym.Analyzer().can_prove_equal(*products))


def _same_kind(a: tirx.Var, b: tirx.Var) -> bool:
    return str(a.dtype) == str(b.dtype) and _same_indices(list(a.shape), list(b.shape))


def _same_indices(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        tvm_ffi.structural_equal(x, y) for x, y in zip(a, b, strict=True)
    )


def _collect(node: Any, kind: type) -> list[Any]:
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (kind, found.append))
    return found
