"""What follows a convolution element by element is grouped with it; a concatenation is not."""

from __future__ import annotations

import tvm

from tests.passes.scripts import CONV, RELU, check, module, with_labels
from tvm_insta.passes.fuse_epilogues import fuse_epilogues, keep_concatenations

MAIN = """
@R.function
def main(
    x: R.Tensor((1, 2, 2, 4), "float32"), w: R.Tensor((4, 4), "float32")
) -> R.Tensor((1, 2, 2, 4), "float32"):
    cls = Module
    with R.dataflow():
        c = R.call_tir(cls.conv, (x, w), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        y = R.call_tir(cls.relu, (c,), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        R.output(y)
    return y
"""
GROUP = """
@R.function(private=True)
def fused_conv_relu(
    x: R.Tensor((1, 2, 2, 4), "float32"), w: R.Tensor((4, 4), "float32")
) -> R.Tensor((1, 2, 2, 4), "float32"):
    R.func_attr({"Primitive": True})
    cls = Module
    with R.dataflow():
        c = R.call_tir(cls.conv, (x, w), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        y = R.call_tir(cls.relu, (c,), out_ty=R.Tensor((1, 2, 2, 4), "float32"))
        R.output(y)
    return y
"""
CALL = """
@R.function
def main(
    x: R.Tensor((1, 2, 2, 4), "float32"), w: R.Tensor((4, 4), "float32")
) -> R.Tensor((1, 2, 2, 4), "float32"):
    cls = Module
    with R.dataflow():
        y: R.Tensor((1, 2, 2, 4), "float32") = cls.fused_conv_relu(x, w)
        R.output(y)
    return y
"""
LABELS = (["conv"], ["insta.conv2d_blocked"]), ([], ["nn.relu"])


def test_an_epilogue_and_the_labels_of_both():
    expected = with_labels(
        module(CONV, RELU, GROUP, CALL), (["conv"], ["insta.conv2d_blocked", "nn.relu"])
    )
    check(fuse_epilogues, with_labels(module(CONV, RELU, MAIN), *LABELS), expected)


def test_a_concatenation_becomes_opaque():
    """By its label, whatever the kernel is called; the other kernels stay as they are."""
    before = with_labels(module(CONV, RELU, MAIN), LABELS[0], ([], ["concat"]))
    opaque = RELU.replace('"op_pattern": 0', '"op_pattern": 8')
    expected = with_labels(module(CONV, opaque, MAIN), LABELS[0], ([], ["concat"]))
    after = check(keep_concatenations, before, expected)
    tvm.ir.assert_structural_equal(check(keep_concatenations, after, expected), expected)
