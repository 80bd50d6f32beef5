"""Batch norm is a factor and an offset; what is constant is computed; dropout is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.errors import ImportModelError
from tvm_insta.passes.simplify import simplify

GAMMA, BETA, MEAN, VARIANCE = (
    const(np.array(v)) for v in ([2.0, 1.0], [0.5, 0.0], [1.0, -1.0], [4.0, 0.25])
)
# gamma / sqrt(variance + 0), and beta - mean * that
ALPHA, OFFSET = (
    const(np.array([1.0, 2.0]).reshape(1, 2, 1, 1)),
    const(np.array([-0.5, 2.0]).reshape(1, 2, 1, 1)),
)
TURNED, PLAIN = const(np.arange(6.0).reshape(2, 3)), const(np.arange(6.0).reshape(2, 3).T)


def test_batch_norm():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                n = R.nn.batch_norm(
                    x, GAMMA, BETA, MEAN, VARIANCE, axis=1, epsilon=0.0, training=False
                )
                y = n[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                a = R.multiply(x, ALPHA)
                y = R.add(a, OFFSET)
                R.output(y)
            return y

    check(simplify, Before, Expected)


def test_dropout_and_constants():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3), "float32")) -> R.Tensor((1, 2), "float32"):
            with R.dataflow():
                d = R.nn.dropout(x, rate=0.5)
                kept = d[0]
                w = R.permute_dims(TURNED, axes=[1, 0])
                y = R.matmul(kept, w)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3), "float32")) -> R.Tensor((1, 2), "float32"):
            with R.dataflow():
                y = R.matmul(x, PLAIN)
                R.output(y)
            return y

    check(simplify, Before, Expected)


def test_statistics_of_the_batch_are_refused():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 2, 4, 4), "float32"), m: R.Tensor((2,), "float32")) -> R.Tensor(
            (1, 2, 4, 4), "float32"
        ):
            with R.dataflow():
                n = R.nn.batch_norm(
                    x, GAMMA, BETA, m, VARIANCE, axis=1, epsilon=0.0, training=False
                )
                y = n[0]
                R.output(y)
            return y

    with pytest.raises(ImportModelError, match=r"call module\.eval\(\) first"):
        simplify(Before)
