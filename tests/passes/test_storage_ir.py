"""An image between two kernels is stored as float16; inputs and outputs are not."""

from __future__ import annotations

from tests.passes.scripts import RELU, check, module, with_labels
from tvm_insta.passes.context import Context
from tvm_insta.passes.storage import store_half

MAIN = """
@R.function
def main(x: R.Tensor((1, 2, 2, 4), "float32")) -> R.Tensor((1, 2, 2, 4), "float32"):
    cls = Module
    with R.dataflow():
        a = R.call_tir(cls.relu, (x,), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        y = R.call_tir(cls.relu, (a,), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        R.output(y)
    return y
"""
LABEL = ([], ["nn.relu"])
STORES = """
@T.prim_func(private=True, s_tir=True)
def relu_half(
    x: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
    y: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float16"),
):
    T.func_attr({"op_pattern": 0})
    y_wide = T.sblock_alloc_buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)))
    for i, j, c in T.grid(T.int64(2), T.int64(2), T.int64(4)):
        with T.sblock("relu"):
            v_i, v_j, v_c = T.axis.remap("SSS", [i, j, c])
            y_wide[0, v_i, v_j, v_c] = T.max(T.float32(0), x[0, v_i, v_j, v_c])
    for h0, h1, h2, h3 in T.grid(T.int64(1), T.int64(2), T.int64(2), T.int64(4)):
        with T.sblock("half"):
            v_h0, v_h1, v_h2, v_h3 = T.axis.remap("SSSS", [h0, h1, h2, h3])
            y[v_h0, v_h1, v_h2, v_h3] = T.Cast("float16", y_wide[v_h0, v_h1, v_h2, v_h3])
"""
LOADS = """
@T.prim_func(private=True, s_tir=True)
def relu_half1(
    x: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float16"),
    y: T.Buffer((T.int64(1), T.int64(2), T.int64(2), T.int64(4)), "float32"),
):
    T.func_attr({"op_pattern": 0})
    for i, j, c in T.grid(T.int64(2), T.int64(2), T.int64(4)):
        with T.sblock("relu"):
            v_i, v_j, v_c = T.axis.remap("SSS", [i, j, c])
            y[0, v_i, v_j, v_c] = T.max(T.float32(0), T.Cast("float32", x[0, v_i, v_j, v_c]))
"""
AFTER = """
@R.function
def main(x: R.Tensor((1, 2, 2, 4), "float32")) -> R.Tensor((1, 2, 2, 4), "float32"):
    cls = Module
    with R.dataflow():
        a = R.call_tir(cls.relu_half, (x,), out_ty=R.Tensor((1, 2, 2, 4), "float16"))
        y = R.call_tir(cls.relu_half1, (a,), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        R.output(y)
    return y
"""


def test_the_image_between_two_kernels():
    before = with_labels(module(RELU, MAIN), LABEL, LABEL)
    check(store_half, before, with_labels(module(STORES, LOADS, AFTER), LABEL, LABEL))


def test_the_pipeline_has_the_pass_where_it_is_asked_for():
    assert store_half.when(Context(storage="fp16")) and not store_half.when(Context())
