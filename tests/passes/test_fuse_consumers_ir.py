"""The sums of rows are computed along with the kernel that makes the rows, on IR."""

from __future__ import annotations

import pytest

from tests.passes.scripts import CONV, ROWS, check, module, with_labels
from tvm_insta.passes.context import Context
from tvm_insta.passes.fuse_consumers import fuse_consumers
from tvm_insta.target import parse

MAIN = """
@R.function
def main(
    x: R.Tensor((1, 2, 2, 4), "float32"), w: R.Tensor((4, 4), "float32")
) -> R.Tensor((1, 2, 1, 4), "float32"):
    cls = Module
    with R.dataflow():
        c = R.call_tir(cls.conv, (x, w), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        y = R.call_tir(cls.rows, (c,), out_ty=R.Tensor((1, 2, 1, 4), "float32"))
        R.output(y)
    return y
"""
GROUP = """
@R.function(private=True)
def conv_moment_rows(
    a0: R.Tensor((1, 2, 2, 4), "float32"), a1: R.Tensor((4, 4), "float32")
) -> R.Tensor((1, 2, 1, 4), "float32"):
    R.func_attr({"Primitive": True})
    cls = Module
    with R.dataflow():
        c = R.call_tir(cls.conv, (a0, a1), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        y = R.call_tir(cls.rows, (c,), out_ty=R.Tensor((1, 2, 1, 4), "float32"))
        R.output(y)
    return y
"""
CALL = """
@R.function
def main(
    x: R.Tensor((1, 2, 2, 4), "float32"), w: R.Tensor((4, 4), "float32")
) -> R.Tensor((1, 2, 1, 4), "float32"):
    cls = Module
    with R.dataflow():
        y: R.Tensor((1, 2, 1, 4), "float32") = cls.conv_moment_rows(x, w)
        R.output(y)
    return y
"""
LABELS = (["conv"], ["insta.conv2d_blocked"]), ([], ["insta.moment_rows"])


def before():
    return with_labels(module(CONV, ROWS, MAIN), *LABELS)


def test_the_rows_of_a_convolution():
    both = (["conv"], ["insta.conv2d_blocked", "insta.moment_rows"])
    expected = with_labels(module(CONV, ROWS, GROUP, CALL), both)
    check(fuse_consumers, before(), expected, Context(parse("avx2")))


@pytest.mark.parametrize(
    "context",
    [Context(parse("avx2"), fuse_consumers=False), Context(parse("cuda -arch=sm_80"))],
    ids=["not asked for", "a target whose schedules do not"],
)
def test_kernels_that_stay(context):
    check(fuse_consumers, before(), before(), context)


def test_another_operator_of_that_kernel_stays():
    """The label says what a kernel computes, not its name."""
    other = with_labels(module(CONV, ROWS, MAIN), LABELS[0], ([], ["mean"]))
    check(fuse_consumers, other, other, Context(parse("avx2")))
