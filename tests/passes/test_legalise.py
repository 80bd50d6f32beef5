"""Operators become kernels, and each call of a kernel says what it computes."""

from __future__ import annotations

from tests.passes.scripts import check, module, with_labels
from tvm_insta.passes.labels import legalise

BEFORE = """
@R.function
def main(x: R.Tensor((1, 2), "float32")) -> R.Tensor((1, 2), "float32"):
    with R.dataflow():
        a = R.nn.relu(x)
        y = R.nn.relu(a)
        R.output(y)
    return y
"""
# PyTorch's relu keeps NaN: the constant comes first.
KERNEL = """
@T.prim_func(private=True, s_tir=True)
def relu(
    x: T.Buffer((T.int64(1), T.int64(2)), "float32"),
    compute: T.Buffer((T.int64(1), T.int64(2)), "float32"),
):
    T.func_attr({"tirx.noalias": True})
    for i0, i1 in T.grid(T.int64(1), T.int64(2)):
        with T.sblock("compute"):
            v_i0, v_i1 = T.axis.remap("SS", [i0, i1])
            compute[v_i0, v_i1] = T.max(T.float32(0.0), x[v_i0, v_i1])
"""
AFTER = """
@R.function
def main(x: R.Tensor((1, 2), "float32")) -> R.Tensor((1, 2), "float32"):
    cls = Module
    with R.dataflow():
        a = R.call_tir(cls.relu, (x,), out_ty=R.Tensor((1, 2), "float32"))
        y = R.call_tir(cls.relu, (a,), out_ty=R.Tensor((1, 2), "float32"))
        R.output(y)
    return y
"""


def test_equal_operators_share_a_kernel():
    label = ([], ["nn.relu"])
    check(legalise, module(BEFORE), with_labels(module(KERNEL, AFTER), label, label))
