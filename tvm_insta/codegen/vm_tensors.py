"""The tensors of the vm form: fewer of them, and fewer calls of the virtual machine to make them.

Before TVM plans the memory, what a kernel may write over is what it writes (`overwrite`). The plan
gives tensors that are never alive together one storage, and lets the virtual machine make each of
them anew: a shape, a tensor in that storage, and its end, three calls that take as long as a small
kernel. Where storage, place, shape and dtype are the same, so is the tensor (`share_tensors`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from tvm_insta.codegen.in_place import Overwrite, choose, overwriting
from tvm_insta.codegen.program import Program

Blocks = Sequence[Sequence[Any]]
"""The bindings of each block of a function."""


def overwrite(program: Program) -> tvm.transform.Pass:
    """A pass that lets a kernel write over an argument, where all calls of the kernel may.

    It is for a module behind `CallTIRRewrite`. The kernels keep their parameters: that of the
    output is not used, and gets the argument's tensor.

    Args:
        program: what `main` of that module computes.
    """

    def transform(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        agreed = _agreed(program, mod)
        if not agreed:
            return mod
        changed = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
        main = changed.get_global_var("main")
        changed.update_func(main, _without_outputs(mod[main], program, agreed))
        arguments = {call.symbol: len(call.args) for call in program.calls}
        for symbol, over in agreed.items():
            written = overwriting(mod[symbol], over, arguments[symbol], keep=True)
            changed.update_func(changed.get_global_var(symbol), written)
        return changed

    return tvm.transform.module_pass(transform, opt_level=0, name="insta.Overwrite")


def share_tensors() -> tvm.transform.Pass:
    """A pass that makes each tensor of a storage once in `main`, and no tuple that nobody reads.

    It is for a module behind `StaticPlanBlockMemory`, whose `main` has no branches.
    """

    def transform(mod: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        changed = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
        main = changed.get_global_var("main")
        changed.update_func(main, _shared(mod[main]))
        return changed

    return tvm.transform.module_pass(transform, opt_level=0, name="insta.ShareTensors")


def _agreed(program: Program, mod: tvm.IRModule) -> dict[str, Overwrite]:
    """By symbol, what every call of the kernel writes over."""
    symbols = {call.symbol for call in program.calls}
    chosen = choose(program, {symbol: mod[symbol] for symbol in symbols})
    found: dict[str, set[Overwrite | None]] = {}
    for call, over in zip(program.calls, chosen, strict=True):
        found.setdefault(call.symbol, set()).add(over)
    return {
        symbol: over
        for symbol, each in found.items()
        if len(each) == 1 and (over := next(iter(each))) is not None
    }


def _without_outputs(
    function: relax.Function, program: Program, agreed: Mapping[str, Overwrite]
) -> relax.Function:
    """`main`, where the tensor of an output that is written over an argument is that argument."""
    calls = iter(program.calls)
    env: dict[Any, Any] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, tvm.ir.Call) and isinstance(value.op, tvm.ir.GlobalVar):
                call = next(calls)
                if call.symbol in agreed:
                    over = agreed[call.symbol]
                    output = value.args[len(call.args) + over.output]
                    env[output] = value.args[over.argument]
    blocks = [
        [
            relax.VarBinding(binding.var, _with(env, binding.value))
            for binding in block.bindings
            if binding.var not in env
        ]
        for block in function.body.blocks
    ]
    return _function(function, blocks, _with(env, function.body.body))


def _shared(function: relax.Function) -> relax.Function:
    env: dict[Any, Any] = {}
    tuples: dict[Any, Sequence[Any]] = {}
    made: dict[tuple[Any, int, str, str], Any] = {}
    blocks = []
    for block in function.body.blocks:
        bindings = []
        for binding in block.bindings:
            value = _with(env, binding.value)
            if isinstance(value, relax.Var):
                env[binding.var] = value
                continue
            if isinstance(value, relax.TupleGetItem) and value.tuple_value in tuples:
                env[binding.var] = tuples[value.tuple_value][int(value.index)]
                continue
            if isinstance(value, relax.Tuple):
                tuples[binding.var] = value.fields
            elif _is_allocation(value):
                storage, offset, shape, dtype = value.args[:4]
                key = storage, int(offset.value), str(shape), str(dtype)
                if key in made:
                    env[binding.var] = made[key]
                    continue
                made[key] = binding.var
            bindings.append(relax.VarBinding(binding.var, value))
        blocks.append(bindings)
    result = _with(env, function.body.body)
    values = (binding.value for bindings in blocks for binding in bindings)
    read = _variables([*values, result])
    kept = [[b for b in each if b.var not in tuples or b.var in read] for each in blocks]
    return _function(function, kept, result)


def _is_allocation(value: Any) -> bool:
    name = "relax.memory.alloc_tensor"
    return isinstance(value, tvm.ir.Call) and getattr(value.op, "name", "") == name


def _with(env: Mapping[Any, Any], expr: Any) -> Any:
    return tvm_ffi.structural_map(expr, [(relax.Var, lambda var: env.get(var, var))])


def _variables(exprs: Iterable[Any]) -> set[Any]:
    found: set[Any] = set()
    for expr in exprs:
        tvm_ffi.structural_walk(expr, (relax.Var, found.add))
    return found


def _function(old: relax.Function, blocks: Blocks, result: Any) -> relax.Function:
    body = relax.SeqExpr([relax.BindingBlock(list(bindings)) for bindings in blocks], result)
    return relax.Function(old.params, body, old.ret_ty, old.is_pure, old.attrs)
