"""Before and after of one pass, as TVMScript."""

from __future__ import annotations

import textwrap

import tvm
from tvm import relax, tirx

from tvm_insta.passes.context import Context
from tvm_insta.passes.labels import Label


def check(run, before, expected, context=None):
    """Run a pass on a module, which stays as it is, and compare with what is expected."""
    kept = before.script()
    after = run(before, context or Context())
    tvm.ir.assert_structural_equal(_plain(after), _plain(expected))
    assert before.script() == kept, "the pass changed its input"
    return after


def _plain(mod):
    """The module without second names of one value, and without the symbols of its functions.

    Kernels as a script says them: layouts of buffers, which it leaves out, depend on who made them.
    """
    functions = {}
    for var, function in relax.transform.CanonicalizeBindings()(mod).functions.items():
        bare = function.without_attr("global_symbol")
        kernel = isinstance(bare, tirx.PrimFunc)
        functions[var] = tvm.script.from_source(bare.script()) if kernel else bare
    return tvm.IRModule(functions)


def const(value, dtype="float32"):
    """A constant for a script."""
    return relax.const(value.astype(dtype), dtype)


def module(*parts):
    """A module of functions as text, so that several modules can share their kernels."""
    text = textwrap.indent("\n".join(textwrap.dedent(part) for part in parts), "    ")
    return tvm.script.from_source(f"@I.ir_module\nclass Module:\n{text}")


def with_labels(mod, *labels):
    """The module with (layers, operators) on each kernel call of ``main``, which scripts lack."""
    found = iter(labels)
    main = mod["main"]
    blocks = []
    for block in main.body.blocks:
        bindings = [
            relax.VarBinding(b.var, Label(*map(tuple, next(found))).on(b.value))
            if isinstance(b.value, tvm.ir.Call)
            else b
            for b in block.bindings
        ]
        blocks.append(relax.DataflowBlock(bindings))
    result = tvm.IRModule(dict(mod.functions))
    body = relax.SeqExpr(blocks, main.body.body)
    function = relax.Function(main.params, body, main.ty.ret, True, main.attrs)
    result.update_func(mod.get_global_var("main"), function)
    assert next(found, None) is None, "there are more labels than calls"
    return relax.transform.Normalize()(result)


CONV = """
@T.prim_func(private=True, s_tir=True)
def conv(
    x: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
    w: T.Buffer((T.int64(4), T.int64(4)), "float32"),
    y: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
):
    T.func_attr({"op_pattern": 4})
    for i, j, o, c in T.grid(T.int64(2), T.int64(2), T.int64(4), T.int64(4)):
        with T.sblock("fconv"):
            v_i, v_j, v_o, v_c = T.axis.remap("SSSR", [i, j, o, c])
            T.sblock_attr({"schedule_rule": "insta_fconv"})
            with T.init():
                y[0, v_i, v_j, v_o] = T.float32(0)
            y[0, v_i, v_j, v_o] = y[0, v_i, v_j, v_o] + x[0, v_i, v_j, v_c] * w[v_o, v_c]
"""
"""A float convolution with a 1x1 kernel, as the rules of the schedules know it."""

RELU = """
@T.prim_func(private=True, s_tir=True)
def relu(
    x: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
    y: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
):
    T.func_attr({"op_pattern": 0})
    for i, j, c in T.grid(T.int64(2), T.int64(2), T.int64(4)):
        with T.sblock("relu"):
            v_i, v_j, v_c = T.axis.remap("SSS", [i, j, c])
            y[0, v_i, v_j, v_c] = T.max(T.float32(0), x[0, v_i, v_j, v_c])
"""

ROWS = """
@T.prim_func(private=True, s_tir=True)
def rows(
    x: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
    y: T.Buffer((T.int64(1), T.int64(2), T.int64(1), T.int64(4)), "float32"),
):
    T.func_attr({"op_pattern": 8})
    for i, c, j in T.grid(T.int64(2), T.int64(4), T.int64(2)):
        with T.sblock("moment_rows"):
            v_i, v_c, v_j = T.axis.remap("SSR", [i, c, j])
            with T.init():
                y[0, v_i, 0, v_c] = T.float32(0)
            y[0, v_i, 0, v_c] = y[0, v_i, 0, v_c] + x[0, v_i, v_j, v_c]
"""
