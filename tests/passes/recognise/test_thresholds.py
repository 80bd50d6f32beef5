"""Affine functions of moments are `insta.instance_threshold`, with and without the gate."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.frontend import SourceLayer
from tvm_insta.passes.context import Context
from tvm_insta.passes.recognise import recognise_thresholds
from tvm_insta.passes.report import Layer, Report

A, B, B2 = (const(np.full(8, value)) for value in (2.0, 0.5, 3.0))
B1 = const(np.arange(2.0))
W1, W2 = (np.arange(16.0).reshape(shape) for shape in ((8, 2), (2, 8)))
DENSE1, DENSE2 = const(W1), const(W2)
GATE1, GATE2 = const(W1.T), const(W2.T)


def test_a_factor_and_an_offset():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                rows = R.insta.moments(x, orders=[3])
                m = R.reshape(rows, R.shape([1, 8]))
                scaled = R.multiply(A, m)
                y = R.add(scaled, B)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                rows = R.insta.moments(x, orders=[3])
                m = R.reshape(rows, R.shape([1, 8]))
                y = R.insta.instance_threshold(m, A, B)
                R.output(y)
            return y

    check(recognise_thresholds, Before, Expected)


def test_the_gate_and_its_two_layers():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                rows = R.insta.moments(x, orders=[3])
                m = R.reshape(rows, R.shape([1, 8]))
                scaled = R.multiply(A, m)
                plain = R.add(scaled, B)
                first = R.insta.dense(m, DENSE1, layers=["fc1"])
                shifted = R.add(first, B1)
                hidden = R.nn.relu(shifted)
                second = R.insta.dense(hidden, DENSE2, layers=["fc2"])
                excited = R.add(second, B2)
                gate = R.tanh(excited)
                y = R.add(plain, gate)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                rows = R.insta.moments(x, orders=[3])
                m = R.reshape(rows, R.shape([1, 8]))
                y = R.insta.instance_threshold(m, A, B, GATE1, B1, GATE2, B2)
                R.output(y)
            return y

    names = ("fc1", "fc2", "conv")
    report = Report([Layer(SourceLayer(name, "dense", "", 0, (), ())) for name in names])
    check(recognise_thresholds, Before, Expected, Context(report=report))
    assert [layer.name for layer in report.layers] == ["conv"]


def test_what_is_no_moment_stays():
    @I.ir_module
    class Before:
        @R.function
        def main(m: R.Tensor((1, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                scaled = R.multiply(A, m)
                y = R.add(scaled, B)
                R.output(y)
            return y

    check(recognise_thresholds, Before, Before)
