"""Part of phase 6: TVM's FuseOps puts element-wise operators behind the kernels they follow."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_insta.ops._common import OPAQUE
from tvm_insta.passes.context import Context
from tvm_insta.passes.labels import Label, kernel_calls, labelled, without_labels
from tvm_insta.passes.module_pass import module_pass


@module_pass("FuseEpilogues")
def fuse_epilogues(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Group the kernel calls of ``main``; each group gets the labels of all its calls.

    Kernels that differ in their labels only are one: FuseOps sees a module without labels, and a
    twin with labels tells what ended in which group.
    """
    fuse = relax.transform.FuseOps()
    return labelled(fuse(without_labels(mod)), fuse(mod))


@module_pass("KeepConcatenations")
def keep_concatenations(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Concatenations stay kernels of their own: a plain copy of vectors.

    Fused into an epilogue that reads its input several times, a concatenation is evaluated that
    often, with a condition for every element: over ten times slower at 112x112x64 than the copy.
    """
    result = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    for call in kernel_calls(mod):
        if Label.of(call).operators == ("concat",):
            kernel = call.args[0]
            result.update_func(kernel, mod[kernel].with_attr("op_pattern", OPAQUE))
    return result
