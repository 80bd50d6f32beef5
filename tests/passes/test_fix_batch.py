"""A symbolic batch becomes a number."""

from __future__ import annotations

from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check
from tvm_insta.passes.context import Context
from tvm_insta.passes.fix_batch import fix_batch


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor((1, 8), "float32")) -> R.Tensor((1, 8), "float32"):
        with R.dataflow():
            y = R.nn.relu(x)
            R.output(y)
        return y


def test_a_symbolic_batch():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor(("n", 8), "float32")) -> R.Tensor(("n", 8), "float32"):
            with R.dataflow():
                y = R.nn.relu(x)
                R.output(y)
            return y

    check(fix_batch, Before, Expected, Context(batch=1))


def test_a_known_batch_stays():
    check(fix_batch, Expected, Expected, Context(batch=4))


def test_the_pipeline_has_the_pass_where_a_batch_is_given():
    assert fix_batch.when(Context(batch=1)) and not fix_batch.when(Context())
